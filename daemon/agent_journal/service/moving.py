"""Export and import: an agent given out with all that is kept of it, and taken in again.

What is given out is what a crash at that moment would leave: an agent that a
process holds is ``interrupted``.  Positions are not part of it, since they are
its place in this host's journal; all else is, so that an agent that was taken in
is given out again byte for byte.

A large agent comes in pages.  Until the last one is recorded it is parked, and
marked as being imported: nobody else writes to it, nothing starts it, and after
a crash in the middle the same import goes on where it stopped.  What is there
already is compared and never recorded twice.

Invariant: an import never adds to an agent that did not come from it.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, Raw
from msgspec.structs import replace

from ..errors import (
    AgentUnfinishedError,
    InvalidError,
    KeyConflictError,
    SequenceConflictError,
)
from ..lifecycle import is_terminal
from ..model import AgentId, AgentState, Sequence, Uid
from ..store.attachment import Attachment, attachment_text
from ..store.base import AgentNumber, AgentRecord, Entry, NewEntry
from ..wire import check_agent_id, check_key, id_prefix, micros_from, render_timestamp
from ..wire_requests import Attach, CommandFields, Export, Import, ImportedAgent, ImportedEntry
from .amending import head_of, settle, submit
from .context import Context
from .heads import Head, recent_key, remember_key
from .launch_command import launch_means
from .operations import Caller, check_unsent
from .steering import SIGNAL_KEY

UNFINISHED_IMPORT: Final = "its import has not finished; import the same file again"

_NO_NUMBER: Final = AgentNumber(0)  # until it is known whose it is
_HELD: Final = frozenset({AgentState.RUNNING, AgentState.RESUMING})
_ENTRY: Final = b'{"sequence":%d,"timestamp":"%b","agent_id":"%b","iteration":%d,"event":%b%b}'


# Giving out


async def export(caller: Caller, request: Export) -> bytes:
    """Return the reply with an agent, and a page of its entries."""
    context = caller.context
    record = await caller.agent(caller.namespace(request.uid), request.agent_id)
    check_unsent(caller)
    limits = context.config.limits
    wanted = min(request.limit, limits.read_entries_max)
    sequence = min(request.from_sequence, record.next_sequence)
    room = limits.reply_bytes_max
    pieces: list[bytes] = []
    while wanted > 0 and sequence < record.next_sequence and (room > 0 or not pieces):
        found = await context.store.read_keyed(
            record.number, from_sequence=sequence, limit=wanted, bytes_max=max(room, 1)
        )
        if not found:
            break  # compacted meanwhile
        for entry, key in found:
            piece = rendered(record, entry, key)
            if pieces and len(piece) > room:
                room = 0
                break
            pieces.append(piece)
            room -= len(piece)
            sequence += 1
        wanted -= len(found)
    return (
        b'%b"ok":true,"agent":%b,"begins_at":%d,"entries":[%b],"next_sequence":%d,"more":%b}\n'
        % (
            id_prefix(request.id),
            msgspec.json.encode(given_out(record)),
            await _beginning(context, record),
            b",".join(pieces),
            sequence,
            b"true" if sequence < record.next_sequence else b"false",
        )
    )


async def _beginning(context: Context, record: AgentRecord) -> int:
    """Return where the history begins, by which a later page knows it again."""
    found = await context.store.read(record.number, from_sequence=0, limit=1, bytes_max=1)
    return found[0].position if found else -1


def rendered(record: AgentRecord, entry: Entry, key: str | None) -> bytes:
    """Return an entry as it is given out."""
    return _ENTRY % (
        entry.sequence,
        render_timestamp(entry.timestamp).encode(),
        record.agent_id.encode(),
        entry.iteration,
        entry.event,
        b"" if key is None else b',"key":' + msgspec.json.encode(key),
    )


def given_out(record: AgentRecord) -> dict[str, object]:
    """Return an agent as a crash would leave it."""
    state, attachment = record.state, record.attachment
    if attachment is not None:
        state = AgentState.INTERRUPTED if state in _HELD else state
        attachment = replace(attachment, owner=None, is_launched=False)
    fields: dict[str, object] = {
        "agent_id": record.agent_id,
        "kind": record.kind,
        "state": state.value,
        "epoch": record.epoch,
        "attempts": record.attempts,
        "reason": record.reason,
        "created_at": render_timestamp(record.created_at),
        "entries": record.next_sequence,
    }
    text = attachment_text(attachment)
    if text is not None:
        fields["attachment"] = Raw(text.encode())
    return {name: value for name, value in fields.items() if value is not None}


# Taking in


async def take_in(caller: Caller, request: Import) -> dict[str, object]:
    """Record a page of an agent that was exported, as far as it is not there yet."""
    context = caller.context
    uid = caller.namespace(request.uid)
    agent_id, attachment = _checked(caller, uid, request.agent)
    new = _new_entries(request)
    first = new[0].sequence
    present = 0  # so many are here already, and are the same
    are_keys_new = False
    while True:
        head = await head_of(context, uid, agent_id)
        here = min(max(head.next_sequence - first, 0), len(new))
        if here > present:
            present += await _compare(context, head, new[present:here])
        elif are_keys_new:
            break  # nothing was awaited since the head was looked at
        else:
            await _check_keys(context, head, new[present:])
            are_keys_new = True
    _check_place(context, head, first + present, is_complete=present == len(new))
    if present < len(new):
        await _record(context, head, request.agent, attachment, new[present:])
    reply: dict[str, object] = {
        "sequence": first,
        "count": len(new),
        "recorded": len(new) - present,
        "next_sequence": first + len(new),
    }
    return reply if present < len(new) else {**reply, "duplicate": True}


async def _compare(context: Context, head: Head, new: list[NewEntry]) -> int:
    """Return how many of *new*, which the agent has already, are known to be the same.

    Raises:
        SequenceConflictError: the agent is another one.
    """
    uid, agent_id = head.uid, head.agent_id
    await settle(context, uid)  # they may still be on their way
    found = await context.store.read_keyed(
        head.number,
        from_sequence=new[0].sequence,
        limit=len(new),
        bytes_max=context.config.limits.reply_bytes_max,
    )
    for (entry, key), wanted in zip(found, new, strict=False):
        there = (entry.event, entry.timestamp, entry.iteration, key)
        if there != (wanted.event, wanted.timestamp, wanted.iteration, wanted.key):
            raise SequenceConflictError(
                f"{agent_id} is here already, and its entry {entry.sequence} is another one; "
                "import it in another namespace, or compact the one that is here",
                expected=entry.sequence,
                actual=entry.sequence,
            )
    return len(found)


async def _check_keys(context: Context, head: Head, new: list[NewEntry]) -> None:
    """Refuse a key that the agent has used; one above all that it has used is new at a glance."""
    for entry in new:
        if entry.key is None or entry.key > head.key_high:
            continue
        used = recent_key(head, entry.key)
        if used is None:
            used = await context.store.find_key(head.number, entry.key)
        if used is not None:
            raise KeyConflictError(
                f"the key of entry {entry.sequence} is that of entry {used}, too; "
                "no agent was exported like that",
                sequence=used,
            )


def _check_place(context: Context, head: Head, sequence: int, *, is_complete: bool) -> None:
    """Refuse to add to an agent that did not come from this import."""
    if is_complete:
        return
    attachment = head.attachment
    is_importing = attachment is not None and attachment.is_importing
    if not head.next_sequence:
        is_held = context.owners.holder((head.uid, head.agent_id)) is not None
        if is_held or not (head.is_new or is_importing or is_terminal(head.state)):
            raise AgentUnfinishedError(
                f"{head.agent_id} is here already, empty and {head.state}; cancel it first",
                state=head.state.value,
            )
    elif not is_importing or head.state is not AgentState.PARKED:
        raise SequenceConflictError(
            f"{head.agent_id} is here already, has {head.next_sequence} entries and goes on by "
            "itself; import it in another namespace, or compact the one that is here",
            expected=sequence,
            actual=head.next_sequence,
        )
    if sequence != head.next_sequence:
        raise SequenceConflictError(
            f"the next entry of {head.agent_id} to import is {head.next_sequence}, "
            f"not {sequence}; import from there on",
            expected=sequence,
            actual=head.next_sequence,
        )


async def _record(
    context: Context,
    head: Head,
    agent: ImportedAgent,
    attachment: Attachment | None,
    new: list[NewEntry],
) -> None:
    """Record entries behind those that the agent has; the last ones with its state."""
    namespace = context.heads.namespace(head.uid)
    begins = not head.next_sequence
    is_last = new[-1].sequence + 1 == agent.entries
    for entry in new:
        entry.number = head.number
        if entry.key is not None:
            remember_key(namespace, head, entry.key, entry.sequence)
    if begins:
        head.created_at = micros_from(agent.created_at, "agent.created_at")
        head.kind, head.attempts = agent.kind, agent.attempts
        head.epoch = max(head.epoch, agent.epoch)  # of one that was compacted here
        head.state, head.reason = AgentState.PARKED, UNFINISHED_IMPORT
        head.attachment = Attachment(is_importing=True)
    if is_last:
        head.state, head.reason, head.attachment = agent.state, agent.reason, attachment
    head.next_sequence = Sequence(new[-1].sequence + 1)
    head.updated_at = new[-1].timestamp
    head.is_new = False
    head.submission = namespace.submitted + 1
    changes = [head.change()] if begins or is_last else []
    await submit(context, head.uid, new, changes)


def _new_entries(request: Import) -> list[NewEntry]:
    """Return the entries to be, as yet of no history.

    Raises:
        InvalidError: naming the field of the first that is not acceptable.
    """
    entries, total = request.entries, request.agent.entries
    if not entries:
        raise InvalidError('"entries" is empty; send one entry at least', field="entries")
    first = entries[0].sequence
    new: list[NewEntry] = []
    for place, entry in enumerate(entries):
        field = f"entries[{place}]"
        if entry.sequence != first + place or entry.sequence >= total:
            raise InvalidError(
                f'"{field}.sequence" is {entry.sequence}; sequences follow each other, '
                f'below the agent\'s "entries", {total}',
                field=f"{field}.sequence",
            )
        new.append(_new_entry(entry, field))
    keys = [entry.key for entry in new if entry.key is not None]
    if len(set(keys)) != len(keys):
        raise InvalidError('"entries": two of them have the same key', field="entries")
    return new


def _new_entry(entry: ImportedEntry, field: str) -> NewEntry:
    event = bytes(entry.event)
    try:
        (_,) = msgspec.json.decode(event, type=dict[str, Raw])
    except (msgspec.MsgspecError, ValueError):
        raise InvalidError(
            f'"{field}.event" must be an object with one key, the event\'s name',
            field=f"{field}.event",
        ) from None
    if entry.key is not None:
        check_key(entry.key.removeprefix(SIGNAL_KEY))
    timestamp = micros_from(entry.timestamp, f"{field}.timestamp")
    sequence = Sequence(entry.sequence)
    return NewEntry(_NO_NUMBER, sequence, timestamp, entry.iteration, event, entry.key)


def _checked(caller: Caller, uid: Uid, agent: ImportedAgent) -> tuple[AgentId, Attachment | None]:
    """Return the agent's name, and how it is started again, if the caller may say so.

    Raises:
        InvalidError: naming the field.
        ForbiddenError: its command would not be run here for the caller.
    """
    check_agent_id(agent.agent_id, "agent.agent_id")
    if agent.kind is not None:
        check_agent_id(agent.kind, "agent.kind")
    attachment = _attachment(agent)
    is_lone = is_terminal(agent.state) or agent.state is AgentState.RUNNING
    if agent.state is AgentState.RESUMING or (is_lone and attachment is not None):
        raise InvalidError(
            f'"agent.state" can\'t be {agent.state.value} of an agent that is imported with this '
            '"attachment"',
            field="agent.state",
        )
    if attachment is not None:
        command = attachment.command
        attach = Attach(
            agent_id=agent.agent_id,
            launcher=attachment.launcher,
            command=None
            if command is None
            else CommandFields(list(command.argv), command.cwd, command.env),
        )
        launch_means(caller, uid, attach)
    return AgentId(agent.agent_id), attachment


def _attachment(agent: ImportedAgent) -> Attachment | None:
    if agent.attachment is UNSET:
        return None
    try:
        attachment = msgspec.json.decode(agent.attachment, type=Attachment | None)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidError(
            f'"agent.attachment" is not what an export gives out: {error}', field="agent.attachment"
        ) from None
    if attachment is None:
        return None
    return replace(attachment, owner=None, is_launched=False)
