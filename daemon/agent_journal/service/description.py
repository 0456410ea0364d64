"""What ``describe`` and ``agents`` show of an agent."""

from __future__ import annotations

from ..store.attachment import Attachment
from ..store.base import AgentRecord
from ..wire import render_timestamp
from .context import Context


def shown(context: Context, record: AgentRecord) -> dict[str, object]:
    """Return what is known of an agent, as it is told to clients."""
    fields: dict[str, object] = {
        "agent_id": record.agent_id,
        "kind": record.kind,
        "state": record.state.value,
        "uid": record.uid,
        "entries": record.next_sequence,
        "latest_sequence": max(record.next_sequence - 1, 0),
        "next_sequence": record.next_sequence,
        "last_completed_iteration": record.last_iteration,
        "epoch": record.epoch,
        "attempts": record.attempts,
        "created_at": render_timestamp(record.created_at),
        "updated_at": render_timestamp(record.updated_at),
        "first_position": record.first_position,
    }
    if record.reason is not None:
        fields["reason"] = record.reason
    if record.attachment is not None:
        fields |= _attachment_shown(context, record, record.attachment)
    return fields


def _attachment_shown(
    context: Context, record: AgentRecord, attachment: Attachment
) -> dict[str, object]:
    """Return the members that are there when there is something to say."""
    fields: dict[str, object] = {}
    owner, command, incident = attachment.owner, attachment.command, attachment.incident
    if owner is not None:
        is_alive = context.owners.holder((record.uid, record.agent_id)) is not None
        fields["owner"] = {"pid": owner.pid, "alive": is_alive}
    if attachment.launcher is not None:
        fields["launcher"] = attachment.launcher
    if command is not None:
        fields["command"] = {"argv": command.argv, "cwd": command.cwd}
    if attachment.wake_at is not None:
        fields["wake_at"] = render_timestamp(attachment.wake_at)
    if attachment.wait_for:
        fields["wait_for"] = attachment.wait_for
    if incident.next_attempt_at is not None:
        fields["next_attempt_at"] = render_timestamp(incident.next_attempt_at)
    spent = {
        "attempts": incident.attempts,
        "steps": incident.steps,
        "tokens": incident.tokens,
    }
    if any(spent.values()):
        fields["incident"] = spent
    return fields
