"""A history as it is kept: each entry with its idempotency key, for who moves an agent.

A reader wants entries as fast as they can be had, and the keys are none of its
business; here each entry's row is looked at for its key as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .base import Entry
from .database import Database
from .rows import PackedRow

KEYED_SLICE_ENTRIES: Final = 128  # each may lie in a row of its own, among a hundred others

KeyedEntry = tuple[Entry, str | None]


def with_keys(database: Database, entries: Sequence[Entry]) -> list[KeyedEntry]:
    """Return *entries*, which were just read, each with its key."""
    row: PackedRow | None = None
    keys: dict[int, str | None] = {}
    found: list[KeyedEntry] = []
    for entry in entries:
        if row is None or not row.holds(entry.position):
            row = database.row_at(entry.position)
            keys = {kept.position: key for kept, key in row.entries()}
        found.append((entry, keys[entry.position]))
    return found
