"""What others do to an agent: tell it something, decide for it, and the operator's hand.

None of these carries an epoch: they are not the agent's own words, and are
recorded under the daemon's names for them, which a client can't append.
"""

from __future__ import annotations

from typing import Final

from msgspec import UNSET
from msgspec.structs import replace

from ..errors import AgentAttachedError, InvalidError, KeyConflictError, NotFoundError
from ..lifecycle import Change, advance, is_terminal
from ..model import AgentId, AgentState, Uid
from ..store.attachment import Incident
from ..wire import check_agent_id, check_key, is_same_event
from ..wire_requests import (
    Attach,
    Cancel,
    Decide,
    Detach,
    Fork,
    HoldingRequest,
    Park,
    Resume,
    Signal,
)
from . import attaching
from .amending import Amendment, head_of, settle
from .context import Context
from .daemon_events import decided, event, signalled
from .forking import fork
from .heads import Head, recent_key
from .operations import Caller
from .steps_in_doubt import Standing, standing_of

# Before a signal's key among its agent's: below any key of a client's own, so
# that keys which rise with time are still known to be new without a look-up.
SIGNAL_KEY: Final = "\0signal:"


async def serve(caller: Caller, request: HoldingRequest) -> dict[str, object]:  # noqa: PLR0911
    """Do what *request* asks for; return the reply's fields."""
    match request:
        case Attach():
            return await attaching.attach(caller, request)
        case Detach():
            return await attaching.detach(caller, request)
        case Signal():
            return await signal(caller, request)
        case Decide():
            return await decide(caller, request)
        case Fork():
            return await fork(caller, request)
        case Resume():
            return await resume(caller, request)
        case Park():
            return await park(caller, request)
        case Cancel():
            return await cancel(caller, request)


async def _known_head(caller: Caller, uid: Uid, agent_id: str) -> Head:
    """Return the head of an agent that there is.

    Raises:
        NotFoundError: the namespace has no such agent.
    """
    check_agent_id(agent_id)
    await caller.agent(uid, agent_id)
    return _there(await head_of(caller.context, uid, AgentId(agent_id)))


def _there(head: Head) -> Head:
    """Return the head of an agent that was not removed meanwhile.

    Raises:
        NotFoundError: it was.
    """
    if head.is_new:
        raise NotFoundError(f"there is no agent {head.agent_id} of uid {head.uid} any more")
    return head


async def signal(caller: Caller, request: Signal) -> dict[str, object]:
    """Record a signal, and wake the agent if it waits for it."""
    context = caller.context
    uid = caller.namespace(request.uid)
    told = signalled(request.name, request.payload, request.key)
    if request.key is not None:
        check_key(request.key)
    head = await _known_head(caller, uid, request.agent_id)
    key = None
    if request.key is not None:
        key = SIGNAL_KEY + request.key
        sequence = await _recorded_at(context, head, key)
        if sequence is not None:
            await _check_same_signal(context, head, sequence, told)
            return {"sequence": sequence, "duplicate": True}
        head = _there(context.heads.namespace(uid).heads[request.agent_id])
    amendment = Amendment(context, head)
    amendment.advance(Change.TOLD)
    sequence = amendment.record(told, key=key)
    attachment = head.attachment
    is_due = (
        head.state is AgentState.WAITING
        and attachment is not None
        and request.name in attachment.wait_for
    )
    if attachment is not None and is_due:
        head.attachment = replace(attachment, wake_at=amendment.now)
    agent_id = head.agent_id
    await amendment.commit()
    if is_due:
        context.resumer.woken(uid, agent_id)
    return {"sequence": sequence}


async def _recorded_at(context: Context, head: Head, key: str) -> int | None:
    """Return where *key* was used; ``None`` holds until the next await, of the head in memory."""
    uid, agent_id = head.uid, head.agent_id
    while True:
        number, turns = head.number, head.keys_turns
        found = await context.store.find_key(number, key)
        head = await head_of(context, uid, agent_id)
        if head.number != number or head.keys_turns > turns + 1:
            continue  # compacted meanwhile, or what was used since is forgotten
        at = recent_key(head, key)
        return found if at is None else at


async def _check_same_signal(context: Context, head: Head, sequence: int, told: bytes) -> None:
    await settle(context, head.uid)  # the first may still be on its way
    entries = await context.store.read(head.number, from_sequence=sequence, limit=1, bytes_max=1)
    if not entries or not is_same_event(entries[0].event, told):
        raise KeyConflictError(
            f"the key was used for another signal, at sequence {sequence}; use a new key",
            sequence=sequence,
        )


