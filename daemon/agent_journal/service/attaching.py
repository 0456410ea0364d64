"""Attaching: who holds an agent, and each attempt from its start to its end.

An attach grants the next epoch in the transaction that records it, so that from
then on an append of the owner before is refused.  An attempt begins when it is
launched, or with an attach that was not; it ends when its process does, is
replaced, or gives the agent up.

Invariant: while an owner lives, nobody else gets its agent but by taking over.

The functions that begin with ``record_`` are the resumer's, and what ``Owners``
notices is recorded by ``keep_owners``.
"""

from __future__ import annotations

import asyncio
from typing import Final

from msgspec.structs import replace

from ..errors import (
    AgentAttachedError,
    ShuttingDownError,
    StaleEpochError,
    StorageFailedError,
    StoreError,
    UnavailableError,
)
from ..lifecycle import Change, advance, is_terminal, leads_to
from ..model import AgentId, AgentState, Uid
from ..store.attachment import NOTHING, Attachment, Incident
from ..store.base import AgentRecord, Unfinished
from ..wire import check_agent_id, micros_from
from ..wire_requests import Attach, Detach
from .amending import Amendment, head_of, next_epoch, settle
from .context import Context
from .daemon_events import How, attempt_started, parked
from .heads import Head
from .launch_command import launch_means
from .operations import Caller
from .owners import Hold, Loss
from .waiting import has_signal_behind

RETRY_SECONDS: Final = 1.0  # between tries to record a loss on a full disk


# What clients ask


async def attach(caller: Caller, request: Attach) -> dict[str, object]:
    """Make the caller the one that writes for an agent."""
    context = caller.context
    uid = caller.namespace(request.uid)
    check_agent_id(request.agent_id)
    if request.kind is not None:
        check_agent_id(request.kind, "kind")
    launcher, command = launch_means(caller, uid, request)
    name = uid, AgentId(request.agent_id)
    head = await head_of(context, *name)
    is_resumed = head.next_sequence > 0 or head.attempts > 0
    held = _check_free(caller, head, take_over=request.take_over)

    amendment = Amendment(context, head)
    is_fresh = held is None and head.state is not AgentState.RESUMING
    if is_fresh:
        _end_attempt_before(context, amendment, head)
    if head.state is not AgentState.RESUMING:  # its launch has counted one
        head.epoch = next_epoch(context, head)
    head.state = AgentState.RUNNING
    head.reason = None
    head.kind = request.kind or head.kind
    known = head.attachment or NOTHING
    if launcher is not None or command is not None:
        known = replace(known, launcher=launcher, command=command)
    if is_fresh:
        head.attempts += 1
        means = known.command.argv if known.command else known.launcher
        started = attempt_started(
            head.attempts, head.epoch, launched=False, pid=caller.peer.pid or None, command=means
        )
        known = replace(known, attempt_sequence=amendment.record(started))
    before = context.owners.hold(name, head.epoch, caller.peer.pid, caller)
    owner = context.owners.owner(name, context.boot_id)
    head.attachment = replace(known, owner=owner, wake_at=None, wait_for=(), is_launched=False)
    epoch = head.epoch
    granted = {
        "epoch": epoch,
        "attempt": head.attempts,
        "next_sequence": head.next_sequence,
    }
    try:
        await amendment.commit()
    except Exception:
        context.owners.put_back(name, epoch, before)
        raise
    context.metrics.attached(is_resumed=is_resumed)
    # What was recorded in the same transaction may be told already: that this attempt is over.
    if context.owners.is_held_by(name, epoch):
        context.resumer.attached(*name)
    return {**granted, "state": AgentState.RUNNING.value, "resumed": is_resumed}


