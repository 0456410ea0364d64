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
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Final

from ..errors import ConfigError, StorageFailedError, StorageFullError
from ..model import AgentId, AgentState, Position, Uid
from ..model import Sequence as SequenceNumber
from .base import AgentChange, AgentNumber, AgentRecord, Copy, Entry, Filter
from .records import agent_values, changed_values, is_wanted, record_from
from .rows import PAGE_BYTES, ROWS_PER_STATEMENT, PackedRow, Row, damaged, entries_by_row
from .runs import Run, unpacked
from .sql import MIGRATIONS, QUERIES, SCHEMA_VERSION, with_rows
from .transaction import Transaction
from .unsettled import Generation, Slice

APPLICATION_ID: Final = 0x416A726E  # "Ajrn": what `file` and SQLite show of the database
SLICE_SECONDS: Final = 0.001
SLICE_ENTRIES: Final = 512
SWEEP_ROWS: Final = 32
SETTLED_PER_STATEMENT: Final = 64
NAMES_MAX: Final = 32_768


class Database:
    """A journal's file, opened."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._writer = connection.cursor()  # kept: to drop one costs a turn of the GIL
        self._path = path
        self._directory = str(path.parent)
        self.has_base = False  # nothing may be acknowledged before
        self._names: dict[int, AgentRecord | None] = {}

    def prepare(self) -> tuple[Position, AgentNumber]:
        """Set the connection up, migrate, and put what is there on a firm base.

        Returns the next position and the highest number in use.
        """
        self._set("locking_mode", "exclusive")
        version = self._check_identity()
        self._execute(f"PRAGMA page_size={PAGE_BYTES}")  # of a database that is yet to be made
        self._set("journal_mode", "wal")
        self._execute("PRAGMA synchronous=FULL")
        (level,) = self._execute("PRAGMA synchronous").fetchone()
        if level != 2:  # noqa: PLR2004 - SQLite's number for FULL
            raise StorageFailedError(f"SQLite refused PRAGMA synchronous=FULL: it says {level}")
        for pragma in (
            "wal_autocheckpoint=0",
            "journal_size_limit=67108864",
            "mmap_size=0",
            "temp_store=MEMORY",
            "trusted_schema=OFF",
            "cell_size_check=ON",
            "cache_size=-16384",
        ):
            self._execute(f"PRAGMA {pragma}").fetchall()
        # After a failed fsync the kernel may hold pages that the disk does not;
        # copying the WAL into the database before anything is acknowledged on
        # top of it is what makes a restart a cure (docs/ARCHITECTURE.md).
        self.has_base = self._make_base()
        self._migrate(version)
        if self.has_base:
            self._make_names_durable()
        (number,) = self._query("highest_number").fetchone()
        next_position = self._next_position()
        if self.has_base:
            self._query("give_up_copies", next_position)
        return next_position, AgentNumber(number)

    def _set(self, pragma: str, value: str) -> None:
        (answer,) = self._execute(f"PRAGMA {pragma}={value}").fetchone()
        if answer != value:
            raise StorageFailedError(f"SQLite refused PRAGMA {pragma}={value}: it says {answer!r}")

    def _check_identity(self) -> int:
        """Return the version of the journal's schema, 0 for a file that is yet empty.

        Raises:
            ConfigError: it is another program's, or a newer journal; nothing was changed.
        """
        (version,) = self._execute("PRAGMA user_version").fetchone()
        (application_id,) = self._execute("PRAGMA application_id").fetchone()
        (tables,) = self._execute("SELECT count(*) FROM sqlite_master").fetchone()
        is_empty = not (version or application_id or tables)
        if application_id != APPLICATION_ID and not is_empty:
            raise ConfigError(
                f"{self._path} is an SQLite database, but not a journal; choose another --database"
            )
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"{self._path} was written by a newer agent-journald (its schema is {version}, "
                f"this one knows {SCHEMA_VERSION}); run that version, or choose another --database"
            )
        return int(version)

    def _make_base(self) -> bool:
        """Copy the WAL into the database; False: the disk is full, and it has to be done later."""
        try:
            self.checkpoint("TRUNCATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
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

    def _migrate(self, version: int) -> None:
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            pragmas = f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={number};"
            self._connection.executescript(f"BEGIN IMMEDIATE; {script} {pragmas} COMMIT;")

    def _next_position(self) -> Position:
        floor = self._mark("next_position")
        last = self._query("last_row").fetchone()
        if last is None:
            return Position(floor)
        return Position(max(floor, last[0] + PackedRow(*last).count))

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
        if not changes and settling is None and len(rows) <= ROWS_PER_STATEMENT:
            # In autocommit a statement is a transaction of its own: it runs without
            # the interpreter's lock from its first insertion to its fsync.
            self._insert(rows)
            return
        with self._transaction():
            self._insert(rows)
            for change in changes:
                self._change(change, first_position, next_position)
            if settling is not None:
                self._settle(settling)
        for change in changes:
            self._names.pop(change.compacted or change.record.number, None)

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
        return Transaction(self._connection)

    # Settling: moving the index forward

    def settle(self, settling: Slice) -> None:
        """Put agents' stories into the index."""
        with self._transaction():
            self._settle(settling)

    def _settle(self, settling: Slice) -> None:
        generation = settling.generation
        stories = [(number, generation.stories[number]) for number in settling.numbers]
        agents = [
            (
                number,
                story.next_sequence,
                story.last_iteration,
                story.updated_at,
                max(story.keys) if story.keys else "",
            )
            for number, story in stories
        ]
        keys = [
            (number, key, sequence)
            for number, story in stories
            if story.keys
            for key, sequence in sorted(story.keys.items())
        ]
        runs = list(generation.packed_runs(settling.numbers))
        self._put("put_runs", runs, SETTLED_PER_STATEMENT)
        self._put("settle_agents", agents, SETTLED_PER_STATEMENT)
        self._put("put_keys", keys, SETTLED_PER_STATEMENT)
        if settling.is_last:
            self._query("set_mark", generation.next_position, "settled_position")

    def unsettled(self) -> Generation:
        """Read back what was committed behind the index's high-water mark."""
        mark = self._mark("settled_position")
        generation = Generation(mark)
        for row in self._rows_from(mark):
            for entry, key in row.entries():
                if entry.position >= mark:
                    generation.put_back(entry, key)
            generation.rows.append(row.first_position)
            generation.next_position = row.first_position + row.count
        return generation

    # Sweeping: removing the entries of histories that were compacted

    def sweep(self, settled_position: int, next_position: int) -> bool:
        """Remove a slice of a doomed history; return whether there is more to do."""
        doomed = self._query("next_doomed", settled_position).fetchone()
        if doomed is None:
            return False
        (number,) = doomed
        found = self._query("runs_from", number, 0, 1).fetchone()
        with self._transaction():
            if found is not None:
                self._sweep_run(number, unpacked(*found), next_position)
            elif self._query("delete_keys", number, SLICE_ENTRIES).rowcount == 0:
                self._query("spare", number)
        return True

    def _sweep_run(self, number: int, run: Run, next_position: int) -> None:
        swept = 0
        positions = run.positions
        for _ in range(SWEEP_ROWS):
            if swept == len(positions):
                break
            row = self._row_at(positions[swept])
            end = bisect_left(positions, row.first_position + row.count, swept)
            self._rewrite(row, set(positions[swept:end]), next_position)
            swept = end
        self._query("delete_run", number, run.first_sequence)
        if swept < len(positions):
            self._query("put_runs", *run.behind(swept).packed(number))

    def _rewrite(self, row: PackedRow, removed: set[int], next_position: int) -> None:
        data = row.without(removed)
        if data is not None:
            self._query("replace_row", data, row.first_position)
            return
        self._query("delete_row", row.first_position)
        self._query("set_mark", next_position, "next_position")

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
        runs = list(self._runs(number, from_sequence, limit, unsettled))
        deadline = perf_counter() + SLICE_SECONDS
        entries: list[Entry] = []
        size = 0
        for found in itertools.chain.from_iterable(map(self._entries_by_row, runs)):
            for entry in found:
                if entry.number != number:
                    raise damaged(entry.position)
                size += len(entry.event)
                if entries and size > bytes_max:
                    return entries
                entries.append(entry)
                if len(entries) >= limit:
                    return entries
            if perf_counter() > deadline:
                break
        return entries

    def _runs(
        self, number: AgentNumber, from_sequence: int, limit: int, unsettled: list[Run]
    ) -> Iterator[Run]:
        """Yield where up to about *limit* entries lie, from *from_sequence* on."""
        end = from_sequence + limit
        sequence = from_sequence
        if not unsettled or unsettled[0].first_sequence > from_sequence:
            with closing(self._query("runs_from", number, from_sequence, limit)) as found:
                for row in found:
                    run = unpacked(*row)
                    if run.first_sequence > sequence:
                        return  # a history that is being swept
                    if sequence < run.next_sequence:
                        yield run.behind(sequence - run.first_sequence)
                        sequence = run.next_sequence
                    if sequence >= end:
                        return
        for run in unsettled:
            if sequence < run.next_sequence:
                yield run.behind(max(sequence - run.first_sequence, 0))
                sequence = run.next_sequence

    def _entries_by_row(self, run: Run) -> Iterator[list[Entry]]:
        """Return the entries of *run* in sequence order, those of a row at once."""
        positions = run.positions[:SLICE_ENTRIES]
        if run.rows is None:
            rows = self._rows_from(positions[0])
        else:
            wanted = ",".join(map(str, dict.fromkeys(run.rows[:SLICE_ENTRIES])))
            rows = itertools.starmap(PackedRow, self._query("rows_at", f"[{wanted}]"))
        return entries_by_row(rows, positions)

    def _row_at(self, position: int) -> PackedRow:
        found = self._query("find_row", position).fetchone()
        if found is None or not (row := PackedRow(*found)).holds(position):
            raise damaged(position)  # the index names what the log has not
        return row

    def _rows_from(self, position: int) -> Iterator[PackedRow]:
        first = self._query("find_row", position).fetchone()
        if first and (row := PackedRow(*first)).holds(position):
            yield row
            position = row.first_position + 1
        cursor = self._query("rows_from", position)
        try:
            for found in cursor:
                yield PackedRow(*found)
        finally:
            cursor.close()  # an open cursor would hold up every checkpoint

    def scan(
        self, wanted: Filter, from_position: int, limit: int, bytes_max: int
    ) -> tuple[list[tuple[AgentRecord, Entry]], int | None]:
        """Return a slice in position order, and where the next begins if the log goes on."""
        deadline = perf_counter() + SLICE_SECONDS
        found: list[tuple[AgentRecord, Entry]] = []
        size = 0
        for row in self._rows_from(from_position):
            for entry, _ in row.entries():
                if entry.position < from_position:
                    continue
                if len(found) >= limit or (found and size + len(entry.event) > bytes_max):
                    return found, entry.position
                record = self._agent(entry.number)
                if record is not None and is_wanted(wanted, record, entry.position):
                    found.append((record, entry))
                    size += len(entry.event)
            from_position = row.first_position + row.count
            if perf_counter() > deadline:
                return found, from_position
        return found, None

    def count_back(self, wanted: Filter, before: int, count: int) -> tuple[int, int]:
        """Go back from *before* over up to *count* wanted entries, as far as a slice goes.

        Returns the position reached and how many are still to be counted.
        """
        deadline = perf_counter() + SLICE_SECONDS
        cursor = self._query("rows_before", before)
        try:
            for found in cursor:
                row = PackedRow(*found)
                for entry, _ in reversed(list(row.entries())):
                    record = self._agent(entry.number)
                    if entry.position >= before or record is None:
                        continue
                    if is_wanted(wanted, record, entry.position):
                        count -= 1
                        if count <= 0:
                            return entry.position, 0
                before = row.first_position
                if perf_counter() > deadline:
                    return before, count
        finally:
            cursor.close()
        return 0, 0

    def _agent(self, number: int) -> AgentRecord | None:
        try:
            return self._names[number]
        except KeyError:
            if len(self._names) >= NAMES_MAX:
                self._names.clear()
            record = record_from(self._query("load_agent_by_number", number).fetchone())
            self._names[number] = record
            return record

    def agents(
        self, uid: Uid | None, state: AgentState | None, after: int, limit: int
    ) -> list[AgentRecord]:
        """Return up to *limit* agents by first position."""
        if uid is None:
            rows = self._query("agents_of_all", after, limit)
        elif state is None:
            rows = self._query("agents_of_uid", uid, after, limit)
        else:
            rows = self._query("agents_of_uid_in_state", uid, after, state, limit)
        return [record for record in map(record_from, rows.fetchall()) if record is not None]

    def unfinished(self, after: int, limit: int) -> list[AgentRecord]:
        """Return up to *limit* agents with an attachment, by first position."""
        rows = self._query("agents_attached", after, limit).fetchall()
        return [record for record in map(record_from, rows) if record is not None]

    # Housekeeping

    def close(self) -> None:
        """Let go of the statements, without which the file would stay open and locked."""
        self._writer.close()

    def checkpoint(self, mode: str) -> None:
        """Copy the WAL into the database; nobody else can be in the way."""
        is_blocked, _, _ = self._execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        if is_blocked:
            raise StorageFailedError(f"SQLite could not checkpoint ({mode}): it says busy")
