"""A sound journal made of what is readable in a damaged one.

Entries keep their sequences and positions.  In the place of one that is lost
stands an entry that says so, ``{"Lost":{"by":"damage"}}``: sequences have no
gaps, and what was once given is never given again.  An unfinished agent that
lost something is parked: replaying it without knowing that would do twice what
it has done.

What can't be placed (of a history whose agent is not known any more) is given
out apart.  Histories that were compacted are left out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from ..lifecycle import is_terminal
from ..model import AgentState, Micros, Position, Sequence
from .attachment import attachment_from
from .base import AgentNumber, AgentRecord, Entry, NewEntry
from .ended import floor_marks
from .gaps import NOWHERE, Survey, readable_rows, survey
from .integrity import APPLICATION_ID
from .layout import Agent, Layout
from .page_file import PageFile
from .records import agent_values
from .rows import PAGE_BYTES, PackedRow, cleared_row, pack_rows, seal_of
from .sql import MIGRATIONS, QUERIES, SCHEMA_VERSION
from .unsettled import RUN_ENTRIES_MAX, Generation
from .verification import Report

GENERATION_ENTRIES: Final = 65_536
LOST_EVENT: Final = b'{"Lost":{"by":"damage"}}'
LOST_PER_ROW: Final = 64
LOST: Final = "entries of it were lost by damage: see what is left, then resume or cancel it"
UNKNOWN: Final = (
    "what was known of it was lost by damage: see its entries, then resume or cancel it"
)

Apart = Callable[[Entry, str | None], None]  # what can't go into the new journal

_ATTEMPT: Final = b'{"AttemptStarted"'


@dataclass(slots=True)
class Kept:
    """What the new journal holds of a history."""

    record: AgentRecord
    is_whole: bool = True
    end: int = NOWHERE  # from here on there is no place for its entries
    epoch: int = 0  # the highest that its entries tell of
    last_iteration: int = 0
    updated_at: int = 0
    next_sequence: int = 0
    key_high: str = ""


@dataclass(slots=True)
class Rebuilt:
    """What became of the journal."""

    agents: int = 0
    entries: int = 0  # less those that stand for lost ones
    lost: int = 0
    apart: int = 0


def rebuild(report: Report, new: Path, apart: Apart) -> Rebuilt:
    """Write what is readable of the journal that *report* is of to the database *new*."""
    with PageFile(report.path) as pages:
        layout = Layout(pages)
        settled = _settled(layout)
        found = survey(layout, report.next_position, settled)
        kept = _agents(layout, found)
        with closing(sqlite3.connect(new, isolation_level=None)) as connection:
            return _Writer(connection, layout, found, kept, apart).write(report.next_position)


def _settled(layout: Layout) -> dict[int, int]:
    """Return how many entries each history has at the least, as far as that can be known."""
    settled = {agent.number: agent.next_sequence for agent in layout.agents()}
    for row in layout.index("runs"):
        match row:
            case [int(number), int(first), int(count), *_] if number in settled:
                settled[number] = max(settled[number], first + count)
            case _:
                pass
    return settled


def _agents(layout: Layout, found: Survey) -> dict[int, Kept]:
    """Return the agents that are known, also those that only an index still names."""
    doomed = layout.numbers("doomed")
    lost = {gap.number for gap in found.gaps}
    kept: dict[int, Kept] = {}
    names: set[tuple[int, str]] = set()
    for agent in layout.agents():
        record = _record(agent)
        if record is not None and (agent.uid, agent.agent_id) not in names:
            names.add((agent.uid, agent.agent_id))
            kept[agent.number] = Kept(record, agent.number not in lost)
    for row in layout.index("sqlite_autoindex_agents_1"):
        match row:
            case [int(uid), str(agent_id), int(number)] if (uid, agent_id) not in names:
                if number not in kept and number not in doomed:
                    names.add((uid, agent_id))
                    kept[number] = Kept(_unknown(uid, agent_id, number), is_whole=False)
            case _:
                pass
    for number, end in found.unplaced.items():
        if number in kept:
            kept[number].end = end
    return kept


def _record(agent: Agent) -> AgentRecord | None:
    try:
        attachment = attachment_from(agent.attachment, agent.command)
        columns = agent._asdict()
        del columns["checksum"], columns["command"]
        return AgentRecord(
            **{
                **columns,
                "state": AgentState(agent.state),
                "attachment": attachment and replace(attachment, owner=None),
            }
        )
    except (ValueError, msgspec.MsgspecError):
        return None


def _unknown(uid: int, agent_id: str, number: int) -> AgentRecord:
    """Return an agent of which only the name is left."""
    return AgentRecord(
        uid=uid,  # type: ignore[arg-type] # as it was in the database
        agent_id=agent_id,  # type: ignore[arg-type] # likewise
        number=AgentNumber(number),
        state=AgentState.PARKED,
        reason=UNKNOWN,
    )


class _Writer:
    """Writes a journal of rows that lie end to end, and its index."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        layout: Layout,
        found: Survey,
        kept: dict[int, Kept],
        apart: Apart,
    ) -> None:
        self._connection = connection
        self._layout = layout
        self._doomed = layout.numbers("doomed")
        self._fillers = sorted(found.placed.items(), reverse=True)  # the next one is the last
        self._kept = kept
        self._apart = apart
        self._rebuilt = Rebuilt()
        self._seal = 0
        self._position = 0  # where the next row begins
        self._generation = Generation(0)

    def write(self, next_position: int) -> Rebuilt:
        """Write it; positions below *next_position* are not given again."""
        execute = self._connection.execute
        for pragma in (
            f"page_size={PAGE_BYTES}",
            "auto_vacuum=INCREMENTAL",
            "journal_mode=OFF",
            "synchronous=OFF",
        ):
            execute(f"PRAGMA {pragma}").fetchall()
        for script in MIGRATIONS:
            self._connection.executescript(script)
        execute(f"PRAGMA application_id={APPLICATION_ID}")
        execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        execute("BEGIN")
        for row in readable_rows(self._layout):
            self._write_lost(row.first_position)
            entries = dict(self._survivors(row))
            if entries:
                self._write_rows(row.first_position, row.next_position, entries)
        self._write_lost(next_position)
        self._clear_up_to(next_position)
        self._index()
        for number, kept in self._kept.items():
            self._write_agent(number, kept)
        self._mark("settled_position", self._position)
        self._mark("next_position", self._position)
        self._mark("whole_from", 0)
        for floor in floor_marks(self._layout.marks()):
            execute(QUERIES["raise_epoch_floor"], floor)
        execute("COMMIT")
        execute("PRAGMA journal_mode=WAL").fetchall()  # as the daemon wants it
        return self._rebuilt

    def _write_rows(self, first: int, end: int, entries: dict[int, NewEntry]) -> None:
        """Write rows from position *first* to *end*; where there is no entry it was removed."""
        self._clear_up_to(first)
        packed = [entries.get(at) or _nothing() for at in range(first, end)]
        rows = pack_rows(first, packed, self._seal)
        for place in rows:
            self._insert(*place)
        self._seal = seal_of(rows[-1][1])
        self._position = end
        for position, entry in entries.items():
            self._take_in(position, entry)
        self._generation.next_position = end
        if self._generation.entries >= GENERATION_ENTRIES:
            self._index()

    def _write_lost(self, end: int) -> None:
        """Write what stands for lost entries before position *end*."""
        while self._fillers and self._fillers[-1][0] < end:
            first = position = self._fillers[-1][0]
            entries: dict[int, NewEntry] = {}
            while (
                self._fillers
                and self._fillers[-1][0] == position < end
                and len(entries) < LOST_PER_ROW
            ):
                _, (number, sequence) = self._fillers.pop()
                kept = self._kept.get(number)
                if kept is not None and sequence == kept.next_sequence < kept.end:
                    kept.next_sequence = sequence + 1
                    at = kept.updated_at or kept.record.created_at
                    entries[position] = NewEntry(
                        AgentNumber(number), Sequence(sequence), Micros(at), 0, LOST_EVENT
                    )
                    self._rebuilt.lost += 1
                    self._rebuilt.entries -= 1
                position += 1
            if entries:
                self._write_rows(first, position, entries)

    def _insert(self, position: int, data: bytes) -> None:
        self._connection.execute(QUERIES["insert_rows"], (position, data))
        self._generation.rows.append(position)

    def _survivors(self, row: PackedRow) -> Iterator[tuple[int, NewEntry]]:
        """Yield the entries of a row that go into the new journal; give the others out."""
        for entry, key in row.entries():
            kept = self._kept.get(entry.number)
            if kept is not None and entry.sequence == kept.next_sequence < kept.end:
                kept.next_sequence = entry.sequence + 1
                yield (
                    entry.position,
                    NewEntry(
                        entry.number,
                        entry.sequence,
                        entry.timestamp,
                        entry.iteration,
                        entry.event,
                        key,
                    ),
                )
            elif kept is not None or entry.number not in self._doomed:
                if kept is not None:
                    kept.is_whole = False
                self._rebuilt.apart += 1
                self._apart(entry, key)

    def _take_in(self, position: int, entry: NewEntry) -> None:
        kept = self._kept[entry.number]
        if not entry.sequence and kept.record.reason == UNKNOWN:
            kept.record.first_position = Position(position)
            kept.record.created_at = entry.timestamp
        kept.last_iteration = max(kept.last_iteration, entry.iteration)
        kept.updated_at = entry.timestamp
        kept.key_high = max(kept.key_high, entry.key or "")
        if entry.event.startswith(_ATTEMPT):
            kept.epoch = max(kept.epoch, _epoch_in(entry.event))
        self._rebuilt.entries += 1
        self._generation.next_position = position
        self._generation.add(position, [entry], ())

    def _clear_up_to(self, position: int) -> None:
        """Have one row say that nothing is left of what was before *position*."""
        if position > self._position:
            count = position - self._position
            self._insert(self._position, cleared_row(self._position, count, self._seal, self._seal))
            self._position = position
            self._generation.next_position = position

    def _index(self) -> None:
        """Write the index of the entries since the last time."""
        generation = self._generation
        for number, story in sorted(generation.stories.items()):
            for skip in range(0, len(story.positions), RUN_ENTRIES_MAX):
                run = generation.run(story, skip, RUN_ENTRIES_MAX)
                self._connection.execute(QUERIES["put_runs"], run.packed(number))
            for key, sequence in sorted((story.keys or {}).items()):
                self._connection.execute(QUERIES["put_keys"], (number, key, sequence))
        last_row = generation.rows[-1:]
        self._generation = Generation(self._position)
        self._generation.rows += last_row

    def _write_agent(self, number: int, kept: Kept) -> None:
        record = kept.record
        if record.first_position < 0:
            return  # nothing is left of it but a name
        if not kept.is_whole and not is_terminal(record.state):
            record.state = AgentState.PARKED
            record.reason = LOST if record.reason != UNKNOWN else UNKNOWN
        # An owner from before that still runs is fenced off by an epoch that it never had.
        record.epoch = record.epoch if kept.is_whole else max(record.epoch, kept.epoch) + 1
        record.updated_at = Micros(kept.updated_at or record.updated_at)
        execute = self._connection.execute
        execute(QUERIES["put_agent"], agent_values(record, record.first_position))
        counters = (number, kept.next_sequence, kept.last_iteration, record.updated_at)
        execute(QUERIES["settle_agents"], (*counters, kept.key_high))
        self._rebuilt.agents += 1

    def _mark(self, name: str, value: int) -> None:
        self._connection.execute(QUERIES["set_mark"], (value, name))


def _nothing() -> NewEntry:
    """Return what stands for an entry that is not there: it has the number of no history."""
    return NewEntry(AgentNumber(0), Sequence(0), Micros(0), 0, b"")


def _epoch_in(event: bytes) -> int:
    try:
        return int(msgspec.json.decode(event)["AttemptStarted"]["epoch"])
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return 0
