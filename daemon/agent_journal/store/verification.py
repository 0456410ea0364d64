"""Whether a closed journal is sound, and if not, what of it is lost and what is readable.

Nothing is opened for writing, and nothing stops at the first thing that is
wrong.  In this order:

1. the WAL by its checksums, and how far it and the database had come (``integrity``),
2. every page by its sum, and by SQLite's own quick_check where it can be asked
   without a WAL being folded back,
3. every tree: each page used once, or listed as free; rows in order,
4. every entry by its checksum and its agent's chain, sequences without a gap,
   positions that only rise,
5. the index against the log, both ways: each entry is where the index says, and
   the index names each entry that it covers; keys likewise; counters of agents,
   and each of the indexes over agents.

Invariant: what is said to be lost of an agent is lost, and all else of it is there.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from array import array
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from ..errors import DamagedError
from ..model import TERMINAL, AgentState
from .attachment import attachment_from
from .base import Entry
from .integrity import Part, inspect, wrong_pages
from .layout import Agent, Layout, Problem
from .page_file import PageFile
from .rows import PackedRow
from .sql import SCHEMA_VERSION

PROBLEMS_MAX: Final = 1000  # kept; beyond that they are counted
PROGRESS_ROWS: Final = 256

Progress = Callable[[str, int, int], None]  # what is looked at, how much of how much

_PLACE: Final = struct.Struct("<QQQ")
_SEQUENCE: Final = struct.Struct("<Q")


class Span(NamedTuple):
    """Neighbouring sequences, or positions."""

    first: int
    last: int


@dataclass(slots=True)
class Story:
    """What was seen of one history."""

    covered: int = 0  # sequences that the index covers
    indexed: int = 0  # a sum over where the index says that they are
    keyed: int = 0  # a sum over its keys in the index
    next_sequence: int = 0  # behind the last entry seen
    checksum: int = 0  # of the last entry seen
    found: int = 0  # the same sums, over the log
    found_keys: int = 0
    last_iteration: int = 0  # of those that the index covers
    key_high: str = ""
    entries: int = 0
    lost: list[Span] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class LostOf:
    """What is lost of an agent."""

    uid: int
    agent_id: str
    sequences: list[Span]
    readable: int


@dataclass(slots=True, kw_only=True)
class Report:
    """What was found."""

    path: Path
    schema: int = 0
    agents: int = 0
    entries: int = 0  # readable
    next_position: int = 0  # behind all that was ever acknowledged
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0
    lost: list[LostOf] = field(default_factory=list)
    lost_positions: list[Span] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Tell whether nothing is wrong."""
        return not self.problem_count

    def add(self, text: str, page: int = 0) -> None:
        """Take note of a problem."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(page, text))


def verify(database: Path, progress: Progress = lambda *_: None) -> Report:
    """Look at a closed journal, or a backup; return what was found, whatever that is.

    A backup is a file alone.  A journal in its place has a lock beside it, and sums.

    Raises:
        OSError: there is no file, or it may not be read.
    """
    report = Report(path=database)
    _look_at_files(report, progress)
    with PageFile(database) as pages:
        layout = Layout(pages)
        for problem in layout.problems:
            report.add(problem.text, problem.page)
        _ask_sqlite(report, pages)
        for name in ("log", "agents", "runs", "keys", "doomed", "marks"):
            if name not in layout.roots:
                report.add(f"the table {name} cannot be found")
        Journal(layout, report, progress).check()
    return report


def _look_at_files(report: Report, progress: Progress) -> None:
    findings = inspect(report.path, on_progress=lambda at, of: progress("write-ahead log", at, of))
    report.schema = findings.schema
    is_backup = not report.path.with_name(report.path.name + ".lock").exists()
    for problem in findings.problems:
        if problem.part is not Part.SUMS or findings.has_sums or not is_backup:
            report.add(problem.text, problem.page)
    if not findings.is_journal:
        report.add(f"{report.path.name} does not say that it is a journal", 1)
    if findings.schema > SCHEMA_VERSION:
        report.add(f"its schema is {findings.schema}, and this version knows {SCHEMA_VERSION}")
    if findings.mark is not None:
        report.next_position = findings.mark.position
    if not findings.has_sums:
        report.notes.append("there are no page sums beside it: pages were not compared with them")
        return
    for problem in wrong_pages(findings, on_progress=lambda at, of: progress("pages", at, of)):
        report.add(problem.text, problem.page)


def _ask_sqlite(report: Report, pages: PageFile) -> None:
    """Ask SQLite, which opens the file as one that nobody changes and makes none beside it."""
    if pages.wal.frames:
        report.notes.append("SQLite's quick_check was not asked: the WAL is not folded back")
        return
    uri = f"{report.path.absolute().as_uri()}?immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            found = [text for (text,) in connection.execute("PRAGMA quick_check(20)")]
    except sqlite3.Error as error:
        found = [str(error)]
    for text in found:
        if text != "ok":
            report.add(f"SQLite says: {text}")


class Journal:
    """The journal in the tables, held against itself."""

    def __init__(self, layout: Layout, report: Report, progress: Progress) -> None:
        self.agents: dict[int, Agent] = {}
        self.stories: dict[int, Story] = {}
        self._layout = layout
        self._report = report
        self._progress = progress
        self._marks = layout.marks()
        self._doomed = layout.numbers("doomed")

    def check(self) -> None:
        """Look at everything."""
        for agent in self._layout.agents():
            self.agents[agent.number] = agent
            self.stories[agent.number] = Story()
        self._report.agents = len(self.agents)
        self._check_agents()
        self._read_index()
        self._read_keys()
        self._read_log()
        self._compare()
        self._check_marks()

    # Agents

    def _check_agents(self) -> None:
        names: set[tuple[int, str]] = set()
        for agent in self.agents.values():
            name = agent.uid, agent.agent_id
            if name in names:
                self._report.add(f"agent {agent.agent_id} of uid {agent.uid} is there twice")
            names.add(name)
            try:
                AgentState(agent.state)
                attachment_from(agent.attachment, agent.command)
            except (ValueError, msgspec.MsgspecError) as error:
                self._report.add(f"agent {agent.agent_id} of uid {agent.uid}: {error}")
        for index_name, index in _AGENT_INDEXES.items():
            if self._report.schema < index.since:
                continue
            whole = filter(index.has, self.agents.values())
            expected = _sum_over((*index.columns(agent), agent.number) for agent in whole)
            if _sum_over(tuple(row) for row in self._layout.index(index_name)) != expected:
                self._report.add(f"the index {index_name} names other agents than there are")

    # The index

    def _read_index(self) -> None:
        for row in self._layout.index("runs"):
            match row:
                case [int(number), int(first), int(count), int(at), bytes(offsets), bytes(places)]:
                    self._read_run(number, first, count, at, offsets, places)
                case _:
                    self._report.add("a run of the index is not what it should be")

    def _read_run(  # noqa: PLR0913, PLR0917 - the columns
        self, number: int, first: int, count: int, at: int, offsets: bytes, places: bytes
    ) -> None:
        story = self.stories.get(number)
        if story is None:
            if number not in self._doomed:
                self._report.add(f"the index covers history {number}, which is no agent's")
            return
        if first != story.covered:
            self._report.add(
                f"{self._name(number)}: the index goes on at sequence {first}, "
                f"not at {story.covered}"
            )
        if offsets and (len(offsets) != 4 * count or len(places) != count):
            self._report.add(f"{self._name(number)}: a run of the index is not what it should be")
            return
        behind = array("I", offsets) if offsets else range(count)
        for place, offset in enumerate(behind):
            story.indexed += _at(first + place, at + offset)
        story.covered = first + count

    def _read_keys(self) -> None:
        for row in self._layout.index("keys"):
            match row:
                case [int(number), str(key), int(sequence)] if number in self.stories:
                    self.stories[number].keyed += _key_at(key, sequence)
                case [int(number), str(), int()] if number in self._doomed:
                    pass
                case _:
                    self._report.add("a key is of no agent")

    # The log

    def _read_log(self) -> None:
        report = self._report
        whole_from = self._marks.get("whole_from")
        last = max(self._marks.get("settled_position", 0), 1)
        before: PackedRow | None = None
        expected = 0  # where the rows so far end
        for count, (position, data) in enumerate(self._layout.log()):
            if count % PROGRESS_ROWS == 0:
                self._progress("entries", position, last)
            if position < expected:
                report.add(f"the row at position {position} overlaps the one before it")
                continue
            row = read_row(position, data)
            if row is None:
                report.add(f"the log row at position {position} is not what was written")
                before = None  # how many entries it held is told by where the next one begins
                continue
            if whole_from is not None and expected >= whole_from and position > expected:
                self._lose(expected, position - 1)
            elif before is not None and position == expected and not row.is_behind(before.seal):
                report.add(f"the row at position {position} is not the one that was written there")
            for entry, key in row.entries():
                self._read_entry(entry, key)
            before, expected = row, row.next_position
        if expected < report.next_position and whole_from is not None:
            self._lose(expected, report.next_position - 1)
        report.next_position = max(
            expected, report.next_position, self._marks.get("next_position", 0)
        )

    def _lose(self, first: int, last: int) -> None:
        self._report.add(f"nothing is left of positions {first} to {last} of the log")
        self._report.lost_positions.append(Span(first, last))

    def _read_entry(self, entry: Entry, key: str | None) -> None:
        story = self.stories.get(entry.number)
        if story is None:
            if entry.number not in self._doomed:
                self._report.add(
                    f"the entry at position {entry.position} is of history {entry.number}, "
                    "which is no agent's"
                )
            return
        if entry.sequence < story.next_sequence:
            self._report.add(
                f"{self._name(entry.number)}: sequence {entry.sequence} is there twice, "
                f"again at position {entry.position}"
            )
            return
        if entry.sequence > story.next_sequence:
            story.lost.append(Span(story.next_sequence, entry.sequence - 1))
        story.next_sequence = entry.sequence + 1
        story.entries += 1
        if entry.sequence < story.covered:
            story.found += _at(entry.sequence, entry.position)
            story.last_iteration = max(story.last_iteration, entry.iteration)
            if key is not None:
                story.found_keys += _key_at(key, entry.sequence)
                story.key_high = max(story.key_high, key)

    # What follows from both

    def _compare(self) -> None:
        report = self._report
        for number, story in self.stories.items():
            agent, name = self.agents[number], self._name(number)
            report.entries += story.entries
            end = max(story.covered, agent.next_sequence)
            if story.next_sequence < end:
                story.lost.append(Span(story.next_sequence, end - 1))
            if story.lost:
                report.add(f"{name}: {told(story.lost)} lost")
                report.lost.append(
                    LostOf(
                        uid=agent.uid,
                        agent_id=agent.agent_id,
                        sequences=story.lost,
                        readable=story.entries,
                    )
                )
                continue
            if story.found != story.indexed:
                report.add(f"{name}: the index names other places than those of its entries")
            if story.found_keys != story.keyed:
                report.add(f"{name}: its keys are not those of its entries")
            counters = agent.next_sequence, agent.last_iteration, agent.key_high
            if counters != (story.covered, story.last_iteration, story.key_high):
                report.add(f"{name}: its counters are not those of its entries")

    def _check_marks(self) -> None:
        for name in ("settled_position", "next_position"):
            if name not in self._marks:
                self._report.add(f"the mark {name} is not there")
        settled = self._marks.get("settled_position", 0)
        if settled > self._report.next_position:
            self._report.add(f"the index covers positions up to {settled}, and the log has fewer")

    def _name(self, number: int) -> str:
        agent = self.agents[number]
        return f"agent {agent.agent_id} of uid {agent.uid}"


def read_row(position: int, data: bytes) -> PackedRow | None:
    """Return a row of the log, if it is what was written."""
    try:
        row = PackedRow(position, data)
        for _ in row.entries():  # keys of a row without a checksum may be no text
            pass
    except (DamagedError, struct.error, UnicodeDecodeError):
        return None
    return row


def told(spans: list[Span]) -> str:
    """Return sequences as a person says them."""
    pieces = [
        f"{span.first}" if span.first == span.last else f"{span.first} to {span.last}"
        for span in spans[:5]
    ]
    more = f" and {len(spans) - 5} more ranges" if len(spans) > 5 else ""  # noqa: PLR2004 - as above
    one = len(spans) == 1 and spans[0].first == spans[0].last
    return f"sequence{'' if one else 's'} {', '.join(pieces)}{more} {'is' if one else 'are'}"


# Sums that do not depend on the order; what is the same in both has the same sum.


def _at(sequence: int, position: int) -> int:
    return zlib.crc32(_PLACE.pack(sequence, position, sequence ^ position)) << 32 | (
        sequence * 31 + position
    )


def _key_at(key: str, sequence: int) -> int:
    raw = _SEQUENCE.pack(sequence) + key.encode()
    return zlib.crc32(raw) << 32 | zlib.adler32(raw)


def _sum_over(rows: Iterable[tuple[object, ...]]) -> int:
    return sum(zlib.crc32(repr(row).encode()) << 32 | 1 for row in rows)


class _AgentIndex(NamedTuple):
    """An index over agents."""

    columns: Callable[[Agent], tuple[object, ...]]
    has: Callable[[Agent], bool] = lambda _: True
    since: int = 0  # the first schema in which it is as it is here


_AGENT_INDEXES: Final = {
    "sqlite_autoindex_agents_1": _AgentIndex(lambda agent: (agent.uid, agent.agent_id)),
    "agents_by_uid": _AgentIndex(lambda agent: (agent.uid, agent.first_position)),
    "agents_by_state": _AgentIndex(lambda agent: (agent.state, agent.uid, agent.first_position)),
    "agents_by_position": _AgentIndex(lambda agent: (agent.first_position,)),
    "agents_ended": _AgentIndex(
        lambda agent: (agent.state, agent.kind or "", agent.updated_at),
        has=lambda agent: agent.state in TERMINAL,
        since=4,
    ),
    "agents_attached": _AgentIndex(
        lambda agent: (
            agent.first_position,
            agent.uid,
            agent.agent_id,
            agent.state,
            agent.kind,
            agent.epoch,
            agent.attempts,
            agent.reason,
            agent.attachment,
            agent.checksum,
        ),
        has=lambda agent: agent.attachment is not None,
        since=6,
    ),
}
