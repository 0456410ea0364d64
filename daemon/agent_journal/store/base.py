"""The storage contract: what a backend promises, and what travels to it.

A store keeps, for each agent, an append-only list of entries, and beside it
what is known of the agent.  It has one way in, ``commit``: a batch is one
transaction, and durable when ``commit`` returns.  It decides nothing: numbers,
states and refusals were settled by the caller, who alone writes.

Every backend passes ``agent_journal.testing.store_contract``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, NewType, Protocol

import msgspec

from ..model import AgentId, AgentState, Micros, Position, Sequence, Uid
from .attachment import Attachment, Standing

# The identity of one history of an agent inside the store: compacting an agent
# gives it a new one, so entries of the old history can never be taken for new.
AgentNumber = NewType("AgentNumber", int)

# How many agents a uid has in a state; those of which there are none may be left out.
AgentCounts = Mapping[tuple[Uid, AgentState], int]


class AgentRecord(msgspec.Struct):
    """What the journal knows of an agent."""

    uid: Uid
    agent_id: AgentId
    number: AgentNumber
    state: AgentState = AgentState.RUNNING
    kind: str | None = None
    epoch: int = 0
    attempts: int = 0
    reason: str | None = None
    first_position: Position = Position(-1)  # -1: nothing was committed yet
    created_at: Micros = Micros(0)  # the first entry's timestamp
    updated_at: Micros = Micros(0)  # the last entry's timestamp
    next_sequence: Sequence = Sequence(0)
    last_iteration: int = 0
    key_high: str = ""  # the greatest idempotency key that was ever used
    attachment: Attachment | None = None  # none: nobody ever attached, or it has ended


class Unfinished(msgspec.Struct, gc=False):
    """What a start needs to know of an agent that has an attachment.

    Not its counters, which change with its entries, nor its command: this is read
    of all such agents at once, and those of one that is to be started then.
    """

    uid: Uid
    agent_id: AgentId
    state: AgentState
    kind: str | None
    epoch: int
    attempts: int
    first_position: Position
    attachment: Standing


class NewEntry(msgspec.Struct, gc=False):
    """An entry on its way into the store."""

    number: AgentNumber
    sequence: Sequence
    timestamp: Micros
    iteration: int
    event: bytes
    key: str | None = None


class Entry(msgspec.Struct, gc=False):
    """An entry as it is stored."""

    number: AgentNumber
    sequence: Sequence
    position: Position
    timestamp: Micros
    iteration: int
    event: bytes


class Copy(Enum):
    """What becomes of a history that is copied, slice by slice, for an agent yet to be.

    Its entries can be read by their number, and nobody else sees them.  The
    agent that gets it begins at the entry of that change, behind the copies.
    """

    BEGUN = "begun"  # nobody's, until an agent gets it
    ADOPTED = "adopted"  # the record's agent begins with it
    GIVEN_UP = "given up"  # to be swept, as is one that was begun before the store was opened


class AgentChange(msgspec.Struct):
    """A new agent, or one whose state changed, as it is from an entry on.

    With *compacted*, the history of that number ends here, and *record* is the
    agent that is left, with the number of its next history.  With *copy*, the
    record's number is a history that is being copied.  With *is_removed*, the
    agent ends here with its history: nothing is known of it from then on.
    """

    index: int  # of the batch's entry that did it; a new agent's first position is there
    record: AgentRecord
    was: AgentState | None  # its state before; none: there was no such agent
    compacted: AgentNumber | None = None
    has_entry: bool = True  # False: ``updated_at`` stays that of the newest entry
    copy: Copy | None = None
    is_removed: bool = False


@dataclass(slots=True)
class Batch:
    """What one transaction records; counters of agents follow from its entries."""

    entries: list[NewEntry] = field(default_factory=list)
    changes: list[AgentChange] = field(default_factory=list)


class Filter(msgspec.Struct):
    """Which agents' entries a reader may see; ``None`` means any."""

    uid: Uid | None = None
    agent_id: AgentId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One slice of the journal in commit order."""

    entries: list[tuple[AgentRecord, Entry]]
    next_position: Position  # where the next slice begins
    is_end: bool  # nothing was committed at or behind ``next_position``


class EndedGroup(NamedTuple):
    """Agents that have ended, of one state and one kind."""

    state: AgentState
    kind: str | None
    oldest: Micros  # when the first of them ended


class Space(NamedTuple):
    """How much room a journal takes."""

    file_bytes: int  # of the database
    free_bytes: int  # of these hold nothing, and are written to next
    log_bytes: int = 0  # the write-ahead log
    sums_bytes: int = 0
    gives_back: bool = False  # what is free is given back to the disk by and by

    @property
    def used_bytes(self) -> int:
        """How much of the database holds something."""
        return self.file_bytes - self.free_bytes


class Store(Protocol):
    """For each agent, an append-only list of entries that survives power loss."""

    async def open(self) -> None:
        """Open the store, and bring it to a state that may be served.

        Raises:
            DamagedError: the journal failed its checks.
            StorageFailedError: it could not be opened.
        """
        ...

    def new_number(self) -> AgentNumber:
        """Return a number that no history ever had."""
        ...

    def commit(self, batch: Batch) -> Awaitable[Position]:
        """Record *batch* as one transaction; return its first entry's position.

        It has begun when this returns, and is awaited afterwards: the caller
        answers the batch before it meanwhile.  One at a time.

        All or nothing is recorded.  On return it is durable: it has been
        fsynced.  Positions follow each other within a batch and only rise.

        Raises:
            StorageFullError: nothing was recorded, and the store goes on.
            OverloadedError: there is no memory for it; likewise.
            StorageFailedError: the outcome is unknown; the store is unusable.
        """
        ...

    async def load(self, names: Seq[tuple[Uid, AgentId]]) -> list[AgentRecord | None]:
        """Return what is committed of each agent, ``None`` where there is none."""
        ...

    async def find_key(self, number: AgentNumber, key: str) -> Sequence | None:
        """Return where *key* was used in a history."""
        ...

    async def read(
        self, number: AgentNumber, *, from_sequence: int, limit: int, bytes_max: int
    ) -> list[Entry]:
        """Return neighbouring entries of a history, in sequence order.

        A slice: at most *limit* entries and about *bytes_max* bytes of events,
        or fewer, but at least one where there is one.
        """
        ...

    async def read_keyed(
        self, number: AgentNumber, *, from_sequence: int, limit: int, bytes_max: int
    ) -> list[tuple[Entry, str | None]]:
        """Return what ``read`` does, each entry with its idempotency key."""
        ...

    async def scan(self, wanted: Filter, *, from_position: int, limit: int, bytes_max: int) -> Scan:
        """Return a slice of the journal in position order, of all wanted agents.

        Entries of histories that were compacted are passed over, and what was
        copied for an agent before it began.
        """
        ...

    async def position_of_last(
        self, wanted: Filter, count: int, *, before: int | None = None
    ) -> Position:
        """Return the position from which a scan yields the last *count* entries.

        With *before*, of those before that position.
        """
        ...

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
        """Return agents by first position, of those behind position *after*.

        With *newest*, the last ones first, of those before position *after*.
        A slice: the second value is where the next one begins, ``None`` at the
        end; a slice may be empty and not the last.
        """
        ...

    async def agents_named(
        self, uid: Uid, prefix: str, *, after: str, limit: int
    ) -> list[AgentRecord]:
        """Return agents whose ids begin with *prefix*, by id, of those behind *after*.

        A slice: at most *limit*, or fewer; none is the end.
        """
        ...

    async def unfinished(self, *, after: int, limit: int) -> list[Unfinished]:
        """Return agents that have an attachment, of those behind position *after*.

        In order of first position.  A slice: at most *limit*, or fewer; none is
        the end.
        """
        ...

    async def ended_groups(self) -> list[EndedGroup]:
        """Return of which states and kinds there are agents that have ended."""
        ...

    async def ended(
        self, state: AgentState, kind: str | None, *, before: int, limit: int
    ) -> list[AgentRecord]:
        """Return up to *limit* agents of a group that ended before a time, the first ones first.

        That is, whose newest entries have such timestamps, as far as that is settled:
        who is to be sure of it looks at the agent.
        """
        ...

    async def count_ended(self, state: AgentState, kind: str | None, *, before: int) -> int:
        """Return how many agents of a group ended before a time."""
        ...

    def epoch_floor(self, uid: Uid) -> int:
        """Return the highest epoch that an agent of *uid* had which was removed.

        A process of that time may live; an agent that begins anew under the same id
        gets a higher one, so that it is fenced off.
        """
        ...

    async def is_swept(self, number: AgentNumber | None = None) -> bool:
        """Tell whether all entries of a history that ended are gone; ``None``: of every one."""
        ...

    async def erase(self) -> None:
        """Have nothing of what was swept be left in any file of the journal."""
        ...

    async def space(self) -> Space:
        """Return how much room the journal takes."""
        ...

    @property
    def agent_counts(self) -> AgentCounts | None:
        """How many agents there are; ``None`` until all were counted once."""
        ...

    async def count_agents(self) -> bool:
        """Count a slice of the agents that were there before the store was opened.

        False: all are counted, and from then on it is known without a look at them.
        """
        ...

    @property
    def is_maintenance_due(self) -> bool:
        """Tell whether ``maintain`` should be called before the next commit."""
        ...

    async def maintain(self) -> bool:
        """Do one slice of housekeeping; return whether there is more to do."""
        ...

    async def close(self) -> None:
        """Close the store; closing twice is allowed."""
        ...
