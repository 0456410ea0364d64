"""SQLite's b-trees, read without SQLite, past whatever is damaged in them.

SQLite stops at the first page that it does not understand; what lies behind it
is as good as ever.  Here a page that makes no sense is told and passed over, and
its neighbours are read.  (The format: sqlite.org/fileformat2.html, 1.6 and 2.1.)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final

from .page_file import HEADER_BYTES, PageFile

INTERIOR_INDEX: Final = 2
INTERIOR_TABLE: Final = 5
LEAF_INDEX: Final = 10
LEAF_TABLE: Final = 13
INTERIOR: Final = frozenset({INTERIOR_INDEX, INTERIOR_TABLE})

Value = int | float | str | bytes | None
Row = tuple[int, list[Value]]  # rowid (0 in an index), and the record's values
OnDamage = Callable[[int, str], None]  # of a page


class UnreadableError(Exception):
    """What is read makes no sense."""


class Trees:
    """The trees of a database; takes note of which pages are used."""

    def __init__(self, pages: PageFile, on_damage: OnDamage) -> None:
        self.used = bytearray(pages.pages + 1)
        self._pages = pages
        self._on_damage = on_damage

    def rows(self, root: int) -> Iterator[Row]:
        """Yield the rows of the tree at *root*, in order, as far as they can be read."""
        stack: list[int | tuple[Node, int]] = [root]  # pages, and cells between them
        while stack:
            top = stack.pop()
            if isinstance(top, tuple):
                yield from self._cell(*top)
                continue
            number = top
            if not 1 <= number <= self._pages.pages:
                self._on_damage(number, "is named by a tree, and not in the file")
                continue
            if self.used[number]:
                self._on_damage(number, "is used twice")
                continue
            self.used[number] = 1
            try:
                node = Node(number, self._pages)
            except UnreadableError as error:
                self._on_damage(number, str(error))
                continue
            if node.kind in INTERIOR:
                stack += reversed(list(_in_order(node)))
                continue
            for place in range(node.count):
                yield from self._cell(node, place)

    def _cell(self, node: Node, place: int) -> Iterator[Row]:
        try:
            yield node.row(place, self.used)
        except UnreadableError as error:
            self._on_damage(node.number, f"its cell {place} {error}")


def _in_order(node: Node) -> Iterator[int | tuple[Node, int]]:
    """Yield what is below and within an interior page; in an index its cells are rows, too."""
    for place, child in enumerate(node.children()):
        yield child
        if node.kind == INTERIOR_INDEX and place < node.count:
            yield node, place


class Node:
    """A page of a tree."""

    def __init__(self, number: int, pages: PageFile) -> None:
        """Read a page.

        Raises:
            UnreadableError: it is no page of a tree.
        """
        self.number = number
        self._pages = pages
        self.data = pages.page(number)
        if len(self.data) < pages.page_bytes:
            raise UnreadableError("lies behind the end of the file")
        start = HEADER_BYTES if number == 1 else 0
        self.kind: int
        self.kind, _, self.count, _, _ = struct.unpack_from(">BHHHB", self.data, start)
        if self.kind not in {INTERIOR_INDEX, INTERIOR_TABLE, LEAF_INDEX, LEAF_TABLE}:
            raise UnreadableError("is no page of a tree")
        self._cells = start + (12 if self.kind in INTERIOR else 8)
        if self._cells + 2 * self.count > pages.usable_bytes:
            raise UnreadableError("states more cells than it has room for")
        self._start = start

    def _offset(self, place: int) -> int:
        offset: int = struct.unpack_from(">H", self.data, self._cells + 2 * place)[0]
        if offset < self._cells + 2 * self.count or offset + 4 > self._pages.usable_bytes:
            raise UnreadableError("lies outside of the page")
        return offset

    def children(self) -> list[int]:
        """Return the pages below this one, in order."""
        found: list[int] = []
        for place in range(self.count):
            try:
                found.append(struct.unpack_from(">I", self.data, self._offset(place))[0])
            except UnreadableError:
                found.append(0)
        return [*found, struct.unpack_from(">I", self.data, self._start + 8)[0]]

    def row(self, place: int, used: bytearray | None = None) -> Row:
        """Return a cell's row.

        Raises:
            UnreadableError: it has none that makes sense.
        """
        at = self._offset(place)
        if self.kind == INTERIOR_INDEX:
            at += 4
        size, at = varint(self.data, at)
        rowid = 0
        if self.kind == LEAF_TABLE:
            rowid, at = varint(self.data, at)
            rowid -= (rowid >> 63) << 64
        return rowid, record(self._payload(size, at, used))

    def _payload(self, size: int, at: int, used: bytearray | None) -> bytes:
        usable = self._pages.usable_bytes
        least = (usable - 12) * 32 // 255 - 23
        most = usable - 35 if self.kind == LEAF_TABLE else (usable - 12) * 64 // 255 - 23
        if size <= most:
            if at + size > usable:
                raise UnreadableError("is longer than the page")
            return self.data[at : at + size]
        if size > self._pages.pages * usable:
            raise UnreadableError("is longer than the file")
        local = least + (size - least) % (usable - 4)
        local = least if local > most else local
        if at + local + 4 > usable:
            raise UnreadableError("is longer than the page")
        pieces = [self.data[at : at + local]]
        left = size - local
        following = int.from_bytes(self.data[at + local : at + local + 4], "big")
        while left > 0:
            data = self._overflow(following, used)
            pieces.append(data[4 : min(usable, 4 + left)])
            left -= usable - 4
            following = int.from_bytes(data[:4], "big")
        return b"".join(pieces)

    def _overflow(self, number: int, used: bytearray | None) -> bytes:
        if not 2 <= number <= self._pages.pages:  # noqa: PLR2004 - the first is a tree's
            raise UnreadableError(f"goes on in page {number}, which is not in the file")
        if used is not None:
            if used[number]:
                raise UnreadableError(f"goes on in page {number}, which is used twice")
            used[number] = 1
        data = self._pages.page(number)
        if len(data) < self._pages.page_bytes:
            raise UnreadableError(f"goes on in page {number}, behind the end of the file")
        return data


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the variable-length integer at *at*, and where what follows it begins."""
    value = 0
    try:
        for place in range(at, at + 8):
            byte = data[place]
            value = value << 7 | byte & 0x7F
            if byte < 0x80:  # noqa: PLR2004 - the highest bit says that there is more
                return value, place + 1
        return value << 8 | data[at + 8], at + 9
    except IndexError:
        raise UnreadableError("ends within a number") from None


