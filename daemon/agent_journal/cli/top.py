"""``agent-journal top``: what the daemon is doing, live."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..clock import Clock
from ..errors import JournalError
from .arguments import natural
from .connection import connected
from .failures import CommandError, ExitCode
from .metrics import all_figures
from .output import print_json
from .terminal import Terminal
from .top_figures import Figures, Interval, between, told

if TYPE_CHECKING:
    from ..client import Client

EXAMPLES: Final = """\
  agent-journal top
  agent-journal top -d 5                   # every five seconds
  agent-journal top -n 3 > load.txt        # three looks, as plain text
  agent-journal top --json | jq '{entries_per_second, commit_ms_p99}'
"""

DELAY_S: Final = 1.0
DELAY_S_MIN: Final = 0.1
DELAY_S_MAX: Final = 86_400.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "-d",
        "--delay",
        type=_delay,
        default=DELAY_S,
        metavar="SECONDS",
        help=f"how long an interval is (default: {DELAY_S:g})",
    )
    parser.add_argument(
        "-n", "--count", type=natural, metavar="COUNT", help="end after so many looks"
    )


def _delay(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not DELAY_S_MIN <= seconds <= DELAY_S_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not {DELAY_S_MIN:g} seconds or more")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Look again and again, until it was often enough or somebody has seen enough."""
    is_live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not arguments.json
    with connected(arguments) as journal:
        looks = _Looks(journal)
        if not is_live:
            show = _print_json if arguments.json else _print_page(arguments.delay)
            return _in_turn(arguments, looks, show)
        looks.look()  # a daemon that is not there is said on the screen that stays
    arguments.wait = 0.0  # from here on: keys are not heard while somebody waits
    with connected(arguments) as journal:
        looks.ask(journal)
        return _live(arguments, looks)


class _Looks:
    """Looks at the daemon, and keeps the last one to compare with."""

    def __init__(self, journal: Client) -> None:
        self._journal = journal
        self._last: Figures | None = None
        self._is_admin = False
        self.interval = Interval({}, {})

    def ask(self, journal: Client) -> None:
        """Look through another connection from now on."""
        self._journal = journal

    def look(self) -> Interval:
        """Look once more; return what happened since the last look."""
        figures = self._journal.stats(uid="*") if self._is_admin else all_figures(self._journal)
        self._is_admin = figures.get("is_admin") is True
        self.interval = between(self._last, figures)
        self._last = figures
        return self.interval


def _in_turn(arguments: argparse.Namespace, looks: _Looks, show: Callable[[Interval], None]) -> int:
    """Print one look behind the other, for a file or a program."""
    clock, count = Clock(), 0
    begun = clock.monotonic()
    while arguments.count is None or count < arguments.count:
        if count:
            time.sleep(max(begun + count * arguments.delay - clock.monotonic(), 0))
        show(looks.look())
        sys.stdout.flush()
        count += 1
    return ExitCode.OK


def _print_json(interval: Interval) -> None:
    print_json(told(interval))


def _print_page(seconds: float) -> Callable[[Interval], None]:
    from .top_screen import draw  # noqa: PLC0415 - not for JSON

    def show(interval: Interval) -> None:
        terminal = Terminal(sys.stdout)
        draw(terminal, interval, seconds=seconds)
        terminal.line()

    return show


def _live(arguments: argparse.Namespace, looks: _Looks) -> int:
    from .live_screen import LiveScreen, Page  # noqa: PLC0415 - for a terminal alone
    from .top_screen import draw  # noqa: PLC0415

    complaint, count = "", 1

    def page() -> Page:
        drawn = Page(sys.stdout)
        draw(Terminal(drawn), looks.interval, seconds=arguments.delay, complaint=complaint)
        return drawn

    try:
        with LiveScreen() as screen:
            while arguments.count is None or count < arguments.count:
                screen.show(page())
                key = screen.wait(arguments.delay)
                if key[:1] in ("q", "Q", "\x1b", "\x04"):
                    break
                if key == "resized":
                    continue
                complaint = _look_again(looks)
                count += 1
    except KeyboardInterrupt:  # a way to end it as good as any
        return ExitCode.OK
    if count == arguments.count:
        sys.stdout.write(page().getvalue())  # to stay, since it was asked for so many
    return ExitCode.OK


def _look_again(looks: _Looks) -> str:
    """Look once more; return why that was not possible."""
    try:
        looks.look()
    except (JournalError, CommandError, OSError) as error:
        return f"the daemon does not answer: {error}"
    return ""
