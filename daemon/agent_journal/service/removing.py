"""Removing an agent: it is gone with its entries, its keys, its row and its output.

Unlike a compaction this leaves no agent behind: its id is free, as if it had never
been used.  What comes behind the removal in the queue begins a new agent.

Invariant: whoever held a removed agent is fenced off the one that gets its id.
(The highest epoch of removed agents is kept, and each later grant is above it.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from ..model import AgentId, Uid
from ..store.base import AgentNumber
from .amending import head_of, settle, submit
from .context import Context
from .heads import Head


class Removal(NamedTuple):
    """What was removed of an agent."""

    number: AgentNumber  # of the history that is to be swept
    entries: int


async def remove(
    context: Context, uid: Uid, agent_id: AgentId, may_go: Callable[[Head], bool]
) -> Removal | None:
    """Remove an agent durably; ``None``: *may_go* said no.

    Its entries are not shown from then on, and are swept from the log afterwards.
    """
    if not may_go(await head_of(context, uid, agent_id)):
        return None
    await _remove_output(context, uid, agent_id)  # first: a crash leaves what can be removed
    head = await head_of(context, uid, agent_id)
    if not may_go(head):
        return None
    removal = head.change(is_removed=True)
    record = removal.record
    context.heads.begin_anew(head)
    await submit(context, uid, changes=[removal])
    context.owners.release((uid, agent_id), record.epoch)
    context.resumer.finished(uid, agent_id)
    if record.attachment is not None:  # it was removed while an attempt may have run
        await _remove_output(context, uid, agent_id)
    context.heads.drop_unborn(uid, agent_id)
    return Removal(record.number, record.next_sequence)


async def _remove_output(context: Context, uid: Uid, agent_id: AgentId) -> None:
    if context.attempts is not None:
        await asyncio.to_thread(context.attempts.remove, uid, agent_id)


async def swept(context: Context, uid: Uid, number: AgentNumber | None = None) -> None:
    """Wait until the entries of a removed agent are gone, or those of all that were.

    Raises:
        StorageFullError: the disk has no room for it, until there is more.
    """
    while not await context.store.is_swept(number):
        housekeeping = context.committer.next_housekeeping()
        await settle(context, uid)  # wakes a committer that has given up for the time being
        await asyncio.wait([housekeeping])  # shared with others: not ours to cancel
        housekeeping.result()
