"""What a write-ahead log holds, seen before SQLite opens it.

SQLite reads a WAL up to the first frame whose checksum is wrong, and takes the
rest for the torn end of a transaction that was never committed.  After a power
cut that is right.  But a bit that flips in the middle of the WAL looks the same
to it, and silently drops every later commit.  This scan tells them apart.

Each commit is synced before the next begins, so at most one transaction, the
last, can be torn, and **in a state that a power cut can leave, nothing follows a
commit frame that lies at or behind the first bad frame**.  Where a frame does
follow one, by its checksum, what was acknowledged is rotten, and the WAL is
damaged.  Frames left by a transaction that was rolled back have the same salts,
but do not follow: their checksums continue another frame.

A commit frame is believed to be one when its own checksum holds, or when its
header lies in one sector, which a power cut writes whole or not at all: the
frame behind it proves that the header's checksum was written, hence the rest.

What cannot be seen here: damage in the last transaction, which looks as if it
had been torn (the mark in ``page_sums`` says whether it had been acknowledged);
and in the last but one, damage to a commit frame whose header is cut by a
sector's boundary behind its eighth byte (one frame in 64), or that makes a
commit frame say that it is none.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from .wal_checksum import ByteOrder, Checksum, behind, checksum_of, frame_sums

WAL_SUFFIX: Final = "-wal"
HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24
SECTOR_BYTES: Final = 512
CHUNK_FRAMES: Final = 128

_HEADER: Final = struct.Struct(">IIIIIIII")
_FRAME: Final = struct.Struct(">IIIIII")
_MAGIC: Final = 0x377F0682  # the lowest bit set: checksums of big-endian words
_VERSION: Final = 3_007_000

Salts = tuple[int, int]
Progress = Callable[[int, int], None]  # bytes looked at, bytes in all


class Frame(NamedTuple):
    """A frame's header."""

    page: int
    pages: int  # of the database from this commit on; 0: not the end of a transaction
    salts: Salts
    checksum: Checksum


@dataclass(frozen=True, slots=True, kw_only=True)
class WalVerdict:
    """What SQLite would recover from a WAL, and whether it may."""

    path: Path
    size_bytes: int = 0  # 0: there is no WAL, or an empty one
    has_header: bool = False  # False: SQLite would take it for empty
    page_bytes: int = 0
    salts: Salts = (0, 0)
    frames: int = 0  # up to the last commit
    commits: int = 0
    pages: int = 0  # of the database behind the last commit
    latest: dict[int, int] = field(default_factory=dict)  # page: its last committed frame
    torn_frames: int = 0  # behind the last commit: of a transaction that was not committed
    damage: str | None = None  # what is wrong, if no power cut can have left it so

    @property
    def is_damaged(self) -> bool:
        """Tell whether SQLite would silently drop what was acknowledged."""
        return self.damage is not None

    def offset_of(self, frame: int) -> int:
        """Return where a frame's page lies in the WAL."""
        return HEADER_BYTES + frame * (FRAME_HEADER_BYTES + self.page_bytes) + FRAME_HEADER_BYTES

    def pages_in(self) -> Iterator[tuple[int, bytes]]:
        """Yield each page that the WAL holds, with its last content."""
        if not self.latest:
            return
        with self.path.open("rb") as log:
            for page, frame in sorted(self.latest.items(), key=lambda item: item[1]):
                log.seek(self.offset_of(frame))
                yield page, log.read(self.page_bytes)

    def page(self, page: int) -> bytes | None:
        """Return the last content of a page, if the WAL holds it."""
        frame = self.latest.get(page)
        if frame is None:
            return None
        with self.path.open("rb") as log:
            log.seek(self.offset_of(frame))
            return log.read(self.page_bytes)


def wal_path(database: Path) -> Path:
    """Return where the WAL of *database* is."""
    return database.with_name(database.name + WAL_SUFFIX)


