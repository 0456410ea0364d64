"""How entries lie in the log: some neighbours packed into one row.

A row per entry costs a binding per column and a b-tree insertion per entry; a
row per few kilobytes costs them once for a dozen entries or more, and an
entry's place in its row is its position minus the row's, so nothing is
searched.  A row is

    format (1 byte) | count (2) | count headers | bodies

and a header says whose entry it is and where its body lies.  A body is the
event's bytes followed by those of the idempotency key.  An entry that was
removed keeps its header, with number 0 and no body, so that its neighbours
keep their places.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final

from ..errors import DamagedError
from ..model import Micros, Position
from ..model import Sequence as SequenceNumber
from .base import AgentNumber, Entry, NewEntry

FORMAT: Final = 1

# A row fills one page of the database and does not overflow into another (a
# page of 8192 bytes keeps rows of up to 8157, fileformat2.html 1.6): so to read
# one entry costs one page.  Only an entry larger than a page is otherwise.
# Pages of 8 KiB are a fifth faster to commit in bulk than those of 4, since
# SQLite writes them one by one, and cost a single entry nothing.
PAGE_BYTES: Final = 8192
ROW_BYTES_MAX: Final = PAGE_BYTES - 64

# A statement for each number of rows is kept prepared, and SQLite keeps in each
# what was last bound to it: up to 32 rows that is 4 MiB in all, up to 128 it was 66.
ROWS_PER_STATEMENT: Final = 32

_PREFIX: Final = struct.Struct("<BH")
# number, sequence, timestamp, iteration, offset of the body, event length, key length
_HEADER: Final = struct.Struct("<QQqIIIH")

Row = tuple[int, bytes]


def pack_rows(first_position: int, entries: Sequence[NewEntry]) -> list[Row]:
    """Return *entries*, which begin at *first_position*, as rows of the log."""
    rows: list[Row] = []
    headers: list[bytes] = []
    bodies: list[bytes] = []
    offset = 0
    pack = _HEADER.pack
    position = first_position
    room = ROW_BYTES_MAX - _PREFIX.size
    for entry in entries:
        event, key = entry.event, entry.key
        length = len(event)
        raw_key = b"" if key is None else key.encode()
        size = _HEADER.size + length + len(raw_key)
        if size > room and headers:
            rows.append((position, _join(headers, bodies)))
            position += len(headers)
            headers, bodies, offset = [], [], 0
            room = ROW_BYTES_MAX - _PREFIX.size
        headers.append(
            pack(
                entry.number,
                entry.sequence,
                entry.timestamp,
                entry.iteration,
                offset,
                length,
                len(raw_key),
            )
        )
        bodies.append(event)
        if raw_key:
            bodies.append(raw_key)
        offset += length + len(raw_key)
        room -= size
    if headers:
        rows.append((position, _join(headers, bodies)))
    return rows


def _join(headers: list[bytes], bodies: list[bytes]) -> bytes:
    return b"".join((_PREFIX.pack(FORMAT, len(headers)), *headers, *bodies))


class PackedRow:
    """A row of the log, opened for reading."""

    __slots__ = ("_bodies", "count", "data", "first_position")

    def __init__(self, first_position: int, data: bytes) -> None:
        if len(data) < _PREFIX.size:
            raise damaged(first_position)
        row_format: int
        self.count: int
        row_format, self.count = _PREFIX.unpack_from(data)
        self.first_position = first_position
        self.data = data
        self._bodies = _PREFIX.size + self.count * _HEADER.size
        if row_format != FORMAT or not self.count or self._bodies > len(data):
            raise damaged(first_position)
        *_, offset, length, key_length = _HEADER.unpack_from(data, self._bodies - _HEADER.size)
        if self._bodies + offset + length + key_length != len(data):
            raise damaged(first_position)

    def holds(self, position: int) -> bool:
        """Tell whether the entry at *position* lies in this row."""
        return 0 <= position - self.first_position < self.count

    def entries_at(self, positions: Sequence[int]) -> list[Entry]:
        """Return the entries at *positions*; the number is 0 where one was removed."""
        data, bodies, unpack = self.data, self._bodies, _HEADER.unpack_from
        base = _PREFIX.size - self.first_position * _HEADER.size
        entries: list[Entry] = []
        for position in positions:
            number, sequence, timestamp, iteration, offset, length, _ = unpack(
                data, base + position * _HEADER.size
            )
            start = bodies + offset
            event = data[start : start + length]
            entries.append(Entry(number, sequence, Position(position), timestamp, iteration, event))
        return entries

    def entries(self) -> Iterator[tuple[Entry, str | None]]:
        """Yield each entry that was not removed, with its key."""
        headers = memoryview(self.data)[_PREFIX.size : self._bodies]
        for place, header in enumerate(_HEADER.iter_unpack(headers)):
            number, sequence, timestamp, iteration, offset, length, key_length = header
            if number == 0:
                continue
            start = self._bodies + offset
            end = start + length
            position = Position(self.first_position + place)
            key = self._key(end, key_length) if key_length else None
            event = self.data[start:end]
            yield (
                Entry(
                    AgentNumber(number),
                    SequenceNumber(sequence),
                    position,
                    Micros(timestamp),
                    iteration,
                    event,
                ),
                key,
            )

    def _key(self, start: int, length: int) -> str:
        try:
            return self.data[start : start + length].decode()
        except UnicodeDecodeError:
            raise damaged(self.first_position) from None

    def without(self, positions: set[int]) -> bytes | None:
        """Return the row with the entries at *positions* removed; ``None`` if none is left."""
        headers: list[bytes] = []
        bodies: list[bytes] = []
        offset = 0
        is_empty = True
        view = memoryview(self.data)
        for place, header in enumerate(_HEADER.iter_unpack(view[_PREFIX.size : self._bodies])):
            number, sequence, timestamp, iteration, start, length, key_length = header
            if number == 0 or self.first_position + place in positions:
                headers.append(_HEADER.pack(0, 0, 0, 0, offset, 0, 0))
                continue
            is_empty = False
            begin = self._bodies + start
            bodies.append(self.data[begin : begin + length + key_length])
            headers.append(
                _HEADER.pack(number, sequence, timestamp, iteration, offset, length, key_length)
            )
            offset += length + key_length
        return None if is_empty else _join(headers, bodies)


def entries_by_row(rows: Iterator[PackedRow], positions: Sequence[int]) -> Iterator[list[Entry]]:
    """Yield the entries at rising *positions*, those of a row at once.

    Raises:
        DamagedError: the index names what the log has not.
    """
    start = 0
    while start < len(positions):
        row = next(rows, None)
        if row is None or not row.holds(positions[start]):
            raise damaged(positions[start])
        end = bisect_left(positions, row.first_position + row.count, start)
        yield row.entries_at(positions[start:end])
        start = end


def damaged(position: int) -> DamagedError:
    """Return the error for a log whose row at *position* is not what it must be."""
    return DamagedError(
        f"the log row at position {position} is not readable; "
        "restore the journal from a backup, or ask for help with the file kept as it is"
    )
