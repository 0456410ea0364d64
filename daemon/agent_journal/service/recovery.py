"""Recovery: at its start the daemon finds who is unfinished, and who of them still runs.

The scan is one indexed query in slices, in order of first position, and what
waits for it is only the readiness.  Owners that are alive are left alone and
watched.  Those who are not, with the daemon or the host, are recorded as
interrupted afterwards, many in a transaction, and queued in the same order.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Final

from ..store.base import Unfinished
from .context import Context
from .supervisor import Supervisor
from .unfinished import unfinished

BURIED_AT_ONCE: Final = 2  # what one transaction takes along, and others wait for
REST: Final = 3  # times as long as a burial took, the others have the daemon for themselves
REST_SECONDS_MAX: Final = 1.0  # what a burial waited for a slow disk was nobody's loss


async def recover(context: Context, supervisor: Supervisor) -> list[Unfinished]:
    """Find every unfinished agent; return those whose attempts are to be buried."""
    lost: list[Unfinished] = []
    count = 0
    async for agent in unfinished(context):
        count += 1
        if not supervisor.found(agent):
            lost.append(agent)
    if count:
        context.log.info("recovery_finished", unfinished=count, interrupted=len(lost))
    return lost


async def bury(context: Context, supervisor: Supervisor, lost: list[Unfinished]) -> None:
    """Record the ends of attempts that nobody saw, in order, and queue their agents."""
    waiting = iter(lost)
    while agents := list(islice(waiting, BURIED_AT_ONCE)):
        begun = context.clock.monotonic()
        await asyncio.gather(*(supervisor.bury(agent) for agent in agents))
        took = context.clock.monotonic() - begun
        await asyncio.sleep(min(REST * took, REST_SECONDS_MAX))
    if lost:
        context.log.info("interrupted_agents_queued", agents=len(lost))
