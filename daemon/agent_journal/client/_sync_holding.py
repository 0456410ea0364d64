"""The blocking client's operations on who holds an agent and how it goes on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from . import _holding as holding
from ._holding import NO_RESULT
from ._link import Settings
from ._requests import KeyMaker, Request
from ._results import Attached, Forked, Timestamp

if TYPE_CHECKING:
    from ._attempt import InDoubt, OnError
    from ._command import Command
    from ._sync_agent import DurableAgent

T = TypeVar("T")


class BlockingHolding(ABC):
    """Methods that a client has besides those that append and read."""

    _next_key: KeyMaker
    _settings: Settings

    @abstractmethod
    def _perform(self, request: Request[T]) -> T:
        """Return the answer to *request*."""

    @abstractmethod
    def _perform_ahead(
        self, next_request: Callable[[], Request[Any] | None], underway_max: int
    ) -> None:
        """Keep up to *underway_max* requests underway until nothing is left to ask or to hear."""

    def agent(  # noqa: PLR0913 - each may be said of an agent
        self,
        agent_id: str | None = None,
        *,
        kind: str | None = None,
        launcher: str | None = None,
        command: Command = None,
        environment: Iterable[str] = (),
        take_over: bool = False,
        in_doubt: InDoubt = "raise",
        on_error: OnError = "leave",
        suspend_after_s: float | None = None,
        exit_on_suspend: bool = True,
        result_bytes_max: int | None = None,
        record_input: bool = True,
    ) -> DurableAgent:
        """Return an agent to be entered with ``with``: attached, and resumed where it was.

        Without *agent_id* it is the one that the daemon launched this process for.
        The daemon starts the agent again by *command* (how this process was
        started, unless said otherwise; ``False`` for not at all) with the
        variables named in *environment* besides the usual ones, or by the
        *launcher* of that name.

        Leaving the block finishes the agent.  An exception leaves it to be
        resumed, or ends it with *on_error* ``"fail"``.  A wait longer than
        *suspend_after_s* (5 s; never where nobody could start it again) gives it
        up and exits with ``EXIT_SUSPENDED``, or raises ``Suspended`` where
        *exit_on_suspend* is false.

        Raises, when entered:
            AgentAttachedError: a living process has it; *take_over* fences that one off.
            AgentFinishedError: it has ended.
            ParkedError: it waits for a person.
        """
        # Imported here: who only records does not wait for it.
        from ._attempt import RESULT_BYTES_MAX, AgentOptions  # noqa: PLC0415
        from ._command import named_or_launched  # noqa: PLC0415
        from ._sync_agent import DurableAgent  # noqa: PLC0415 - see above

        options = AgentOptions(
            kind=kind,
            launcher=launcher,
            command=command,
            environment=environment,
            take_over=take_over,
            in_doubt=in_doubt,
            on_error=on_error,
            suspend_after_s=suspend_after_s,
            exit_on_suspend=exit_on_suspend,
            result_bytes_max=RESULT_BYTES_MAX if result_bytes_max is None else result_bytes_max,
            record_input=record_input,
        )
        return DurableAgent(
            named_or_launched(agent_id),
            options,
            clock=self._settings.clock,
            next_key=self._next_key,
            perform=self._perform,
            perform_ahead=self._perform_ahead,
        )

    def attach(  # noqa: PLR0913 - each may be given to an attach
        self,
        agent_id: str,
        *,
        kind: str | None = None,
        launcher: str | None = None,
        command: Mapping[str, Any] | None = None,
        take_over: bool = False,
        uid: int | None = None,
    ) -> Attached:
        """Become the one process that writes for the agent; ``agent()`` does more than that.

        *command* (``argv``, ``cwd``, ``env``) or the name of a *launcher* say how
        the agent is started again when this process is gone.

        Raises:
            AgentAttachedError: a living process holds it; *take_over* fences that one off.
            ParkedError: it waits for a person.
            AgentFinishedError: it has ended.
        """
        request = holding.attach(
            agent_id,
            kind=kind,
            launcher=launcher,
            command=command,
            take_over=take_over,
            uid=uid,
        )
        return self._perform(request)

    def detach(  # noqa: PLR0913 - each may be given to a detach
        self,
        agent_id: str,
        epoch: int,
        *,
        wake_at: Timestamp | None = None,
        wait_for: Iterable[str] = (),
        seen_sequence: int | None = None,
        uid: int | None = None,
    ) -> None:
        """Give the agent up without finishing it, until *wake_at* or a signal in *wait_for*.

        Raises:
            StaleEpochError: another took it over.
        """
        request = holding.detach(
            agent_id,
            epoch,
            wake_at=wake_at,
            wait_for=wait_for,
            seen_sequence=seen_sequence,
            uid=uid,
        )
        return self._perform(request)

    def signal(
        self,
        agent_id: str,
        name: str,
        payload: object = None,
        *,
        key: str | None = None,
        uid: int | None = None,
    ) -> int:
        """Tell the agent something; return the sequence of the ``Signalled`` entry.

        An agent that waits for *name* is resumed.
        """
        key = self._next_key() if key is None else key
        return self._perform(holding.signal(agent_id, name, payload, key=key, uid=uid))

    def decide(  # noqa: PLR0913 - each may be given to a decide
        self,
        agent_id: str,
        step: str,
        *,
        rerun: bool = False,
        result: object = NO_RESULT,
        error: Mapping[str, Any] | None = None,
        uid: int | None = None,
    ) -> int:
        """Say what became of a step in doubt, or that it is to run again; replay obeys.

        *step* is its key.  *error* has ``type`` and ``message``.
        """
        request = holding.decide(agent_id, step, rerun=rerun, result=result, error=error, uid=uid)
        return self._perform(request)

    def fork(
        self, agent_id: str, *, at_sequence: int, new_agent_id: str, uid: int | None = None
    ) -> Forked:
        """Begin a new agent with the entries of this one before *at_sequence*."""
        request = holding.fork(
            agent_id, at_sequence=at_sequence, new_agent_id=new_agent_id, uid=uid
        )
        return self._perform(request)

    def resume(self, agent_id: str, *, reason: str | None = None, uid: int | None = None) -> str:
        """Have the agent go on now, parked or not; return its state."""
        return self._perform(holding.steer("resume", agent_id, reason=reason, uid=uid))

    def park(self, agent_id: str, *, reason: str | None = None, uid: int | None = None) -> str:
        """Have the agent wait for a person; return its state."""
        return self._perform(holding.steer("park", agent_id, reason=reason, uid=uid))

    def cancel(self, agent_id: str, *, reason: str | None = None, uid: int | None = None) -> str:
        """End the agent; return its state."""
        return self._perform(holding.steer("cancel", agent_id, reason=reason, uid=uid))
