"""The scrub: every page of the journal's file is looked at again and again, slowly.

A bit that flips on the disk is noticed when somebody reads what it belongs to,
or here, before that: as long as there is a backup from before it.  Some pages at
a time, between commits, at a rate that nobody feels; a restart goes on where it
was.  What it finds makes the journal damaged: nothing is served any more, and
everybody is told why.

Before that it sums the pages of a journal that is older than its sums, faster:
until then nobody can tell whether they are right.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from ..errors import DamagedError, JournalError
from ..model import Micros
from ..store.page_sums import Mark
from ..wire import render_timestamp
from .context import Context

SUMMING_PAUSE_SECONDS: Final = 0.01
RETRY_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 60.0  # how often it is looked whether the next round is due
HOUR_MICROS: Final = 3600 * 1_000_000


class Scrubbed(Protocol):
    """A store whose file can be looked at."""

    @property
    def mark(self) -> Mark | None:
        """How far the sums have come."""
        ...

    async def scrub(self, now: Micros) -> int:
        """Look at some pages; return how many, 0 at the end of the file."""
        ...

    async def sum_unknown(self) -> bool:
        """Sum some pages that have no sum yet; False: none are left."""
        ...


async def scrub(context: Context, store: Scrubbed) -> DamagedError | None:
    """Look at the file's pages until damage is found, which is returned, or for ever."""
    while True:
        try:
            await _sum_unknown(context, store)
            while True:
                pause = await _look(context, store)
                await asyncio.sleep(pause)
        except DamagedError as error:
            context.log.critical("journal_damaged", error=str(error), **error.details)
            return error
        except JournalError as error:
            # A full disk, or one that failed: nothing is lost by looking later.
            context.log.warning("scrub_failed", error=str(error), retry_seconds=RETRY_SECONDS)
            await asyncio.sleep(RETRY_SECONDS)


async def _sum_unknown(context: Context, store: Scrubbed) -> None:
    is_said = False
    while await store.sum_unknown():
        is_said = is_said or not context.log.info("summing_pages")
        await asyncio.sleep(SUMMING_PAUSE_SECONDS)
    if is_said:
        context.log.info("pages_summed")


async def _look(context: Context, store: Scrubbed) -> float:
    """Look at some pages, if it is time to; return how long to wait before the next."""
    options, mark = context.config.integrity, store.mark
    if mark is None or not options.scrub_bytes_per_second:
        return LOOK_SECONDS
    now = Micros(context.clock.wall_us())
    rest = options.scrub_interval_hours * HOUR_MICROS
    if mark.scrub_page == 1 and 0 <= now - mark.scrubbed_at < rest:
        return LOOK_SECONDS
    pages = await store.scrub(now)
    context.metrics.scrub_bytes += pages * mark.page_bytes
    if not pages:
        context.log.info("journal_scrubbed", pages=mark.pages)
        return LOOK_SECONDS
    return pages * mark.page_bytes / options.scrub_bytes_per_second


def scrub_figures(store: object) -> dict[str, object]:
    """Return how far the scrub is, for ``stats``."""
    mark: Mark | None = getattr(store, "mark", None)
    if mark is None:
        return {}
    return {
        "file_bytes": mark.pages * mark.page_bytes,
        "scrubbed_bytes": (mark.scrub_page - 1) * mark.page_bytes,
        "scrubbed_at": render_timestamp(mark.scrubbed_at) if mark.scrubbed_at else None,
        "unsummed_bytes": max(mark.unknown_last + 1 - mark.unknown_first, 0) * mark.page_bytes,
    }
