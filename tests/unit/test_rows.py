"""Entries packed into rows, and back."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_journal.errors import DamagedError
from agent_journal.model import ITERATION_MAX, SEQUENCE_MAX, Micros, Sequence
from agent_journal.store.base import AgentNumber, Entry, NewEntry
from agent_journal.store.rows import ROW_BYTES_MAX, PackedRow, pack_rows
from agent_journal.store.runs import Run, unpacked

new_entries = st.builds(
    NewEntry,
    number=st.integers(1, SEQUENCE_MAX).map(AgentNumber),
    sequence=st.integers(0, SEQUENCE_MAX).map(Sequence),
    timestamp=st.integers(-(2**63), 2**63 - 1).map(Micros),
    iteration=st.integers(0, ITERATION_MAX),
    event=st.binary(max_size=20) | st.sampled_from([0, 60, 3000, 9000]).map(lambda n: b"x" * n),
    key=st.none() | st.text(min_size=1, max_size=64),
)
batches = st.lists(new_entries, min_size=1, max_size=12)


def expected(first: int, entries: list[NewEntry]) -> list[tuple[Entry, str | None]]:
    return [
        (
            Entry(e.number, e.sequence, position, e.timestamp, e.iteration, e.event),  # type: ignore[arg-type]
            e.key,
        )
        for position, e in enumerate(entries, first)
    ]


def opened(first: int, entries: list[NewEntry]) -> list[PackedRow]:
    return [PackedRow(*row) for row in pack_rows(first, entries)]


@given(first=st.integers(0, 2**62), entries=batches)
def test_what_is_packed_comes_out_again(first: int, entries: list[NewEntry]) -> None:
    rows = opened(first, entries)
    assert [found for row in rows for found in row.entries()] == expected(first, entries)
    for row in rows:
        for position in range(row.first_position, row.first_position + row.count):
            assert row.holds(position)
            assert row.entries_at([position])[0] == expected(first, entries)[position - first][0]
        assert not row.holds(row.first_position - 1)
        assert not row.holds(row.first_position + row.count)


@given(first=st.integers(0, 2**62), entries=batches)
def test_rows_follow_each_other_and_fit_into_a_page(first: int, entries: list[NewEntry]) -> None:
    """Only an entry that is larger than a page by itself makes a larger row."""
    rows = opened(first, entries)
    assert rows[0].first_position == first
    for row, following in pairwise(rows):
        assert row.first_position + row.count == following.first_position
    assert rows[-1].first_position + rows[-1].count == first + len(entries)
    assert all(len(row.data) <= ROW_BYTES_MAX or row.count == 1 for row in rows)


SEAL_BYTES = 4  # which a row that was swept keeps besides


@given(
    entries=st.lists(
        st.tuples(st.binary(max_size=3), st.none() | st.text(min_size=1, max_size=2)),
        min_size=1,
        max_size=6,
    ),
    removals=st.lists(st.sets(st.integers(0, 5), min_size=1), max_size=4),
)
def test_what_is_removed_is_gone_and_its_neighbours_keep_their_places(
    entries: list[tuple[bytes, str | None]], removals: list[set[int]]
) -> None:
    """Step by step, until nothing is left; a place may be removed twice."""
    first = 1000
    written = [
        NewEntry(AgentNumber(7), Sequence(n), Micros(n), n, event, key)
        for n, (event, key) in enumerate(entries)
    ]
    (row,) = opened(first, written)
    left = dict(enumerate(expected(first, written), first))
    for removal in [*removals, {*range(6)}]:
        removed = {first + place for place in removal if place < len(entries)}
        left = {place: entry for place, entry in left.items() if place not in removed}
        remaining = row.without(removed)
        if not left:
            assert remaining is None
            return
        assert remaining is not None
        assert len(remaining) <= len(row.data) + SEAL_BYTES
        row = PackedRow(first, remaining)
        assert [*row.entries()] == [*left.values()]
        assert all(row.entries_at([place]) == [entry] for place, (entry, _) in left.items())
        assert all(row.entries_at([place])[0].number == 0 for place in removed)


@given(data=st.binary(max_size=100))
def test_what_is_no_row_is_damage_or_is_read_within_its_bytes(data: bytes) -> None:
    """Whatever the disk gives back: no other error, and nothing made up."""
    try:
        found = [*PackedRow(7, data).entries()]
    except DamagedError:
        return
    assert all(len(entry.event) <= len(data) for entry, _ in found)


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 10, 40])
def test_a_row_that_was_cut_off_is_damage(cut: int) -> None:
    entry = NewEntry(AgentNumber(1), Sequence(0), Micros(0), 0, b'{"A":1}', "key")
    ((position, data),) = pack_rows(5, [entry])
    with pytest.raises(DamagedError, match="position 5"):
        PackedRow(position, data[:cut])


@pytest.mark.parametrize("kept", [41, 45, 50])
def test_a_row_whose_bodies_were_cut_off_is_damage(kept: int) -> None:
    """Never a shorter event than the one that was acknowledged."""
    entry = NewEntry(AgentNumber(1), Sequence(0), Micros(0), 0, b'{"A":1}', "key")
    ((position, data),) = pack_rows(5, [entry])
    assert kept < len(data)
    with pytest.raises(DamagedError, match="position 5"):
        list(PackedRow(position, data[:kept]).entries())


def test_a_row_whose_key_is_not_text_is_damage() -> None:
    entry = NewEntry(AgentNumber(1), Sequence(0), Micros(0), 0, b'{"A":1}', "key")
    ((position, data),) = pack_rows(5, [entry])
    with pytest.raises(DamagedError, match="position 5"):
        list(PackedRow(position, data.replace(b"key", b"k\xffy")).entries())


class TestRuns:
    @given(
        first_sequence=st.integers(0, 2**62),
        first=st.integers(0, 2**62),
        gaps=st.lists(st.integers(1, 3) | st.integers(1, 10**6), max_size=40),
        place=st.integers(0, 105),
    )
    def test_what_is_packed_comes_out_again(
        self, first_sequence: int, first: int, gaps: list[int], place: int
    ) -> None:
        positions = [first]
        for gap in gaps:
            positions.append(positions[-1] + gap)
        rows = [max(at - place, 0) for at in positions]
        run = Run(first_sequence, positions, rows)
        assert unpacked(*run.packed(9)[1:]) == run
        assert run.next_sequence == first_sequence + len(positions)

    @given(count=st.integers(1, 500), first=st.integers(0, 2**62), skip=st.integers(0, 499))
    def test_neighbours_need_no_bytes(self, count: int, first: int, skip: int) -> None:
        run = Run(3, range(first, first + count), None)
        assert run.packed(9) == (9, 3, count, first, b"", b"")
        assert unpacked(*run.packed(9)[1:]) == run
        rest = run.behind(skip % count)
        assert rest.first_sequence == 3 + skip % count
        assert rest.positions[0] == first + skip % count
        assert rest.next_sequence == run.next_sequence

    def test_neighbours_cost_nothing_however_many_they_are(self) -> None:
        """A page of a long history is read without counting through all of it."""
        run = unpacked(0, 2**40, 7, b"", b"").behind(2**39)
        assert run.positions[0] == 7 + 2**39
