"""A journal as plain lists, beside a store that must hold the same.

``PlainJournal`` is the one writer that a store is made for: it numbers the
entries, tells the store of new agents and of states that changed, and keeps
what was committed in the simplest way there is.  ``check`` asks the store for
all of it, through every door, and compares.

Invariants that ``check`` holds a store to: an agent's sequences are 0, 1, 2, …
without a gap; positions only rise, and none is given twice; the log is what the
histories are, put together in position order, less what was copied for an agent
before it began.
"""
# ruff: noqa: S101, PLR0913, PLR2004 - this is a test: it asserts, and is told much by keyword

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from ..model import SEQUENCE_MAX, AgentId, AgentState, Micros, Position, Sequence, Uid
from ..store.attached import unfinished_of
from ..store.attachment import Attachment
from ..store.base import (
    AgentChange,
    AgentNumber,
    AgentRecord,
    Batch,
    Copy,
    Entry,
    Filter,
    NewEntry,
    Store,
    Unfinished,
)

OWNER: Final = Uid(1000)
FIRST_MICROS: Final = 1_700_000_000_000_000
NEVER_USED: Final = "a key that was never used"
PLENTY_BYTES: Final = 1 << 30

Name = tuple[Uid, AgentId]


@dataclass(slots=True)
class PlainAgent:
    """What a store must know of an agent."""

    record: AgentRecord
    entries: list[Entry] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)

    def copy(self) -> PlainAgent:
        """Return one that can be changed without changing this one."""
        return PlainAgent(replace(self.record), [*self.entries], {**self.keys})


@dataclass(slots=True)
class PlainCopy:
    """A history that is being copied, and is nobody's yet."""

    number: AgentNumber
    uid: Uid
    entries: list[Entry] = field(default_factory=list)


