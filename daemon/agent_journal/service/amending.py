"""What the daemon itself records of an agent: entries and a new state, in one transaction.

The head is changed at once, so that what comes behind is checked against it,
and ``commit`` queues it before it waits.  Between the look at a head and that,
nothing may be awaited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from ..lifecycle import Change, advance
from ..model import AgentId, Micros, Sequence, Uid
from ..store.base import AgentChange, Copy, NewEntry
from .committer import Submission
from .context import Context
from .daemon_events import How, attempt_ended
from .heads import Head, remember_key

ENTRY_OVERHEAD_BYTES: Final = 256


class _Answer:
    """Waits for one submission."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def committed(self) -> None:
        """Take note that the submission was answered."""
        if not self.done.done():
            self.done.set_result(None)


async def submit(
    context: Context,
    uid: Uid,
    entries: list[NewEntry] | None = None,
    changes: list[AgentChange] | None = None,
) -> None:
    """Submit, wait until it is durable, and raise what it was refused with."""
    answer = _Answer()
    entries = entries or []
    size = sum(len(entry.event) + ENTRY_OVERHEAD_BYTES for entry in entries)
    submission = Submission(answer, entries, changes or [], size)
    context.committer.submit(uid, submission)
    await answer.done
    if submission.error is not None:
        raise submission.error


async def settle(context: Context, uid: Uid) -> None:
    """Wait until everything that was queued in a namespace is durable."""
    await submit(context, uid)


async def surely(context: Context, uid: Uid, recording: Awaitable[bool]) -> bool:
    """Record something, or be sure that it was not to be recorded.

    What speaks against it may itself be on its way to the disk, and not get there.
    Then this fails as that does, and is to be tried again.
    """
    is_recorded = await recording
    if not is_recorded:
        await settle(context, uid)
    return is_recorded


async def head_of(context: Context, uid: Uid, agent_id: AgentId) -> Head:
    """Return an agent's head, a new one where there is no such agent."""
    heads = context.heads.namespace(uid).heads
    while (head := heads.get(agent_id)) is None:
        await context.heads.load(uid, agent_id)
    return head


def next_epoch(context: Context, head: Head) -> int:
    """Return the epoch of the next owner: above all of the agent, and of any that is gone."""
    return max(head.epoch, context.heads.namespace(head.uid).epoch_floor) + 1


class Amendment:
    """Entries of the daemon's own for one agent, and what becomes of the agent."""

    def __init__(self, context: Context, head: Head) -> None:
        self._context = context
        self._head = head
        self._namespace = context.heads.namespace(head.uid)
        self._now = context.now
        self._entries: list[NewEntry] = []
        self._ended: How | None = None  # how the agent's attempt ended, if it did

    def advance(self, change: Change) -> None:
        """Move the agent's state.

        Raises:
            RequestError: this can't happen to it now; nothing was changed.
        """
        self._head.state = advance(self._head.state, change, self._head.agent_id)

    def record(self, event: bytes, *, key: str | None = None, iteration: int = 0) -> Sequence:
        """Add an entry; return its sequence."""
        head = self._head
        sequence = head.next_sequence
        self._entries.append(NewEntry(head.number, sequence, self._now, iteration, event, key))
        head.next_sequence = Sequence(sequence + 1)
        if key is not None:
            remember_key(self._namespace, head, key, sequence)
        return sequence

    def end_attempt(
        self,
        attempt: int,
        how: How,
        *,
        exit_code: int | None = None,
        signal: str | None = None,
        stderr: str | None = None,
    ) -> None:
        """Add that an attempt ended."""
        self._ended = how
        told = attempt_ended(attempt, how, exit_code=exit_code, signal=signal, stderr=stderr)
        self.record(told)

    async def commit(self, copy: Copy | None = None) -> None:
        """Queue it, and wait until it is durable.

        Raises:
            JournalError: it was refused; heads are as if it had never been.
        """
        head, has_entry = self._head, bool(self._entries)
        if has_entry:
            head.updated_at = self._now
            if head.is_new:
                head.created_at = self._now
        head.is_new = False
        head.submission = self._namespace.submitted + 1
        change = head.change(has_entry=has_entry, copy=copy)
        await submit(self._context, head.uid, self._entries, [change])
        if self._ended is not None:
            self._context.metrics.attempts_ended[self._ended] += 1

    @property
    def now(self) -> Micros:
        """The time of what is recorded."""
        return self._now
