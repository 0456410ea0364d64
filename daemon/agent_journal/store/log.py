"""The log, read row by row, and whole.

Rows lie end to end: a row begins where the one before it ends, also where all
entries of some were removed (a *cleared* row takes their place).  And each names
the seal of the row before it, which is the checksum that it was born with.  So
rows that are missing, or are not those that were written, are noticed by whoever
reads past them.

Rows from before there were cleared ones may have gaps between them: a mark says
from which position on there are none.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from .base import Entry
from .rows import PAGE_BYTES, PackedRow, damaged, entries_by_row, lone_entry
from .runs import Run

Query = Callable[..., sqlite3.Cursor]


class Log:
    """The rows, by position."""

    def __init__(self, query: Query) -> None:
        self.whole_from = 0  # the position from which on no row may be missing
        self._query = query

    def row_at(self, position: int) -> PackedRow:
        """Return the row that holds *position*."""
        found = self._query("find_row", position).fetchone()
        if found is None or not (row := PackedRow(*found)).holds(position):
            raise damaged(position)  # the index names what the log has not
        return row

    def last_row(self) -> PackedRow | None:
        """Return the newest row, if there is any."""
        found = self._query("last_row").fetchone()
        return None if found is None else PackedRow(*found)

    def row_before(self, row: PackedRow) -> PackedRow | None:
        """Return the neighbour that ends where *row* begins."""
        found = self._query("find_row", row.first_position - 1).fetchone()
        before = None if found is None else PackedRow(*found)
        return before if before and before.next_position == row.first_position else None

    def row_behind(self, row: PackedRow) -> PackedRow | None:
        """Return the neighbour that begins where *row* ends."""
        found = self._query("find_row", row.next_position).fetchone()
        behind = None if found is None else PackedRow(*found)
        return behind if behind and behind.first_position == row.next_position else None

    def rows_from(self, position: int) -> Generator[PackedRow, None, None]:
        """Yield the row that holds *position*, and those behind it.

        Raises:
            DamagedError: a row is missing, or another than was written.
        """
        before: PackedRow | None = None
        first = self._query("find_row", position).fetchone()
        if first and (row := PackedRow(*first)).holds(position):
            yield row
            before, position = row, row.next_position
        cursor = self._query("rows_from", position)
        try:
            for found in cursor:
                row = PackedRow(*found)
                if row.first_position != position:
                    if position >= self.whole_from:
                        raise damaged(position)
                elif before is not None and not row.is_behind(before.seal):
                    raise damaged(position)
                yield row
                before, position = row, row.next_position
        finally:
            cursor.close()  # an open cursor would hold up every checkpoint

    def rows_before(self, position: int) -> Generator[PackedRow, None, None]:
        """Yield the rows that begin before *position*, the newest first.

        Raises:
            DamagedError: a row is missing, or another than was written.
        """
        behind: PackedRow | None = None
        cursor = self._query("rows_before", position)
        try:
            for found in cursor:
                row = PackedRow(*found)
                if behind is not None:
                    if row.next_position != behind.first_position:
                        if behind.first_position > self.whole_from:
                            raise damaged(row.next_position)
                    elif not behind.is_behind(row.seal):
                        raise damaged(behind.first_position)
                yield row
                behind = row
        finally:
            cursor.close()

    def entries_by_row(self, run: Run, limit: int) -> Iterator[list[Entry]]:
        """Return up to *limit* entries of *run* in sequence order, those of a row at once."""
        positions = run.positions[:limit]
        if run.rows is None:
            return self._neighbours(positions[0], positions[-1] + 1)
        wanted = ",".join(map(str, dict.fromkeys(run.rows[:limit])))
        found = self._query("rows_at", f"[{wanted}]")
        return entries_by_row(itertools.starmap(PackedRow, found), positions)

    def _neighbours(self, position: int, end: int) -> Iterator[list[Entry]]:
        """Yield the entries from *position* to *end*, those of a row or of some rows at once."""
        row = self.row_at(position)
        yield row.entries_at(range(position, min(row.next_position, end)))
        if row.next_position < end:
            yield from self._behind(row, end)

    def _behind(self, row: PackedRow, end: int) -> Iterator[list[Entry]]:
        """Yield the entries behind *row*, likewise.

        What one agent wrote step by step lies in rows of one entry each. These are not
        opened as any others are, and as many as fill a page are handed on at once.
        """
        position, seal = row.next_position, row.seal
        lone: list[Entry] = []
        room = PAGE_BYTES
        with closing(self._query("rows_from", position)) as found:
            for first_position, data in found:
                if first_position != position:
                    break
                if (opened := lone_entry(position, data, seal)) is not None:
                    entry, seal = opened
                    lone.append(entry)
                    position += 1
                    room -= len(data)
                    if room > 0 and position < end:
                        continue
                if lone:
                    yield lone
                    lone, room = [], PAGE_BYTES
                if opened is None:
                    row = PackedRow(position, data)
                    if not row.is_behind(seal):
                        break
                    start, position, seal = position, min(row.next_position, end), row.seal
                    yield row.entries_at(range(start, position))
                if position == end:
                    return
        raise damaged(position)