class PlainJournal:
    """Writes to a store, and knows what it must hold."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.agents: dict[Name, PlainAgent] = {}
        self.next_position = 0  # the least that the next commit may be given
        self._now = FIRST_MICROS
        self._begin()

    def _begin(self) -> None:
        """Begin a batch; what was not committed of the last one is dropped."""
        self._batch = Batch()
        self._draft: dict[Name, PlainAgent] = {}
        self._removed: set[Name] = set()
        self._placed: list[tuple[Entry, int]] = []
        self._born: list[tuple[AgentRecord, int]] = []

    # Writing

    def add(
        self,
        agent_id: str,
        event: bytes = b'{"Noted":null}',
        *,
        uid: Uid = OWNER,
        kind: str | None = None,
        iteration: int = 0,
        timestamp: int | None = None,
        key: str | None = None,
        state: AgentState = AgentState.RUNNING,
        reason: str | None = None,
    ) -> None:
        """Put an entry into the batch; *state* is what it leaves its agent in."""
        index = len(self._batch.entries)
        micros = Micros(self._tick() if timestamp is None else timestamp)
        name = uid, AgentId(agent_id)
        is_new = not self._is_known(name)
        agent = self._touch(name, kind, micros, index)
        record = agent.record
        if is_new or state is not record.state:
            was = None if is_new else record.state
            record.state, record.reason = state, reason
            change = replace(record, updated_at=micros)
            self._batch.changes.append(AgentChange(index, change, was))
        sequence = Sequence(len(agent.entries))
        self._batch.entries.append(NewEntry(record.number, sequence, micros, iteration, event, key))
        entry = Entry(record.number, sequence, Position(-1), micros, iteration, event)
        self._placed.append((entry, index))
        agent.entries.append(entry)
        record.next_sequence = Sequence(sequence + 1)
        record.last_iteration = max(record.last_iteration, iteration)
        record.updated_at = micros
        if key is not None:
            agent.keys[key] = sequence
            record.key_high = max(record.key_high, key)

    def finish(self, agent_id: str, *, uid: Uid = OWNER, reason: str = "Completed") -> None:
        """Put an agent's last entry into the batch."""
        state = AgentState.COMPLETED if reason == "Completed" else AgentState.FAILED
        event = b'{"Terminated":{"reason":"%b"}}' % reason.encode()
        self.add(agent_id, event, uid=uid, state=state, reason=reason)

    def compact(self, agent_id: str, *, uid: Uid = OWNER) -> int:
        """Put the end of an agent's history into the batch; return how much it removes."""
        name = uid, AgentId(agent_id)
        index = len(self._batch.entries)
        agent = self._touch(name, None, Micros(0), index)
        removed, ended = len(agent.entries), agent.record.number
        record = agent.record
        record.number = self.store.new_number()
        record.next_sequence, record.last_iteration, record.key_high = Sequence(0), 0, ""
        record.updated_at = Micros(self._tick())
        agent.entries.clear()
        agent.keys.clear()
        self._placed = [(entry, at) for entry, at in self._placed if entry.number != ended]
        self._batch.changes.append(
            AgentChange(index, replace(record), record.state, compacted=ended)
        )
        return removed

    def remove(self, agent_id: str, *, uid: Uid = OWNER) -> None:
        """Put an agent's removal into the batch."""
        name = uid, AgentId(agent_id)
        index = len(self._batch.entries)
        record = self._touch(name, None, Micros(0), index).record
        self._batch.changes.append(
            AgentChange(index, replace(record), record.state, is_removed=True)
        )
        del self._draft[name]
        self._removed.add(name)
        self._born = [(born, at) for born, at in self._born if born is not record]
        number = record.number
        self._placed = [(entry, at) for entry, at in self._placed if entry.number != number]

    def attach(
        self,
        agent_id: str,
        attachment: Attachment | None,
        *,
        uid: Uid = OWNER,
        state: AgentState = AgentState.RUNNING,
        has_entry: bool = False,
    ) -> None:
        """Put a change into the batch, and an entry that tells of it where *has_entry* says so."""
        index = len(self._batch.entries)
        record = self._touch((uid, AgentId(agent_id)), None, Micros(0), index).record
        was, record.attachment, record.state = record.state, attachment, state
        record.epoch += 1
        told = replace(record, updated_at=Micros(self._tick()))  # which is not to be believed
        self._batch.changes.append(AgentChange(index, told, was, has_entry=has_entry))
        if has_entry:
            self.add(agent_id, uid=uid, timestamp=told.updated_at, state=state)

    # Copying

    def begin_copy(self, *, uid: Uid = OWNER) -> PlainCopy:
        """Put the beginning of a copy into the batch."""
        copy = PlainCopy(self.store.new_number(), uid)
        self._change_copy(copy, Copy.BEGUN)
        return copy

    def add_copies(self, copy: PlainCopy, entries: list[Entry]) -> None:
        """Put *entries* of another history into the batch, as the next of *copy*."""
        for entry in entries:
            sequence = Sequence(len(copy.entries))
            added = replace(entry, number=copy.number, sequence=sequence)
            new = (copy.number, sequence, entry.timestamp, entry.iteration, entry.event)
            self._placed.append((added, len(self._batch.entries)))
            self._batch.entries.append(NewEntry(*new))
            copy.entries.append(added)

    def give_up(self, copy: PlainCopy) -> None:
        """Put the end of a copy that no agent gets into the batch."""
        self._change_copy(copy, Copy.GIVEN_UP)

    def _change_copy(self, copy: PlainCopy, step: Copy) -> None:
        record = AgentRecord(copy.uid, AgentId("nobody"), copy.number)
        self._batch.changes.append(AgentChange(len(self._batch.entries), record, None, copy=step))

    def adopt(self, copy: PlainCopy, agent_id: str, attachment: Attachment | None = None) -> None:
        """Put an agent into the batch that begins with *copy*."""
        name, now = (copy.uid, AgentId(agent_id)), Micros(self._tick())
        index = len(self._batch.entries)
        record = AgentRecord(*name, copy.number, created_at=now, updated_at=now)
        record.state, record.attachment = AgentState.WAITING, attachment
        record.next_sequence = Sequence(len(copy.entries))
        self._draft[name] = PlainAgent(record, copy.entries)
        self._born.append((record, index))
        self._batch.changes.append(AgentChange(index, replace(record), None, copy=Copy.ADOPTED))
        iteration = max((entry.iteration for entry in copy.entries), default=0)
        self.add(
            agent_id,
            b'{"Forked":0}',
            uid=copy.uid,
            iteration=iteration,
            timestamp=now,
            state=AgentState.WAITING,
        )

    async def commit(self) -> Position:
        """Commit the batch; keep house for a slice where that is due, as the committer does."""
        batch, draft, placed, born = self._batch, self._draft, self._placed, self._born
        removed = self._removed
        self._begin()
        position = await self.store.commit(batch)
        assert position >= self.next_position, "a position was given twice"
        for entry, index in placed:
            entry.position = Position(position + index)
        for record, index in born:
            record.first_position = Position(position + index)
        for name in removed:
            self.agents.pop(name, None)
        self.agents |= draft
        if batch.entries:
            self.next_position = position + len(batch.entries)
        if self.store.is_maintenance_due:
            await self.store.maintain()
        return position

    async def append(self, agent_id: str, *events: bytes, uid: Uid = OWNER) -> Position:
        """Commit *events* of one agent in a batch of their own."""
        for event in events or (b'{"Noted":null}',):
            self.add(agent_id, event, uid=uid)
        return await self.commit()

    async def keep_house(self) -> None:
        """Do all the housekeeping that is due."""
        slices = 0
        while await self.store.maintain():
            slices += 1
            assert slices < 100_000, "the housekeeping does not come to an end"

    def agent(self, agent_id: str, uid: Uid = OWNER) -> PlainAgent:
        """Return what was committed of an agent."""
        return self.agents[uid, AgentId(agent_id)]

    def log(self, wanted: Filter | None = None) -> list[tuple[Name, Entry]]:
        """Return what was committed, in position order."""
        uid, agent_id = (wanted.uid, wanted.agent_id) if wanted else (None, None)
        return sorted(
            (
                (name, entry)
                for name, agent in self.agents.items()
                if uid in (None, name[0]) and agent_id in (None, name[1])
                for entry in agent.entries
                if entry.position >= agent.record.first_position
            ),
            key=lambda found: found[1].position,
        )

    def _tick(self) -> int:
        self._now += 1_000_003
        return self._now

    def _is_known(self, name: Name) -> bool:
        return name in self._draft or (name in self.agents and name not in self._removed)

    def _touch(self, name: Name, kind: str | None, now: Micros, index: int) -> PlainAgent:
        if name not in self._draft and self._is_known(name):
            self._draft[name] = self.agents[name].copy()
        agent = self._draft.get(name)
        if agent is None:
            uid, agent_id = name
            number = self.store.new_number()
            record = AgentRecord(uid, agent_id, number, kind=kind, created_at=now, updated_at=now)
            agent = self._draft[name] = PlainAgent(record)
            self._born.append((record, index))
        return agent

    # Checking

    async def check(self, *, page: int = 7) -> None:
        """Ask the store for everything, *page* things at a time, and compare."""
        names = [*self.agents, (OWNER, AgentId("nobody"))]
        known = [agent.record for agent in self.agents.values()]
        assert await self.store.load(names) == [*known, None]
        by_position = sorted(known, key=lambda record: record.first_position)
        assert await list_all(self.store, limit=page) == by_position
        assert await list_all(self.store, limit=page, newest=True) == by_position[::-1]
        await self._check_names(page)
        await self._check_counts(known)
        unfinished = [one for record in by_position if (one := unfinished_of(record))]
        assert await list_unfinished(self.store, limit=page) == unfinished
        for agent in self.agents.values():
            await self._check_history(agent, page)
        found = await scan_all(self.store, limit=page)
        assert found == self.log()
        positions = [entry.position for _, entry in found]
        assert positions == sorted(set(positions))
        assert not positions or positions[-1] < self.next_position

    async def _check_counts(self, known: list[AgentRecord]) -> None:
        """Have all agents counted, and compare with what there is."""
        while await self.store.count_agents():
            pass
        counts = self.store.agent_counts
        assert counts is not None
        assert +Counter(counts) == Counter((record.uid, record.state) for record in known)

    async def _check_names(self, page: int) -> None:
        """Look for each beginning of the ids there are, and for one that is an id's successor."""
        names = sorted(name for name in self.agents if name[0] == OWNER)
        wholes = [agent_id for _, agent_id in names]
        begins = {agent_id[:length] for agent_id in wholes[:3] for length in (0, 1, len(agent_id))}
        for prefix in (*sorted(begins), "nobody", *(f"{agent_id}-" for agent_id in wholes[:1])):
            assert await list_named(self.store, prefix, limit=page) == [
                self.agents[name].record for name in names if name[1].startswith(prefix)
            ]

    async def _check_history(self, agent: PlainAgent, page: int) -> None:
        number = agent.record.number
        entries = await read_all(self.store, agent.record, limit=page)
        assert entries == agent.entries
        assert [entry.sequence for entry in entries] == [*range(len(entries))]
        for key in (*agent.keys, NEVER_USED):
            assert await self.store.find_key(number, key) == agent.keys.get(key)


