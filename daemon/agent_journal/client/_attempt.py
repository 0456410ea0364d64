"""One process's hold on an agent, from its attach to its end; no I/O.

An attach gives an epoch, and every append carries it.  The daemon takes none
with an older epoch, so at most one process writes, whatever the others still
believe.  This one learns it at its next append and stops itself: whatever is
called then raises ``FencedError``.

The epoch also makes ``expected_sequence`` needless here.  Nobody else can have
appended a step; signals may come in between at any moment, and must not make
an append fail.  And because each append has a key, one that is repeated over a
new connection is recorded once.  So a lost connection needs no new attach, and
hence no new epoch: the process lives, and stays the owner.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Literal, TypeAlias

from ..clock import Clock
from ..errors import (
    AgentAttachedError,
    AgentFinishedError,
    ForbiddenError,
    JournalError,
    ParkedError,
    StaleEpochError,
)
from . import _holding as holding
from . import _requests as requests
from ._agent_errors import FencedError, Suspended, ValueTooLargeError
from ._command import Command, command_of, launched_attempt
from ._encoding import CheckedText, json_string, moment_text, timestamp_text
from ._forks import meant
from ._garbage import collection_paused
from ._history import History
from ._programs import AskAhead, Program
from ._requests import Request
from ._results import Appended, Attached
from ._values import text_of

# A quarter of the longest line that the daemon takes by default.
RESULT_BYTES_MAX: Final = 1 << 20

# Shorter waits are not worth the start of a process.  Where the daemon has no
# way to start the agent again, no wait is.
SUSPEND_AFTER_S: Final = 5.0

# The agents whose blocks this process is in.  It is the process that the daemon
# takes for the owner, so it is the process that knows.
_entered: Final[set[str]] = set()

REASON_CHARS_MAX: Final = 4096  # what the daemon takes

InDoubt: TypeAlias = Literal["raise", "park", "rerun"]
OnError: TypeAlias = Literal["leave", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """What a program says of its agent."""

    kind: str | None = None
    launcher: str | None = None
    command: Command = None
    environment: Iterable[str] = ()
    take_over: bool = False
    in_doubt: InDoubt = "raise"
    on_error: OnError = "leave"
    suspend_after_s: float | None = None
    exit_on_suspend: bool = True
    result_bytes_max: int = RESULT_BYTES_MAX
    record_input: bool = True


class Attempt:
    """What this process holds of the agent, and whether it still may write."""

    def __init__(
        self, agent_id: str, options: AgentOptions, *, clock: Clock, next_key: Callable[[], str]
    ) -> None:
        self.agent_id = agent_id
        self._id_text = json_string(agent_id, "agent_id")
        self.options = options
        self.clock = clock
        self.next_key = next_key
        self.history = History()
        self.epoch = 0
        self.number = 0
        self.resumed = False
        self.created_at = ""
        self.suspend_after_s = inf
        self.is_resumable = False  # somebody starts it again when this process is gone
        self.is_attached = False
        self.is_ended = False
        self.suspended: Suspended | None = None
        self.on_fenced: Callable[[], None] = lambda: None
        self._fenced: FencedError | None = None
        self._pid = os.getpid()

    @property
    def is_fenced(self) -> bool:
        """Tell whether another took over, or the agent was ended or parked by a person."""
        return self._fenced is not None

    def check(self) -> None:
        """Refuse to go on where this attempt may not write.

        Raises:
            FencedError: and why.
            Suspended: it was given up, perhaps by another task.
        """
        if self._fenced is not None:
            raise FencedError(self._fenced.message, **self._fenced.details) from self._fenced
        if self.suspended is not None:
            given = self.suspended
            raise Suspended(given.reason, wake_at=given.wake_at, wait_for=given.wait_for)
        if self.is_ended:
            raise FencedError("the agent has ended; nothing more can be recorded of it")
        if not self.is_attached:
            raise RuntimeError(f"agent {self.agent_id!r} is not attached: use 'with' to attach it")
        if self._pid != os.getpid():
            raise FencedError("the agent belongs to the process that this one was forked from")

    def attach(self) -> Program[None]:
        """Become the owner and read what is recorded."""
        self.agent_id = yield from meant(self.agent_id)
        self._id_text = json_string(self.agent_id, "agent_id")
        options = self.options
        is_own_command = options.command is None and options.launcher is None
        command = None
        is_launched = launched_attempt(self.agent_id) is not None
        # A daemon that launched this process knows how to do it again.
        if options.launcher is None and not (is_own_command and is_launched):
            command = command_of(options.command, options.environment)
        take_over = options.take_over
        try:
            attached = yield self._attach(command, take_over=take_over)
        except ForbiddenError:
            if command is None or not is_own_command:
                raise
            # A daemon of another user's runs no commands of ours; nobody asked for that.
            attached = yield self._attach(command := None, take_over=take_over)
        except AgentAttachedError as error:
            # Who left its block by an exception and lives on may enter it again.
            if error.details.get("pid") != os.getpid() or self.agent_id in _entered:
                raise
            attached = yield self._attach(command, take_over=True)
        self.epoch, self.number = attached.epoch, attached.attempt
        self.resumed = attached.resumed
        self._pid = os.getpid()
        # Nobody should wait for an agent that nobody can start again.
        self.is_resumable = command is not None or options.launcher is not None or is_launched
        default_s = SUSPEND_AFTER_S if self.is_resumable else inf
        self.suspend_after_s = (
            default_s if options.suspend_after_s is None else options.suspend_after_s
        )
        pages = holding.HistoryPages(
            self.agent_id, 0, self.history.take, until=attached.next_sequence
        )
        is_long = attached.next_sequence > holding.HISTORY_PAGE_ENTRIES
        with collection_paused(all_is_old_then=is_long):  # what is read is kept
            yield AskAhead(pages.next_request, holding.PAGES_AHEAD)
        described = yield requests.describe(self.agent_id, None)
        self.created_at = timestamp_text(described.created_at) or ""
        self.is_attached = True
        _entered.add(self.agent_id)

    def leave(self) -> None:
        """Note that the program has left the agent's block."""
        _entered.discard(self.agent_id)

    def _attach(self, command: Mapping[str, Any] | None, *, take_over: bool) -> Request[Attached]:
        return holding.attach(
            self.agent_id,
            kind=self.options.kind,
            launcher=self.options.launcher,
            command=command,
            take_over=take_over,
        )

    def append(
        self, name: str, payload: Mapping[str, Any], *, iteration: int, key: str | None = None
    ) -> Program[Appended]:
        """Record one entry; durable on return."""
        return (yield from self.append_text(self.text(name, payload), iteration=iteration, key=key))

    def append_text(
        self, text: CheckedText, *, iteration: int, key: str | None = None
    ) -> Program[Appended]:
        """Record one entry of which the text is made already."""
        self.check()
        request = requests.append_own(
            self._id_text,
            text,
            agent_id=self.agent_id,
            iteration=iteration,
            epoch=self.epoch,
            key=key or self.next_key(),
        )
        try:
            appended: Appended = yield request
        except (StaleEpochError, AgentFinishedError, ParkedError) as error:
            raise self.fence(error) from error
        return appended

    def text(self, name: str, payload: Mapping[str, Any]) -> CheckedText:
        """Return the text of an entry with a plain *payload*; raises what ``sized`` does."""
        return self.sized(text_of({name: payload}), name)

    def entry(self, name: str, members: str, what: str = "") -> CheckedText:
        """Return the text of an entry, of which the payload's *members* are JSON already."""
        return self.sized(f'{{"{name}":{{{members}}}}}', what or name)

    def sized(self, text: str, what: str) -> CheckedText:
        """Return an entry's *text* in UTF-8.

        Raises:
            ValueTooLargeError: it is longer than an agent may record.
        """
        encoded = CheckedText(text.encode())
        limit = self.options.result_bytes_max
        if len(encoded) > limit:
            raise ValueTooLargeError(
                f"{what} is {len(encoded)} bytes long, and {limit} are allowed: put it into a "
                "file and return the file's name, or raise result_bytes_max (the daemon's "
                "frame_bytes_max bounds it)",
                size=len(encoded),
                limit=limit,
            )
        return encoded

    def fence(self, error: JournalError) -> FencedError:
        """Stop writing because of *error*; return what to raise."""
        match error:
            case StaleEpochError():
                reason = "another attempt took the agent over"
            case ParkedError():
                reason = "the agent was parked"
            case _:
                reason = f"the agent is {error.details.get('state', 'finished')}"
        fenced = FencedError(f"{reason}; this one stops ({error.message})", **error.details)
        if self._fenced is None:
            self._fenced = fenced
            fenced.__cause__ = error
            self.on_fenced()
        return fenced

    def detach(self, *, wake_us: int | None, wait_for: Iterable[str], reason: str) -> Program[None]:
        """Give the agent up until it is due."""
        self.check()
        wake_at = None if wake_us is None else moment_text(wake_us)
        names = sorted({*wait_for})
        request = holding.detach(
            self.agent_id,
            self.epoch,
            wake_at=wake_at,
            wait_for=names,
            seen_sequence=self.history.next_sequence,
        )
        self.suspended = Suspended(reason, wake_at=wake_at, wait_for=names)
        try:
            yield request
        except (StaleEpochError, AgentFinishedError, ParkedError) as error:
            self.suspended = None
            raise self.fence(error) from error
        except JournalError:
            self.suspended = None
            raise
        raise self.suspended

    def park(self, reason: str) -> Program[None]:
        """Leave the agent to a person."""
        self.check()
        yield holding.steer("park", self.agent_id, reason=reason[:REASON_CHARS_MAX], uid=None)
        self.suspended = Suspended(f"parked: {reason}")
        raise self.suspended

    def end(self, payload: Mapping[str, Any], *, iteration: int) -> Program[None]:
        """Record that the agent has ended."""
        yield from self.append("Terminated", payload, iteration=iteration)
        self.is_ended = True
