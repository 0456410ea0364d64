"""A fork: a new agent with the first entries of another, to go another way from there.

The entries are copied slice by slice into a history that is nobody's yet, each
slice in a batch with what others write meanwhile.  The transaction that records
``Forked`` gives that history to the new agent: it appears at once and whole, or,
after a crash in the middle, not at all, and the copies are swept.

The agent begins at ``Forked``, behind the copies, in the order of the journal:
a tail that has seen what is before it must not find entries there later.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from ..errors import InvalidError
from ..model import AgentId, AgentState, Sequence
from ..store.attachment import NOTHING, Attachment
from ..store.base import AgentChange, AgentNumber, AgentRecord, Copy, NewEntry
from ..wire import check_agent_id
from ..wire_requests import Fork
from .amending import Amendment, head_of, submit
from .committer import Submission
from .context import Context
from .daemon_events import event
from .operations import Caller

SLICE_ENTRIES: Final = 256
SLICE_BYTES: Final = 256 * 1024


async def fork(caller: Caller, request: Fork) -> dict[str, object]:
    """Begin an agent with the first entries of another."""
    context = caller.context
    uid = caller.namespace(request.uid)
    check_agent_id(request.new_agent_id, "as")
    new_id = AgentId(request.new_agent_id)
    source = await caller.agent(uid, request.agent_id)
    if request.at_sequence > source.next_sequence:
        raise InvalidError(
            f'"at_sequence": {source.agent_id} has {source.next_sequence} entries; '
            "fork at one of them, or behind the last",
            field="at_sequence",
        )
    head = await head_of(context, uid, new_id)
    _check_new(head.is_new, new_id)
    copy = replace(source, agent_id=new_id, number=context.store.new_number())
    try:
        last_iteration = await _copy(caller, source, copy.number, request.at_sequence)
        head = await head_of(context, uid, new_id)
        _check_new(head.is_new, new_id)
    except BaseException:  # the client may be gone as well
        _give_up(context, copy)
        raise
    head.number = copy.number
    head.kind = source.kind
    head.state = AgentState.WAITING
    head.next_sequence = Sequence(request.at_sequence)
    head.attachment = _means_of(source)
    amendment = Amendment(context, head)
    forked = event("Forked", {"from": source.agent_id, "at_sequence": request.at_sequence})
    amendment.record(forked, iteration=last_iteration)
    next_sequence = head.next_sequence
    await amendment.commit(Copy.ADOPTED)
    return {"agent_id": new_id, "next_sequence": next_sequence}


def _check_new(is_new: bool, agent_id: AgentId) -> None:  # noqa: FBT001 - it is what it checks
    if not is_new:
        raise InvalidError(
            f'"as": there is an agent {agent_id} already; choose another id', field="as"
        )


def _means_of(source: AgentRecord) -> Attachment:
    """Return how a fork of *source* is started, which is as that is."""
    known = source.attachment or NOTHING
    return Attachment(launcher=known.launcher, command=known.command)


async def _copy(caller: Caller, source: AgentRecord, number: AgentNumber, count: int) -> int:
    """Copy the first *count* entries; return the greatest iteration among them."""
    context = caller.context
    last_iteration = sequence = 0
    record = replace(source, number=number)
    changes = [AgentChange(0, record, None, copy=Copy.BEGUN)]
    await submit(context, source.uid, changes=changes)
    while sequence < count:
        entries = await context.store.read(
            source.number,
            from_sequence=sequence,
            limit=min(SLICE_ENTRIES, count - sequence),
            bytes_max=SLICE_BYTES,
        )
        if not entries:
            raise await _removed(caller, source)
        copies = [
            NewEntry(number, entry.sequence, entry.timestamp, entry.iteration, entry.event)
            for entry in entries
        ]
        await submit(context, source.uid, copies)
        last_iteration = max([last_iteration, *(entry.iteration for entry in entries)])
        sequence += len(entries)
    return last_iteration


async def _removed(caller: Caller, source: AgentRecord) -> InvalidError:
    """Return the refusal that a fork had been given behind the removal of *source*."""
    await caller.agent(source.uid, source.agent_id)
    return InvalidError(
        f'"at_sequence": {source.agent_id} was compacted while it was copied; '
        "fork at an entry that it has now",
        field="at_sequence",
    )


class _Nobody:
    """Who waits for no answer."""

    def committed(self) -> None:
        """Take no note: what can't be recorded now is found out at the next start."""


def _give_up(context: Context, copy: AgentRecord) -> None:
    """Have the copies swept, behind those that are on their way."""
    changes = [AgentChange(0, copy, None, copy=Copy.GIVEN_UP)]
    context.committer.submit(copy.uid, Submission(_Nobody(), changes=changes))