async def read_all(
    store: Store,
    record: AgentRecord,
    *,
    from_sequence: int = 0,
    limit: int = 1000,
    bytes_max: int = PLENTY_BYTES,
) -> list[Entry]:
    """Return a history from a sequence on, read in slices."""
    entries: list[Entry] = []
    while some := await store.read(
        record.number,
        from_sequence=from_sequence + len(entries),
        limit=limit,
        bytes_max=bytes_max,
    ):
        assert len(some) <= limit
        entries += some
    return entries


async def scan_all(
    store: Store,
    wanted: Filter | None = None,
    *,
    from_position: int = 0,
    limit: int = 1000,
    bytes_max: int = PLENTY_BYTES,
) -> list[tuple[Name, Entry]]:
    """Return the log from a position on, scanned in slices."""
    found: list[tuple[Name, Entry]] = []
    while True:
        scan = await store.scan(
            wanted or Filter(), from_position=from_position, limit=limit, bytes_max=bytes_max
        )
        assert len(scan.entries) <= limit
        found += [((record.uid, record.agent_id), entry) for record, entry in scan.entries]
        assert all(from_position <= entry.position for _, entry in scan.entries)
        assert all(entry.position < scan.next_position for _, entry in scan.entries)
        if scan.is_end:
            return found
        assert scan.next_position > from_position, "the scan does not get any further"
        from_position = scan.next_position


