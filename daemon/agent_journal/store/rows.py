"""How entries lie in the log: some neighbours packed into one row.

A row per entry costs a binding per column and a b-tree insertion per entry; a
row per few kilobytes costs them once for a dozen entries or more, and an
entry's place in its row is its position minus the row's, so nothing is
searched.  A row is

    format (1 byte) | checksum (4) | count (2) | previous (4) | count headers | bodies

and a header says whose entry it is and where its body lies.  A body is the
event's bytes followed by those of the idempotency key.

**The checksum** is a CRC-32 of all that follows it, and of the row's position.
It is looked at whenever a row is opened, so no entry is ever given out that is
not what was recorded, at its position, with its sequence in its history.  One
for each entry would cost three times as much, most of it for calls; and since a
row is read whole, it would not spare a reader anything.

**The chain**: ``previous`` is the checksum that the row before was born with,
its *seal*.  So the rows hang together in commit order, whoever's they are; an
agent's own entries hang together by their sequences, which the checksum covers.

A row of which entries were removed keeps its seal beside its new checksum (format
3), and the headers of those entries, with number 0 and no body, so that their
neighbours keep their places.  Where nothing is left of some rows, one *cleared*
row stands for all of them (format 4), with the ``previous`` of the first and the
seal of the last.

Rows of format 1, from before there were checksums, are read as they are.
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
from .crc import crc_of

FORMAT_UNSEALED: Final = 1
FORMAT: Final = 2
FORMAT_SWEPT: Final = 3
FORMAT_CLEARED: Final = 4

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

_UNSEALED: Final = struct.Struct("<BH")  # format, count
_BEGIN: Final = struct.Struct("<BI")  # format, checksum
_SEALED: Final = struct.Struct("<HI")  # count, previous
_WHOLE: Final = struct.Struct("<BIHI")  # format, checksum, count, previous: the usual begin
_SWEPT: Final = struct.Struct("<HII")  # count, previous, seal
_CLEARED: Final = struct.Struct("<QII")  # count, previous, seal
_PREFIX_BYTES: Final = _BEGIN.size + _SEALED.size
# number, sequence, timestamp, iteration, offset of the body, event length, key length
_HEADER: Final = struct.Struct("<QQqIIIH")
_LONE: Final = struct.Struct("<BIHIQQqIIIH")  # a usual begin, and the header of the only entry

Row = tuple[int, bytes]


def pack_rows(first_position: int, entries: Sequence[NewEntry], previous: int = 0) -> list[Row]:
    """Return *entries*, which begin at *first_position*, as rows of the log.

    *previous* is the seal of the row before them.
    """
    rows: list[Row] = []
    headers: list[bytes] = []
    bodies: list[bytes] = []
    offset = 0
    pack = _HEADER.pack
    position = first_position
    room = ROW_BYTES_MAX - _PREFIX_BYTES
    for entry in entries:
        event, key = entry.event, entry.key
        length = len(event)
        raw_key = b"" if key is None else key.encode()
        size = _HEADER.size + length + len(raw_key)
        if size > room and headers:
            data = _sealed(position, previous, headers, bodies)
            rows.append((position, data))
            previous = seal_of(data)
            position += len(headers)
            headers, bodies, offset = [], [], 0
            room = ROW_BYTES_MAX - _PREFIX_BYTES
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
        rows.append((position, _sealed(position, previous, headers, bodies)))
    return rows


def seal_of(data: bytes) -> int:
    """Return the seal of a row as it was packed: its checksum."""
    seal: int = _BEGIN.unpack_from(data)[1]
    return seal


def cleared_row(position: int, count: int, previous: int, seal: int) -> bytes:
    """Return what stands for *count* entries from *position* on, all of which were removed."""
    return _checked(FORMAT_CLEARED, position, _CLEARED.pack(count, previous, seal))


def _sealed(position: int, previous: int, headers: list[bytes], bodies: list[bytes]) -> bytes:
    content = b"".join((_SEALED.pack(len(headers), previous), *headers, *bodies))
    return _checked(FORMAT, position, content)


def _checked(row_format: int, position: int, content: bytes) -> bytes:
    return _BEGIN.pack(row_format, _checksum(row_format, position, content)) + content


def _checksum(row_format: int, position: int, content: bytes | memoryview) -> int:
    return crc_of(content, (position ^ position >> 32 ^ row_format << 28) & 0xFFFF_FFFF)


class PackedRow:
    """A row of the log, opened for reading.

    Raises:
        DamagedError: it is not what was written.
    """

    __slots__ = (
        "_bodies",
        "_headers",
        "count",
        "data",
        "first_position",
        "next_position",
        "previous",
        "seal",
    )

    def __init__(self, first_position: int, data: bytes) -> None:
        self.first_position = first_position
        self.data = data
        self.count: int = 0
        self.previous: int | None = None  # none: it is older than seals
        self.seal: int = 0
        self._headers = 0
        try:
            row_format, checksum, count, previous = _WHOLE.unpack_from(data)
            if row_format == FORMAT:  # nearly all are
                if checksum != _checksum(FORMAT, first_position, memoryview(data)[_BEGIN.size :]):
                    raise damaged(first_position)
                self.count, self.previous, self.seal = count, previous, checksum
                self._headers = _WHOLE.size
            else:
                self._open_other(data, row_format, checksum)
        except (struct.error, IndexError, TypeError):  # SQLite gives no bytes for a rotten type
            raise damaged(first_position) from None
        self.next_position = first_position + self.count  # where the next row begins
        self._bodies = bodies = self._headers + self.count * _HEADER.size
        if self._headers and (not self.count or bodies > len(data)):
            raise damaged(first_position)

    def _open_other(self, data: bytes, row_format: int, checksum: int) -> None:
        """Read what stands before the headers, where that is not the usual."""
        if row_format == FORMAT_UNSEALED:
            self._open_unsealed(data)
            return
        at = _BEGIN.size
        if checksum != _checksum(row_format, self.first_position, memoryview(data)[at:]):
            raise damaged(self.first_position)
        if row_format == FORMAT_SWEPT:
            self.count, self.previous, self.seal = _SWEPT.unpack_from(data, at)
            self._headers = at + _SWEPT.size
        elif row_format == FORMAT_CLEARED:
            self.count, self.previous, self.seal = _CLEARED.unpack_from(data, at)
            self._headers = 0
        else:
            raise damaged(self.first_position)

    def _open_unsealed(self, data: bytes) -> None:
        """Hold against each other what a row without a checksum says of itself."""
        _, self.count = _UNSEALED.unpack_from(data)
        self._headers = _UNSEALED.size
        bodies = self._headers + self.count * _HEADER.size
        *_, offset, length, key_length = _HEADER.unpack_from(data, bodies - _HEADER.size)
        if bodies + offset + length + key_length != len(data):
            raise damaged(self.first_position)

    @property
    def is_cleared(self) -> bool:
        """Tell whether the row stands for entries that were all removed."""
        return not self._headers

    def is_behind(self, seal: int) -> bool:
        """Tell whether this is the row that was written behind its neighbour, which has *seal*."""
        return self.previous is None or self.previous == seal

    def holds(self, position: int) -> bool:
        """Tell whether the entry at *position* lies in this row."""
        return 0 <= position - self.first_position < self.count

    def entries_at(self, positions: Sequence[int]) -> list[Entry]:
        """Return the entries at *positions*; the number is 0 where one was removed."""
        if not self._headers:
            raise damaged(positions[0])  # the index names what was removed
        data, bodies, unpack, size = self.data, self._bodies, _HEADER.unpack_from, _HEADER.size
        base = self._headers - self.first_position * size
        entries: list[Entry] = []
        for position in positions:
            number, sequence, timestamp, iteration, offset, length, _ = unpack(
                data, base + position * size
            )
            start = bodies + offset
            event = data[start : start + length]
            # Called for each entry of a read, so without what makes a Position of an int.
            entries.append(Entry(number, sequence, position, timestamp, iteration, event))  # type: ignore[arg-type]
        return entries

    def numbers_before(self, position: int) -> Iterator[tuple[Position, AgentNumber]]:
        """Yield whose each entry before *position* is, the newest first; none that was removed."""
        if self.is_cleared:
            return
        for place in range(min(position - self.first_position, self.count) - 1, -1, -1):
            number = _HEADER.unpack_from(self.data, self._headers + place * _HEADER.size)[0]
            if number:
                yield Position(self.first_position + place), AgentNumber(number)

    def entries(self, from_position: int = 0) -> Iterator[tuple[Entry, str | None]]:
        """Yield each entry from *from_position* on that was not removed, with its key."""
        if self.is_cleared:
            return
        skipped = min(max(from_position - self.first_position, 0), self.count)
        begin = self._headers + skipped * _HEADER.size
        headers = memoryview(self.data)[begin : self._bodies]
        for place, header in enumerate(_HEADER.iter_unpack(headers), skipped):
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
        for place, header in enumerate(_HEADER.iter_unpack(view[self._headers : self._bodies])):
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
        if is_empty:
            return None
        begin_swept = _SWEPT.pack(len(headers), self.previous or 0, self.seal)
        return _checked(
            FORMAT_SWEPT, self.first_position, b"".join((begin_swept, *headers, *bodies))
        )


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


def lone_entry(position: int, data: bytes, seal: int) -> tuple[Entry, int] | None:
    """Return the entry of a row that holds one, behind the row with *seal*, and its own seal.

    What ``PackedRow`` and ``entries_at`` do, in one go.  ``None``: the row is of
    another form, or was written behind another row, or is no row at all.

    Raises:
        DamagedError: it is not what was written.
    """
    try:
        (
            row_format,
            checksum,
            count,
            previous,
            number,
            sequence,
            timestamp,
            iteration,
            _,
            length,
            _,
        ) = _LONE.unpack_from(data)
    except (struct.error, TypeError):
        return None
    if row_format != FORMAT or count != 1 or previous != seal:
        return None
    if checksum != _checksum(FORMAT, position, memoryview(data)[_BEGIN.size :]):
        raise damaged(position)
    event = data[_LONE.size : _LONE.size + length]
    return Entry(number, sequence, position, timestamp, iteration, event), checksum  # type: ignore[arg-type] # as above


def damaged(position: int) -> DamagedError:
    """Return the error for a log whose row at *position* is not what it must be."""
    return DamagedError(
        f"the log row at position {position} is missing, or not what was written",
        part="entry",
        position=position,
    )
