"""A daemon on a real ext4 whose disk writes down all that it is told, and what a power cut leaves.

At a moment of the log, a disk holds what was flushed before it, and any part of
what came after: it has a cache of its own, and sectors of 512 bytes.  So that is
what is put into an image, mounted by the kernel (which replays its journal, as
after any power cut), and recovered.  Here nothing of the file system is modelled.

The client marks in the same log what it was answered.  The recorder runs too, only
to know which journals there were (``explorer.py``).
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from crash.power.disk import SECTOR

_RECORD: Final = struct.Struct("<cQI")
MARK: Final = b"K"


def mark(log: Path, answered: int) -> None:
    """Note in the log that request *answered* was, on whatever connection."""
    with log.open("ab", buffering=0) as file:
        file.write(_RECORD.pack(MARK, answered, 0))


@dataclass(frozen=True, slots=True)
class Written:
    """A write to the disk."""

    offset: int
    data: bytes


class LoggedDisk:
    """What a disk was told, and what it may be left with."""

    def __init__(self, log: Path, size: int) -> None:
        self._size = size
        self.events: list[Written | int | None] = []  # None: a flush; a number: an answer
        raw = log.read_bytes()
        at = 0
        while at < len(raw):
            kind, offset, length = _RECORD.unpack_from(raw, at)
            at += _RECORD.size
            if kind == b"W":
                self.events.append(Written(offset, raw[at : at + length]))
                at += length
            else:
                self.events.append(offset if kind == MARK else None)
        self._flushes = [at for at, event in enumerate(self.events) if event is None]

    def moments(self, count: int, random: Random) -> list[int]:
        """Return moments for a power cut, in order, from the first answer on.

        Most of them shortly before a flush, where the most is at stake.
        """
        first = next(at for at, event in enumerate(self.events) if isinstance(event, int))
        moments = []
        for _ in range(count):
            moment = random.randrange(first, len(self.events))
            if random.random() < 0.5:
                after = bisect_left(self._flushes, moment)
                moment = self._flushes[after] if after < len(self._flushes) else moment
            moments.append(moment)
        return sorted(moments)

    def answered(self, moment: int) -> list[int]:
        """Return the requests that had been answered."""
        return [event for event in self.events[:moment] if isinstance(event, int)]

    def images(self, moments: list[int], random: Random) -> Iterator[tuple[int, str, bytearray]]:
        """Yield for each moment an image, and in a word what became of what was not flushed."""
        flushed = bytearray(self._size)
        done = 0
        for moment in moments:
            last = bisect_left(self._flushes, moment) - 1
            end = self._flushes[last] if last >= 0 else 0
            for event in self.events[done:end]:
                if isinstance(event, Written):
                    flushed[event.offset : event.offset + len(event.data)] = event.data
            done = max(done, end)
            image = bytearray(flushed)
            how = random.choice(("none", "all", "some", "some", "sectors", "sectors"))
            share = random.choice((0.1, 0.5, 0.9))
            for event in self.events[end:moment]:
                if isinstance(event, Written):
                    _put(image, event, how, share, random)
            yield moment, how, image


def _put(image: bytearray, write: Written, how: str, share: float, random: Random) -> None:
    if how == "all" or (how == "some" and random.random() < share):
        image[write.offset : write.offset + len(write.data)] = write.data
    elif how == "sectors":
        for at in range(0, len(write.data), SECTOR):
            if random.random() < share:
                piece = write.data[at : at + SECTOR]
                image[write.offset + at : write.offset + at + len(piece)] = piece
