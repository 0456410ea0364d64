"""How far a long command is, on a terminal and only once it has taken a while."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Final, Self

from ..clock import Clock

QUIET_SECONDS: Final = 1.0  # what is over by then needs no bar
PAUSE_SECONDS: Final = 0.1
BAR_WIDTH: Final = 30
_CLEAR: Final = "\r\x1b[K"


class Progress:
    """A line on standard error that is written anew; nothing where that is no terminal."""

    def __init__(self, what: str, total: int = 0) -> None:
        self._what = what
        self._total = total
        self._clock = Clock()
        self._next = self._clock.monotonic() + QUIET_SECONDS
        self._is_shown = False
        self._is_tty = sys.stderr.isatty()

    def at(self, done: int, total: int | None = None, what: str | None = None) -> None:
        """Take note of how much is done."""
        self._total = self._total if total is None else total
        self._what = what or self._what
        if not self._is_tty or self._clock.monotonic() < self._next:
            return
        self._next = self._clock.monotonic() + PAUSE_SECONDS
        self._is_shown = True
        sys.stderr.write(f"{_CLEAR}{self._line(done)}")
        sys.stderr.flush()

    def _line(self, done: int) -> str:
        if self._total <= 0:
            return f"{self._what} {done:,}"
        share = min(done / self._total, 1.0)
        filled = round(share * BAR_WIDTH)
        return f"{self._what} [{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {share:4.0%}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the line empty, for what is printed next."""
        if self._is_shown:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()