def scan(
    path: Path, *, page_bytes: int | None = None, on_progress: Progress | None = None
) -> WalVerdict:
    """Look through the WAL at *path*, of a database with pages of *page_bytes*.

    Opens nothing else and changes nothing.  A WAL that is not there is an empty one.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return WalVerdict(path=path)
    try:
        return _Scan(path, descriptor, page_bytes, on_progress).verdict()
    finally:
        os.close(descriptor)


class _Scan:
    """One look through a WAL."""

    def __init__(
        self, path: Path, descriptor: int, page_bytes: int | None, on_progress: Progress | None
    ) -> None:
        self._path = path
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._on_progress = on_progress
        header = os.pread(descriptor, HEADER_BYTES, 0).ljust(HEADER_BYTES, b"\0")
        magic, version, size, _, salt1, salt2, sum1, sum2 = _HEADER.unpack(header)
        self._order: ByteOrder = "big" if magic & 1 else "little"
        self._salts = salt1, salt2
        self._stated = sum1, sum2  # the header's checksum, and what it should be
        self._computed = checksum_of(header[:24], self._order)
        self._has_header = (
            self._size >= HEADER_BYTES
            and magic & ~1 == _MAGIC
            and version == _VERSION
            and size in _PAGE_SIZES
            and self._stated == self._computed
        )
        self._is_foreign = self._has_header and page_bytes is not None and size != page_bytes
        self._page_bytes = size if self._has_header else page_bytes or size
        self._frame_bytes = FRAME_HEADER_BYTES + self._page_bytes
        self._frames: list[Frame] = []
        self._added: list[Checksum] = []  # what each frame adds to a checksum

    def verdict(self) -> WalVerdict:
        if self._is_foreign:
            return self._verdict(damage="its header names another page size than the database's")
        if self._page_bytes not in _PAGE_SIZES:
            return self._verdict()  # nothing that could be read as a WAL
        self._frames = self._headers()
        if not self._has_header:
            return self._verdict(damage=self._damage_without_header())
        alive = [place for place, frame in enumerate(self._frames) if frame.salts == self._salts]
        count = alive[-1] + 1 if alive else 0
        self._added = self._sums(count)
        sound, before = self._sound_frames(count)
        latest: dict[int, int] = {}
        committed = commits = pages = 0
        for place in range(sound):
            if self._frames[place].pages:
                latest |= {self._frames[at].page: at for at in range(committed, place + 1)}
                committed, commits, pages = place + 1, commits + 1, self._frames[place].pages
        return self._verdict(
            frames=committed,
            commits=commits,
            pages=pages,
            latest={page: at for page, at in latest.items() if page <= pages},
            torn_frames=count - committed,
            damage=self._damage_behind(sound, before, count),
        )

    def _verdict(self, **found: object) -> WalVerdict:
        return WalVerdict(
            path=self._path,
            size_bytes=self._size,
            has_header=self._has_header,
            page_bytes=self._page_bytes,
            salts=self._salts,
            **found,  # type: ignore[arg-type] # by name, all of them this module's
        )

    def _headers(self) -> list[Frame]:
        frames: list[Frame] = []
        for place in range((self._size - HEADER_BYTES) // self._frame_bytes):
            at = HEADER_BYTES + place * self._frame_bytes
            raw = os.pread(self._descriptor, FRAME_HEADER_BYTES, at)
            page, pages, salt1, salt2, sum1, sum2 = _FRAME.unpack(raw)
            frames.append(Frame(page, pages, (salt1, salt2), (sum1, sum2)))
        return frames

    def _sums(self, count: int) -> list[Checksum]:
        sums: list[Checksum] = []
        for first in range(0, count, CHUNK_FRAMES):
            some = min(CHUNK_FRAMES, count - first)
            at = HEADER_BYTES + first * self._frame_bytes
            data = os.pread(self._descriptor, some * self._frame_bytes, at)
            sums += frame_sums(data, self._frame_bytes, FRAME_HEADER_BYTES, self._order)
            if self._on_progress is not None:
                self._on_progress(at + len(data), self._size)
        return sums

    def _behind(self, before: Checksum, place: int) -> Checksum:
        """Return what the checksum of a frame is behind *before*."""
        return behind(before, self._added[place], self._page_bytes + 8)

    def _sound_frames(self, count: int) -> tuple[int, Checksum]:
        """Return how many frames SQLite would read, and the checksum behind them."""
        before = self._stated
        for place in range(count):
            frame = self._frames[place]
            checksum = self._behind(before, place)
            if frame.salts != self._salts or not frame.page or checksum != frame.checksum:
                return place, before
            before = checksum
        return count, before

    def _damage_behind(self, bad: int, before: Checksum, count: int) -> str | None:
        """Say what is wrong if a commit at or behind the first bad frame is followed."""
        for place in range(bad, count - 1):
            if not self._frames[place].pages:
                continue
            follower = self._frames[place + 1]
            if follower.salts != self._salts:
                continue
            is_sound = self._is_sound(place)
            follows = self._behind(self._frames[place].checksum, place + 1) == follower.checksum
            if place == bad and not follows:
                # Only the checksum that it states may be wrong.
                whole = self._behind(before, place)
                is_sound = follows = self._behind(whole, place + 1) == follower.checksum
            if follows and (is_sound or self._is_of_one_write(place)):
                return (
                    f"frame {bad} (at byte {HEADER_BYTES + bad * self._frame_bytes}) is not what "
                    f"was written, and commits lie behind it"
                )
        return None

    def _is_sound(self, place: int) -> bool:
        before = self._frames[place - 1].checksum if place else self._stated
        return self._behind(before, place) == self._frames[place].checksum

    def _is_of_one_write(self, place: int) -> bool:
        """Tell whether a frame's mark of a commit was written with its checksum."""
        begin = HEADER_BYTES + place * self._frame_bytes
        sector = begin // SECTOR_BYTES
        if sector == (begin + FRAME_HEADER_BYTES - 1) // SECTOR_BYTES:
            return True
        with_salts = sector == (begin + 15) // SECTOR_BYTES
        return with_salts and self._frames[place].salts == self._salts

    def _damage_without_header(self) -> str | None:
        """Say what is wrong if frames follow what is no header, or each other.

        The header lies in one sector and is synced before any frame: no power
        cut leaves a bad one in front of good frames.
        """
        self._added = []
        for order in ("little", "big"):
            self._order = order
            self._added = self._sums(len(self._frames))
            for place, frame in enumerate(self._frames):
                befores = [self._stated, self._computed]
                if place:
                    befores = [self._frames[place - 1].checksum]
                    if self._frames[place - 1].salts != frame.salts:
                        continue
                if frame.page and any(self._behind(at, place) == frame.checksum for at in befores):
                    return "its header is not what was written, and frames lie behind it"
        return None


_PAGE_SIZES: Final = frozenset(1 << power for power in range(9, 17))
