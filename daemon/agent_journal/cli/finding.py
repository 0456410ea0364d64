"""What a look at the host found: how it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from .terminal import Terminal, harmless


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
        """Print a line, and what to do below it."""
        sign, plain, style = SIGNS[self.verdict]
        shown = terminal.paint(terminal.sign(sign, plain), style)
        terminal.line(
            f"{shown} {terminal.paint(f'{self.check:<11}', 'bold')} {harmless(self.what)}"
        )
        if self.hint:
            terminal.line(f"  {'':<11} {terminal.paint('try:', 'bold')} {harmless(self.hint)}")


def well(check: str, what: str, **figures: object) -> Finding:
    """Return that all is well."""
    return Finding(check=check, verdict=Verdict.WELL, what=what, figures=figures)


def note(check: str, what: str, hint: str = "", **figures: object) -> Finding:
    """Return what should be known."""
    return Finding(check=check, verdict=Verdict.NOTE, what=what, hint=hint, figures=figures)


def wrong(check: str, what: str, hint: str, **figures: object) -> Finding:
    """Return what is wrong; there is always something to do about it."""
    return Finding(check=check, verdict=Verdict.WRONG, what=what, hint=hint, figures=figures)
