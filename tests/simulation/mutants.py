"""Mistakes that a schedule must show: each is the daemon with one of them, for a while.

They are patched into the running code, and taken out again.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

from agent_journal.model import Position
from agent_journal.service import appending, attaching, incidents, schedule
from agent_journal.service.admission import Account, Admission
from agent_journal.service.committer import Committer, Submission
from agent_journal.service.heads import Heads
from agent_journal.service.launch_queue import LaunchQueue
from agent_journal.service.owners import Hold, Owners
from agent_journal.service.schedule import Schedule
from agent_journal.service.session import Session

Patch = tuple[Any, str, Any]


def _answers_before_the_commit() -> list[Patch]:
    submit = Committer.submit

    def submit_and_say_yes(self: Committer, uid: Any, submission: Submission) -> None:
        submit(self, uid, submission)
        if (
            submission.entries
            and submission.error is None
            and isinstance(submission.waiter, Session)
        ):
            submission.position = Position(0)
            submission.waiter.committed()

    return [(Committer, "submit", submit_and_say_yes)]


def _loses_a_wakeup() -> list[Patch]:
    """Who asked while a commit was on its way is forgotten, every now and then."""
    tell = Committer._tell
    count = [0]

    def tell_most(self: Committer, submissions: list[Submission]) -> None:
        count[0] += 1
        if count[0] % 10 or not all(isinstance(one.waiter, Session) for one in submissions):
            tell(self, submissions)

    return [(Committer, "_tell", tell_most)]


def _checks_no_epoch() -> list[Patch]:
    return [(appending, "_check_epoch", lambda *_: None)]


def _counts_a_launch_behind_it() -> list[Patch]:
    """Start the process, and leave the counting for later."""

    async def not_yet(context: Any, uid: Any, agent_id: Any, **_: object) -> int:
        head = await attaching.head_of(context, uid, agent_id)
        return head.attempts + 1

    return [(incidents, "record_launch", not_yet)]


def _starts_any_number_at_once() -> list[Patch]:
    class Forgetful(set[Any]):
        def add(self, _: Any) -> None:
            """Take no note."""

    begin = LaunchQueue.__init__

    def begin_forgetful(self: LaunchQueue, *args: Any) -> None:
        begin(self, *args)
        self._starting = Forgetful()

    return [(LaunchQueue, "__init__", begin_forgetful)]


def _never_counts_down() -> list[Patch]:
    change = Admission.change
    count = [0]

    def change_most(self: Admission, account: Account, size: int) -> None:
        count[0] += size < 0
        change(self, account, size if size > 0 or count[0] % 50 else 0)

    return [(Admission, "change", change_most)]


def _keeps_heads_of_a_failed_batch() -> list[Patch]:
    return [(Heads, "forget", lambda _: None)]


def _declares_the_living_gone() -> list[Patch]:
    """Take a connection that ended for its process."""

    def is_alive(self: Hold) -> bool:
        return self.is_connected

    return [(Hold, "is_alive", property(is_alive))]


def _forgets_what_it_held() -> list[Patch]:
    """After a restart nobody is known to hold anything."""
    return [(Owners, "keep", lambda *_: False)]


def _lets_a_timer_be_the_last() -> list[Patch]:
    """Behind something that was cancelled, nothing is ever due; as it once was."""

    def arm(self: Schedule[Any]) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._entries:
            seconds = min(max(self._heap[0][0] - self._clock.monotonic(), 0.001), 15.0)
            self._timer = asyncio.get_running_loop().call_later(seconds, self.look)

    def put(self: Schedule[Any], key: Any, due: float, wall: Any) -> None:
        entry = self._entries[key] = schedule._Entry(due, next(self._order), wall)
        heapq.heappush(self._heap, (due, entry.order, key))
        if self._heap[0][1] == entry.order:
            self._arm()

    return [(Schedule, "_arm", arm), (Schedule, "_put", put)]


def _tells_before_it_forgets() -> list[Patch]:
    """Who is told of a full disk goes on against heads that are ahead of it; as it once was."""

    def failed(self: Committer, submissions: list[Submission], error: BaseException) -> None:
        waiting = self._drop_queued()
        for submission in submissions:
            submission.error = error  # type: ignore[assignment]
        self._tell(submissions)
        waiting += self._drop_queued()
        for submission in waiting:
            submission.error = error  # type: ignore[assignment]
        self._tell(waiting)
        self._heads.forget()

    return [(Committer, "_failed", failed)]


MUTANTS: Final[dict[str, Callable[[], list[Patch]]]] = {
    "an answer before the commit": _answers_before_the_commit,
    "a wakeup is lost": _loses_a_wakeup,
    "the epoch is not checked": _checks_no_epoch,
    "a launch is not counted before it starts": _counts_a_launch_behind_it,
    "the limit of launches at once is ignored": _starts_any_number_at_once,
    "what is in flight is never counted down": _never_counts_down,
    "heads of a failed batch are kept": _keeps_heads_of_a_failed_batch,
    "an owner is declared gone while it lives": _declares_the_living_gone,
    "owners are forgotten at a restart": _forgets_what_it_held,
    "a timer that rang for nothing was the last": _lets_a_timer_be_the_last,
    "the refused go on before heads are forgotten": _tells_before_it_forgets,
}


@contextmanager
def mutant(name: str) -> Iterator[None]:
    """Make one mistake for as long as this lasts."""
    with ExitStack() as stack:
        for where, what, replacement in MUTANTS[name]():
            stack.enter_context(mock.patch.object(where, what, replacement))
        yield
