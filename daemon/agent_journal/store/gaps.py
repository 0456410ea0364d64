"""Where entries were that are lost, and what is put in their places.

Sequences have no gaps and are never given twice, so what is lost must leave
something behind: an entry that says so, at its sequence, and at its position,
which the index still names.  Where the index does not reach, any position will
do that is lost, too, and lies between those of its neighbours.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from .layout import Layout
from .rows import PackedRow
from .verification import read_row

NOWHERE: Final = 2**63 - 1


class Gap(NamedTuple):
    """Neighbouring sequences of a history that are lost."""

    number: int
    first: int
    last: int
    behind: int  # the position of the entry before them
    before: int  # and of the entry behind them


@dataclass(slots=True)
class Survey:
    """What is readable of a log, and what is not."""

    gaps: list[Gap] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)  # positions, the second excluded
    ends: dict[int, tuple[int, int]] = field(default_factory=dict)  # next sequence, last position
    placed: dict[int, tuple[int, int]] = field(default_factory=dict)  # position: number, sequence
    unplaced: dict[int, int] = field(default_factory=dict)  # number: no further than this sequence


def readable_rows(layout: Layout) -> Iterator[PackedRow]:
    """Yield the rows of the log that are what was written, each position once."""
    expected = 0
    for position, data in layout.log():
        row = read_row(position, data) if position >= expected else None
        if row is not None:
            yield row
            expected = row.next_position


def survey(layout: Layout, next_position: int, settled: dict[int, int]) -> Survey:
    """See what is lost; *settled* says how many entries each history should have at least."""
    found = Survey()
    expected = 0
    for row in readable_rows(layout):
        if row.first_position > expected:
            found.lost.append((expected, row.first_position))
        expected = row.next_position
        for entry, _ in row.entries():
            following, last = found.ends.get(entry.number, (0, -1))
            if entry.sequence < following:
                continue
            if entry.sequence > following:
                gap = Gap(entry.number, following, entry.sequence - 1, last, entry.position)
                found.gaps.append(gap)
            found.ends[entry.number] = entry.sequence + 1, entry.position
    if next_position > expected:
        found.lost.append((expected, next_position))
    for number, count in settled.items():
        following, last = found.ends.get(number, (0, -1))
        if count > following:
            found.gaps.append(Gap(number, following, count - 1, last, NOWHERE))
    _place(layout, found)
    return found


def _place(layout: Layout, found: Survey) -> None:
    """Find a position for each sequence that is lost."""
    places = _Places(found)
    indexed = _indexed(layout, found.gaps)
    for gap in sorted(found.gaps, key=lambda gap: gap.before):
        behind = gap.behind
        for sequence in range(gap.first, gap.last + 1):
            wanted = indexed.get((gap.number, sequence), -1)
            if not behind < wanted < gap.before or not places.is_free(wanted):
                wanted = places.next_free(behind)
            if not behind < wanted < gap.before:
                end = found.unplaced.get(gap.number, sequence)
                found.unplaced[gap.number] = min(end, sequence)
                break
            found.placed[wanted] = gap.number, sequence
            behind = wanted


class _Places:
    """Positions that are lost and not yet taken."""

    def __init__(self, found: Survey) -> None:
        self._taken = found.placed
        self._starts = [first for first, _ in found.lost]
        self._spans = found.lost

    def is_free(self, position: int) -> bool:
        place = bisect_right(self._starts, position) - 1
        return place >= 0 and position < self._spans[place][1] and position not in self._taken

    def next_free(self, behind: int) -> int:
        place = max(bisect_left(self._starts, behind + 1) - 1, 0)
        for first, end in self._spans[place:]:
            for position in range(max(first, behind + 1), end):
                if position not in self._taken:
                    return position
        return NOWHERE


def _indexed(layout: Layout, gaps: list[Gap]) -> dict[tuple[int, int], int]:
    """Return where the index says that lost entries were."""
    by_number: dict[int, list[Gap]] = {}
    for gap in gaps:
        by_number.setdefault(gap.number, []).append(gap)
    found: dict[tuple[int, int], int] = {}
    for row in layout.index("runs"):
        match row:
            case [int(number), int(first), int(count), int(at), bytes(offsets), bytes()]:
                if offsets and len(offsets) != 4 * count:
                    continue
                behind = array("I", offsets) if offsets else range(count)
                for gap in by_number.get(number, []):
                    for sequence in range(max(gap.first, first), min(gap.last + 1, first + count)):
                        found[number, sequence] = at + behind[sequence - first]
            case _:
                pass
    return found