def _check_free(caller: Caller, head: Head, *, take_over: bool) -> Hold | None:
    """Return the caller's own hold, if it only comes back on another connection.

    Raises:
        AgentAttachedError: another living process holds the agent.
        RequestError: it has ended, or is parked.
    """
    if is_terminal(head.state) and not head.next_sequence:
        return None  # compacted: it begins again
    advance(head.state, Change.ATTACHED, head.agent_id)
    if head.state is not AgentState.RUNNING:
        return None
    held = _holder(caller.context, head)
    if held is None:
        return None
    if held.pid and held.pid == caller.peer.pid and not held.is_connected:
        return held
    if take_over:
        return None
    who = f"process {held.pid}" if held.pid else "a process that can't be seen from here"
    raise AgentAttachedError(
        f"{head.agent_id} is held by {who}, in epoch {head.epoch}, which is alive; "
        'leave it alone, or send "take_over": true to go on in its place',
        epoch=head.epoch,
        pid=held.pid,
    )


def _holder(context: Context, head: Head) -> Hold | None:
    """Return the living owner's hold; one from before the daemon's start is found again."""
    name = head.uid, head.agent_id
    held = context.owners.holder(name)
    if held is not None and held.epoch != head.epoch:
        # Its client left before it was known that its epoch could not be recorded.
        context.owners.release(name, held.epoch)
        held = None
    owner = head.attachment.owner if head.attachment else None
    if held is None and owner is not None:
        context.owners.keep(name, head.epoch, owner, context.boot_id)
        held = context.owners.holder(name)
    return held


def _end_attempt_before(context: Context, amendment: Amendment, head: Head) -> None:
    """Record what became of the attempt whose place is taken."""
    if is_terminal(head.state):
        head.attempts, head.attachment = 0, None
    elif head.attachment and head.attachment.owner and head.state is AgentState.RUNNING:
        is_alive = context.owners.holder((head.uid, head.agent_id)) is not None
        amendment.end_attempt(head.attempts, "replaced" if is_alive else "lost")


async def detach(caller: Caller, request: Detach) -> dict[str, object]:
    """Give an agent up without finishing it."""
    context = caller.context
    uid = caller.namespace(request.uid)
    agent_id = AgentId(request.agent_id)
    await caller.agent(uid, agent_id)
    wake_at = None if request.wake_at is None else micros_from(request.wake_at, "wake_at")
    wait_for = tuple(request.wait_for or ())
    head = await head_of(context, uid, agent_id)
    _check_epoch(head, request.epoch)
    if head.state is AgentState.WAITING:  # a repeat: its answer was lost
        await settle(context, uid)  # and it may still be on its way
        return {"state": AgentState.WAITING.value}
    seen = request.seen_sequence
    if seen is None:
        seen = head.attachment.attempt_sequence if head.attachment else 0
    if wait_for and await has_signal_behind(context, uid, agent_id, seen, wait_for):
        wake_at = context.now
    # Nothing was awaited since the last look at what is recorded: a signal that
    # comes from here on finds an agent that waits for it.
    head = context.heads.namespace(uid).heads[agent_id]
    _check_epoch(head, request.epoch)
    if head.state is AgentState.WAITING:  # by the same request, on another connection
        await settle(context, uid)
        return {"state": AgentState.WAITING.value}
    amendment = Amendment(context, head)
    amendment.advance(Change.DETACHED)
    amendment.end_attempt(head.attempts, "detached")
    known = head.attachment or NOTHING
    head.attachment = replace(known, owner=None, wake_at=wake_at, wait_for=wait_for)
    await amendment.commit()
    context.owners.release((uid, agent_id), request.epoch)
    if wake_at is not None and wake_at <= context.now:
        context.resumer.woken(uid, agent_id)
    else:
        context.resumer.waiting(uid, agent_id, wake_at)
    return {"state": AgentState.WAITING.value}


def _check_epoch(head: Head, epoch: int) -> None:
    if epoch != head.epoch or not epoch:
        text = (
            f"{head.agent_id} is at epoch {head.epoch}, not at {epoch}: another attempt took over, "
            "stop"
        )
        if not head.epoch or not epoch:
            text = f"who has attached to {head.agent_id} can detach, with the epoch it was given"
        raise StaleEpochError(text, current=head.epoch)


# What the resumer records


