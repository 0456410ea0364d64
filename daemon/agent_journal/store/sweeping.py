"""Sweeping: entries of histories that were compacted are removed from the log.

In slices, row by row.  The entries of others keep their places in a row, and
where nothing is left of some neighbouring rows, one cleared row stands for them,
so that a row that is missing is never taken for one that was swept.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Callable
from typing import Final

from .log import Log
from .rows import PAGE_BYTES, PackedRow, cleared_row
from .runs import Run, unpacked
from .transaction import Transaction

SWEEP_ROWS: Final = 32  # of one history or of several: a slice is a transaction, and a sync
SWEEP_KEYS: Final = 512
SWEPT_BYTES: Final = SWEEP_ROWS * PAGE_BYTES  # about what a slice writes

_KEYS_COST: Final = 8  # in rows: they lie on so many pages at the most, as a rule
_END_COST: Final = 1

Query = Callable[..., sqlite3.Cursor]


def sweep(
    query: Query,
    log: Log,
    transaction: Callable[[], Transaction],
    settled_position: int,
    next_position: int,
) -> bool:
    """Remove a slice of doomed histories; return whether there is more to do."""
    doomed = query("next_doomed", settled_position).fetchone()
    if doomed is None:
        return False
    room = SWEEP_ROWS
    with transaction():
        while doomed is not None and room > 0:
            room -= _sweep_some(query, log, doomed[0], next_position, room)
            doomed = query("next_doomed", settled_position).fetchone()
    return True


def _sweep_some(query: Query, log: Log, number: int, next_position: int, room: int) -> int:
    """Remove some of a history; return about how many pages that touched."""
    found = query("runs_from", number, 0, 1).fetchone()
    if found is not None:
        return _sweep_run(query, log, number, unpacked(*found), next_position, room)
    if query("delete_keys", number, SWEEP_KEYS).rowcount:
        return _KEYS_COST
    query("spare", number)
    return _END_COST


def _sweep_run(  # noqa: PLR0913, PLR0917 - whose, where, and how much
    query: Query, log: Log, number: int, run: Run, next_position: int, room: int
) -> int:
    swept = rows = 0
    positions = run.positions
    while rows < room and swept < len(positions):
        row = log.row_at(positions[swept])
        end = bisect_left(positions, row.next_position, swept)
        data = row.without(set(positions[swept:end]))
        if data is not None:
            query("replace_row", data, row.first_position)
        else:
            _clear(query, log, row)
            query("set_mark", next_position, "next_position")
        swept = end
        rows += 1
    query("delete_run", number, run.first_sequence)
    if swept < len(positions):
        query("put_runs", *run.behind(swept).packed(number))
    return rows


def _clear(query: Query, log: Log, row: PackedRow) -> None:
    """Put a cleared row in place of one that has no entry left, and of such neighbours."""
    first, count = row.first_position, row.count
    previous, seal = row.previous or 0, row.seal
    before, behind = log.row_before(row), log.row_behind(row)
    if behind is not None and behind.is_cleared:
        count, seal = count + behind.count, behind.seal
        query("delete_row", behind.first_position)
    if before is not None and before.is_cleared:
        first, count = before.first_position, count + before.count
        previous = before.previous or 0
        query("delete_row", row.first_position)
    query("replace_row", cleared_row(first, count, previous, seal), first)
