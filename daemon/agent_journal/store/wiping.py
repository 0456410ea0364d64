"""Wiping: nothing of what was deleted is left in the pages of the database.

SQLite overwrites what it deletes (``secure_delete``), but not what it leaves behind
when it moves rows from one page to another: the room between the pointers of a page
and its rows may hold a copy of a row that was deleted elsewhere since.  So after
an agent was forgotten each page is looked at, by pieces and beside SQLite, as a backup
reads them; and where that room holds anything it is overwritten in the file.

SQLite never reads that room, so it does not matter to it when that happens, and a write
that a power cut tears leaves a page as good as before.  Only its sum has to follow:

    mark that the sums of these pages are unknown, and sync it
    write the pages, and sync them
    write their sums, and sync them; mark them as known, and sync that

A crash in between leaves pages that are summed anew, as those of a journal from before
there were sums.  Pages that a checkpoint writes meanwhile are looked at again.  In
the end, in one call, the WAL is emptied, the rest is wiped, and SQLite's own memory of
pages is dropped, from which it would write what was there before.

Invariant: all that is written is between the pointers and the rows of a page.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Final

from .backup import wal_pages
from .btree import INTERIOR, INTERIOR_INDEX, INTERIOR_TABLE, LEAF_INDEX, LEAF_TABLE
from .page_file import HEADER_BYTES, LARGEST_ROOT_AT, POINTER_BYTES
from .page_sums import PageSums, page_sum

SLICE_PAGES: Final = 512
LAST_PAGES: Final = 256  # looked at in the last call, while commits wait: some milliseconds
GROUP_PAGES: Final = 64  # within which pages are written together
# Pages of trees begin with their kind, all others but pointer maps with a page's number:
# as long as there are fewer pages than this, its first byte is none of the kinds.
PAGES_MAX: Final = INTERIOR_INDEX << 24

_NODE: Final = struct.Struct(">BHHH")
_KINDS: Final = frozenset({INTERIOR_INDEX, INTERIOR_TABLE, LEAF_INDEX, LEAF_TABLE})


def wiped(page: bytes, start: int = 0) -> bytes | None:
    """Return a page of a tree with nothing between its pointers and its rows.

    *start* is where its header is.  ``None``: there is nothing, or it is no such page.
    """
    kind, _, count, rows = _NODE.unpack_from(page, start)
    if kind not in _KINDS:
        return None
    pointers = start + (12 if kind in INTERIOR else 8)
    begin = pointers + 2 * count
    if not begin < rows <= len(page):
        return None
    room = page[begin:rows]
    if not room.strip(b"\0"):
        return None
    places = struct.unpack_from(f">{count}H", page, pointers)
    if count and min(places) < rows:
        return None  # no page that SQLite wrote: it is for others to say what it is
    return page[:begin] + bytes(rows - begin) + page[rows:]


class Wipe:
    """Which pages are still to be looked at, and which are to be written."""

    def __init__(self, database: Path, descriptor: int, page_bytes: int) -> None:
        self.dirty: set[int] = set()
        self._descriptor = descriptor
        self._page_bytes = page_bytes
        self._wal = database.with_name(database.name + "-wal")
        header = os.pread(descriptor, HEADER_BYTES, 0)
        has_maps = any(header[LARGEST_ROOT_AT : LARGEST_ROOT_AT + 4])
        self._map_every = page_bytes // POINTER_BYTES + 1 if has_maps else 0
        # A byte is written at once, so the thread that notes and the one that looks
        # need no lock (as in a backup).
        self._wanted = bytearray(b"\1" * (os.fstat(descriptor).st_size // page_bytes))
        self._next = 0

    def __len__(self) -> int:
        """Return twice as many pages as there are: to look at all, from anywhere."""
        return 2 * len(self._wanted) + 2

    @property
    def is_almost_done(self) -> bool:
        """Tell whether the rest can be done in one go."""
        return not self.dirty and self._wanted.count(1) <= LAST_PAGES

    def note(self) -> None:
        """Take note of what the checkpoint that follows will write."""
        for page in wal_pages(self._wal, self._page_bytes):
            if page > len(self._wanted):
                self._wanted.extend(bytes(page - len(self._wanted)))
            self._wanted[page - 1] = 1

    def look(self, pages: int = SLICE_PAGES) -> None:
        """Look at some pages, and take note of those that are to be written.

        Blocks, and may run on any thread.
        """
        for _ in range(pages):
            place = self._wanted.find(1, self._next)
            if place < 0:
                if not self._next:
                    return
                self._next = 0
                continue
            self._wanted[place] = 0  # before it is read: written meanwhile, it is wanted again
            self._next = place + 1
            if self._without_remains(place + 1) is not None:
                self.dirty.add(place + 1)

    def _without_remains(self, number: int) -> bytes | None:
        if self._map_every and (number - 2) % self._map_every == 0:
            return None
        size = self._page_bytes
        page = os.pread(self._descriptor, size, (number - 1) * size)
        if len(page) < size:
            return None  # the file was cut off before it
        return wiped(page, HEADER_BYTES if number == 1 else 0)

    def write(self, sums: PageSums | None) -> None:
        """Write the pages that were found; runs on the connection's thread."""
        found, self.dirty = sorted(self.dirty), set()
        for _, group in groupby(found, key=lambda page: page // GROUP_PAGES):
            pages = {
                number: page
                for number in group
                if (page := self._without_remains(number)) is not None
            }
            if pages:
                self._write_group(pages, sums)

    def _write_group(self, pages: dict[int, bytes], sums: PageSums | None) -> None:
        if sums is not None:
            unknown = sums.mark._replace(unknown_first=min(pages), unknown_last=max(pages))
            sums.put_mark(unknown)
            sums.sync()
        self._put(pages.items())
        if sums is not None:
            sums.write({number: page_sum(page) for number, page in pages.items()})
            sums.sync()  # before a mark that says that they are known
            sums.put_mark(sums.mark._replace(unknown_first=1, unknown_last=0))
            sums.sync()

    def _put(self, pages: Iterable[tuple[int, bytes]]) -> None:
        for number, page in pages:
            rest, at = memoryview(page), (number - 1) * self._page_bytes
            while rest:
                written = os.pwrite(self._descriptor, rest, at)
                rest, at = rest[written:], at + written
        os.fdatasync(self._descriptor)
