"""Which agents there are: the operation ``agents``.

Agents are listed in the order of their first entries, from either end, or by id
where only those are wanted whose ids begin alike.  Both orders are an index's,
so a page costs what is in it, however many agents there are.  The one exception
is ``kind``: agents of other kinds are passed over one by one.
"""

from __future__ import annotations

from typing import Final

from msgspec.json import encode

from ..errors import InvalidError
from ..model import SEQUENCE_MAX, Uid
from ..store.base import AgentRecord
from ..wire import Agents
from .description import shown
from .operations import AGENTS_MAX, Caller, check_unsent

NEWEST: Final = "newest"


async def agents(caller: Caller, request: Agents) -> dict[str, object]:
    """List a page of agents."""
    check_unsent(caller)
    uid = caller.namespaces(request.uid)
    limit = min(request.limit, AGENTS_MAX)
    if request.prefix is None:
        found = await _by_position(caller, request, uid, limit + 1)
    else:
        found = await _by_name(caller, request, uid, request.prefix, limit + 1)
    page: list[dict[str, object]] = []
    room = caller.context.config.limits.reply_bytes_max
    for record in found[:limit]:
        agent = shown(caller.context, record)
        room -= len(encode(agent))
        if page and room < 0:
            break
        page.append(agent)
    return {"agents": page, "more": len(found) > len(page)}


async def _by_position(
    caller: Caller, request: Agents, uid: Uid | None, limit: int
) -> list[AgentRecord]:
    newest = request.order == NEWEST
    after = await _after(caller, uid, request.after, -1 if not newest else SEQUENCE_MAX)
    found: list[AgentRecord] = []
    while len(found) < limit:
        some, reached = await caller.context.store.agents(
            uid=uid,
            state=request.state,
            kind=request.kind,
            after=after,
            limit=limit - len(found),
            newest=newest,
        )
        found += some
        if reached is None:
            break
        after = reached
    return found


async def _after(caller: Caller, uid: Uid | None, after: str | int | None, begin: int) -> int:
    if after is None:
        return begin
    if isinstance(after, int):
        return after
    if uid is None:
        raise InvalidError(
            '"after" must be the last agent\'s first_position when "uid" is "*"', field="after"
        )
    return (await caller.agent(uid, after)).first_position


async def _by_name(
    caller: Caller, request: Agents, uid: Uid | None, prefix: str, limit: int
) -> list[AgentRecord]:
    if uid is None:
        raise InvalidError(
            'a "prefix" is looked for among the agents of one uid; leave "uid" out, or name one',
            field="prefix",
        )
    if request.order is not None:
        raise InvalidError(
            'agents with a "prefix" come in the order of their ids; leave "order" out',
            field="order",
        )
    if isinstance(request.after, int):
        raise InvalidError(
            'with a "prefix", "after" must be the last agent\'s agent_id', field="after"
        )
    after = request.after or ""
    found: list[AgentRecord] = []
    while len(found) < limit and (
        some := await caller.context.store.agents_named(
            uid, prefix, after=after, limit=limit - len(found)
        )
    ):
        after = some[-1].agent_id
        found += [
            record
            for record in some
            if request.state in (None, record.state) and request.kind in (None, record.kind)
        ]
    return found