async def record_launch(  # noqa: PLR0913 - what a launch is made of
    context: Context,
    uid: Uid,
    agent_id: AgentId,
    *,
    command: list[str] | str | None,
    incident: Incident | None = None,
    epoch: int | None = None,
) -> int | None:
    """Count an attempt that is about to be launched; return its number.

    Recorded before the process is started, so that a crash in between counts:
    ``AttemptStarted`` (launched true), state ``resuming``.  *incident* replaces
    the agent's in the same transaction.  *epoch* is the agent's when all this was
    made up.  ``None``: the agent is not to be launched any more (attached, also if
    that was lost since; ended, parked or compacted meanwhile).
    """
    head = await head_of(context, uid, agent_id)
    if head.attachment is None or leads_to(head.state, Change.LAUNCHED) is None:
        return None
    if epoch not in (None, head.epoch):
        return None
    amendment = Amendment(context, head)
    amendment.advance(Change.LAUNCHED)
    head.attempts += 1
    head.epoch = next_epoch(context, head)  # for the launched process, and nobody else
    started = attempt_started(head.attempts, head.epoch, launched=True, pid=None, command=command)
    sequence = amendment.record(started)
    head.attachment = replace(
        head.attachment,
        owner=None,
        wake_at=None,
        wait_for=(),
        is_launched=True,
        attempt_sequence=sequence,
        incident=incident or head.attachment.incident,
    )
    attempt = head.attempts
    await amendment.commit()
    context.metrics.attempts_launched += 1
    return attempt


async def record_end(  # noqa: PLR0913 - what there is to say of an end
    context: Context,
    uid: Uid,
    agent_id: AgentId,
    attempt: int,
    *,
    how: How,
    exit_code: int | None = None,
    signal: str | None = None,
    stderr: str | None = None,
    pid: int | None = None,
    incident: Incident | None = None,
    park_reason: str | None = None,
) -> bool:
    """Record how a launched attempt ended; with *park_reason*, park the agent as well.

    ``AttemptEnded`` (and ``Parked``), state ``interrupted`` (or ``parked``), one
    transaction.  *pid* is the process that ended, where that is known: if it
    holds the agent, its hold is over, whatever its connection says.

    False: nothing was recorded, since this attempt is not the present one any
    more, or ended before, or a living process holds the agent.  (An attempt that
    was recorded as lost before: *park_reason* and *incident* still take effect.)
    """
    head = await head_of(context, uid, agent_id)
    if head.attachment is None or head.attempts != attempt:
        return False
    held = context.owners.holder((uid, agent_id))
    if held is not None and held.pid != pid:
        return False
    is_running = head.attachment.owner is not None or head.attachment.is_launched
    is_parked = park_reason is not None and leads_to(head.state, Change.PARKED) is not None
    if not is_running and (head.state is not AgentState.INTERRUPTED or not (is_parked or incident)):
        return False
    amendment = Amendment(context, head)
    if is_running:
        amendment.advance(Change.LOST)
        amendment.end_attempt(attempt, how, exit_code=exit_code, signal=signal, stderr=stderr)
    if is_parked:
        amendment.advance(Change.PARKED)
        amendment.record(parked(park_reason, stderr))
        head.reason = park_reason
    head.attachment = replace(
        head.attachment,
        owner=None,
        is_launched=False,
        incident=incident or head.attachment.incident,
    )
    epoch, state = head.epoch, head.state
    await amendment.commit()
    context.metrics.parks += is_parked
    context.owners.release((uid, agent_id), epoch)
    if is_parked:
        context.resumer.finished(uid, agent_id)
    elif is_running and state is AgentState.INTERRUPTED:
        context.resumer.interrupted(uid, agent_id)
    return True


