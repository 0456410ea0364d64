"""Forgetting: an agent is removed, and nothing of it is left in any file of the journal.

The answer comes when that is so: its rows are deleted, its entries are taken out of
the rows of the log that they share with others, SQLite has overwritten what all of
that lay in, and the WAL, which may still hold older pages, is emptied.  What was
given out before (exports, archives, backups, forks) is not the journal's any more.
"""

from __future__ import annotations

from ..errors import AgentUnfinishedError, NotFoundError
from ..lifecycle import is_terminal
from ..model import AgentId
from ..wire import check_agent_id
from ..wire_requests import Forget
from .heads import Head
from .operations import Caller
from .removing import remove, swept


async def forget(caller: Caller, request: Forget) -> dict[str, object]:
    """Remove an agent, and by default wait until nothing of it is left."""
    context = caller.context
    uid = caller.namespace(request.uid)
    check_agent_id(request.agent_id)
    agent_id = AgentId(request.agent_id)

    def may_go(head: Head) -> bool:
        if head.is_new:  # another request has just removed it
            raise NotFoundError(f"there is no agent {agent_id} of uid {uid} any more")
        if not is_terminal(head.state) and not request.force:
            raise AgentUnfinishedError(
                f"{agent_id} is {head.state}; cancel it first, "
                'or send "force": true to have it be gone all the same',
                state=head.state.value,
            )
        return True

    try:
        await caller.agent(uid, agent_id)
        removal = await remove(context, uid, agent_id, may_go)
    except NotFoundError:
        # By an earlier request perhaps, whose answer was lost: then that is finished first.
        if request.wait:
            await swept(context, uid)
            await context.store.erase()
        raise
    assert removal is not None  # noqa: S101 - for the type: who may not go is refused above
    if request.wait:
        await swept(context, uid, removal.number)
        await context.store.erase()
    return {"removed": removal.entries}
