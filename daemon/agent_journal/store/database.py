"""The SQLite file, as the one thread sees it that may touch it.

Everything here blocks, and runs on the connection's thread.  There is one
connection in one process, and it writes, reads and checkpoints: SQLite before
3.51.3 can corrupt a WAL database when two connections write or checkpoint at
once, and a checkpointer on another connection never catches a busy writer.

A call does little: a batch, or a slice of some hundred rows or a millisecond,
so that nothing holds up the next commit for long.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Final

from ..errors import DamagedError, StorageFailedError, StorageFullError
from ..model import AgentId, AgentState, Position, Uid
from ..model import Sequence as SequenceNumber
from .attached import unfinished
from .backup import PageCopy
from .base import AgentChange, AgentNumber, AgentRecord, Copy, Entry, Filter, Unfinished
from .census import Census
from .checkpoints import SCRUB_PAGES, Checkpoints
from .ended import Ended
from .figures import StoreFigures
from .integrity import START_BYTES_MAX, SUMMED_SCHEMA
from .log import Log
from .opening import migrate, page_count, set_up
from .records import agent_values, changed_values, checksum_of, is_wanted, record_from
from .room import Room
from .rows import ROWS_PER_STATEMENT, PackedRow, Row, damaged
from .runs import SCATTERED_ENTRIES, Run, unpacked_from
from .self_check import CheckedRows, check_rows
from .settling import settle
from .sql import QUERIES, SCHEMA_VERSION, with_rows
from .sweeping import sweep
from .transaction import Transaction
from .unsettled import Generation, Slice

SLICE_SECONDS: Final = 0.001
# A read goes on for longer, since each slice costs two threads a hop, unless somebody
# waits for the thread.
READ_SECONDS: Final = 0.0005
READ_SECONDS_MAX: Final = 0.004
SLICE_ENTRIES: Final = 512
NAMES_MAX: Final = 32_768

# The queries of agents by first position: the oldest first, the newest first.
_OF_ALL: Final = ("agents_of_all", "newest_agents_of_all")
_OF_UID: Final = ("agents_of_uid", "newest_agents_of_uid")
_OF_UID_IN_STATE: Final = ("agents_of_uid_in_state", "newest_agents_of_uid_in_state")


class Database:
    """A journal's file, opened."""

    def __init__(self, connection: sqlite3.Connection, path: Path, descriptor: int) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._writer = connection.cursor()  # kept: to drop one costs a turn of the GIL
        self._path = path
        self._directory = str(path.parent)
        self.has_base = False  # nothing may be acknowledged before
        self.is_awaited: Callable[[], bool] = lambda: False  # by whoever has another call to make
        self._names: dict[int, AgentRecord | None] = {}
        self.copy: PageCopy | None = None  # one that is being taken
        self.checkpoints = Checkpoints(connection.execute, path, descriptor)
        self.log = Log(self._query)
        self.census = Census(self._query)
        self.figures = StoreFigures()
        self.ended = Ended(self._query)
        self.room = Room(connection.execute, path, self._transaction)
        self.seal = 0  # of the last row, when the database was opened

    def prepare(self) -> tuple[Position, AgentNumber]:
        """Set the connection up, migrate, and put what is there on a firm base.

        Returns the next position and the highest number in use.
        """
        version = set_up(self._execute, self._path)
        # After a failed fsync the kernel may hold pages that the disk does not;
        # copying the WAL into the database before anything is acknowledged on
        # top of it is what makes a restart a cure (docs/ARCHITECTURE.md).
        if version >= SUMMED_SCHEMA:
            self.checkpoints.open_sums()
        self.has_base = self._make_base()
        self._migrate(version)
        (number,) = self._query("highest_number").fetchone()
        next_position = self._next_position()
        self._check_mark(next_position)
        self.checkpoints.position = next_position
        self.census.begin(next_position)
        if self.has_base:
            self._make_names_durable()
            self._query("give_up_copies", next_position)
            if 0 < version < SCHEMA_VERSION:
                self._make_base("PASSIVE")  # now, and not between somebody's commits
        return next_position, AgentNumber(number)

    def _check_mark(self, next_position: Position) -> None:
        """Refuse a log that ends before what was known to be durable."""
        mark = self.checkpoints.mark
        if mark is not None and next_position < mark.position:
            raise DamagedError(
                f"the journal ends before position {next_position}, and everything before "
                f"{mark.position} was acknowledged",
                part="entry",
            )

    def _make_base(self, mode: str = "TRUNCATE") -> bool:
        """Copy the WAL into the database; False: the disk is full, and it has to be done later."""
        try:
            self.checkpoint(mode)
        except StorageFullError:
            return False
        return True

    def _make_names_durable(self) -> None:
        """Have the WAL exist, and its name and the database's survive a power cut.

        SQLite syncs the directory when it makes a file, and ignores it if that fails.
        """
        self._query("set_mark", self._mark("settled_position"), "settled_position")
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise StorageFailedError(f"{self._directory} cannot be synced: {error}") from error
        finally:
            os.close(descriptor)
        self.checkpoints.mark_log(durably=True)

    def _migrate(self, version: int) -> None:
        if version < SUMMED_SCHEMA:
            if not self.has_base:
                raise StorageFullError(
                    f"the disk that holds {self._path} is full, and the journal has to be brought "
                    "up to date; make room, then start the daemon again"
                )
            # Before there is a journal that is not served without them.
            pages, page_bytes = page_count(self._execute)
            self.checkpoints.begin_sums(page_bytes, pages)
            for _ in range(0, START_BYTES_MAX, SCRUB_PAGES * page_bytes):
                if not self.checkpoints.sum_unknown():
                    break
        migrate(self._connection, version)
        self.log.whole_from = self._mark("whole_from")

    def _next_position(self) -> Position:
        floor = self._mark("next_position")
        last = self.log.last_row()
        if last is None:
            return Position(floor)
        self.seal = last.seal
        return Position(max(floor, last.next_position))

    def _query(self, name: str, *values: object) -> sqlite3.Cursor:
        return self._execute(QUERIES[name], values)

    def _mark(self, name: str) -> int:
        value: int = self._query("mark", name).fetchone()[0]
        return value

    # Writing

    def write(
        self,
        rows: list[Row],
        changes: list[AgentChange],
        first_position: Position,
        next_position: Position,
        settling: Slice | None,
    ) -> None:
        """Commit a batch: *rows* for the log, what changes of agents, a slice of the index."""
        started = perf_counter()
        if not changes and settling is None and len(rows) <= ROWS_PER_STATEMENT:
            # In autocommit a statement is a transaction of its own: it runs without
            # the interpreter's lock from its first insertion to its fsync.
            if self.checkpoints.is_behind:
                self.checkpoints.finish()
            try:
                self._insert(rows)
            except BaseException:
                self.checkpoints.note_rollback()
                raise
        else:
            with self._transaction():
                self._insert(rows)
                for change in changes:
                    self._change(change, first_position, next_position)
                if settling is not None:
                    settle(self._query, self._put, settling)
            for change in changes:
                self._names.pop(change.compacted or change.record.number, None)
            self.census.take(changes)
        self.checkpoints.position = next_position
        if self.checkpoints.is_void:
            self.checkpoints.mark_void_log()
        self.figures.write_seconds.observe(perf_counter() - started)

    def _insert(self, rows: list[Row]) -> None:
        self._put("insert_rows", rows, ROWS_PER_STATEMENT)

    def _put(self, name: str, rows: Sequence[tuple[object, ...]], at_once: int) -> None:
        """Run a statement on *rows*, *at_once* at the most in one go."""
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            values = list(itertools.chain.from_iterable(some))
            # Of one set of values; execute() would ask for the last rowid, and that is
            # one more turn of the interpreter's lock, which the event loop holds.
            self._writer.executemany(with_rows(name, len(some)), (values,))

    def _change(
        self, change: AgentChange, first_position: Position, next_position: Position
    ) -> None:
        record = change.record
        if change.compacted is not None:
            self._compact(change.compacted, record, next_position)
        elif change.is_removed:
            self.ended.remove(record, next_position)
        elif change.copy is Copy.BEGUN:
            self._query("begin_copy", record.number)
        elif change.copy is Copy.GIVEN_UP:
            self._query("give_up_copy", next_position, record.number)
        elif not change.has_entry:
            self._query("update_agent", *changed_values(record))
        else:
            if change.copy is Copy.ADOPTED:
                self._query("spare", record.number)
            position = first_position + change.index
            self._execute(QUERIES["put_agent"], agent_values(record, position))

    def _compact(self, number: AgentNumber, record: AgentRecord, next_position: Position) -> None:
        self._query("renumber_agent", record.number, record.state, record.updated_at, number)
        (columns,) = self._query("checked_columns", record.number)
        self._query("put_checksum", checksum_of(*columns), record.number)
        self._query("doom", number, next_position)

    def check_room(self, free_bytes_min: int) -> None:
        """Leave room for a checkpoint: without it a full disk could not be emptied again.

        Raises:
            StorageFullError: less than *free_bytes_min* is free.
        """
        if not self.has_base:
            self.checkpoint("TRUNCATE")
            self._make_names_durable()
            self.has_base = True
        disk = os.statvfs(self._directory)
        free = disk.f_bavail * disk.f_frsize
        if free < free_bytes_min:
            raise StorageFullError(
                f"the disk has {free >> 20} MiB left and appends want {free_bytes_min >> 20} MiB "
                "(commit.free_bytes_min); make room, then send the entry again"
            )

    def _transaction(self) -> Transaction:
        if self.checkpoints.is_behind:
            self.checkpoints.finish()
        return Transaction(self._connection, self.checkpoints.note_rollback)

    # Settling: moving the index forward

    def settle(self, settling: Slice) -> None:
        """Put agents' stories into the index."""
        with self._transaction():
            settle(self._query, self._put, settling)

    def unsettled(self) -> Generation:
        """Read back what was committed behind the index's high-water mark."""
        mark = self._mark("settled_position")
        generation = Generation(mark)
        for row in self.log.rows_from(mark):
            for entry, key in row.entries():
                if entry.position >= mark:
                    generation.put_back(entry, key)
            generation.rows.append(row.first_position)
            generation.next_position = row.first_position + row.count
        return generation

    def sweep(self, settled_position: int, next_position: int) -> bool:
        """Remove a slice of a doomed history; return whether there is more to do."""
        return sweep(self._query, self.log, self._transaction, settled_position, next_position)

    # Reading

    def load(self, names: Iterable[tuple[Uid, AgentId]]) -> list[AgentRecord | None]:
        """Return the agents' rows; counters as far as they are settled."""
        return [record_from(self._query("load_agent", *name).fetchone()) for name in names]

    def find_key(self, number: AgentNumber, key: str) -> SequenceNumber | None:
        """Return the sequence at which *key* was used, of those settled."""
        found = self._query("find_key", number, key).fetchone()
        return None if found is None else SequenceNumber(found[0])

    def read(
        self,
        number: AgentNumber,
        from_sequence: int,
        limit: int,
        bytes_max: int,
        unsettled: list[Run],
    ) -> list[Entry]:
        """Return a slice of a history: what the index covers, then *unsettled*."""
        limit = min(limit, SLICE_ENTRIES)
        begun = perf_counter()
        entries: list[Entry] = []
        size = 0
        sequence = from_sequence
        run = None
        with closing(self._runs(number, from_sequence, limit, unsettled)) as runs:
            for run in runs:
                for found in self.log.entries_by_row(run, limit - len(entries)):
                    for entry in found:
                        if entry.number != number or entry.sequence != sequence:
                            raise damaged(entry.position)
                        sequence += 1
                        size += len(entry.event)
                    entries += found
                    if size > bytes_max:
                        return _within(entries, bytes_max)
                    took = perf_counter() - begun
                    if took > READ_SECONDS and (took > READ_SECONDS_MAX or self.is_awaited()):
                        return entries
                if len(entries) >= limit:
                    break
        if run is None:
            self._check_end(number, from_sequence)
        return entries

    def _check_end(self, number: int, sequence: int) -> None:
        """Refuse a history that ends before its agent does; one that is swept is nobody's."""
        found = self._query("settled_sequence", number).fetchone()
        if found is not None and sequence < found[0]:
            raise DamagedError(
                f"the entries of a history from sequence {sequence} on are missing from the index",
                part="entry",
            )

    def _runs(
        self, number: AgentNumber, from_sequence: int, limit: int, unsettled: list[Run]
    ) -> Generator[Run, None, None]:
        """Yield where up to about *limit* entries lie, from *from_sequence* on."""
        end = from_sequence + limit
        sequence = from_sequence
        if not unsettled or unsettled[0].first_sequence > from_sequence:
            with closing(self._query("runs_from", number, from_sequence, limit)) as found:
                for row in found:
                    first_sequence, count, *_ = row
                    if first_sequence > sequence:
                        return  # a history that is being swept
                    while (skip := sequence - first_sequence) < count:
                        run = unpacked_from(*row, skip=skip, limit=SCATTERED_ENTRIES)
                        yield run
                        sequence = run.next_sequence
                        if sequence >= end:
                            return
        for run in unsettled:
            if sequence < run.next_sequence:
                yield run.behind(max(sequence - run.first_sequence, 0))
                sequence = run.next_sequence

    def row_at(self, position: int) -> PackedRow:
        """Return the row that holds *position*."""
        return self.log.row_at(position)

    def scan(
        self, wanted: Filter, from_position: int, end: int, limit: int, bytes_max: int
    ) -> tuple[list[tuple[AgentRecord, Entry]], int | None]:
        """Return a slice in position order, and where the next begins if the log goes on.

        It goes on to *end* at least.
        """
        deadline = perf_counter() + SLICE_SECONDS
        found: list[tuple[AgentRecord, Entry]] = []
        size = 0
        for row in self.log.rows_from(from_position):
            for entry, _ in row.entries(from_position):
                if len(found) >= limit or (found and size + len(entry.event) > bytes_max):
                    return found, entry.position
                record = self._agent(entry.number)
                if record is not None and is_wanted(wanted, record, entry.position):
                    found.append((record, entry))
                    size += len(entry.event)
            from_position = row.first_position + row.count
            if perf_counter() > deadline:
                return found, from_position
        if self.log.whole_from <= from_position < end:
            raise damaged(from_position)
        return found, None

    def count_back(self, wanted: Filter, before: int, count: int) -> tuple[int, int]:
        """Go back from *before* over up to *count* wanted entries, as far as a slice goes.

        Returns the position reached and how many are still to be counted.
        """
        deadline = perf_counter() + SLICE_SECONDS
        with closing(self.log.rows_before(before)) as rows:
            for row in rows:
                for position, number in row.numbers_before(before):
                    record = self._agent(number)
                    if record is not None and is_wanted(wanted, record, position):
                        count -= 1
                        if count <= 0:
                            return position, 0
                before = row.first_position
                if perf_counter() > deadline:
                    return before, count
        return 0, 0

    def _agent(self, number: int) -> AgentRecord | None:
        try:
            return self._names[number]
        except KeyError:
            if len(self._names) >= NAMES_MAX:
                self._names.clear()
            record = record_from(
                self._query("load_agent_by_number", number).fetchone(), has_attachment=False
            )
            self._names[number] = record
            return record

    def agents(
        self, uid: Uid | None, state: AgentState | None, after: int, limit: int, *, newest: bool
    ) -> list[AgentRecord]:
        """Return up to *limit* agents by first position."""
        if uid is None:
            rows = self._query(_OF_ALL[newest], after, limit)
        elif state is None:
            rows = self._query(_OF_UID[newest], uid, after, limit)
        else:
            rows = self._query(_OF_UID_IN_STATE[newest], uid, after, state, limit)
        return [record for record in map(record_from, rows.fetchall()) if record is not None]

    def agents_named(self, uid: Uid, begin: str, end: str, limit: int) -> list[AgentRecord]:
        """Return up to *limit* agents by id, from *begin* on and before *end*."""
        rows = self._query("agents_named", uid, begin, end, limit).fetchall()
        return [record for record in map(record_from, rows) if record is not None]

    def unfinished(self, after: int, limit: int) -> list[Unfinished]:
        """Return up to *limit* agents with an attachment, by first position."""
        return unfinished(self._query, after, limit)

    # Housekeeping

    def close(self) -> None:
        """Let go of the statements, without which the file would stay open and locked."""
        self._writer.close()

    def scrub(self, now: int) -> int:
        """Look at some pages of the file; return how many, 0 at its end."""
        return self.checkpoints.scrub(now, lambda: self.checkpoint("PASSIVE"))

    def check_pages(self, first: int) -> tuple[int, int]:
        """Look at pages from *first* on; return how many, and how many there are."""
        return self.checkpoints.look_at(first, lambda: self.checkpoint("PASSIVE"))

    def check_rows(self, from_position: int) -> CheckedRows:
        """Hold some rows of the log against the index and the keys."""
        return check_rows(self._query, self.log, from_position, self._mark("settled_position"))

    def finish_wipe(self) -> None:
        """Have nothing be left of deleted rows: in the file, in the WAL, or in memory."""
        self.checkpoint("TRUNCATE")
        self.checkpoints.finish_wipe()
        self._make_names_durable()

    def checkpoint(self, mode: str) -> None:
        """Copy the WAL into the database; nobody else can be in the way."""
        if self.copy is not None and not self.copy.note():
            self.copy = None
        started = perf_counter()
        if mode == "TRUNCATE":
            self.checkpoints.truncate()
        else:
            self.checkpoints.passive()
        self.figures.checkpoint_seconds.observe(perf_counter() - started)


def _within(entries: list[Entry], bytes_max: int) -> list[Entry]:
    """Return those of *entries* that have room, but at least one."""
    size = 0
    for count, entry in enumerate(entries):
        size += len(entry.event)
        if count and size > bytes_max:
            return entries[:count]
    return entries
