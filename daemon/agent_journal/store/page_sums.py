"""A checksum of each page of the database, in a file beside it.

SQLite does not notice most bits that flip in its file.  ``journal.db-sums``
holds a CRC-32 of every page as it was last checkpointed, in blocks of one
sector each, which end in a checksum of their own.  A page of zeros has the sum
0, so what a file that grows is filled with is right.

In front of the sums lies the *mark*: how far the journal had come when it was
written, so that a WAL or a database that was lost, or replaced by an older one,
is noticed.  It has two slots that are written in turn: a torn write leaves the
other one.  A mark is written after what it tells of is durable, so it may be
behind what is there, and never ahead of it.

Nothing here knows SQLite.  ``checkpoints`` says when sums are written, and why a
crash at any moment leaves none that is wrong; ``integrity`` compares.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import IntFlag
from functools import cache
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from ..errors import DamagedError
from .crc import crc_of

SUMS_SUFFIX: Final = "-sums"
BLOCK_BYTES: Final = 512  # a sector: a power cut writes it whole or not at all
SUMS_PER_BLOCK: Final = BLOCK_BYTES // 4 - 1
HEADER_BYTES: Final = 4096
GROWTH_BYTES: Final = 64 * 1024  # set aside at once, so that a full disk is met rarely
CHUNK_PAGES: Final = 128

_MAGIC: Final = b"AjrnSums"
_VERSION: Final = 1
_SLOT_BYTES: Final = HEADER_BYTES // 2
_MARK: Final = struct.Struct("<8sIIIQIIIIIIQIq")
_CRC: Final = struct.Struct("<I")
_BLOCK: Final = struct.Struct(f"<{SUMS_PER_BLOCK + 1}I")
_NO_SUMS: Final = bytes(BLOCK_BYTES - 4)

Progress = Callable[[int, int], None]  # bytes looked at, bytes in all


class Flags(IntFlag):
    """What a mark says besides its numbers."""

    IN_FORCE = 1  # the journal is not served without its sums
    EMPTIED = 2  # the WAL may be gone or empty: all of it is in the database
    CHECKPOINTED = 4  # all of the named WAL is in the database, and the sums tell so


class Mark(NamedTuple):
    """How far the journal had come."""

    page_bytes: int
    flags: Flags = Flags(0)
    counter: int = 0  # of marks; the higher one counts
    pages: int = 0  # of the database at the last checkpoint
    unknown_first: int = 1  # pages between these two are still to be summed
    unknown_last: int = 0
    salts: tuple[int, int] = (0, 0)  # which WAL was in use
    frames: int = 0  # of it that were durable
    position: int = 0  # the next one, when this was written
    scrub_page: int = 1  # where the scrub goes on
    scrubbed_at: int = 0  # when it last came to the end, in microseconds; 0: never


def sums_path(database: Path) -> Path:
    """Return where the sums of *database* are."""
    return database.with_name(database.name + SUMS_SUFFIX)


def page_sum(page: bytes | memoryview) -> int:
    """Return the sum of a page, which of a page of zeros is 0."""
    return crc_of(page) ^ _sum_of_zeros(len(page))


@cache
def _sum_of_zeros(size: int) -> int:
    return zlib.crc32(bytes(size))


def _check_of(content: bytes, block: int) -> int:
    """Return the checksum of a block; of one that was never written it is 0."""
    return zlib.crc32(content, block) if content != _NO_SUMS else 0


class PageSums:
    """A file of sums, opened."""

    def __init__(self, path: Path, descriptor: int, mark: Mark) -> None:
        self.path = path
        self.mark = mark
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size

    @classmethod
    def create(cls, path: Path, page_bytes: int, *, unknown_pages: int = 0) -> PageSums:
        """Make a file that knows no sums yet, in place of one that is there.

        It is durable, and so is its name, when this returns.  The first
        *unknown_pages* are those of a database that was there before.
        """
        mark = Mark(page_bytes, Flags.EMPTIED, pages=unknown_pages, unknown_last=unknown_pages)
        new = path.with_name(path.name + ".new")
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        sums = cls(path, descriptor, mark)
        try:
            os.pwrite(descriptor, bytes(HEADER_BYTES), 0)
            sums.put_mark(mark)
            os.fsync(descriptor)
            new.replace(path)
            sync_directory(path.parent)
        except BaseException:
            sums.close()
            raise
        return sums

    @classmethod
    def open(cls, path: Path, *, writable: bool = False) -> PageSums:
        """Open a file of sums.

        Raises:
            FileNotFoundError: there is none.
            DamagedError: it has no mark that can be read.
        """
        mode = os.O_RDWR if writable else os.O_RDONLY
        descriptor = os.open(path, mode | os.O_CLOEXEC)
        try:
            return cls(path, descriptor, _newest_mark(path, descriptor))
        except BaseException:
            os.close(descriptor)
            raise

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()

    def is_known(self, page: int) -> bool:
        """Tell whether the sum of a page says anything yet."""
        mark = self.mark
        return page <= mark.pages and not mark.unknown_first <= page <= mark.unknown_last

    def put_mark(self, mark: Mark) -> None:
        """Write a mark in place of the older one; ``sync`` makes it durable."""
        mark = mark._replace(counter=self.mark.counter + 1)
        content = _MARK.pack(
            _MAGIC,
            _VERSION,
            mark.page_bytes,
            mark.flags,
            mark.counter,
            mark.pages,
            mark.unknown_first,
            mark.unknown_last,
            *mark.salts,
            mark.frames,
            mark.position,
            mark.scrub_page,
            mark.scrubbed_at,
        )
        slot = content + _CRC.pack(zlib.crc32(content))
        _write(self._descriptor, slot, mark.counter % 2 * _SLOT_BYTES)
        self.mark = mark

    def sync(self) -> None:
        """Make durable what was written."""
        os.fdatasync(self._descriptor)

    def read(self, first_page: int, count: int) -> list[int]:
        """Return the sums of neighbouring pages.

        Raises:
            DamagedError: they are not what was written.
        """
        sums: list[int] = []
        page = first_page
        while len(sums) < count:
            block, place = divmod(page - 1, SUMS_PER_BLOCK)
            some = self._block(block)[place : place + count - len(sums)]
            sums += some
            page += len(some)
        return sums

    def write(self, sums: Mapping[int, int]) -> None:
        """Put the sums of pages; ``sync`` makes them durable.

        Raises:
            DamagedError: those beside them are not what was written.
        """
        for block, pages in groupby(sorted(sums), key=lambda page: (page - 1) // SUMS_PER_BLOCK):
            content = self._block(block)
            for page in pages:
                content[(page - 1) % SUMS_PER_BLOCK] = sums[page]
            self._put_block(block, content)

    def _block(self, block: int) -> list[int]:
        raw = os.pread(self._descriptor, BLOCK_BYTES, HEADER_BYTES + block * BLOCK_BYTES)
        raw = raw.ljust(BLOCK_BYTES, b"\0")
        *sums, check = _BLOCK.unpack(raw)
        if check != _check_of(raw[:-4], block):
            raise DamagedError(
                f"{self.path} is damaged: the sums of the pages from "
                f"{block * SUMS_PER_BLOCK + 1} on are not what was written"
            )
        return sums

    def _put_block(self, block: int, sums: list[int]) -> None:
        content = _BLOCK.pack(*sums, 0)[:-4]
        check = _check_of(content, block)
        at = HEADER_BYTES + block * BLOCK_BYTES
        if at + BLOCK_BYTES > self._size:
            os.posix_fallocate(self._descriptor, self._size, at + GROWTH_BYTES - self._size)
            self._size = at + GROWTH_BYTES
        _write(self._descriptor, content + _CRC.pack(check), at)

    def mismatches(
        self, database: int, first_page: int, count: int, *, skip: Collection[int] = ()
    ) -> list[int]:
        """Return which of neighbouring pages of the file *database* differ from their sums.

        Those in *skip* are not looked at, nor those whose sums are not known.

        Raises:
            DamagedError: the sums themselves are not what was written.
        """
        size = self.mark.page_bytes
        count = min(count, self.mark.pages + 1 - first_page)
        if count <= 0:
            return []
        sums = self.read(first_page, count)
        data = memoryview(_pages(database, first_page, count, size))
        wrong: list[int] = []
        for place, expected in enumerate(sums):
            page = first_page + place
            if page in skip or not self.is_known(page):
                continue
            content = data[place * size : (place + 1) * size]
            if len(content) != size or page_sum(content) != expected:
                wrong.append(page)
        return wrong

    def all_mismatches(
        self,
        database: int,
        *,
        skip: Collection[int] = (),
        on_progress: Progress | None = None,
    ) -> Iterator[int]:
        """Yield every page of the file *database* that differs from its sum."""
        size, pages = self.mark.page_bytes, self.mark.pages
        for first in range(1, pages + 1, CHUNK_PAGES):
            yield from self.mismatches(database, first, CHUNK_PAGES, skip=skip)
            if on_progress is not None:
                on_progress(min(first + CHUNK_PAGES - 1, pages) * size, pages * size)

    def add_whole_file(
        self, database: int, *, position: int = 0, on_progress: Progress | None = None
    ) -> None:
        """Sum the whole of a database that nobody has open and that has no WAL, durably."""
        size = self.mark.page_bytes
        pages = os.fstat(database).st_size // size
        for first in range(1, pages + 1, CHUNK_PAGES):
            data = memoryview(os.pread(database, CHUNK_PAGES * size, (first - 1) * size))
            count = len(data) // size
            self.write(
                {first + at: page_sum(data[at * size : (at + 1) * size]) for at in range(count)}
            )
            if on_progress is not None:
                on_progress((first + count - 1) * size, pages * size)
        self.sync()  # before a mark that says that they are known
        self.put_mark(
            Mark(
                size,
                Flags.IN_FORCE | Flags.EMPTIED,
                self.mark.counter,
                pages=pages,
                position=position,
            )
        )
        self.sync()


def _pages(database: int, first_page: int, count: int, size: int) -> bytes:
    """Return neighbouring pages; one that the disk can't read is as good as none."""
    try:
        return os.pread(database, count * size, (first_page - 1) * size)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    if count == 1:
        return b"\0unreadable".ljust(size, b"\xff")
    return b"".join(_pages(database, first_page + at, 1, size) for at in range(count))


