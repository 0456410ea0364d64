"""How an agent's state looks: a sign and a colour, so that either is enough to tell them apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .terminal import Cell, Terminal

STATE_STYLES: Final[Mapping[str, str]] = {
    "running": "green",
    "waiting": "cyan",
    "interrupted": "yellow",
    "resuming": "yellow",
    "parked": "alarm",
    "completed": "dim",
    "failed": "red",
    "cancelled": "dim",
}

# One column wide each; the second where the locale has no such characters.
STATE_SIGNS: Final[Mapping[str, tuple[str, str]]] = {
    "running": ("●", "*"),
    "waiting": ("○", "o"),
    "interrupted": ("◐", "!"),
    "resuming": ("↻", "@"),
    "parked": ("‖", "="),
    "completed": ("✓", "+"),
    "failed": ("✗", "x"),
    "cancelled": ("−", "-"),  # noqa: RUF001 - a minus, which is as wide as the others
}
_UNKNOWN: Final = ("?", "?")  # a newer daemon's


def state_cell(state: str, terminal: Terminal) -> Cell:
    """Return *state* with its sign, in its colour."""
    sign = terminal.sign(*STATE_SIGNS.get(state, _UNKNOWN))
    return Cell(f"{sign} {state}", STATE_STYLES.get(state, ""))
