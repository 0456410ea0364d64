"""Commands of agents move out of their attachments: what schema 5 has apart.

Part of the transaction that brings a journal to that schema, so a crash leaves the
old form or the new one.  Agents are looked at in the order of the table, some at a
time: there may be a million, most of them with nothing to move.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

import msgspec

from .attachment import attachment_from, stored_texts
from .records import checksum_of, command_checksum_of
from .sql import QUERIES

SLICE_AGENTS: Final = 500


def move_commands(connection: sqlite3.Connection) -> None:
    """Put the command of each agent that has one into a column of its own."""
    execute, number = connection.execute, 0
    while rows := execute(QUERIES["agents_with_commands"], (number, SLICE_AGENTS)).fetchall():
        for row in rows:
            number = row[0]
            values = _moved(row)
            if values is not None:
                execute(QUERIES["move_command"], values)


def _moved(row: tuple[Any, ...]) -> tuple[object, ...] | None:
    """Return what is to be written; ``None``: nothing, or what is there is not what was."""
    *_, attachment, checksum = row
    number, uid, agent_id, state, kind, epoch, attempts, reason, *_ = row
    fields = number, uid, agent_id, state, kind, epoch, attempts, reason
    if checksum not in (None, checksum_of(*fields, attachment)):
        return None  # it stays as it is, for whoever reads it to notice
    try:
        standing, command = stored_texts(attachment_from(attachment, None))
    except msgspec.MsgspecError:
        return None  # likewise
    if command is None:
        return None
    changed = None if checksum is None else checksum_of(*fields, standing)
    return standing, changed, command, command_checksum_of(uid, agent_id, command), number
