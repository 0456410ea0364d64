"""An entry as a line of ``log``, in one of the forms that journalctl has too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from .details import detail, event_name, event_style
from .terminal import Terminal, cut, harmless, width_of
from .verbatim import print_line

if TYPE_CHECKING:
    from .entry_source import Found

Write = Callable[["Found"], None]


def _short(moment: datetime) -> str:
    return f"{moment:%b %d %H:%M:%S}"


def _short_precise(moment: datetime) -> str:
    return f"{moment:%b %d %H:%M:%S.%f}"


def _short_iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _short_iso_precise(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")


_TIMES: Final[Mapping[str, Callable[[datetime], str]]] = {
    "short": _short,
    "short-precise": _short_precise,
    "short-iso": _short_iso,
    "short-iso-precise": _short_iso_precise,
}


def writer(name: str, terminal: Terminal, *, is_utc: bool, is_whole: bool) -> Write:
    """Return what prints an entry in the form *name*; *is_whole* cuts no line to the screen."""
    if name == "json":
        return lambda found: print_line(found.text)
    if name == "cat":
        return lambda found: print_line(found.event_text)
    time_of = _TIMES[name]

    def write(found: Found) -> None:
        moment = found.entry.timestamp.astimezone(UTC if is_utc else None)
        terminal.line(_line(time_of(moment), found, terminal, is_whole=is_whole))

    return write


def _line(time: str, found: Found, terminal: Terminal, *, is_whole: bool) -> str:
    entry = found.entry
    owner = "" if entry.uid is None else f"{entry.uid}/"
    agent, place = f"{owner}{entry.agent_id}", f"[{entry.sequence}]:"
    name = harmless(event_name(entry.event))
    is_whole = is_whole or terminal.width is None
    told = harmless(detail(entry.event, is_whole=is_whole))
    if terminal.width is not None and not is_whole:
        taken = width_of(f"{time} {agent}{place} {name} ")
        told = cut(told, max(terminal.width - taken, 0))
    parts = (
        terminal.paint(time, "dim"),
        f"{terminal.paint(agent, 'bold')}{place}",
        terminal.paint(name, event_style(event_name(entry.event))),
        told,
    )
    return " ".join(part for part in parts if part)
