"""Unfinished agents, as a start looks for them.

An index has all that is asked of them, in order, and they lie side by side in it.
Their rows do not: among a million agents that have ended, each of ten thousand that
have not is on a page of its own, and on a cold file each of these is a wait for the
disk.  What settling changes is not in the index, so it costs an agent's entries
nothing; nor is the command, which may be a hundred times as large as all the rest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from ..model import AgentState
from .attachment import standing_from, standing_of
from .base import AgentRecord, Unfinished
from .records import checksum_of, damaged_row

Query = Callable[..., sqlite3.Cursor]


def unfinished(query: Query, after: int, limit: int) -> list[Unfinished]:
    """Return up to *limit* agents that have an attachment, by first position.

    Raises:
        DamagedError: the index does not hold what was written.
    """
    return [_unfinished_from(row) for row in query("agents_attached", after, limit).fetchall()]


def _unfinished_from(row: tuple[Any, ...]) -> Unfinished:
    position, checksum, *columns = row
    number, uid, agent_id, state, kind, epoch, attempts, _, attachment = columns
    if checksum is not None and checksum != checksum_of(*columns):
        raise damaged_row(number)
    return Unfinished(
        uid,
        agent_id,
        AgentState(state),
        kind,
        epoch,
        attempts,
        position,
        standing_from(attachment),
    )


def unfinished_of(record: AgentRecord) -> Unfinished | None:
    """Return what a start needs to know of an agent; ``None``: it has no attachment."""
    if record.attachment is None:
        return None
    return Unfinished(
        record.uid,
        record.agent_id,
        record.state,
        record.kind,
        record.epoch,
        record.attempts,
        record.first_position,
        standing_of(record.attachment),
    )