async def park(
    context: Context, uid: Uid, agent_id: AgentId, *, reason: str, stderr: str | None = None
) -> bool:
    """Park an agent; False: it has ended, or is parked already.

    If its owner lives, it is told so by its next append, and holds the agent
    still: it is not started a second time when the agent is let go on.
    """
    head = await head_of(context, uid, agent_id)
    if head.is_new or leads_to(head.state, Change.PARKED) is None:
        return False
    amendment = Amendment(context, head)
    amendment.advance(Change.PARKED)
    amendment.record(parked(reason, stderr))
    head.reason = reason or None
    await amendment.commit()
    context.metrics.parks += 1
    context.resumer.finished(uid, agent_id)
    return True


async def update_attachment(
    context: Context, uid: Uid, agent_id: AgentId, *, incident: Incident
) -> Attachment | None:
    """Replace an agent's incident durably; ``None``: it has no attachment (any more)."""
    head = await head_of(context, uid, agent_id)
    if head.attachment is None:
        return None
    attachment = head.attachment = replace(head.attachment, incident=incident)
    await Amendment(context, head).commit()
    return attachment


# Owners that are gone


def keep_living_owner(context: Context, record: Unfinished | AgentRecord) -> bool:
    """Tell whether the owner of a running agent lives on; it is watched from now on.

    For the recovery at start, of a record that ``store.unfinished`` gave.
    """
    attachment = record.attachment
    if attachment is None or attachment.owner is None:
        return False
    name = record.uid, record.agent_id
    return context.owners.keep(name, record.epoch, attachment.owner, context.boot_id)


async def record_loss(context: Context, uid: Uid, agent_id: AgentId, epoch: int) -> bool:
    """Record that an agent's owner is gone, and tell the resumer.

    ``AttemptEnded`` (how lost), state ``interrupted``, in one transaction.
    False: nothing was to be recorded.  For the recovery at start, and used by
    ``keep_owners`` while the daemon runs.
    """
    head = await head_of(context, uid, agent_id)
    if head.epoch != epoch or head.attachment is None or head.attachment.owner is None:
        await settle(context, uid)  # it may fail; then this is to be tried again
        context.owners.release((uid, agent_id), epoch)
        return False
    if context.owners.holder((uid, agent_id)) is not None:
        return False
    if context.resumer.will_report(uid, agent_id, head.attempts):
        return False
    amendment = Amendment(context, head)
    amendment.advance(Change.LOST)
    amendment.end_attempt(head.attempts, "lost")
    head.attachment = replace(head.attachment, owner=None)
    state = head.state
    await amendment.commit()
    context.owners.release((uid, agent_id), epoch)
    if state is AgentState.INTERRUPTED:
        context.resumer.interrupted(uid, agent_id)
    return True


async def keep_owners(context: Context) -> None:
    """Record losses of owners as they are noticed, for as long as the daemon runs.

    A task of the daemon's: it has to run beside the committer.
    """
    async with asyncio.TaskGroup() as tasks:
        while True:
            for loss in await context.owners.losses():
                tasks.create_task(_take_note(context, loss))


async def _take_note(context: Context, loss: Loss) -> None:
    """Record a loss, or tell of an end, however long the disk is full."""
    log, told = context.log, loss._asdict()
    while True:
        try:
            head = await head_of(context, loss.uid, loss.agent_id)
            if is_terminal(head.state):
                await _tell_end(context, loss)
            elif await record_loss(context, *loss):
                log.info("owner_lost", **told)
        except ShuttingDownError:
            return  # the recovery at the next start finds it out
        except (UnavailableError, StorageFailedError) as error:
            if context.committer.failure is not None:
                return  # likewise
            log.warning("loss_not_recorded", error=str(error), **told)
            await asyncio.sleep(RETRY_SECONDS)
        except StoreError:
            return  # nothing is served any more
        except Exception:
            log.exception("loss_not_recorded", **told)  # a defect of ours; others go on
            return
        else:
            return


async def _tell_end(context: Context, loss: Loss) -> None:
    """Let go of an agent whose end is durable."""
    await settle(context, loss.uid)
    (record,) = await context.store.load([(loss.uid, loss.agent_id)])
    if record is not None and is_terminal(record.state):
        context.owners.release((loss.uid, loss.agent_id), loss.epoch)
        context.resumer.finished(loss.uid, loss.agent_id)
