"""What a look at the host found: how it is, and what to do about it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from .terminal import Terminal, harmless

CHECK_WIDTH: Final = 11  # the longest name, and a bit
INDENT: Final = CHECK_WIDTH + 3
TEXT_WIDTH_MIN: Final = 30


class Verdict(StrEnum):
    """How something is."""

    WELL = "ok"
    NOTE = "note"  # to be known, and no fault
    WRONG = "wrong"


SIGNS: Mapping[Verdict, tuple[str, str, str]] = {
    Verdict.WELL: ("✓", "+", "green"),
    Verdict.NOTE: ("!", "!", "yellow"),
    Verdict.WRONG: ("✗", "x", "alarm"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of a report."""

    check: str  # a name that a program may rely on
    verdict: Verdict
    what: str
    hint: str = ""  # what to do
    figures: Mapping[str, object] = field(default_factory=dict)

    def as_object(self) -> dict[str, object]:
        """Return it for ``--json``."""
        told = {"check": self.check, "status": str(self.verdict), "what": self.what}
        return {**told, **({"try": self.hint} if self.hint else {}), **self.figures}

    def print(self, terminal: Terminal) -> None:
        """Print a line, and what to do below it; on a terminal they are folded to its width."""
        sign, plain, style = SIGNS[self.verdict]
        begin = terminal.paint(terminal.sign(sign, plain), style)
        first, *more = _folded(harmless(self.what), terminal)
        terminal.line(f"{begin} {terminal.paint(f'{self.check:<{CHECK_WIDTH}}', 'bold')} {first}")
        for line in more:
            terminal.line(f"{'':<{INDENT}}{line}")
        if self.hint:
            # Not folded: it is to be copied.
            tries = f"{terminal.paint('try:', 'bold')} {harmless(self.hint)}"
            terminal.line(f"{'':<{INDENT}}{tries}")


def _folded(text: str, terminal: Terminal) -> list[str]:
    if terminal.width is None:
        return [text]
    width = max(terminal.width - INDENT, TEXT_WIDTH_MIN)
    return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False) or [text]


def well(check: str, what: str, **figures: object) -> Finding:
    """Return that all is well."""
    return Finding(check=check, verdict=Verdict.WELL, what=what, figures=figures)


def note(check: str, what: str, hint: str = "", **figures: object) -> Finding:
    """Return what should be known."""
    return Finding(check=check, verdict=Verdict.NOTE, what=what, hint=hint, figures=figures)


def wrong(check: str, what: str, hint: str, **figures: object) -> Finding:
    """Return what is wrong; there is always something to do about it."""
    return Finding(check=check, verdict=Verdict.WRONG, what=what, hint=hint, figures=figures)
