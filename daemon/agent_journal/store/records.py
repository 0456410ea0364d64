"""Agents as rows of the database, and back."""

from __future__ import annotations

from typing import Any

from ..model import AgentState, Micros
from .attachment import attachment_from, attachment_text
from .base import AgentRecord, Filter


def agent_values(record: AgentRecord, position: int) -> tuple[object, ...]:
    """Return the values of an agent that begins at *position*."""
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
        attachment_text(record.attachment),
    )


def changed_values(record: AgentRecord) -> tuple[object, ...]:
    """Return the values of an agent that changed without an entry."""
    return (
        record.state,
        record.kind,
        record.epoch,
        record.attempts,
        record.reason,
        attachment_text(record.attachment),
        record.number,
    )


def record_from(row: tuple[Any, ...] | None) -> AgentRecord | None:
    """Return the agent in *row*, if there is one."""
    if row is None:
        return None
    uid, agent_id, number, state, kind, epoch, attempts, reason, position, *rest = row
    created_at, updated_at, next_sequence, last_iteration, key_high, attachment = rest
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
        attachment=attachment_from(attachment),
    )


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
