"""Everybody who is unfinished, in order of first position, read in slices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from ..errors import DamagedError, JournalError
from ..store.base import Unfinished
from .context import Context

SLICE_AGENTS: Final = 500
RETRY_SECONDS: Final = 1.0

_NONE_YET: Final = -1


async def unfinished(context: Context) -> AsyncIterator[Unfinished]:
    """Yield each agent that was attached to and has not ended."""
    after = _NONE_YET
    while agents := await _slice(context, after):
        for agent in agents:
            yield agent
        after = agents[-1].first_position


async def _slice(context: Context, after: int) -> list[Unfinished]:
    """Read on; what is only now not to be had is asked for again, never passed over."""
    while True:
        try:
            return await context.store.unfinished(after=after, limit=SLICE_AGENTS)
        except DamagedError as error:
            # The daemon stays up to say so to everybody; it resumes nobody meanwhile.
            context.log.critical("recovery_refused", error=str(error))
            return []
        except JournalError as error:
            if not error.retryable:
                raise
            context.log.warning("recovery_delayed", error=str(error))
            await asyncio.sleep(RETRY_SECONDS)
