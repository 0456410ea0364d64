"""The file of page sums and its mark, which survive torn writes and notice their own rot."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_journal.errors import DamagedError
from agent_journal.store.page_sums import (
    BLOCK_BYTES,
    HEADER_BYTES,
    SUMS_PER_BLOCK,
    Flags,
    Mark,
    PageSums,
    page_sum,
)

PAGE = 8192


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db-sums"


@pytest.fixture
def sums(path: Path) -> Iterator[PageSums]:
    with PageSums.create(path, PAGE) as sums:
        yield sums


@given(page=st.binary(max_size=9000))
def test_a_page_of_zeros_has_the_sum_zero_and_others_their_crc(page: bytes) -> None:
    assert page_sum(bytes(len(page))) == 0
    assert page_sum(page) == zlib.crc32(page) ^ zlib.crc32(bytes(len(page)))


def test_what_was_never_written_is_the_sum_of_zeros(sums: PageSums) -> None:
    assert sums.read(1, 3 * SUMS_PER_BLOCK) == [0] * 3 * SUMS_PER_BLOCK


def test_sums_are_read_back_over_blocks_and_growth(sums: PageSums, path: Path) -> None:
    wanted = {page: page * 7919 % 2**32 for page in range(1, 90_000, 13)}
    sums.write(wanted)
    with PageSums.open(path) as again:
        found = again.read(1, 90_000)
    assert {page: found[page - 1] for page in wanted} == wanted
    assert sum(1 for value in found if value) == len(wanted)


def test_a_disk_that_takes_a_part_is_given_the_rest_until_it_has_all(
    sums: PageSums, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite

    def takes_half(descriptor: int, content: memoryview, at: int) -> int:
        return pwrite(descriptor, content[: (len(content) + 1) // 2], at)

    monkeypatch.setattr(os, "pwrite", takes_half)
    sums.write({1: 5, SUMS_PER_BLOCK + 1: 7})
    sums.put_mark(Mark(PAGE, pages=9))
    with PageSums.open(path) as again:
        assert again.mark.pages == 9
        assert again.read(1, 1) == [5]
        assert again.read(SUMS_PER_BLOCK + 1, 1) == [7]


@pytest.mark.parametrize("bit", [0, 5, 8 * 100, 8 * 507 + 7, 8 * 508, 8 * 511 + 7])
def test_a_bit_that_flips_among_the_sums_is_noticed(sums: PageSums, path: Path, bit: int) -> None:
    sums.write({1: 5, SUMS_PER_BLOCK: 6, SUMS_PER_BLOCK + 1: 7})
    content = bytearray(path.read_bytes())
    content[HEADER_BYTES + bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    with PageSums.open(path) as again, pytest.raises(DamagedError, match="sums of the pages"):
        again.read(1, 1)
    with PageSums.open(path) as again:
        assert again.read(SUMS_PER_BLOCK + 1, 1) == [7]  # in a block of its own


def test_a_block_is_not_taken_for_another(sums: PageSums, path: Path) -> None:
    """One that was written to the wrong place."""
    sums.write({1: 5, SUMS_PER_BLOCK + 1: 7})
    content = bytearray(path.read_bytes())
    second = HEADER_BYTES + BLOCK_BYTES
    content[HEADER_BYTES:second] = content[second : second + BLOCK_BYTES]
    path.write_bytes(content)
    with PageSums.open(path) as again, pytest.raises(DamagedError):
        again.read(1, 1)


class TestMark:
    def test_the_newest_counts(self, sums: PageSums, path: Path) -> None:
        for position in range(5):
            sums.put_mark(sums.mark._replace(position=position))
            with PageSums.open(path) as again:
                assert again.mark == sums.mark
                assert again.mark.position == position

    def test_everything_in_it_is_kept(self, sums: PageSums, path: Path) -> None:
        mark = Mark(
            PAGE,
            Flags.IN_FORCE | Flags.CHECKPOINTED,
            pages=2**31,
            unknown_first=3,
            unknown_last=9,
            salts=(2**32 - 1, 5),
            frames=77,
            position=2**60,
            scrub_page=12,
            scrubbed_at=1_700_000_000_000_000,
        )
        sums.put_mark(mark)
        with PageSums.open(path) as again:
            assert again.mark._replace(counter=0) == mark

    @pytest.mark.parametrize("bit", range(0, 80 * 8, 3))
    def test_one_that_was_torn_or_flipped_leaves_the_one_before(
        self, sums: PageSums, path: Path, bit: int
    ) -> None:
        for position in (1, 2):
            sums.put_mark(sums.mark._replace(position=position))
        content = bytearray(path.read_bytes())
        slot = sums.mark.counter % 2 * HEADER_BYTES // 2
        content[slot + bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with PageSums.open(path) as again:
            assert again.mark.position == (2 if bit // 8 >= 76 else 1)

    def test_without_any_it_is_damaged(self, sums: PageSums, path: Path) -> None:
        sums.close()
        path.write_bytes(bytes(HEADER_BYTES))
        with pytest.raises(DamagedError, match="no mark"):
            PageSums.open(path)

    def test_an_empty_file_is_damaged(self, path: Path) -> None:
        path.write_bytes(b"")
        with pytest.raises(DamagedError):
            PageSums.open(path)


class TestWholeFile:
    @pytest.fixture
    def database(self, tmp_path: Path) -> Iterator[int]:
        path = tmp_path / "database"
        path.write_bytes(os.urandom(PAGE * 300))
        descriptor = os.open(path, os.O_RDWR)
        yield descriptor
        os.close(descriptor)

    def test_a_file_that_was_summed_is_right(self, sums: PageSums, database: int) -> None:
        told: list[tuple[int, int]] = []
        sums.add_whole_file(database, position=9, on_progress=lambda *at: told.append(at))
        assert list(sums.all_mismatches(database)) == []
        assert (sums.mark.pages, sums.mark.position) == (300, 9)
        assert Flags.IN_FORCE in sums.mark.flags
        assert told[-1] == (300 * PAGE, 300 * PAGE)

    @pytest.mark.parametrize("page", [1, 2, 127, 128, 129, 300])
    def test_a_bit_that_flips_is_found(self, sums: PageSums, database: int, page: int) -> None:
        sums.add_whole_file(database)
        at = page * PAGE - 1
        (last,) = os.pread(database, 1, at)
        os.pwrite(database, bytes([last ^ 16]), at)
        assert list(sums.all_mismatches(database)) == [page]
        assert sums.mismatches(database, page, 1, skip={page}) == []

    def test_a_file_that_was_cut_off_is_found(self, sums: PageSums, database: int) -> None:
        sums.add_whole_file(database)
        os.ftruncate(database, 298 * PAGE + 5)
        assert list(sums.all_mismatches(database)) == [299, 300]

    def test_pages_whose_sums_are_not_known_are_passed_over(
        self, sums: PageSums, database: int
    ) -> None:
        sums.put_mark(sums.mark._replace(pages=300, unknown_first=2, unknown_last=299))
        assert list(sums.all_mismatches(database)) == [1, 300]


def test_it_replaces_one_that_is_there(sums: PageSums, path: Path) -> None:
    sums.write({1: 5})
    with PageSums.create(path, PAGE, unknown_pages=4) as again:
        assert again.read(1, 1) == [0]
        assert not again.is_known(4)
    assert sorted(found.name for found in path.parent.iterdir()) == [path.name]
