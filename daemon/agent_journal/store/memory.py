"""The store without a disk, for tests: it forgets all when it is closed."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence as Seq

from msgspec.structs import replace

from ..model import TERMINAL, AgentId, AgentState, Micros, Position, Sequence, Uid
from .attached import unfinished_of
from .base import (
    AgentChange,
    AgentCounts,
    AgentNumber,
    AgentRecord,
    Batch,
    Copy,
    EndedGroup,
    Entry,
    Filter,
    Scan,
    Space,
    Unfinished,
)
from .records import is_wanted


class MemoryStore:
    """Keeps the journal in lists; passes the contract as every backend does."""

    def __init__(self) -> None:
        self._agents: dict[tuple[Uid, AgentId], AgentRecord] = {}
        self._by_number: dict[int, AgentRecord] = {}
        self._log: list[Entry | None] = []
        self._places: dict[int, list[int]] = {}
        self._keys: dict[tuple[int, str], Sequence] = {}
        self._counts: Counter[tuple[Uid, AgentState]] = Counter()
        self._numbers = 0
        self._epochs: dict[Uid, int] = {}

    async def open(self) -> None:
        """Do nothing: there is nothing to open."""

    def new_number(self) -> AgentNumber:
        """Return a number that no history ever had."""
        self._numbers += 1
        return AgentNumber(self._numbers)

    async def commit(self, batch: Batch) -> Position:
        """Record *batch*; in memory this takes no time and cannot fail."""
        base = len(self._log)
        changes = deque(batch.changes)
        for position, new in enumerate(batch.entries, base):
            while changes and base + changes[0].index <= position:
                self._change(changes.popleft(), position)
            record = self._by_number.get(new.number)
            if record is not None:  # else it is being copied
                record.next_sequence = Sequence(new.sequence + 1)
                record.last_iteration = max(record.last_iteration, new.iteration)
                record.updated_at = new.timestamp
                if new.key is not None:
                    record.key_high = max(record.key_high, new.key)
            if new.key is not None:
                self._keys[new.number, new.key] = new.sequence
            self._places.setdefault(new.number, []).append(position)
            self._log.append(
                Entry(
                    new.number,
                    new.sequence,
                    Position(position),
                    new.timestamp,
                    new.iteration,
                    new.event,
                )
            )
        for change in changes:
            self._change(change, len(self._log))
        return Position(base)

    def _change(self, change: AgentChange, position: int) -> None:
        record = change.record
        is_agent = change.copy in (None, Copy.ADOPTED)
        if is_agent and (change.is_removed or change.was is not record.state):
            if change.was is not None:
                self._counts[record.uid, change.was] -= 1
            if not change.is_removed:
                self._counts[record.uid, record.state] += 1
        if change.compacted is not None:
            self._compact(change.compacted, change.record)
        elif change.is_removed:
            self._remove_agent(change.record)
        elif change.copy is Copy.GIVEN_UP:
            self._remove(change.record.number)
        elif change.copy is not Copy.BEGUN:
            self._put(change.record, position, has_entry=change.has_entry)

    def _put(self, record: AgentRecord, position: int, *, has_entry: bool) -> None:
        known = self._by_number.get(record.number)
        if known is None:
            stored = replace(
                record,
                first_position=Position(position),
                next_sequence=Sequence(0),
                last_iteration=0,
                key_high="",
            )
            self._agents[record.uid, record.agent_id] = stored
            self._by_number[record.number] = stored
            return
        known.state, known.kind, known.reason = record.state, record.kind, record.reason
        known.epoch, known.attempts = record.epoch, record.attempts
        known.attachment = record.attachment
        if has_entry:
            known.created_at, known.updated_at = record.created_at, record.updated_at

    def _compact(self, number: AgentNumber, record: AgentRecord) -> None:
        known = self._by_number.pop(number)
        self._remove(number)
        known.number, known.state = record.number, record.state
        known.updated_at, known.key_high = record.updated_at, ""
        known.next_sequence, known.last_iteration = Sequence(0), 0
        self._by_number[record.number] = known

    def _remove_agent(self, record: AgentRecord) -> None:
        del self._agents[record.uid, record.agent_id], self._by_number[record.number]
        self._remove(record.number)
        self._epochs[record.uid] = max(self.epoch_floor(record.uid), record.epoch)

    def _remove(self, number: AgentNumber) -> None:
        for position in self._places.pop(number, []):
            self._log[position] = None
        self._keys = {place: at for place, at in self._keys.items() if place[0] != number}

    async def load(self, names: Seq[tuple[Uid, AgentId]]) -> list[AgentRecord | None]:
        """Return what is known of each agent."""
        found = [self._agents.get(name) for name in names]
        return [None if record is None else replace(record) for record in found]

    async def find_key(self, number: AgentNumber, key: str) -> Sequence | None:
        """Return where *key* was used in a history."""
        return self._keys.get((number, key))

    async def read(
        self, number: AgentNumber, *, from_sequence: int, limit: int, bytes_max: int
    ) -> list[Entry]:
        """Return neighbouring entries of a history."""
        entries: list[Entry] = []
        size = 0
        for position in self._places.get(number, [])[from_sequence : from_sequence + limit]:
            entry = self._log[position]
            assert entry is not None  # noqa: S101 - places of a live history are never emptied
            size += len(entry.event)
            if entries and size > bytes_max:
                break
            entries.append(entry)
        return entries

    async def read_keyed(
        self, number: AgentNumber, *, from_sequence: int, limit: int, bytes_max: int
    ) -> list[tuple[Entry, str | None]]:
        """Return what ``read`` does, each entry with its key."""
        entries = await self.read(
            number, from_sequence=from_sequence, limit=limit, bytes_max=bytes_max
        )
        keys = {at: key for (owner, key), at in self._keys.items() if owner == number}
        return [(entry, keys.get(entry.sequence)) for entry in entries]

    async def scan(self, wanted: Filter, *, from_position: int, limit: int, bytes_max: int) -> Scan:
        """Return a slice of the journal in position order."""
        found: list[tuple[AgentRecord, Entry]] = []
        size = 0
        position = from_position
        while position < len(self._log) and len(found) < limit and size < bytes_max:
            entry = self._log[position]
            position += 1
            if entry is not None and self._is_wanted(wanted, entry):
                found.append((self._by_number[entry.number], entry))
                size += len(entry.event)
        return Scan(
            entries=found, next_position=Position(position), is_end=position >= len(self._log)
        )

    def _is_wanted(self, wanted: Filter, entry: Entry) -> bool:
        record = self._by_number.get(entry.number)
        return record is not None and is_wanted(wanted, record, entry.position)

    async def position_of_last(
        self, wanted: Filter, count: int, *, before: int | None = None
    ) -> Position:
        """Return the position from which a scan yields the last *count* entries."""
        position = len(self._log) if before is None else min(before, len(self._log))
        while position > 0 and count > 0:
            position -= 1
            entry = self._log[position]
            if entry is not None and self._is_wanted(wanted, entry):
                count -= 1
        return Position(position)

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
        found = sorted(
            (
                record
                for record in self._agents.values()
                if (record.first_position < after if newest else record.first_position > after)
                and uid in (None, record.uid)
                and state in (None, record.state)
                and kind in (None, record.kind)
            ),
            key=lambda record: record.first_position,
            reverse=newest,
        )
        page = [replace(record) for record in found[:limit]]
        return page, page[-1].first_position if len(found) > limit else None

    async def agents_named(
        self, uid: Uid, prefix: str, *, after: str, limit: int
    ) -> list[AgentRecord]:
        """Return agents whose ids begin with *prefix*, by id."""
        names = sorted(
            agent_id
            for owner, agent_id in self._agents
            if owner == uid and agent_id.startswith(prefix) and agent_id > after
        )
        return [replace(self._agents[uid, agent_id]) for agent_id in names[:limit]]

    async def unfinished(self, *, after: int, limit: int) -> list[Unfinished]:
        """Return agents that have an attachment, by first position."""
        found = [
            agent
            for record in self._agents.values()
            if record.first_position > after and (agent := unfinished_of(record)) is not None
        ]
        found.sort(key=lambda agent: agent.first_position)
        return found[:limit]

    async def ended_groups(self) -> list[EndedGroup]:
        """Return of which states and kinds there are agents that have ended."""
        oldest: dict[tuple[AgentState, str | None], Micros] = {}
        for record in self._agents.values():
            if record.state in TERMINAL:
                group = record.state, record.kind
                oldest[group] = min(oldest.get(group, record.updated_at), record.updated_at)
        return [EndedGroup(*group, at) for group, at in oldest.items()]

    async def ended(
        self, state: AgentState, kind: str | None, *, before: int, limit: int
    ) -> list[AgentRecord]:
        """Return agents of a group that ended before a time, the first ones first."""
        found = [
            record
            for record in self._agents.values()
            if (record.state, record.kind) == (state, kind) and record.updated_at < before
        ]
        found.sort(key=lambda record: (record.updated_at, record.number))
        return [replace(record) for record in found[:limit]]

    async def count_ended(self, state: AgentState, kind: str | None, *, before: int) -> int:
        """Return how many agents of a group ended before a time."""
        return len(await self.ended(state, kind, before=before, limit=len(self._agents)))

    def epoch_floor(self, uid: Uid) -> int:
        """Return the highest epoch that a removed agent of *uid* had."""
        return self._epochs.get(uid, 0)

    async def is_swept(self, number: AgentNumber | None = None) -> bool:  # noqa: ARG002 - Store's
        """Say yes: what is removed is gone at once."""
        return True

    async def erase(self) -> None:
        """Do nothing: there is no file."""

    async def space(self) -> Space:
        """Return how much the events take."""
        kept = sum(len(entry.event) for entry in self._log if entry is not None)
        return Space(file_bytes=kept, free_bytes=0)

    @property
    def agent_counts(self) -> AgentCounts:
        """How many agents there are."""
        return dict(self._counts)

    async def count_agents(self) -> bool:
        """Do nothing: they are at hand."""
        return False

    @property
    def is_maintenance_due(self) -> bool:
        """Say no: there is nothing to keep."""
        return False

    async def maintain(self) -> bool:
        """Do nothing: there is nothing to keep."""
        return False

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""
