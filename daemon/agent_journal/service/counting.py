"""How many agents there are is counted once, behind the start, for ``stats``."""

from __future__ import annotations

import asyncio
from typing import Final

from ..errors import JournalError
from .context import Context

PAUSE_SECONDS: Final = 0.005  # a slice takes one; nobody waits for the numbers


async def count_agents(context: Context) -> None:
    """Have the store count its agents, slice by slice, while others are served."""
    try:
        while await context.store.count_agents():  # noqa: ASYNC110 - it does something
            await asyncio.sleep(PAUSE_SECONDS)
    except JournalError as error:
        # Whoever reads next is told what is wrong; the numbers stay unknown.
        context.log.warning("agents_not_counted", error=str(error))