async def list_all(
    store: Store,
    *,
    uid: Uid | None = None,
    state: AgentState | None = None,
    kind: str | None = None,
    after: int | None = None,
    limit: int = 1000,
    newest: bool = False,
) -> list[AgentRecord]:
    """Return the agents behind a position, listed in slices."""
    found: list[AgentRecord] = []
    reached = (SEQUENCE_MAX if newest else -1) if after is None else after
    while True:
        begin = reached
        some, next_begin = await store.agents(
            uid=uid, state=state, kind=kind, after=begin, limit=limit, newest=newest
        )
        assert len(some) <= limit
        found += some
        if next_begin is None:
            return found
        reached = next_begin
        assert reached < begin if newest else reached > begin, "the list does not get any further"


async def list_named(
    store: Store, prefix: str, *, uid: Uid = OWNER, after: str = "", limit: int = 1000
) -> list[AgentRecord]:
    """Return the agents whose ids begin with *prefix*, listed in slices."""
    found: list[AgentRecord] = []
    while some := await store.agents_named(uid, prefix, after=after, limit=limit):
        assert len(some) <= limit
        assert some[0].agent_id > after
        found += some
        after = some[-1].agent_id
    return found


async def list_unfinished(store: Store, *, after: int = -1, limit: int = 1000) -> list[Unfinished]:
    """Return the agents that have an attachment, listed in slices."""
    found: list[Unfinished] = []
    while some := await store.unfinished(after=after, limit=limit):
        assert len(some) <= limit
        assert some[0].first_position > after
        found += some
        after = some[-1].first_position
    return found