async def decide(caller: Caller, request: Decide) -> dict[str, object]:
    """Record a person's word on a step in doubt."""
    context = caller.context
    uid = caller.namespace(request.uid)
    ways = [request.rerun, request.result is not UNSET, request.error is not UNSET]
    if sum(ways) != 1:
        raise InvalidError(
            'send one of "rerun": true, "result" and "error": what became of the step',
            field="rerun",
        )
    check_agent_id(request.agent_id)
    agent = await caller.agent(uid, request.agent_id)
    standing = await standing_of(context, uid, agent.agent_id, request.step)
    head = _there(await head_of(context, uid, agent.agent_id))
    if standing is not Standing.IN_DOUBT and not is_terminal(head.state):
        raise InvalidError(
            f'"step": {request.step!r:.80} of {agent.agent_id} is {standing.value}; '
            "only about a step that began and did not end there is something to decide",
            field="step",
        )
    advance(head.state, Change.TOLD, head.agent_id)
    held = context.owners.holder((uid, agent.agent_id))
    if held is not None and head.state is AgentState.RUNNING:
        raise AgentAttachedError(
            f"{agent.agent_id} is running, in process {held.pid}; it decides for itself, "
            "or park it first",
            epoch=held.epoch,
            pid=held.pid,
        )
    amendment = Amendment(context, head)
    told = decided(request.step, result=request.result, error=request.error)
    sequence = amendment.record(told)
    await amendment.commit()
    return {"sequence": sequence}


async def park(caller: Caller, request: Park) -> dict[str, object]:
    """Have an agent wait for a person."""
    context = caller.context
    uid = caller.namespace(request.uid)
    head = await _known_head(caller, uid, request.agent_id)
    if head.state is not AgentState.PARKED:
        advance(head.state, Change.PARKED, head.agent_id)
        await attaching.park(context, uid, head.agent_id, reason=request.reason or "")
    else:
        await settle(context, uid)  # it may still be on its way
    return {"state": AgentState.PARKED.value}


async def cancel(caller: Caller, request: Cancel) -> dict[str, object]:
    """End an agent."""
    context = caller.context
    uid = caller.namespace(request.uid)
    head = await _known_head(caller, uid, request.agent_id)
    agent_id, epoch = head.agent_id, head.epoch
    if head.state is not AgentState.CANCELLED:
        amendment = Amendment(context, head)
        amendment.advance(Change.CANCELLED)
        amendment.record(event("Cancelled", {"reason": request.reason}))
        head.reason, head.attachment = request.reason, None
        await amendment.commit()
        context.owners.release((uid, agent_id), epoch)
        context.resumer.finished(uid, agent_id)
    else:
        await settle(context, uid)
    return {"state": AgentState.CANCELLED.value}


async def resume(caller: Caller, request: Resume) -> dict[str, object]:
    """Have an agent go on now: lift a park, cut a wait or a back-off short."""
    context = caller.context
    uid = caller.namespace(request.uid)
    head = await _known_head(caller, uid, request.agent_id)
    agent_id, state = head.agent_id, head.state
    if state in {AgentState.RUNNING, AgentState.RESUMING}:
        await settle(context, uid)
        return {"state": state.value}
    amendment = Amendment(context, head)
    if state is AgentState.PARKED:
        change = _unparking(context, head)
        if change is Change.UNPARKED and head.attachment is not None and head.attachment.owner:
            # Its owner is gone, and whoever would record that comes too late.
            amendment.end_attempt(head.attempts, "lost")
            head.attachment = replace(head.attachment, owner=None)
        amendment.advance(change)
        amendment.record(event("Unparked", {"reason": request.reason}))
        head.reason = None
    else:
        advance(state, Change.TOLD, head.agent_id)  # one that has ended is not resumed
    if head.state is not AgentState.RUNNING:
        head.attempts = 0
    if head.attachment is not None:
        wake_at = amendment.now if head.state is AgentState.WAITING else None
        head.attachment = replace(head.attachment, wake_at=wake_at, incident=Incident())
    state = head.state
    await amendment.commit()
    if state is AgentState.RUNNING:
        context.resumer.attached(uid, agent_id)
    else:
        context.resumer.woken(uid, agent_id)
    return {"state": state.value}


def _unparking(context: Context, head: Head) -> Change:
    """Return how an agent leaves its park."""
    if context.owners.holder((head.uid, head.agent_id)) is not None:
        return Change.UNPARKED_HELD
    if head.attachment is None or not head.epoch:
        return Change.UNPARKED_NEW
    return Change.UNPARKED
