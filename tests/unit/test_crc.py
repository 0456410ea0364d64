"""The CRC-32 of pages and rows, which is zlib's however it is computed."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_journal.store.crc import PIECE_BYTES, crc_of

starts = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("kind", [bytes, memoryview])
@pytest.mark.parametrize("pieces", [0, 1, 2, 3])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_it_is_the_same_in_one_piece_and_in_two(kind: type, pieces: int, more: int) -> None:
    content = bytes(place * 7919 % 251 for place in range(max(pieces * PIECE_BYTES + more, 0)))
    assert crc_of(kind(content)) == zlib.crc32(content)


@given(content=st.binary(max_size=64), repeats=st.sampled_from([1, 100, 128, 200]), start=starts)
def test_it_goes_on_from_where_another_ended(content: bytes, repeats: int, start: int) -> None:
    assert crc_of(content * repeats, start) == zlib.crc32(content * repeats, start)