_INT_BYTES: Final = (0, 1, 2, 3, 4, 6, 8)
_FLOAT: Final = 7
_ONE: Final = 9
_FIRST_BLOB: Final = 12


def record(payload: bytes) -> list[Value]:
    """Return the values of a record.

    Raises:
        UnreadableError: it is none.
    """
    head, at = varint(payload, 0)
    body = head
    values: list[Value] = []
    while at < head:
        kind, at = varint(payload, at)
        value, size = _value(kind, payload, body)
        values.append(value)
        body += size
    if at != head or body != len(payload):
        raise UnreadableError("holds no record of its length")
    return values


def _value(kind: int, payload: bytes, at: int) -> tuple[Value, int]:
    if kind < _FLOAT:
        size = _INT_BYTES[kind]
        data = payload[at : at + size]
        return (int.from_bytes(data, "big", signed=True) if size else None), size
    if kind == _FLOAT:
        if at + 8 > len(payload):
            raise UnreadableError("holds no record of its length")
        return struct.unpack_from(">d", payload, at)[0], 8
    if kind <= _ONE:
        return kind - 8, 0
    if kind < _FIRST_BLOB:
        raise UnreadableError("holds a value of no known type")
    size = (kind - _FIRST_BLOB) // 2
    data = payload[at : at + size]
    if kind % 2 == 0:
        return data, size
    try:
        return data.decode(), size
    except UnicodeDecodeError:
        raise UnreadableError("holds text that is not UTF-8") from None
