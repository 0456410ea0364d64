"""Agents that have ended, as retention looks for them, and what is left of those removed.

An index has them by state and kind, each group by when its agents ended, so that
whom to remove next is read off the beginning of a group: what is kept is never
looked at, however much it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

from ..model import TERMINAL, AgentState, Micros, Uid
from .base import AgentNumber, AgentRecord, EndedGroup
from .records import record_from

Query = Callable[..., sqlite3.Cursor]

COUNTED: Final = 4096  # at once: a millisecond

_FLOOR: Final = "epoch_floor:"


class Ended:
    """The agents that have ended; everything here runs on the connection's thread."""

    def __init__(self, query: Query) -> None:
        self._query = query

    def groups(self) -> list[EndedGroup]:
        """Return the states and kinds of which there are any, a look-up for each."""
        found: list[EndedGroup] = []
        for state in sorted(TERMINAL):
            kind = ""
            while (row := self._query("ended_group", state, kind).fetchone()) is not None:
                kind, oldest = row
                found.append(EndedGroup(state, kind or None, Micros(oldest)))
                kind += "\x01"  # kinds are printable: nothing stands between one and this
        return found

    def agents(
        self, state: AgentState, kind: str | None, before: int, limit: int
    ) -> list[AgentRecord]:
        """Return agents of a group that ended before a time, the first ones first."""
        rows = self._query("agents_ended", state, kind or "", before, limit).fetchall()
        return [record for record in map(record_from, rows) if record is not None]

    def count(
        self, state: AgentState, kind: str | None, begin: int, before: int
    ) -> tuple[int, int | None]:
        """Count some agents that ended at or behind *begin*; return where to go on, if at all."""
        rows = self._query("ended_times", state, kind or "", begin, before, COUNTED).fetchall()
        if len(rows) < COUNTED:
            return len(rows), None
        last = rows[-1][0]
        count = sum(time < last for (time,) in rows)
        # All of one moment are counted together: they are few, but where a client said so.
        (same,) = self._query("ended_at", state, kind or "", last).fetchone()
        return count + same, last + 1

    def remove(self, record: AgentRecord, next_position: int) -> None:
        """Forget an agent, and have its history swept."""
        self._query("remove_agent", record.number)
        self._query("doom", record.number, next_position)
        if record.epoch:
            self._query("raise_epoch_floor", f"{_FLOOR}{record.uid}", record.epoch)

    def epoch_floors(self) -> dict[Uid, int]:
        """Return the highest epoch that a removed agent had, of each uid."""
        return epoch_floors_in(dict(self._query("epoch_floors").fetchall()))

    def is_swept(self, number: AgentNumber | None) -> bool:
        """Tell whether a history is gone; ``None``: every one that has ended."""
        if number is None:
            return self._query("any_doomed").fetchone() is None
        return self._query("is_doomed", number).fetchone() is None


def epoch_floors_in(marks: dict[str, int]) -> dict[Uid, int]:
    """Return those of *marks* that are epochs of removed agents, by uid."""
    return {
        Uid(int(name.removeprefix(_FLOOR))): value
        for name, value in marks.items()
        if name.startswith(_FLOOR)
    }


def floor_marks(marks: dict[str, int]) -> list[tuple[str, int]]:
    """Return those of *marks*, with their names."""
    return [(name, value) for name, value in marks.items() if name.startswith(_FLOOR)]
