"""A stream of bytes cut into lines: any chunking gives the same ones, with bounded memory."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent_journal.errors import FrameTooLargeError, MalformedError
from agent_journal.framing import DISCARDED_LINE, TOO_LONG, UNFINISHED_LINE, Framer
from agent_journal.wire import RefusedLineError, decode_request

FRAME_MAX = 40


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def lines_of(framer: Framer, data: bytes) -> list[bytes | None]:
    """Return what *data* completes, with None for what is refused as too long."""
    return [None if is_too_long(line) else line for line in framer.feed(data)]


def is_too_long(line: bytes) -> bool:
    try:
        decode_request(line)
    except RefusedLineError as refused:
        return isinstance(refused.error, FrameTooLargeError)
    return False


def sayable(line: bytes) -> bytes:
    """Return *line* as it comes out: one that begins with NUL is not to look like our words."""
    return b"\0" + line if line.startswith(b"\0") else line


class TestFraming:
    streams = st.lists(st.sampled_from([b"", b"a", b"x" * 39, b"x" * 40, b"x" * 41, b"yy\r"])).map(
        b"\n".join
    ) | st.binary(max_size=300).map(lambda data: data.replace(b"\x01", b"\n"))

    @given(stream=streams, cuts=st.lists(st.integers(0, 10**6), max_size=30))
    @example(stream=b"x" * 41 + b"\nok\n", cuts=[40, 41])
    @example(stream=b"x" * 40 + b"\n" + b"y" * 41, cuts=[])
    def test_any_chunking_gives_the_same_lines(self, stream: bytes, cuts: list[int]) -> None:
        """Lines as they are, each too long one once as None, and what did not end not at all."""
        framer = Framer(FRAME_MAX)
        found: list[bytes | None] = []
        for piece in pieces(stream, cuts):
            found += lines_of(framer, piece)
            assert framer.partial_bytes <= FRAME_MAX
        *lines, rest = stream.split(b"\n")
        expected: list[bytes | None] = [
            None if len(one) > FRAME_MAX else sayable(one) for one in lines
        ]
        if len(rest) > FRAME_MAX:
            expected.append(None)
        assert found == expected
        assert framer.partial_bytes == (len(rest) if len(rest) <= FRAME_MAX else 0)

    @pytest.mark.parametrize("word", [TOO_LONG + b"1", DISCARDED_LINE, UNFINISHED_LINE])
    @pytest.mark.parametrize("cut", [0, 3])
    def test_a_client_cannot_say_what_the_framer_says(self, word: bytes, cut: int) -> None:
        """It would be told that its line was too long, or that the daemon is overloaded."""
        framer = Framer(FRAME_MAX)
        stream = word + b"\n" + word + b"\n"
        lines = framer.feed(stream[:cut]) + framer.feed(stream[cut:])
        assert len(lines) == 2
        for line in lines:
            with pytest.raises(RefusedLineError) as refused:
                decode_request(line)
            assert isinstance(refused.value.error, MalformedError)

    def test_a_line_too_long_is_told_of_before_it_ends(self) -> None:
        framer = Framer(FRAME_MAX)
        assert lines_of(framer, b"x" * 40) == []
        assert lines_of(framer, b"x") == [None]
        for _ in range(100):
            assert lines_of(framer, b"x" * 1000) == []
            assert framer.partial_bytes == 0
        assert lines_of(framer, b"xx\nnext\n") == [b"next"]

    @pytest.mark.parametrize("piece", [1, 2, 7, 100])
    def test_a_line_in_small_pieces_takes_little_more_memory_than_its_bytes(
        self, piece: int
    ) -> None:
        """A client that sends two bytes at a time does not make the daemon hold fifty."""
        size = 100_000
        framer = Framer(2 * size)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for start in range(0, size, piece):
                framer.feed(bytes([65 + start % 7]) * piece)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 4 * size

    def test_what_is_discarded_ends_with_its_newline(self) -> None:
        framer = Framer(FRAME_MAX)
        framer.feed(b"begun")
        framer.discard_line()
        assert framer.partial_bytes == 0
        assert lines_of(framer, b" and ended\n{}\n") == [b"{}"]
