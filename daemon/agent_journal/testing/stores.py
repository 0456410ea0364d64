"""Stores that do what real ones seldom do: fail, take their time, restart.

Each wraps a store and keeps its contract, so that what stands above a store
can be tested at the moments that matter, without a full disk or a pause.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from collections.abc import Sequence as Seq

from ..errors import JournalError, StorageFailedError, StorageFullError
from ..model import AgentId, AgentState, Position, Sequence, Uid
from ..store.base import (
    AgentCounts,
    AgentNumber,
    AgentRecord,
    Batch,
    EndedGroup,
    Entry,
    Filter,
    Scan,
    Space,
    Store,
    Unfinished,
)


class _Wrapper:
    """Hands everything on; each asynchronous call passes ``_pass`` first."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def _pass(self, operation: str) -> None:
        """Do what is to be done before *operation*."""

    async def open(self) -> None:
        """Open the wrapped store."""
        await self._pass("open")
        await self.store.open()

    def new_number(self) -> AgentNumber:
        """Return a number that no history ever had."""
        return self.store.new_number()

    async def load(self, names: Seq[tuple[Uid, AgentId]]) -> list[AgentRecord | None]:
        """Return what is committed of each agent."""
        await self._pass("load")
        return await self.store.load(names)

    async def find_key(self, number: AgentNumber, key: str) -> Sequence | None:
        """Return where *key* was used in a history."""
        await self._pass("find_key")
        return await self.store.find_key(number, key)

    async def read(
        self, number: AgentNumber, *, from_sequence: int, limit: int, bytes_max: int
    ) -> list[Entry]:
        """Return neighbouring entries of a history."""
        await self._pass("read")
        return await self.store.read(
            number, from_sequence=from_sequence, limit=limit, bytes_max=bytes_max
        )

    async def read_keyed(
        self, number: AgentNumber, *, from_sequence: int, limit: int, bytes_max: int
    ) -> list[tuple[Entry, str | None]]:
        """Return neighbouring entries of a history, with their keys."""
        await self._pass("read_keyed")
        return await self.store.read_keyed(
            number, from_sequence=from_sequence, limit=limit, bytes_max=bytes_max
        )

    async def scan(self, wanted: Filter, *, from_position: int, limit: int, bytes_max: int) -> Scan:
        """Return a slice of the journal in position order."""
        await self._pass("scan")
        return await self.store.scan(
            wanted, from_position=from_position, limit=limit, bytes_max=bytes_max
        )

    async def position_of_last(
        self, wanted: Filter, count: int, *, before: int | None = None
    ) -> Position:
        """Return the position from which a scan yields the last *count* entries."""
        await self._pass("position_of_last")
        return await self.store.position_of_last(wanted, count, before=before)

    async def agents(  # noqa: PLR0913 - the operation has so many members
        self,
        *,
        uid: Uid | None,
        state: AgentState | None,
        kind: str | None,
        after: int,
        limit: int,
        newest: bool = False,
    ) -> tuple[list[AgentRecord], int | None]:
        """Return agents by first position."""
        await self._pass("agents")
        return await self.store.agents(
            uid=uid, state=state, kind=kind, after=after, limit=limit, newest=newest
        )

    async def agents_named(
        self, uid: Uid, prefix: str, *, after: str, limit: int
    ) -> list[AgentRecord]:
        """Return agents whose ids begin alike."""
        await self._pass("agents_named")
        return await self.store.agents_named(uid, prefix, after=after, limit=limit)

    async def unfinished(self, *, after: int, limit: int) -> list[Unfinished]:
        """Return agents that have an attachment."""
        await self._pass("unfinished")
        return await self.store.unfinished(after=after, limit=limit)

    async def ended_groups(self) -> list[EndedGroup]:
        """Return of which states and kinds there are agents that have ended."""
        await self._pass("ended_groups")
        return await self.store.ended_groups()

    async def ended(
        self, state: AgentState, kind: str | None, *, before: int, limit: int
    ) -> list[AgentRecord]:
        """Return agents of a group that ended before a time."""
        await self._pass("ended")
        return await self.store.ended(state, kind, before=before, limit=limit)

    async def count_ended(self, state: AgentState, kind: str | None, *, before: int) -> int:
        """Return how many agents of a group ended before a time."""
        await self._pass("count_ended")
        return await self.store.count_ended(state, kind, before=before)

    def epoch_floor(self, uid: Uid) -> int:
        """Return the highest epoch that a removed agent had."""
        return self.store.epoch_floor(uid)

    async def is_swept(self, number: AgentNumber | None = None) -> bool:
        """Tell whether a history is gone."""
        await self._pass("is_swept")
        return await self.store.is_swept(number)

    async def erase(self) -> None:
        """Have nothing be left of what was swept."""
        await self._pass("erase")
        await self.store.erase()

    async def space(self) -> Space:
        """Return how much room the journal takes."""
        await self._pass("space")
        return await self.store.space()

    @property
    def agent_counts(self) -> AgentCounts | None:
        """How many agents there are, as the wrapped store knows."""
        return self.store.agent_counts

    async def count_agents(self) -> bool:
        """Count some agents of the wrapped store."""
        return await self.store.count_agents()

    @property
    def is_maintenance_due(self) -> bool:
        """Tell whether ``maintain`` should be called before the next commit."""
        return self.store.is_maintenance_due

    async def maintain(self) -> bool:
        """Do one slice of housekeeping."""
        await self._pass("maintain")
        return await self.store.maintain()

    async def close(self) -> None:
        """Close the wrapped store."""
        await self.store.close()


