"""Agents as rows of the database, and back.

A row carries a checksum of what decides whose the agent is and who may write for
it, so that a bit that flips there while the daemon runs, before the scrub comes
by, gives nobody another's agent.  It is made where these columns are written, by
a few statements that are run when an agent's state changes, not for its entries.
The command has one to itself: it may be large, and is not always read.

It does not cover the counters, which settling moves forward in SQL for thousands
of agents at once.  Nothing hangs on them alone: the entries say what follows
what, a history that ends too early or too late is noticed by whoever reads it,
and the page sums cover them, as they do the tables without checksums of their
own.  Of these, a run that points elsewhere leads to an entry that is not the one
asked for; a key leads to an entry that is compared with what its caller sends.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

from ..errors import DamagedError
from ..model import AgentState, Micros
from .attachment import attachment_from, stored_texts
from .base import AgentRecord, Filter

_NONE: Final = "\1"  # in a checksum; nothing that is stored is that


def agent_values(record: AgentRecord, position: int) -> tuple[object, ...]:
    """Return the values of an agent that begins at *position*."""
    attachment, command = stored_texts(record.attachment)
    return (
        record.number,
        record.uid,
        record.agent_id,
        record.state,
        record.kind,
        record.epoch,
        record.attempts,
        record.reason,
        position,
        record.created_at,
        record.updated_at,
        attachment,
        _checksum_of(record, attachment),
        command,
        command_checksum_of(record.uid, record.agent_id, command),
    )


def changed_values(record: AgentRecord) -> tuple[object, ...]:
    """Return the values of an agent that changed without an entry."""
    attachment, command = stored_texts(record.attachment)
    return (
        record.state,
        record.kind,
        record.epoch,
        record.attempts,
        record.reason,
        attachment,
        _checksum_of(record, attachment),
        command,
        command_checksum_of(record.uid, record.agent_id, command),
        record.number,
    )


def _checksum_of(record: AgentRecord, attachment: str | None) -> int:
    return checksum_of(
        record.number,
        record.uid,
        record.agent_id,
        record.state,
        record.kind,
        record.epoch,
        record.attempts,
        record.reason,
        attachment,
    )


def checksum_of(  # noqa: PLR0913, PLR0917 - the columns
    number: int,
    uid: int,
    agent_id: str,
    state: str,
    kind: str | None,
    epoch: int,
    attempts: int,
    reason: str | None,
    attachment: str | None,
) -> int:
    """Return the checksum of an agent's columns.

    The attachment has half of it to itself: it is not always read.
    """
    kind = _NONE if kind is None else kind
    reason = _NONE if reason is None else reason
    attachment = _NONE if attachment is None else attachment
    # In one go: a start does this for each agent that is unfinished.
    fields = f"{number}\0{uid}\0{agent_id}\0{state}\0{kind}\0{epoch}\0{attempts}\0{reason}"
    return _crc(fields) & 0x7FFF_FFFF | _crc(attachment) << 31


def _crc(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def command_checksum_of(uid: int, agent_id: str, command: str | None) -> int | None:
    """Return the checksum of an agent's command, if it has one."""
    return None if command is None else _crc(f"{uid}\0{agent_id}\0{command}")


def record_from(row: tuple[Any, ...] | None, *, has_attachment: bool = True) -> AgentRecord | None:
    """Return the agent in *row*, if there is one.

    Raises:
        DamagedError: it is not what was written.
    """
    if row is None:
        return None
    uid, agent_id, number, state, kind, epoch, attempts, reason, position, *rest = row
    created_at, updated_at, next_sequence, last_iteration, key_high, *rest = rest
    attachment, checksum, command, command_checksum = rest
    if checksum is not None:
        found = checksum_of(number, uid, agent_id, state, kind, epoch, attempts, reason, attachment)
        if (found ^ checksum) & (-1 if has_attachment else 0x7FFF_FFFF):
            raise damaged_row(number)
    if command_checksum != command_checksum_of(uid, agent_id, command):
        raise damaged_row(number)
    return AgentRecord(
        uid=uid,
        agent_id=agent_id,
        number=number,
        state=AgentState(state),
        kind=kind,
        epoch=epoch,
        attempts=attempts,
        reason=reason,
        first_position=position,
        created_at=Micros(created_at),
        updated_at=Micros(updated_at),
        next_sequence=next_sequence,
        last_iteration=last_iteration,
        key_high=key_high,
        attachment=attachment_from(attachment, command),
    )


def damaged_row(number: int) -> DamagedError:
    """Return the error that says that an agent's row is not what was written."""
    return DamagedError(f"the row of agent number {number} is not what was written")


def is_wanted(wanted: Filter, record: AgentRecord, position: int) -> bool:
    """Tell whether a reader may see an agent's entry at *position*, in commit order.

    What a fork has copied lies before the agent began, and is not shown: it
    appeared later than what a reader has seen behind it.
    """
    return (
        wanted.uid in (None, record.uid)
        and wanted.agent_id in (None, record.agent_id)
        and position >= record.first_position
    )
