"""A copy of the journal's file, taken page by page while the journal is written.

The file itself only changes in checkpoints, and before each of them the WAL says
which pages it will write.  So pages are read in any order, at any pace, without
holding up anybody; those that a checkpoint wrote since are read again; and when
few are left, one call on the connection's thread makes a last checkpoint and
reads the rest.  At that moment every page that was given out is the page in the
file, and the file holds the whole journal: its WAL has nothing more to say.

Nothing is written for it on the journal's disk, and the daemon needs no right to
write anywhere else: whoever asked gets the pages, and writes them.

Invariant: a page that was read before a checkpoint wrote it is read again.
"""

from __future__ import annotations

import itertools
import os
import struct
from binascii import b2a_base64
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from ..errors import StorageFailedError
from .rows import PAGE_BYTES

SLICE_PAGES: Final = 64
LAST_PAGES: Final = 256  # read at once at the end, while commits wait: some milliseconds
UNASKED_MAX: Final = 8192  # checkpoints that nobody asks in between: whoever asked is gone

_WAL_HEADER_BYTES: Final = 32
_WAL_FRAME: Final = struct.Struct(">I4x8s8x")


_numbers: Final = itertools.count(1)  # by which a copy is told from the one before it


class Pages(NamedTuple):
    """Neighbouring pages of the file, and their content in base64."""

    page: int
    data: str


class PageCopy:
    """Which pages are still to be given out, of a copy that is being taken."""

    def __init__(self, database: Path, page_bytes: int) -> None:
        self.number = next(_numbers)
        self.page_bytes = page_bytes
        self.pages = 0
        self.slices = 0
        self.is_whole = False
        self.is_given_up = False
        self._unasked = 0  # checkpoints since somebody asked for pages
        self._path = database
        self._wal = database.with_name(database.name + "-wal")
        self._descriptor = _descriptor_of(database)
        # A byte for each page, 1 while it is to be read.  A single byte is written at
        # once, so that the thread that notes and the one that reads need no lock.
        self._wanted = bytearray()
        self._next = 0
        self._last: list[tuple[int, bytes]] = []
        self._grow()
        self._wanted[:] = b"\1" * len(self._wanted)

    @property
    def left(self) -> int:
        """How many pages are still to be given out."""
        return self._wanted.count(1) + len(self._last)

    def note(self) -> bool:
        """Take note of what the checkpoint that follows will write; False: no longer."""
        self._unasked += 1
        self.is_given_up = self.is_given_up or self._unasked > UNASKED_MAX
        if self.is_given_up:
            return False
        for page in wal_pages(self._wal, self.page_bytes):
            if page > len(self._wanted):
                self._wanted.extend(bytes(page - len(self._wanted)))
            self._wanted[page - 1] = 1
        return True

    def _grow(self) -> None:
        self.pages = os.fstat(self._descriptor).st_size // self.page_bytes
        if self.pages > len(self._wanted):
            self._wanted.extend(b"\1" * (self.pages - len(self._wanted)))
        for place in range(self.pages, len(self._wanted)):
            self._wanted[place] = 0  # the file was cut off before them

    def is_almost_done(self) -> bool:
        """Tell whether the rest can be read in one go."""
        return self.left <= LAST_PAGES and not self.is_whole

    def finish(self) -> None:
        """Read the rest, right behind a checkpoint that left nothing in the WAL."""
        self._grow()
        if self.left > LAST_PAGES:
            return  # that checkpoint wrote many pages: they are given out as the others
        self._last = self._read(self._take(LAST_PAGES), must_be_there=True)
        self.is_whole = True

    def next_slice(self) -> list[Pages]:
        """Return some pages; none, where only ``finish`` is left or all were given out.

        Blocks, and may run on any thread.
        """
        self.slices += 1
        self._unasked = 0
        if self._last:
            some, self._last = self._last[:SLICE_PAGES], self._last[SLICE_PAGES:]
        else:
            some = self._read(self._take(SLICE_PAGES), must_be_there=False)
        return _runs(some)

    def _take(self, limit: int) -> list[int]:
        """Return pages that are to be read next, which then are no longer wanted."""
        taken: list[int] = []
        while len(taken) < limit:
            place = self._wanted.find(1, self._next)
            if place < 0:
                if not self._next:
                    break
                self._next = 0
                continue
            # Before it is read: if it is written meanwhile it is wanted again.
            self._wanted[place] = 0
            taken.append(place + 1)
            self._next = place + 1
        return sorted(taken)

    def _read(self, pages: list[int], *, must_be_there: bool) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        for page in pages:
            data = os.pread(self._descriptor, self.page_bytes, (page - 1) * self.page_bytes)
            if len(data) != self.page_bytes:
                if must_be_there:
                    raise StorageFailedError(f"page {page} of {self._path} cannot be read")
                continue  # a checkpoint will write it, and then it is wanted again
            found.append((page, data))
        return found


class Copied(Protocol):
    """The database that is copied."""

    copy: PageCopy | None

    def checkpoint(self, mode: str) -> None:
        """Copy the WAL into the database, telling the copy of it before."""


def begin_copy(database: Copied, path: Path) -> PageCopy:
    """Begin a copy; runs on the connection's thread, as ``finish_copy`` does."""
    if database.copy is not None:
        database.copy.is_given_up = True
    copy = database.copy = PageCopy(path, PAGE_BYTES)
    return copy


def finish_copy(database: Copied, copy: PageCopy) -> None:
    """Checkpoint, and read the rest if that is little; the file needs no watching then."""
    database.checkpoint("PASSIVE")
    if copy.is_given_up:
        return
    copy.finish()
    if copy.is_whole:
        database.copy = None


def _runs(pages: list[tuple[int, bytes]]) -> list[Pages]:
    """Return *pages*, neighbours together."""
    runs: list[tuple[int, list[bytes]]] = []
    for page, data in pages:
        if runs and runs[-1][0] + len(runs[-1][1]) == page:
            runs[-1][1].append(data)
        else:
            runs.append((page, [data]))
    return [
        Pages(first, b2a_base64(b"".join(data), newline=False).decode("ascii"))
        for first, data in runs
    ]


def wal_pages(wal: Path, page_bytes: int) -> list[int]:
    """Return the pages that the WAL holds frames of."""
    try:
        descriptor = os.open(wal, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        salts = os.pread(descriptor, _WAL_HEADER_BYTES, 0)[16:24]
        pages: set[int] = set()
        at = _WAL_HEADER_BYTES
        while len(frame := os.pread(descriptor, _WAL_FRAME.size, at)) == _WAL_FRAME.size:
            page, found = _WAL_FRAME.unpack(frame)
            if found != salts:
                break  # left from before the WAL was begun anew
            pages.add(page)
            at += _WAL_FRAME.size + page_bytes
        return sorted(pages)
    finally:
        os.close(descriptor)


def _descriptor_of(database: Path) -> int:
    """Return the descriptor by which SQLite has the file open.

    A second one of our own could never be closed: that would drop SQLite's locks.
    """
    wanted = database.stat()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are all it needs
        try:
            found = os.fstat(int(name))
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return int(name)
    raise StorageFailedError(f"{database} is not open")
