"""What looks after a journal's file: its pages, its copies, its room, and what has ended.

Nothing here writes entries.  Each call is a slice of some milliseconds at the
most, on the connection's thread, and commits go in between.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from ..errors import JournalError
from ..model import AgentState, Micros, Uid
from .backup import PageCopy, begin_copy, finish_copy
from .base import AgentNumber, AgentRecord, EndedGroup, Space
from .database_thread import DatabaseThread
from .page_sums import Mark
from .self_check import CheckedRows

TIMESTAMP_MIN: Final = -(2**63)


class KeptFile(DatabaseThread):
    """A journal's file, looked after."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.copy: PageCopy | None = None  # the one that was begun last
        self._reader = asyncio.Lock()
        self._erasing = asyncio.Lock()
        self._epoch_floors: dict[Uid, int] = {}

    # Copies

    async def begin_copy(self) -> PageCopy:
        """Begin a copy of the file; one that was being taken is given up."""
        self.copy = await self._call(lambda: begin_copy(self._database, self._path))
        return self.copy

    async def finish_copy(self, copy: PageCopy) -> None:
        """Make what was copied whole, if only little is left of it."""
        await self._call(lambda: finish_copy(self._database, copy))

    # Integrity

    @property
    def mark(self) -> Mark | None:
        """How far the journal's sums have come; ``None`` where it is not open."""
        return self._database.checkpoints.mark if self._is_whole else None

    async def scrub(self, now: Micros) -> int:
        """Look at some pages of the file; return how many, 0 at its end.

        Raises:
            DamagedError: one is not what was written; nothing is served any more.
        """
        return await self._call(lambda: self._database.scrub(now))

    async def check_rows(self, from_position: int) -> CheckedRows:
        """Hold some entries of the log against the index and the keys."""
        async with self._reader:
            return await self._call(lambda: self._database.check_rows(from_position))

    async def check_pages(self, first: int) -> tuple[int, int]:
        """Look at some pages of the file; return how many, and how many there are.

        Raises:
            DamagedError: one is not what was written; nothing is served any more.
        """
        async with self._reader:
            return await self._call(lambda: self._database.check_pages(first))

    async def sum_unknown(self) -> bool:
        """Sum some pages that were there before there were sums; False: none are left."""
        return await self._call(self._database.checkpoints.sum_unknown)

    # What has ended

    async def ended_groups(self) -> list[EndedGroup]:
        """Return of which states and kinds there are agents that have ended."""
        async with self._reader:
            return await self._call(self._database.ended.groups)

    async def ended(
        self, state: AgentState, kind: str | None, *, before: int, limit: int
    ) -> list[AgentRecord]:
        """Return agents of a group that ended before a time, as far as that is settled."""
        async with self._reader:
            return await self._call(lambda: self._database.ended.agents(state, kind, before, limit))

    async def count_ended(self, state: AgentState, kind: str | None, *, before: int) -> int:
        """Return how many agents of a group ended before a time."""
        count = 0
        begin: int | None = TIMESTAMP_MIN
        while begin is not None:
            after = begin
            async with self._reader:
                some, begin = await self._call(
                    lambda after=after: self._database.ended.count(state, kind, after, before)  # type: ignore[misc]
                )
            count += some
        return count

    def epoch_floor(self, uid: Uid) -> int:
        """Return the highest epoch that a removed agent of *uid* had."""
        return self._epoch_floors.get(uid, 0)

    async def is_swept(self, number: AgentNumber | None = None) -> bool:
        """Tell whether all entries of a history that ended are gone; ``None``: of every one."""
        return await self._call(lambda: self._database.ended.is_swept(number))

    async def erase(self) -> None:
        """Have nothing of what was swept be left in any file of the journal.

        Every page of the file is looked at, beside SQLite, with commits in between; then
        the WAL is emptied, which holds pages as they were.
        """
        database = self._database
        async with self._erasing:
            while await self.sum_unknown():
                pass
            wipe = await self._call(database.checkpoints.begin_wipe)
            try:
                while not wipe.is_almost_done:
                    await asyncio.to_thread(wipe.look)
                    if wipe.dirty:
                        await self._call(database.checkpoints.write_wiped)
                await self._call(database.finish_wipe)
            finally:
                database.checkpoints.wipe = None

    # Room

    async def vacuum(self) -> None:
        """Write the whole file anew; nobody may be served meanwhile."""
        database = self._database
        try:
            await self._call(database.room.vacuum)
        except JournalError:
            database.checkpoints.note_rollback()
            raise
        await self.checkpoint()

    async def space(self) -> Space:
        """Return how much room the journal takes."""
        return await self._call(self._database.room.space)
