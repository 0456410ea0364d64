"""Group commit: the only code that writes to the store.

Many connections append at once; one fsync is slow and one fsync for all of
them is no slower.  So appends queue, a single task takes whatever has queued
while the previous commit was on its way to disk, and each caller is answered
when the commit holding its entry is durable.  The disk sets the batch size: an
idle journal commits single entries at once, a busy one commits many together,
and there is no delay to tune.

Invariant: a caller that got a sequence number can lose power and keep its entry.

A batch takes from each uid in turn, so that a flood from one of them leaves
room for the others; within a uid the order is that of arrival.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import Final, Protocol

import msgspec
from structlog.typing import FilteringBoundLogger

from ..clock import Clock
from ..errors import (
    DamagedError,
    JournalError,
    OverloadedError,
    ShuttingDownError,
    StorageFailedError,
    StorageFullError,
)
from ..model import Position, Uid
from ..store.base import AgentChange, Batch, NewEntry, Store
from .heads import Heads, Namespace
from .metrics import Metrics

BATCH_ENTRIES_MAX: Final = 4096
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
BATCH_ENTRIES_MIN: Final = 32  # smaller halves would cost more in syncs than they win
QUANTUM_BYTES: Final = 64 * 1024  # what a uid may put into a batch before it is another's turn

# Of these nothing was recorded, and the store goes on.
_NOT_RECORDED: Final = (StorageFullError, OverloadedError, DamagedError)


class Waiter(Protocol):
    """Who is told what became of a submission."""

    def committed(self) -> None:
        """Take note that submissions of this waiter were answered."""


class Submission(msgspec.Struct, eq=False):
    """Neighbouring entries of one caller, recorded all or none.

    ``position`` or ``error`` is set before the waiter is told.
    """

    waiter: Waiter
    entries: list[NewEntry] = msgspec.field(default_factory=list)
    changes: list[AgentChange] = msgspec.field(default_factory=list)
    size_bytes: int = 0
    number: int = 0  # within its namespace
    namespace: Namespace | None = None
    position: Position | None = None
    error: JournalError | None = None


class Committer:
    """The queue, and the task that empties it."""

    def __init__(
        self, store: Store, heads: Heads, metrics: Metrics, clock: Clock, log: FilteringBoundLogger
    ) -> None:
        self.batch_entries_max = BATCH_ENTRIES_MAX
        self.batch_bytes_max = BATCH_BYTES_MAX
        self.failure: JournalError | None = None
        # When the commit, or the slice of housekeeping, began that is on its way.
        self.busy_since: float | None = None
        self._store = store
        self._heads = heads
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._queues: dict[Uid, deque[Submission]] = {}
        self._queued_entries = 0
        self._queued_bytes = 0
        self._wakeup: asyncio.Future[None] | None = None
        self._listener: asyncio.Future[None] | None = None
        self._housekeeping: asyncio.Future[None] | None = None
        self._is_closing = False
        self._is_full = False
        self._batch = Batch()  # the one that is on its way

    @property
    def queued_bytes(self) -> int:
        """How much waits to be committed."""
        return self._queued_bytes

    @property
    def queued_entries(self) -> int:
        """How many entries wait to be committed."""
        return self._queued_entries

    @property
    def is_closing(self) -> bool:
        """Whether nothing more is taken."""
        return self._is_closing

    @property
    def is_full(self) -> bool:
        """Tell whether the disk had no room when something was last to be written to it."""
        return self._is_full

    def submit(self, uid: Uid, submission: Submission) -> None:
        """Queue *submission*; its waiter is told when it is durable or refused."""
        if self._is_closing:
            submission.error = self.failure or shutting_down()
            self._heads.forget()
            asyncio.get_running_loop().call_soon(submission.waiter.committed)
            return
        namespace = submission.namespace = self._heads.namespace(uid)
        namespace.submitted += 1
        submission.number = namespace.submitted
        queue = self._queues.get(uid)
        if queue is None:
            queue = self._queues[uid] = deque()
        queue.append(submission)
        self._queued_entries += len(submission.entries)
        self._queued_bytes += submission.size_bytes
        self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def close(self) -> None:
        """Take no more; ``run`` ends when the queue is empty."""
        self._is_closing = True
        self._wake()

    def next_commit(self) -> asyncio.Future[None]:
        """Return what is done when something more was committed, or nothing will be.

        Raises:
            ShuttingDownError: nothing will be.
        """
        if self._is_closing:
            raise shutting_down()
        if self._listener is None:
            self._listener = asyncio.get_running_loop().create_future()
        return self._listener

    def next_housekeeping(self) -> asyncio.Future[None]:
        """Return what is done when the next slice of housekeeping is.

        Raises:
            ShuttingDownError: there will be none.
        """
        if self._is_closing:
            raise self.failure or shutting_down()
        if self._housekeeping is None:
            self._housekeeping = asyncio.get_running_loop().create_future()
        return self._housekeeping

    async def run(self) -> None:
        """Commit batches until closed, or until the store fails.

        Raises:
            StorageFailedError: the store is unusable; the process must end.
            Exception: a defect, or no memory; nobody knows what was recorded.
        """
        done: list[Submission] = []  # committed, and to be answered
        try:
            while await self._has_work(done):
                submissions = self._take()
                commit = self._begin(submissions)
                self._tell(done)  # while the disk is busy with the next ones
                done = []
                if await self._finish(submissions, commit):
                    done = submissions
                if self._store.is_maintenance_due:
                    self._tell(done)
                    done = []
                    await self._maintain()
        except Exception as error:
            self.failure = error if isinstance(error, StorageFailedError) else _unfinished()
            raise
        finally:
            self._tell(done)
            self._is_closing = True
            self._refuse_queued()
            self._notify()
            self._has_kept_house(self.failure or shutting_down())

    async def _has_work(self, done: list[Submission]) -> bool:
        """Wait for a submission; keep house meanwhile.  False: closed, and nothing queued."""
        if not self._queues:
            self._tell(done)
            done.clear()
        while not self._queues:
            if self._is_closing:
                return False
            if await self._maintain():
                await asyncio.sleep(0)
                continue
            if self._queues or self._is_closing:
                continue  # while it kept house; nobody wakes it for that any more
            self._wakeup = asyncio.get_running_loop().create_future()
            try:
                await self._wakeup
            finally:
                self._wakeup = None
        return True

    def _take(self) -> list[Submission]:
        """Take the next batch off the queues: of each uid in turn, as it came.

        Not more than half of what is in flight: if all callers were in one
        batch, the disk would wait while they are answered and send again, and
        they would wait for the disk.  In halves, both work at once.
        """
        in_flight = self._queued_entries + len(self._batch.entries)
        entries_max = min(self.batch_entries_max, max(in_flight // 2, BATCH_ENTRIES_MIN))
        taken: list[Submission] = []
        entries = size = 0
        while self._queues and entries < entries_max and size < self.batch_bytes_max:
            uid = next(iter(self._queues))
            queue = self._queues.pop(uid)
            quantum_max = QUANTUM_BYTES if self._queues else self.batch_bytes_max - size
            quantum = 0
            while queue and quantum < quantum_max and entries < entries_max:
                submission = queue.popleft()
                taken.append(submission)
                entries += len(submission.entries)
                quantum += submission.size_bytes + 1
            size += quantum
            if queue:
                self._queues[uid] = queue  # at the end of the row
        self._queued_entries -= entries
        self._queued_bytes -= sum([submission.size_bytes for submission in taken])
        return taken

    def _begin(self, submissions: list[Submission]) -> Awaitable[Position]:
        self._batch = _batch(submissions)
        self.busy_since = self._clock.monotonic()
        try:
            return self._store.commit(self._batch)
        except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
            return _raising(error)

    async def _finish(self, submissions: list[Submission], commit: Awaitable[Position]) -> bool:
        """Wait for the commit; return whether everything is recorded."""
        started = self.busy_since or 0.0
        try:
            position = await commit
        except BaseException as error:
            # Even a cancelled commit may have reached the disk.  Nobody may be
            # left waiting, and nobody may be told that it did not happen.
            self._failed(submissions, error)
            if not isinstance(error, _NOT_RECORDED):
                raise
            return False
        finally:
            self.busy_since = None
        if self._batch.entries:  # what only removes some needs no room, and tells of none
            self._is_full = False
        if self._batch.entries or self._batch.changes:
            self._metrics.committed(
                len(self._batch.entries),
                sum([submission.size_bytes for submission in submissions]),
                self._clock.monotonic() - started,
            )
        for submission in submissions:
            submission.position = position
            if submission.namespace is not None:
                submission.namespace.committed = submission.number
            position += len(submission.entries)  # type: ignore[assignment] # still a position
        self._notify()
        return True

    def _failed(self, submissions: list[Submission], error: BaseException) -> None:
        if isinstance(error, StorageFullError):
            self._report_full(error)
            refusal: JournalError = error
        elif isinstance(error, OverloadedError):
            self._log.error("memory_exhausted", error=str(error))
            refusal = error
        else:
            self._log.critical("commit_failed", error=str(error))
            refusal = (
                error if isinstance(error, (StorageFailedError, DamagedError)) else _unfinished()
            )
        refused = submissions
        if isinstance(error, _NOT_RECORDED):
            # They were numbered behind entries that were not recorded.
            refused = submissions + self._drop_queued()
        for submission in refused:
            submission.error = refusal
        # Before anybody is told: who is goes on at once with what it had not looked at,
        # and that must not be numbered behind these.
        self._heads.forget()
        self._tell(refused)

    def _report_full(self, error: StorageFullError) -> None:
        if not self._is_full:
            self._is_full = True
            self._log.error("storage_filled", error=str(error))

    def _drop_queued(self) -> list[Submission]:
        waiting = [submission for queue in self._queues.values() for submission in queue]
        self._queues.clear()
        self._queued_entries = self._queued_bytes = 0
        return waiting

    def _refuse_queued(self) -> None:
        waiting = self._drop_queued()
        for submission in waiting:
            submission.error = shutting_down()
        self._tell(waiting)

    def _tell(self, submissions: list[Submission]) -> None:
        for waiter in {submission.waiter: None for submission in submissions}:
            waiter.committed()

    def _notify(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.set_result(None)

    async def _maintain(self) -> bool:
        self.busy_since = self._clock.monotonic()
        problem: JournalError | None = None
        try:
            return await self._store.maintain()
        except StorageFullError as error:
            self._report_full(error)
            problem = error
        except DamagedError as error:
            self._log.critical("journal_damaged", error=str(error))
            problem = error
        finally:
            self.busy_since = None
            self._has_kept_house(problem)
        return False

    def _has_kept_house(self, problem: JournalError | None) -> None:
        """Tell those who wait for it."""
        waiting, self._housekeeping = self._housekeeping, None
        if waiting is None:
            return
        if problem is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(problem)
            waiting.exception()  # whoever waited may have left


def _unfinished() -> StorageFailedError:
    return StorageFailedError("the commit did not finish; the daemon restarts")


async def _raising(error: BaseException) -> Position:
    raise error


def shutting_down() -> ShuttingDownError:
    """Return what is said to those who come too late."""
    return ShuttingDownError(
        "the daemon is stopping; connect again in a moment and send the request again"
    )


def _batch(submissions: list[Submission]) -> Batch:
    batch = Batch()
    entries = batch.entries
    for submission in submissions:
        if submission.changes:
            base = len(entries)
            for change in submission.changes:
                change.index += base
            batch.changes += submission.changes
        entries += submission.entries
    return batch
