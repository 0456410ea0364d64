"""Where the entries of a history lie in the log: a run of neighbouring sequences."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

from ..errors import DamagedError

_OFFSET_BYTES: Final = array("I").itemsize

# Each of such entries may lie in a row of its own, and more than so many rows are not
# read in one go: what is unpacked beyond that, each time would be unpacked in vain.
SCATTERED_ENTRIES: Final = 128

# Number, first sequence, count, first position, offsets to it, places in the rows.
PackedRun = tuple[int, int, int, int, bytes, bytes]


class Run(NamedTuple):
    """Entries from *first_sequence* on: their positions, and the rows that hold them.

    ``rows`` is ``None`` where the positions are neighbours, so the rows are too;
    such a run may be long, and as it is stored its positions are a ``range``.
    """

    first_sequence: int
    positions: Sequence[int]
    rows: list[int] | None

    @property
    def next_sequence(self) -> int:
        """The sequence behind the last one."""
        return self.first_sequence + len(self.positions)

    def behind(self, skip: int) -> Run:
        """Return the run without its first *skip* entries."""
        rows = None if self.rows is None else self.rows[skip:]
        return Run(self.first_sequence + skip, self.positions[skip:], rows)

    def packed(self, number: int) -> PackedRun:
        """Return the run as it is stored, as one of the history *number*."""
        first = self.positions[0]
        if self.rows is None:
            return number, self.first_sequence, len(self.positions), first, b"", b""
        offsets = array("I", [position - first for position in self.positions])
        places = bytes([at - row for at, row in zip(self.positions, self.rows, strict=True)])
        count = len(self.positions)
        return number, self.first_sequence, count, first, offsets.tobytes(), places


def unpacked(first_sequence: int, count: int, first: int, offsets: bytes, places: bytes) -> Run:
    """Return the run that was packed.

    Raises:
        DamagedError: it was not packed so.
    """
    return unpacked_from(first_sequence, count, first, offsets, places, skip=0, limit=count)


def unpacked_from(  # noqa: PLR0913 - the columns of a run, as they are
    first_sequence: int,
    count: int,
    first: int,
    offsets: bytes,
    places: bytes,
    *,
    skip: int,
    limit: int,
) -> Run:
    """Return the run that was packed from its entry *skip* on, with *limit* if it is scattered.

    Raises:
        DamagedError: it was not packed so.
    """
    if not offsets:
        return Run(first_sequence + skip, range(first + skip, first + count), None)
    if not len(offsets) == count * _OFFSET_BYTES == len(places) * _OFFSET_BYTES:
        raise DamagedError(f"the index from sequence {first_sequence} on is not what was written")
    end = skip + limit
    some = array("I", offsets[skip * _OFFSET_BYTES : end * _OFFSET_BYTES])
    positions = [first + offset for offset in some]
    rows = [at - place for at, place in zip(positions, places[skip:end], strict=True)]
    return Run(first_sequence + skip, positions, rows)