class FaultyStore(_Wrapper):
    """Fails the next commit, or holds up what it is asked, when a test says so."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.batches: list[Batch] = []  # of each commit that was begun
        self.calls: Counter[str] = Counter()
        self._failures: deque[tuple[BaseException, bool]] = deque()
        self._sudden: BaseException | None = None
        self._gates: dict[str, asyncio.Future[None]] = {}

    def hold(self, operation: str = "commit") -> None:
        """Let no *operation* get any further until it is released."""
        if operation not in self._gates:
            self._gates[operation] = asyncio.get_running_loop().create_future()

    def release(self, operation: str = "commit") -> None:
        """Let go on what was held up, and hold up nothing more."""
        gate = self._gates.pop(operation, None)
        if gate is not None:
            gate.set_result(None)

    def fail_next(self, error: BaseException, *, is_recorded: bool = False) -> None:
        """Fail the next commit that was not begun yet; *is_recorded* all the same."""
        self._failures.append((error, is_recorded))

    def fail_next_as_full(self) -> JournalError:
        """Have no room for the next commit: nothing of it is recorded."""
        error = StorageFullError("the disk is full (this is a test); make room, then send it again")
        self.fail_next(error)
        return error

    def fail_next_as_failed(self, *, is_recorded: bool = False) -> JournalError:
        """Fail the next commit in its fsync: nobody knows whether it is recorded."""
        error = StorageFailedError("an fsync failed (this is a test)")
        self.fail_next(error, is_recorded=is_recorded)
        return error

    def fail_suddenly(self, error: BaseException) -> None:
        """Raise out of the next commit before it has begun."""
        self._sudden = error

    def commit(self, batch: Batch) -> Awaitable[Position]:
        """Record *batch*, or do what the test said."""
        sudden, self._sudden = self._sudden, None
        if sudden is not None:
            raise sudden
        self.batches.append(batch)
        failure = self._failures.popleft() if self._failures else None
        return self._commit(batch, failure)

    async def _commit(self, batch: Batch, failure: tuple[BaseException, bool] | None) -> Position:
        await self._pass("commit")
        if failure is None:
            return await self.store.commit(batch)
        error, is_recorded = failure
        if is_recorded:
            await self.store.commit(batch)
        raise error

    async def _pass(self, operation: str) -> None:
        self.calls[operation] += 1
        gate = self._gates.get(operation)
        if gate is not None:
            await asyncio.wait([gate])  # shared with others: not ours to cancel


class RestartingStore(_Wrapper):
    """Restarts behind each commit, so that nothing is remembered but what was committed.

    *restart* gets the store as it is (and closes it, or leaves it to a crash),
    and returns the next one, opened.
    """

    def __init__(self, store: Store, restart: Callable[[Store], Awaitable[Store]]) -> None:
        super().__init__(store)
        self._restart = restart

    async def commit(self, batch: Batch) -> Position:
        """Record *batch*, then restart."""
        position = await self.store.commit(batch)
        self.store = await self._restart(self.store)
        return position
