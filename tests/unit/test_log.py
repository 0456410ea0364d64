"""The entries of a run, out of rows of any shape."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_journal.errors import DamagedError
from agent_journal.model import Micros, Sequence
from agent_journal.store.base import AgentNumber, Entry, NewEntry
from agent_journal.store.log import Log
from agent_journal.store.rows import FORMAT_UNSEALED, PAGE_BYTES, Row, pack_rows, seal_of
from agent_journal.store.runs import Run
from agent_journal.store.sql import QUERIES

SEALED = struct.Struct("<BIHI")  # format, checksum, count, previous
EVENT_BYTES = st.sampled_from([0, 9, 900, 5000, PAGE_BYTES, 3 * PAGE_BYTES])


def batch_of(sizes: list[int], first: int) -> list[NewEntry]:
    return [
        NewEntry(
            AgentNumber(7), Sequence(at), Micros(at), at, b"x" * size, "key" if at % 2 else None
        )
        for at, size in enumerate(sizes, first)
    ]


def rows_of(batches: list[list[int]]) -> list[Row]:
    """Return what each of *batches*, by the lengths of its events, leaves in the log."""
    rows: list[Row] = []
    first = seal = 0
    for sizes in batches:
        rows += pack_rows(first, batch_of(sizes, first), seal)
        first, seal = first + len(sizes), seal_of(rows[-1][1])
    return rows


def unsealed(data: bytes) -> bytes:
    """Return a row as it was written before there were checksums: format 1, count, the rest."""
    _, _, count, _ = SEALED.unpack_from(data)
    return struct.pack("<BH", FORMAT_UNSEALED, count) + data[SEALED.size :]


def read(rows: list[Row], start: int, end: int) -> Iterator[Entry]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE log (position INTEGER PRIMARY KEY, data BLOB)")
        connection.executemany("INSERT INTO log VALUES (?, ?)", rows)
        log = Log(lambda name, *values: connection.execute(QUERIES[name], values))
        for entries in log.entries_by_row(Run(start, range(start, end), None), end - start):
            assert entries, "nothing is handed on for nothing"
            yield from entries


@given(
    batches=st.lists(st.lists(EVENT_BYTES, min_size=1, max_size=3), min_size=1, max_size=30),
    data=st.data(),
)
def test_neighbours_are_those_that_were_written(
    batches: list[list[int]], data: st.DataObject
) -> None:
    """However many of them lie in a row, and wherever one begins and ends."""
    sizes = [size for batch in batches for size in batch]
    start = data.draw(st.integers(0, len(sizes) - 1))
    end = data.draw(st.integers(start + 1, len(sizes)))
    written = [
        Entry(e.number, e.sequence, at, e.timestamp, e.iteration, e.event)  # type: ignore[arg-type]
        for at, e in enumerate(batch_of(sizes, 0))
    ]
    assert [*read(rows_of(batches), start, end)] == written[start:end]


@pytest.mark.parametrize("size", [1, 2], ids=["lone", "together"])
class TestDamage:
    """Of the rows in the middle of a run; what comes before it is read."""

    BATCHES = 9
    PLACE = 5

    def rows(self, size: int) -> list[Row]:
        return rows_of([[40] * size] * self.BATCHES)

    def check(self, rows: list[Row], size: int) -> None:
        # Not to the last row: what has moved up must not be taken for what is missing.
        before, end = self.PLACE * size, (self.BATCHES - 1) * size
        assert len([*read(rows, 0, before)]) == before
        with pytest.raises(DamagedError):
            list(read(rows, 0, end))

    def test_none_of_it(self, size: int) -> None:
        assert len([*read(self.rows(size), 0, self.BATCHES * size)]) == self.BATCHES * size

    def test_a_row_is_missing(self, size: int) -> None:
        rows = self.rows(size)
        del rows[self.PLACE]
        self.check(rows, size)

    def test_the_log_ends_there(self, size: int) -> None:
        self.check(self.rows(size)[: self.PLACE], size)

    def test_two_rows_changed_places(self, size: int) -> None:
        rows = self.rows(size)
        (first, one), (second, other) = rows[self.PLACE : self.PLACE + 2]
        rows[self.PLACE : self.PLACE + 2] = [(first, other), (second, one)]
        self.check(rows, size)

    def test_a_row_is_that_of_another_journal(self, size: int) -> None:
        rows = self.rows(size)
        position, _ = rows[self.PLACE]
        rows[self.PLACE : self.PLACE + 1] = pack_rows(
            position, batch_of([40] * size, position), previous=1234
        )
        self.check(rows, size)

    def test_a_row_from_before_there_were_checksums_is_missing(self, size: int) -> None:
        """Nothing in those that are left tells of it but where they lie."""
        rows = [(at, unsealed(data)) for at, data in self.rows(size)]
        assert len([*read(rows, 0, self.BATCHES * size)]) == self.BATCHES * size
        del rows[self.PLACE]
        self.check(rows, size)

    @pytest.mark.parametrize("change", [0, 3, 7, 9, 20, 45, -1])
    def test_a_bit_flipped(self, size: int, change: int) -> None:
        rows = self.rows(size)
        position, row = rows[self.PLACE]
        data = bytearray(row)
        data[change] ^= 4
        rows[self.PLACE] = position, bytes(data)
        self.check(rows, size)

    @pytest.mark.parametrize("kept", [0, 3, 12, 40, 60])
    def test_it_was_cut_off(self, size: int, kept: int) -> None:
        rows = self.rows(size)
        position, row = rows[self.PLACE]
        rows[self.PLACE] = position, row[:kept]
        self.check(rows, size)
