"""A page that is drawn anew again and again, and a terminal that is left as it was.

The page has a screen of its own (xterm's alternate one), so what was there
before is there again afterwards, however the program ends: by a key, Ctrl-C,
SIGTERM or an error.  Ctrl-Z gives the terminal back for as long as it is stopped.
"""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import termios
from types import FrameType, TracebackType
from typing import Final, Self, TextIO

from ..clock import Clock

_ENTER: Final = "\x1b[?1049h\x1b[?25l"  # the other screen, without a cursor
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_LINES_DEFAULT: Final = 24
_TAKEN_SIGNALS: Final = (signal.SIGTERM, signal.SIGTSTP, signal.SIGWINCH)


class Page(io.StringIO):
    """Text that is to be shown where *stream* goes, and looks as it would there."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._shown_on = stream

    @property
    def encoding(self) -> str:  # type: ignore[override] # read-only there
        """The terminal's."""
        return self._shown_on.encoding

    def isatty(self) -> bool:
        """Tell whether it is a terminal's."""
        return self._shown_on.isatty()

    def fileno(self) -> int:
        """Return the terminal's descriptor, for its width."""
        return self._shown_on.fileno()


class LiveScreen:
    """The terminal, from the first page to the last."""

    def __init__(self) -> None:
        self._clock = Clock()
        self._keys = sys.stdin.fileno() if sys.stdin.isatty() else -1
        self._mode: list[object] | None = None
        self._woken, self._wake = os.pipe()
        self._before: dict[int, object] = {}
        self._wakeup_before = -1

    def __enter__(self) -> Self:
        os.set_blocking(self._wake, False)
        self._wakeup_before = signal.set_wakeup_fd(self._wake)
        for number, handler in zip(_TAKEN_SIGNALS, (_quit, self._stop, _ignore), strict=True):
            self._before[number] = signal.signal(number, handler)
        self._take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the terminal back."""
        self._give_back()
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # as it was got
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._woken)
        os.close(self._wake)

    def _take(self) -> None:
        if self._keys >= 0:
            self._mode = termios.tcgetattr(self._keys)
            mode = termios.tcgetattr(self._keys)
            mode[3] &= ~(termios.ICANON | termios.ECHO)  # keys at once, and unseen; Ctrl-C works
            termios.tcsetattr(self._keys, termios.TCSADRAIN, mode)
        sys.stdout.write(_ENTER)
        sys.stdout.flush()

    def _give_back(self) -> None:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        if self._mode is not None:
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._mode)  # type: ignore[arg-type]

    def _stop(self, number: int, _: FrameType | None) -> None:
        """Be stopped by Ctrl-Z, as if nobody had taken the terminal; go on afterwards."""
        self._give_back()
        handler = signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, handler)
        self._take()

    def show(self, page: Page) -> None:
        """Draw *page*, as much of it as there is room for, over the last one."""
        try:
            lines_max = os.get_terminal_size(sys.stdout.fileno()).lines or _LINES_DEFAULT
        except OSError:
            lines_max = _LINES_DEFAULT
        lines = page.getvalue().splitlines()[: lines_max - 1]
        # Over what is there, not over an empty screen, which would flicker.
        sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\r\n" for line in lines) + "\x1b[J")
        sys.stdout.flush()

    def wait(self, seconds: float) -> str:
        """Wait for a key, and return it; empty: it is time, or the page has another size."""
        descriptors = [self._woken, *([self._keys] if self._keys >= 0 else [])]
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0:
            ready, _, _ = select.select(descriptors, [], [], left)
            if self._woken in ready:
                numbers = os.read(self._woken, 64)
                if signal.SIGWINCH in numbers or signal.SIGTSTP in numbers:
                    return "resized"
            if self._keys in ready:
                key = os.read(self._keys, 64)
                return key.decode(errors="replace") if key else "q"  # the terminal is gone
        return ""


def _quit(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _ignore(number: int, _: FrameType | None) -> None:
    """Only be woken."""