def _newest_mark(path: Path, descriptor: int) -> Mark:
    header = os.pread(descriptor, HEADER_BYTES, 0)
    marks: list[Mark] = []
    for start in (0, _SLOT_BYTES):
        content = header[start : start + _MARK.size]
        check = header[start + _MARK.size : start + _MARK.size + _CRC.size]
        if len(check) != _CRC.size or _CRC.unpack(check)[0] != zlib.crc32(content):
            continue
        magic, version, page_bytes, flags, counter, pages, first, last, *rest = _MARK.unpack(
            content
        )
        salt1, salt2, frames, position, scrub_page, scrubbed_at = rest
        if magic == _MAGIC and version == _VERSION:
            marks.append(
                Mark(
                    page_bytes,
                    Flags(flags),
                    counter,
                    pages,
                    first,
                    last,
                    (salt1, salt2),
                    frames,
                    position,
                    scrub_page,
                    scrubbed_at,
                )
            )
    if not marks:
        raise DamagedError(f"{path} is damaged: it has no mark that can be read")
    return max(marks, key=lambda mark: mark.counter)


def _write(descriptor: int, content: bytes, at: int) -> None:
    rest = memoryview(content)
    while rest:  # a disk that fills up takes a part; the next write says why
        written = os.pwrite(descriptor, rest, at)
        rest = rest[written:]
        at += written


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
