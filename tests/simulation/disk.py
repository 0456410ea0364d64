"""A disk that is slow, full or failing when the schedule says so, and the store on it.

``Disk`` is what survives: a ``MemoryStore`` that holds what was made durable, and
nothing else.  A daemon sees it through a ``SimulatedStore``, which ends with it.
Whether a commit that was under way when the daemon died, or whose fsync failed, is
on the disk is left to chance, as it is in life.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from agent_journal.errors import StorageFailedError, StorageFullError
from agent_journal.model import AgentId, AgentState, Position, Sequence, Uid
from agent_journal.store.base import (
    AgentCounts,
    AgentNumber,
    AgentRecord,
    Batch,
    EndedGroup,
    Entry,
    Filter,
    Scan,
    Space,
    Unfinished,
)
from agent_journal.store.memory import MemoryStore
from agent_journal.testing.virtual_loop import VirtualLoop, VirtualProcess


@dataclass(slots=True)
class Weather:
    """How the disk is at the moment."""

    commit_seconds: float = 0.004  # at the most, but for those that are slow
    slow_share: float = 0.0
    slow_seconds: float = 4.0
    read_share: float = 0.3  # of the reads take a while
    full_until: float = 0.0
    full_share: float = 0.0  # of the commits that find no room, at other times
    failure: bool | None = None  # the next commit fails; whether it is recorded all the same


class Disk:
    """What is durable."""

    def __init__(self, loop: VirtualLoop, chance: random.Random) -> None:
        self.store = MemoryStore()
        self.weather = Weather()
        self.commits = 0
        self.on_commit: Callable[[Batch, int], None] = lambda *_: None
        self.loop = loop
        self.chance = chance

    def record(self, batch: Batch) -> Position:
        """Make *batch* durable."""
        work = self.store.commit(batch)
        try:
            work.send(None)
        except StopIteration as done:
            position: Position = done.value
        else:
            raise AssertionError("the store in memory waits for something")
        self.commits += 1
        self.on_commit(batch, position)
        return position


class _Commit:
    """A commit that is under way."""

    def __init__(self, batch: Batch, done: asyncio.Future[Position]) -> None:
        self.batch = batch
        self.done = done
        self.is_over = False


class SimulatedStore:
    """A daemon's view of the disk."""

    def __init__(self, disk: Disk, process: VirtualProcess) -> None:
        self._disk = disk
        self._process = process
        self._under_way: _Commit | None = None
        self._is_failed = False
        self._chores = 0

    def crash(self) -> None:
        """End with the daemon: what is under way is on the disk, or is not."""
        commit, self._under_way = self._under_way, None
        if commit is not None and not commit.is_over:
            commit.is_over = True
            if self._disk.chance.random() < 0.5:
                self._disk.record(commit.batch)

    async def open(self) -> None:
        """Do nothing: a start begins with what is durable."""

    def new_number(self) -> AgentNumber:
        """Return a number that no history ever had."""
        return self._disk.store.new_number()

    @property
    def agent_counts(self) -> AgentCounts:
        """Tell what is durable."""
        return self._disk.store.agent_counts

    async def count_agents(self) -> bool:
        """Do nothing: they are counted."""
        return False

    def commit(self, batch: Batch) -> Awaitable[Position]:
        """Record *batch*, if the weather lets it."""
        disk = self._disk
        loop, chance, weather = disk.loop, disk.chance, disk.weather
        self._check()
        assert self._under_way is None, "two commits at once"
        commit = _Commit(batch, loop.create_future())
        self._under_way = commit
        is_slow = chance.random() < weather.slow_share
        seconds = chance.random() * (weather.slow_seconds if is_slow else weather.commit_seconds)
        loop.outside(seconds, self._write, commit)
        return commit.done

    def _write(self, commit: _Commit) -> None:
        """Let the moment come in which it is durable, or fails."""
        if commit.is_over:
            return
        commit.is_over = True
        disk = self._disk
        weather, chance = disk.weather, disk.chance
        failure, weather.failure = weather.failure, None
        position: Position | None = None
        error: Exception | None = None
        if failure is not None:
            self._is_failed = True
            error = StorageFailedError("an fsync failed (this is a simulation)")
            if failure:
                disk.record(commit.batch)
        elif disk.loop.now < weather.full_until or chance.random() < weather.full_share:
            error = StorageFullError("the disk is full (this is a simulation); try again")
        else:
            position = disk.record(commit.batch)
        # The daemon may die before it hears of it.
        disk.loop.outside(
            chance.random() * weather.commit_seconds / 4, self._tell, commit, position, error
        )

    def _tell(self, commit: _Commit, position: Position | None, error: Exception | None) -> None:
        if self._under_way is commit:
            self._under_way = None
        if commit.done.done() or self._process.is_dead:
            return
        if error is not None:
            commit.done.set_exception(error)
        else:
            assert position is not None
            commit.done.set_result(position)

    def _check(self) -> None:
        if self._process.is_dead or self._is_failed:
            raise StorageFailedError("the store is unusable (this is a simulation)")

    async def _pass(self) -> None:
        """Take as long as a look at the disk does, now and then."""
        self._check()
        chance = self._disk.chance
        if chance.random() < self._disk.weather.read_share:
            await asyncio.sleep(chance.random() * 0.002)
            self._check()

    async def load(self, names: Seq[tuple[Uid, AgentId]]) -> list[AgentRecord | None]:
        """Return what is committed of each agent."""
        await self._pass()
        found = await self._disk.store.load(names)
        await self._pass()
        return found

    async def find_key(self, number: AgentNumber, key: str) -> Sequence | None:
        """Return where *key* was used in a history."""
        await self._pass()
        found = await self._disk.store.find_key(number, key)
        await self._pass()
        return found

    async def read(
        self, number: AgentNumber, *, from_sequence: int, limit: int, bytes_max: int
    ) -> list[Entry]:
        """Return neighbouring entries of a history."""
        await self._pass()
        return await self._disk.store.read(
            number, from_sequence=from_sequence, limit=limit, bytes_max=bytes_max
        )

    async def scan(self, wanted: Filter, *, from_position: int, limit: int, bytes_max: int) -> Scan:
        """Return a slice of the journal in position order."""
        await self._pass()
        found = await self._disk.store.scan(
            wanted, from_position=from_position, limit=limit, bytes_max=bytes_max
        )
        await self._pass()
        return found

    async def position_of_last(
        self, wanted: Filter, count: int, *, before: int | None = None
    ) -> Position:
        """Return the position from which a scan yields the last *count* entries."""
        await self._pass()
        return await self._disk.store.position_of_last(wanted, count, before=before)

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
        await self._pass()
        return await self._disk.store.agents(
            uid=uid, state=state, kind=kind, after=after, limit=limit, newest=newest
        )

    async def agents_named(
        self, uid: Uid, prefix: str, *, after: str, limit: int
    ) -> list[AgentRecord]:
        """Return agents whose ids begin alike."""
        await self._pass()
        return await self._disk.store.agents_named(uid, prefix, after=after, limit=limit)

    async def unfinished(self, *, after: int, limit: int) -> list[Unfinished]:
        """Return agents that have an attachment."""
        await self._pass()
        return await self._disk.store.unfinished(after=after, limit=limit)

    async def ended_groups(self) -> list[EndedGroup]:
        """Return of which states and kinds there are agents that have ended."""
        await self._pass()
        return await self._disk.store.ended_groups()

    async def ended(
        self, state: AgentState, kind: str | None, *, before: int, limit: int
    ) -> list[AgentRecord]:
        """Return agents of a group that ended before a time."""
        await self._pass()
        return await self._disk.store.ended(state, kind, before=before, limit=limit)

    async def count_ended(self, state: AgentState, kind: str | None, *, before: int) -> int:
        """Return how many agents of a group ended before a time."""
        await self._pass()
        return await self._disk.store.count_ended(state, kind, before=before)

    def epoch_floor(self, uid: Uid) -> int:
        """Return the highest epoch that a removed agent had."""
        return self._disk.store.epoch_floor(uid)

    async def is_swept(self, number: AgentNumber | None = None) -> bool:
        """Tell whether a history is gone."""
        await self._pass()
        return await self._disk.store.is_swept(number)

    async def erase(self) -> None:
        """Have nothing be left of what was swept."""
        await self._pass()
        await self._disk.store.erase()

    async def space(self) -> Space:
        """Return how much room the journal takes."""
        await self._pass()
        return await self._disk.store.space()

    @property
    def is_maintenance_due(self) -> bool:
        """Say yes now and then."""
        return self._disk.chance.random() < 0.05

    async def maintain(self) -> bool:
        """Keep house for a slice."""
        self._check()
        disk = self._disk
        if disk.chance.random() < 0.8:
            return False
        await asyncio.sleep(disk.chance.random() * 0.01)
        self._check()
        if disk.loop.now < disk.weather.full_until:
            raise StorageFullError("no room for the housekeeping (this is a simulation)")
        return disk.chance.random() < 0.5

    async def close(self) -> None:
        """Do nothing."""
