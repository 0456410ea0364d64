"""What a program holds of its agent, whichever way it waits; no I/O."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from typing import Any, Final, TypeVar, overload

from ..clock import Clock
from ..errors import JournalError
from ._agent_errors import (
    EXIT_SUSPENDED,
    FencedError,
    ReplayWarning,
    StepInDoubtError,
    Suspended,
)
from ._attempt import AgentOptions, Attempt
from ._current import current_agent_variable, current_step_variable
from ._pauses import Pauses
from ._programs import Program
from ._steps import Steps
from ._values import plain

T = TypeVar("T")

UNASKED_MAX: Final = 100  # named in the last entry


class DurableAgentBase:
    """The properties of an attached agent, and how it is left."""

    def __init__(
        self, agent_id: str, options: AgentOptions, *, clock: Clock, next_key: Callable[[], str]
    ) -> None:
        self._attempt = Attempt(agent_id, options, clock=clock, next_key=next_key)
        self._steps = Steps(self._attempt)
        self._pauses = Pauses(self._attempt, self._steps)
        self._outer: Any = None  # the agent within whose block this one was entered

    @property
    def agent_id(self) -> str:
        """Return the agent's id."""
        return self._attempt.agent_id

    @property
    def epoch(self) -> int:
        """Return the fencing token that every append of this attempt carries."""
        return self._attempt.epoch

    @property
    def attempt(self) -> int:
        """Return which attempt this is; the first is 1."""
        return self._attempt.number

    @property
    def resumed(self) -> bool:
        """Tell whether there was anything before this attempt."""
        return self._attempt.resumed

    @property
    def iteration(self) -> int:
        """Return the turn of the agent's loop, which its entries carry."""
        return self._steps.iteration

    @iteration.setter
    def iteration(self, iteration: int) -> None:
        self._steps.iteration = iteration

    @property
    def idempotency_key(self) -> str:
        """Return the running step's key for its callee: the same whenever it is run.

        Raises:
            RuntimeError: no step is running here.
        """
        step = current_step_variable.get()
        if step is None:
            raise RuntimeError("no step is running here: the key belongs to a step")
        return str(step.idempotency_key)

    @overload
    def iterations(self) -> Generator[int, None, None]: ...
    @overload
    def iterations(self, items: Iterable[T]) -> Generator[T, None, None]: ...
    def iterations(self, items: Iterable[Any] | None = None) -> Generator[Any, None, None]:
        """Yield each of *items* as a turn of the loop; without them, the turn's number, for ever.

        The entries of each turn carry its number, which goes on from loop to loop.
        """
        turns: Iterator[Any] = count(self.iteration + 1) if items is None else iter(items)
        for item in turns:
            self._steps.iteration += 1
            yield item

    def unasked(self) -> list[str]:
        """Return the keys of recorded steps that this run has not asked for."""
        return self._steps.unasked()

    def __repr__(self) -> str:
        attempt = self._attempt
        return f"<{type(self).__name__} {self.agent_id!r} attempt {attempt.number}>"

    # How it is entered and left.

    def _entered(self) -> None:
        self._outer = current_agent_variable.get()
        current_agent_variable.set(self)

    def _left(self) -> None:
        self._attempt.leave()
        current_agent_variable.set(self._outer)

    def _finish(self, result: object) -> Program[None]:
        yield from self._steps.record_endings()
        payload: dict[str, Any] = {"reason": "Completed"}
        if result is not None:
            payload["result"] = plain(result, "the agent's result")
        unasked = self.unasked()
        if unasked:
            payload["unasked"] = unasked[:UNASKED_MAX]
            warnings.warn(
                f"agent {self.agent_id!r} ends, and {len(unasked)} recorded steps were not asked "
                f"for: {', '.join(unasked[:10])}; did the program change?",
                ReplayWarning,
                stacklevel=2,
            )
        yield from self._attempt.end(payload, iteration=self.iteration)

    def _fail(self, reason: str, error: object) -> Program[None]:
        payload: dict[str, Any] = {"reason": reason}
        if isinstance(error, BaseException):
            payload["error"] = {"type": type(error).__qualname__, "message": str(error)}
        elif error is not None:
            payload["error"] = plain(error, "the agent's error")
        yield from self._attempt.end(payload, iteration=self.iteration)

    def _leave(
        self, error: BaseException | None, stops: tuple[type[BaseException], ...]
    ) -> Program[BaseException | None]:
        """Do what is to be done behind the block; return what to raise instead of *error*.

        *stops* are what stopping the agent raises elsewhere in the program.
        """
        attempt = self._attempt
        is_stop = error is None or _is_made_of(error, (FencedError, Suspended, *stops))
        if attempt.suspended is not None and is_stop:
            if attempt.options.exit_on_suspend:
                return SystemExit(EXIT_SUSPENDED)
            return attempt.suspended
        if attempt.is_fenced and is_stop:
            try:
                attempt.check()
            except FencedError as fenced:
                return fenced
        if error is None and not attempt.is_ended:
            yield from self._finish(None)
        doubt = _doubt_in(error)
        if doubt is not None and attempt.is_resumable:
            # Started again, it would find the same doubt.  What it raised is what is to be seen.
            with suppress(JournalError, Suspended):
                yield from attempt.park(f"step {doubt.step.key!r} is in doubt")
        # What is wrong between the journal and the program is not the agent's end.
        is_own = isinstance(error, Exception) and not isinstance(error, JournalError)
        if is_own and attempt.options.on_error == "fail" and not attempt.is_ended:
            yield from self._fail("Failed", error)
        return None


def _doubt_in(error: BaseException | None) -> StepInDoubtError | None:
    """Return what only a person can decide; what ``reconcile`` could not tell, it may next time."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_doubt_in, error.exceptions)), None)
    if isinstance(error, StepInDoubtError) and error.__cause__ is None:
        return error
    return None


def _is_made_of(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_made_of(part, kinds) for part in error.exceptions)
    return isinstance(error, kinds)


def event_of(event: Mapping[str, object]) -> tuple[str, Any]:
    """Return the name and what stands under it."""
    if len(event) != 1:
        raise ValueError("an event is one object with one key, its name")
    ((name, payload),) = event.items()
    return name, plain(payload, f"the event {name!r}")
