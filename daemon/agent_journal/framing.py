"""Bytes to lines, without I/O and with bounded memory."""

from __future__ import annotations

from typing import Final

# The framer's own words among the lines.  A client's line that begins with NUL
# is given a second one, so that no client can say them.
TOO_LONG: Final = b"\0too long:"
DISCARDED_LINE: Final = b"\0discarded"  # of a line that was thrown away for want of memory
UNFINISHED_LINE: Final = b"\0unfinished"  # what was behind the last newline at the end of input


class Framer:
    """Cuts a stream of bytes into lines, with bounded memory.

    A line that grows beyond ``frame_bytes_max`` comes out once, as a word that
    ``decode_request`` refuses as too large, as soon as it is known to be too
    long; what is left of it is thrown away.
    """

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._partial = bytearray()  # a line that has not ended
        self._is_discarding = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that *data* completes, without their newlines."""
        if not self._partial and not self._is_discarding:
            first: list[bytes] = []
            lines = data.split(b"\n")
        else:
            end = data.find(b"\n")
            if end < 0:
                return self._hold(data)
            first = self._finish(data[:end])
            lines = data[end + 1 :].split(b"\n")
        rest = lines.pop()
        if len(data) > self.frame_bytes_max or b"\0" in data:
            lines = [self._checked(line) for line in lines]
        if rest:
            lines += self._hold(rest)
        return first + lines if first else lines

    def _checked(self, line: bytes) -> bytes:
        """Return *line*, or in its place the word for a line that is too long."""
        if len(line) > self.frame_bytes_max:
            return TOO_LONG + b"%d" % self.frame_bytes_max
        return b"\0" + line if line.startswith(b"\0") else line

    def discard_line(self) -> None:
        """Throw away the line that has not ended, up to its newline."""
        self._is_discarding = True
        self._partial.clear()

    @property
    def partial_bytes(self) -> int:
        """How much is held of a line that has not ended."""
        return len(self._partial)

    def _hold(self, piece: bytes) -> list[bytes]:
        if self._is_discarding:
            return []
        self._partial += piece
        if len(self._partial) > self.frame_bytes_max:
            too_long = self._checked(bytes(self._partial))
            self.discard_line()
            return [too_long]
        return []

    def _finish(self, piece: bytes) -> list[bytes]:
        if self._is_discarding:
            self._is_discarding = False
            return []
        line = bytes(self._partial + piece)
        self._partial.clear()
        return [self._checked(line)]
