"""A slice of the open journal held against itself, on the connection's thread.

Reading already tells whether an entry is what was written.  This tells whether
each entry of the log is where the index says, and its key where the keys say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from .base import Entry
from .log import Log, Query
from .runs import unpacked

SLICE_ENTRIES: Final = 64  # each is looked up in two trees: a millisecond or two


@dataclass(slots=True)
class CheckedRows:
    """What was found in some rows of the log."""

    next_position: int | None = None  # None: there are no more
    entries: int = 0
    problems: list[str] = field(default_factory=list)


def check_rows(query: Query, log: Log, from_position: int, settled: int) -> CheckedRows:
    """Look at rows from *from_position* on; from *settled* on the index covers nothing yet."""
    checked = CheckedRows()
    for row in log.rows_from(from_position):
        if checked.entries >= SLICE_ENTRIES:
            checked.next_position = row.first_position
            return checked
        for entry, key in row.entries():
            checked.entries += 1
            if entry.position < settled:
                _check(query, entry, key, checked)
    return checked


def _check(query: Query, entry: Entry, key: str | None, checked: CheckedRows) -> None:
    agent = query("load_agent_by_number", entry.number).fetchone()
    if agent is None:
        if query("is_doomed", entry.number).fetchone() is None:
            checked.problems.append(f"the entry at position {entry.position} is no agent's")
        return
    name = f"agent {agent[1]} of uid {agent[0]}"
    if _position_of(query, entry) != entry.position:
        checked.problems.append(
            f"{name}: the index does not name position {entry.position} "
            f"for sequence {entry.sequence}"
        )
    if key is not None and query("find_key", entry.number, key).fetchone() != (entry.sequence,):
        checked.problems.append(
            f"{name}: the key of sequence {entry.sequence} is not among its keys"
        )


def _position_of(query: Query, entry: Entry) -> int | None:
    found = query("runs_from", entry.number, entry.sequence, 1).fetchone()
    if found is None:
        return None
    run = unpacked(*found)
    place = entry.sequence - run.first_sequence
    return run.positions[place] if 0 <= place < len(run.positions) else None
