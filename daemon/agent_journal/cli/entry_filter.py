"""Which entries ``log`` shows: by time, by their agent's kind, by event, by their text."""

from __future__ import annotations

import re
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from ..errors import NotFoundError
from ..value import Value
from .details import detail, event_name

if TYPE_CHECKING:
    from ..client import Client, Entry
    from .entry_source import Found

KINDS_MAX: Final = 10_000  # agents whose kinds are remembered
_LOOKS_AROUND: Final = frozenset("^$\\?")  # where an event ends matters to a pattern with these


class Wanted(Value, kw_only=True):
    """What an entry must be to be shown."""

    since: datetime | None = None
    until: datetime | None = None
    kinds: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    grep: re.Pattern[str] | None = None


class EntryFilter:
    """Tells the entries that are wanted from the others; asks the daemon for kinds."""

    def __init__(self, wanted: Wanted, journal: Client) -> None:
        self._wanted = wanted
        self._journal = journal
        self._kinds: dict[tuple[int | None, str], str] = {}

    @property
    def is_everything(self) -> bool:
        """Whether no entry is passed over."""
        return self._wanted == Wanted()

    def wants(self, found: Found) -> bool:
        """Tell whether to show it; the cheapest question first."""
        entry, wanted = found.entry, self._wanted
        if wanted.since is not None and entry.timestamp < wanted.since:
            return False
        if self.is_too_late(entry):
            return False
        if wanted.events and not _is_any(entry.name, wanted.events):
            return False
        if wanted.kinds and not _is_any(self._kind(entry), wanted.kinds):
            return False
        return wanted.grep is None or _has(found, wanted.grep)

    def is_too_late(self, entry: Entry) -> bool:
        """Tell whether it happened behind the end of the time that is asked for."""
        return self._wanted.until is not None and entry.timestamp > self._wanted.until

    def _kind(self, entry: Entry) -> str:
        name = (entry.uid, entry.agent_id)
        if entry.name == "AttemptStarted":
            self._kinds.pop(name, None)  # an agent gets its kind with an attempt
        kind = self._kinds.get(name)
        if kind is None:
            try:
                kind = self._journal.describe(entry.agent_id, uid=entry.uid).kind or ""
            except NotFoundError:
                kind = ""
            if len(self._kinds) >= KINDS_MAX:
                self._kinds.clear()
            self._kinds[name] = kind
        return kind


def _is_any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name.lower(), pattern) for pattern in patterns)


def _has(found: Found, pattern: re.Pattern[str]) -> bool:
    """Look in what is shown of an event and in what was recorded."""
    event = found.entry.event
    if pattern.search(f"{event_name(event)} {detail(event)}"):
        return True
    # To take a line apart costs more than all else: not for one that has no match at all.
    if not _LOOKS_AROUND & set(pattern.pattern) and not pattern.search(found.line.decode()):
        return False
    return bool(pattern.search(found.event_text))
