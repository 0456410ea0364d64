"""Checkpoints: the WAL is copied into the database, and the sums follow.

SQLite begins its WAL anew with the first commit behind a checkpoint.  Until
then every page that the checkpoint wrote is still in the WAL, and so each
checkpoint ends with the sums of these pages and a mark, made durable, before
anything more is committed:

    copy the WAL into the database and sync it        (SQLite)
    read the WAL's frames, write the sums and the mark, sync them
    commit again: the WAL is begun anew

Invariant: at any crash, a page whose sum may be wrong is in the WAL.  The next
start takes such pages from the WAL, and sums them in a checkpoint of its own.

A checkpoint copies the frames that the one before did not, and sums no others:
the pages of those may have been wiped since, and the WAL has them as they were.

The frames are read by a descriptor of our own: nobody locks the WAL.  The
database's is held from before SQLite opens it until after it closed it, because
to close any descriptor of that file drops SQLite's locks.

Everything here runs on the connection's thread.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import struct
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ..errors import DamagedError, StorageFailedError, StorageFullError
from .page_sums import Flags, Mark, PageSums, page_sum, sums_path
from .rows import PAGE_BYTES
from .wal_scan import FRAME_HEADER_BYTES, HEADER_BYTES, Salts, scan, wal_path
from .wiping import Wipe

CHUNK_FRAMES: Final = 128
SCRUB_PAGES: Final = 64  # half a MiB, some half a millisecond

_HEADER_SALTS: Final = struct.Struct(">16xII")
_FRAME: Final = struct.Struct(">IIII")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

Execute = Callable[[str], sqlite3.Cursor]


class Checkpoints:
    """The WAL, the sums and the database's file, as checkpoints see them."""

    def __init__(self, execute: Execute, database: Path, descriptor: int) -> None:
        self.position = 0  # the next one, of what was committed
        self.is_behind = False  # nothing may be committed before the sums are written
        self.is_void = False  # nothing may be acknowledged before the WAL is marked
        self._execute = execute
        self._database = database
        self._descriptor = descriptor
        self._wal_path = wal_path(database)
        self._wal = -1
        self._sums: PageSums | None = None
        self._buffer = bytearray()
        self._had_rollback = False  # since the WAL was begun anew
        self._frames = 0  # of the WAL that are in the database
        self._summed: tuple[Salts, int] = ((0, 0), 0)  # and so many of which WAL are summed
        self.wipe: Wipe | None = None  # one that is going on

    @property
    def mark(self) -> Mark | None:
        """The newest mark; ``None`` before there are sums."""
        return None if self._sums is None else self._sums.mark

    def open_sums(self) -> bool:
        """Open the journal's sums; False: it has none yet."""
        try:
            self._sums = PageSums.open(sums_path(self._database), writable=True)
        except FileNotFoundError:
            return False
        return True

    def begin_sums(self, page_bytes: int, pages: int) -> None:
        """Begin the sums of a database whose WAL was just emptied."""
        self.close_sums()
        with _told(self._database):
            self._sums = PageSums.create(sums_path(self._database), page_bytes, unknown_pages=pages)

    def passive(self) -> None:
        """Copy the WAL into the database, and write the sums of its pages.

        Raises:
            StorageFullError: there is no room; nothing may be committed before there is.
        """
        self._mark_housekeeping()
        if self.wipe is not None:
            self.wipe.note()
        blocked, frames, copied = self._copy("PASSIVE")
        if blocked:
            raise StorageFailedError("SQLite could not checkpoint: it says busy")
        if frames > 0 and copied == frames:
            self._frames = frames
            self.is_behind = True
            self.finish()

    def _mark_housekeeping(self) -> None:
        """Have a WAL count again that nobody was told of, before any of it is copied.

        While the disk is full no entries are committed, but the index may be moved on.
        """
        if self.is_void and self._sums is not None and self._wal_path.exists():
            _, frames = self._durable_frames(self._sums.mark.page_bytes)
            if frames:
                self.mark_log(durably=True)

    def finish(self) -> None:
        """Write the sums of what the last checkpoint copied."""
        if self._sums is not None:
            with _told(self._database):
                self._write_sums(self._sums, self._frames)
        self.is_behind = False
        self._had_rollback = False

    def truncate(self) -> None:
        """Copy the WAL into the database, and leave an empty one."""
        self.passive()
        if self._sums is not None:
            mark = self._sums.mark
            self.is_void = True  # first: a mark that could not be synced may be there
            self._put_durably(mark._replace(flags=mark.flags | Flags.EMPTIED, frames=0))
        blocked, _, _ = self._copy("TRUNCATE")
        if blocked:
            raise StorageFailedError("SQLite could not empty its WAL: it says busy")

    def _copy(self, mode: str) -> tuple[int, int, int]:
        """Have SQLite copy; return whether it was blocked, frames in the WAL, and copied ones."""
        try:
            found: tuple[int, int, int] = self._execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            raise _no_room(self._database) from error
        return found

    def _write_sums(self, sums: PageSums, frames: int) -> None:
        mark = sums.mark
        salts = self._salts()
        summed = self._summed[1] if self._summed[0] == salts else 0
        found, pages = self._sums_of_frames(range(summed, frames), salts, mark)
        new = {page: summed for page, summed in found.items() if page <= pages}
        grown = range(mark.pages + 1, pages + 1)
        unwritten = [page for page in grown if page not in new]
        # The file was grown by pages that SQLite had no need to write.
        new.update(dict.fromkeys(unwritten, 0))
        sums.write(new)
        if unwritten or pages < mark.pages:
            sums.sync()  # the WAL does not tell of these: before a mark that does
        flags = Flags.CHECKPOINTED | (mark.flags & Flags.IN_FORCE)
        is_gone = os.fstat(self._wal).st_nlink == 0
        sums.put_mark(
            mark._replace(
                flags=flags | Flags.EMPTIED if is_gone else flags,
                pages=pages,
                unknown_last=min(mark.unknown_last, pages),
                salts=salts,
                frames=frames,
                position=self.position,
            )
        )
        sums.sync()
        self._summed = salts, frames
        if is_gone:
            raise StorageFailedError(
                f"{self._wal_path} was deleted while it was in use; all that it held is in the "
                "database now. Leave the journal's files alone while the daemon runs"
            )

    def _sums_of_frames(
        self, frames: range, salts: Salts, mark: Mark
    ) -> tuple[dict[int, int], int]:
        """Return the sums of the pages in *frames*, and of how many pages the database is then."""
        frame_bytes = FRAME_HEADER_BYTES + mark.page_bytes
        found: dict[int, int] = {}
        pages = mark.pages
        for first in frames[::CHUNK_FRAMES]:
            count = min(CHUNK_FRAMES, frames.stop - first)
            data = self._read(HEADER_BYTES + first * frame_bytes, count * frame_bytes)
            places: dict[int, int] = {}
            for at in range(0, count * frame_bytes, frame_bytes):
                page, pages, salt1, salt2 = _FRAME.unpack_from(data, at)
                if (salt1, salt2) != salts:
                    raise StorageFailedError(f"{self._wal_path} is not what was written to it")
                places[page] = at + FRAME_HEADER_BYTES
            for page, at in places.items():
                found[page] = page_sum(data[at : at + mark.page_bytes])
        return found, pages

    def _read(self, at: int, size: int) -> memoryview:
        """Read from the WAL, into memory that is kept for the next time."""
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        view = memoryview(self._buffer)[:size]
        if os.preadv(self._wal, [view], at) != size:
            raise StorageFailedError(f"{self._wal_path} is shorter than SQLite says")
        return view

    def _salts(self) -> Salts:
        """Return what tells the WAL that is in use from those before it."""
        if self._wal < 0:
            self._wal = os.open(self._wal_path, os.O_RDONLY | os.O_CLOEXEC)
        header = os.pread(self._wal, HEADER_BYTES, 0).ljust(HEADER_BYTES, b"\0")
        salt1, salt2 = _HEADER_SALTS.unpack_from(header)
        return salt1, salt2

    def note_rollback(self) -> None:
        """Take note that frames may lie in the WAL that nobody committed."""
        self._had_rollback = True

    def mark_log(self, *, durably: bool = False) -> None:
        """Write down how far the WAL has come, for who looks at it without us.

        Not made durable but at the start, where it says that from now on the journal
        is not served without its sums: if a later one is lost, the one before it
        holds, which says less.
        """
        if self._sums is None or (self._had_rollback and not durably):
            return
        mark = self._sums.mark
        salts, frames = self._durable_frames(mark.page_bytes)
        if self._had_rollback:
            frames = 0  # some of those may have been rolled back
        elif not frames or (salts, frames) == (mark.salts, mark.frames):
            return
        flags = Flags.IN_FORCE if durably else mark.flags & Flags.IN_FORCE
        new = mark._replace(flags=flags, salts=salts, frames=frames, position=self.position)
        if durably:
            self._put_durably(new)
        else:
            self._sums.put_mark(new)
        self.is_void = False

    def mark_void_log(self) -> None:
        """Have a WAL count again that something was just committed to, and be kept.

        Raises:
            StorageFailedError: nobody knows whether it will.
        """
        try:
            self.mark_log(durably=True)
        except StorageFullError as error:
            raise StorageFailedError(str(error)) from error

    def _durable_frames(self, page_bytes: int) -> tuple[Salts, int]:
        """Return how many frames were committed to the WAL that is in use."""
        salts = self._salts()
        at = HEADER_BYTES
        frames = committed = 0
        while len(raw := os.pread(self._wal, _FRAME.size, at)) == _FRAME.size:
            _, pages, *stated = _FRAME.unpack(raw)
            if stated != [*salts]:
                break
            frames += 1
            if pages:
                committed = frames
            at += FRAME_HEADER_BYTES + page_bytes
        return salts, committed

    def _put_durably(self, mark: Mark) -> None:
        assert self._sums is not None  # noqa: S101 - who calls this has looked
        with _told(self._database):
            self._sums.put_mark(mark)
            self._sums.sync()

    # Looking at the database's pages

    def sum_unknown(self, pages: int = SCRUB_PAGES) -> bool:
        """Sum some pages of a database that was there before its sums; False: none are left."""
        sums = self._sums
        if sums is None or sums.mark.unknown_first > sums.mark.unknown_last:
            return False
        mark = sums.mark
        first, size = mark.unknown_first, mark.page_bytes
        count = min(pages, mark.unknown_last + 1 - first)
        data = memoryview(os.pread(self._descriptor, count * size, (first - 1) * size))
        with _told(self._database):
            sums.write(
                {
                    first + place: page_sum(data[place * size : (place + 1) * size])
                    for place in range(len(data) // size)
                }
            )
            sums.sync()  # before a mark that says that they are known
            sums.put_mark(mark._replace(unknown_first=first + count))
        return True

    def scrub(self, now: int, checkpoint: Callable[[], None], pages: int = SCRUB_PAGES) -> int:
        """Look at some pages of the file, from where the last look ended.

        Returns how many there were; 0: that was the end, and the next look
        begins at the first page.  One that is wrong is looked at once more behind
        a *checkpoint*, which may write it anew.

        Raises:
            DamagedError: it is wrong still.
        """
        sums = self._sums
        if sums is None:
            return 0
        mark = sums.mark
        first = mark.scrub_page
        count = min(pages, mark.pages + 1 - first)
        if count <= 0:
            sums.put_mark(mark._replace(scrub_page=1, scrubbed_at=now))
            return 0
        self._look_at(sums, first, count, checkpoint)
        sums.put_mark(sums.mark._replace(scrub_page=first + count))
        return count

    def look_at(self, first: int, checkpoint: Callable[[], None]) -> tuple[int, int]:
        """Look at some pages from *first* on; return how many, and how many there are.

        Raises:
            DamagedError: one is not what was written.
        """
        sums = self._sums
        if sums is None:
            return 0, 0
        count = max(min(SCRUB_PAGES, sums.mark.pages + 1 - first), 0)
        if count:
            self._look_at(sums, first, count, checkpoint)
        return count, sums.mark.pages

    def _look_at(
        self, sums: PageSums, first: int, count: int, checkpoint: Callable[[], None]
    ) -> None:
        at, size = (first - 1) * sums.mark.page_bytes, count * sums.mark.page_bytes
        # From the disk, not from memory, where nothing else holds on to it.
        os.posix_fadvise(self._descriptor, at, size, os.POSIX_FADV_DONTNEED)
        if sums.mismatches(self._descriptor, first, count):
            in_log: Container[int] = ()
            try:
                checkpoint()
            except StorageFullError:
                # It may have written some of them: what counts is what the log has.
                in_log = scan(self._wal_path, page_bytes=sums.mark.page_bytes).latest
            wrong = [
                page
                for page in sums.mismatches(self._descriptor, first, count)
                if page not in in_log
            ]
            if wrong:
                raise DamagedError(
                    f"page {wrong[0]} is not what was written", part="page", page=wrong[0]
                )

    # Wiping the database's pages

    def begin_wipe(self) -> Wipe:
        """Begin to look for what was left behind in pages, whose sums are all known."""
        self.wipe = Wipe(self._database, self._descriptor, PAGE_BYTES)
        return self.wipe

    def write_wiped(self) -> None:
        """Overwrite what was found so far."""
        if self.wipe is not None:
            if self.is_behind:
                self.finish()  # or its sums of these pages would be put over those of the wipe
            with _told(self._database):
                self.wipe.write(self._sums)

    def finish_wipe(self) -> None:
        """Look at the rest, with nothing in the WAL, and drop what SQLite has in memory."""
        if self.wipe is not None:
            self.wipe.look(len(self.wipe))
            self.write_wiped()
        self._execute("PRAGMA shrink_memory").fetchall()

    def close_sums(self) -> None:
        """Close the sums."""
        if self._sums is not None:
            self._sums.close()
            self._sums = None

    def close(self) -> None:
        """Close what is open, when SQLite has closed the database."""
        self.close_sums()
        for descriptor in (self._wal, self._descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._wal = self._descriptor = -1


@contextmanager
def _told(database: Path) -> Iterator[None]:
    """Say what became of the file of sums in the journal's own terms."""
    try:
        yield
    except OSError as error:
        path = sums_path(database)
        if error.errno in _FULL:
            raise _no_room(path) from error
        raise StorageFailedError(f"{path} could not be written: {error}") from error


def _no_room(path: Path) -> StorageFullError:
    return StorageFullError(
        f"the disk that holds {path} is full; make room, then send the entry again"
    )
