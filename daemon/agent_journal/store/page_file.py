"""A database's pages as they stand on the disk, its WAL laid over them, without SQLite.

For who looks at a journal that may be damaged: nothing is opened for writing, no
file is made beside it, and what cannot be read is an answer and not an end.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final, Self

from .wal_scan import WalVerdict, scan, wal_path

MAGIC: Final = b"SQLite format 3\0"
HEADER_BYTES: Final = 100
TRUNK_BYTES: Final = 8
PENDING_BYTE: Final = 1 << 30  # SQLite's locks are on bytes there, in a page that it leaves alone
LARGEST_ROOT_AT: Final = 52  # 0: there are no pointer maps (fileformat2.html, 1.3.12)
POINTER_BYTES: Final = 5  # of a pointer map, for each page behind it

_FREELIST: Final = struct.Struct(">II")  # at byte 32: the first trunk, and how many are free


class PageFile:
    """A database file and its WAL, for reading only."""

    def __init__(self, database: Path) -> None:
        """Open *database*.

        Raises:
            OSError: it cannot be opened.
        """
        self.path = database
        self._descriptor = os.open(database, os.O_RDONLY | os.O_CLOEXEC)
        self.size_bytes = os.fstat(self._descriptor).st_size
        self.wal: WalVerdict = scan(wal_path(database))
        header = self._header()
        stated = int.from_bytes(header[16:18], "big")
        self.page_bytes = 65536 if stated == 1 else stated
        self.has_header = header.startswith(MAGIC) and self.page_bytes >= 512  # noqa: PLR2004
        if self.page_bytes < 512 or self.page_bytes & (self.page_bytes - 1):  # noqa: PLR2004
            self.page_bytes = self.wal.page_bytes or 8192
        self.usable_bytes = self.page_bytes - (header[20] if self.has_header else 0)
        in_file = -(-self.size_bytes // self.page_bytes)
        self.pages = self.wal.pages or in_file
        self._log = os.open(self.wal.path, os.O_RDONLY | os.O_CLOEXEC) if self.wal.latest else None

    def _header(self) -> bytes:
        over = self.wal.page(1)
        header = over if over is not None else os.pread(self._descriptor, HEADER_BYTES, 0)
        return header[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0")

    def page(self, number: int) -> bytes:
        """Return a page; shorter than it should be where the file ends."""
        frame = self.wal.latest.get(number)
        if frame is not None and self._log is not None:
            return os.pread(self._log, self.page_bytes, self.wal.offset_of(frame))
        return os.pread(self._descriptor, self.page_bytes, (number - 1) * self.page_bytes)

    def service_pages(self) -> set[int]:
        """Return the pages that are SQLite's own: pointer maps, and the one with its locks."""
        lock_page = PENDING_BYTE // self.page_bytes + 1
        found = {lock_page} if lock_page <= self.pages else set()
        if int.from_bytes(self._header()[LARGEST_ROOT_AT : LARGEST_ROOT_AT + 4], "big"):
            for first in range(2, self.pages + 1, self.usable_bytes // POINTER_BYTES + 1):
                found.add(first + (first == lock_page))
        return found

    def free_pages(self) -> set[int]:
        """Return the pages that the database does not use, as far as the list of them is sound."""
        trunk, count = _FREELIST.unpack_from(self._header(), 32)
        free: set[int] = set()
        while trunk and trunk not in free and trunk <= self.pages and len(free) < count:
            free.add(trunk)
            page = self.page(trunk)
            if len(page) < self.page_bytes:
                break
            following, leaves = struct.unpack_from(">II", page)
            leaves = min(leaves, (self.page_bytes - TRUNK_BYTES) // 4)
            free.update(struct.unpack_from(f">{leaves}I", page, TRUNK_BYTES))
            trunk = following
        return free

    def close(self) -> None:
        """Close the files."""
        os.close(self._descriptor)
        if self._log is not None:
            os.close(self._log)
            self._log = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
