"""The store on SQLite: a log in commit order, and an index that trails behind.

The event loop's side of the store.  It numbers positions, holds what the index
has not reached (``unsettled``), and hands the ``Database`` on the connection's
thread one call at a time.  A batch is one call, because a hop between threads
costs more than the insertion of a hundred entries.

Invariant: acknowledged means durable.  ``commit`` returns after SQLite's COMMIT
under ``synchronous=FULL``.  A failed commit or sync is never tried again here:
after an EIO the kernel may call later syncs good that are not.

Reads take turns (one slice at a time may wait for the thread), so a commit
stands behind one slice at the most, however many readers there are.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from ..errors import JournalError, OverloadedError, StorageFullError
from ..model import AgentId, AgentState, Position, Sequence, Uid
from . import one_agent
from .base import AgentNumber, AgentRecord, Batch, Copy, Entry, Filter, Scan, Unfinished
from .database import SLICE_ENTRIES
from .history import KEYED_SLICE_ENTRIES, KeyedEntry, with_keys
from .kept_file import KeptFile
from .room import SLICE_BYTES as GIVEN_BACK_BYTES
from .rows import Row, pack_rows, seal_of
from .sweeping import SWEPT_BYTES
from .unsettled import Slice, Unsettled

# Large generations dirty each agent's page of the index for more entries at
# once, small ones make a restart and the memory cheap.
SETTLE_ENTRIES: Final = 65_536
SETTLE_KEYS: Final = 8192  # keys are what makes a generation large in memory
SETTLE_SLICE_ENTRIES_MIN: Final = 4096
CHECKPOINT_COMMITS: Final = 64
CHECKPOINT_BYTES: Final = 512 * 1024  # a checkpoint of so much takes some 2 ms, and is felt
# Under load a slice of sweeping has a sync of its own, which the commit behind it
# waits for: so few of them do that it is not seen in the slowest hundredth.
HOUSE_COMMITS: Final = 8
HOUSE_COMMIT_BYTES: Final = 32 * 1024  # a larger commit counts for as many
QUIET_SECONDS: Final = 0.1  # after so long without a commit the log's end is marked
FREE_BYTES_MIN: Final = 64 * 1024 * 1024
AGENTS_SLICE: Final = 500
RETRY_MS: Final = 1000  # where memory has run out, as long as others need to give some back


class SqliteStore(KeptFile):
    """A journal in an SQLite file of its own."""

    def __init__(
        self,
        path: Path,
        *,
        checkpoint_commits: int = CHECKPOINT_COMMITS,
        free_bytes_min: int = FREE_BYTES_MIN,
        settle_entries: int = SETTLE_ENTRIES,
    ) -> None:
        super().__init__(path)
        self.checkpoint_commits = checkpoint_commits
        self._free_bytes_min = free_bytes_min
        self._settle_entries = settle_entries
        self._unsettled: Unsettled
        self._next_position = Position(0)
        self._highest_number = AgentNumber(0)
        self._seal = 0  # of the newest row
        self._quiet: asyncio.TimerHandle | None = None
        self._commits_since_checkpoint = 0
        self._bytes_since_checkpoint = 0
        self._is_room_known = False
        self._entries_since_settling = 0
        self._to_settle: list[AgentNumber] = []
        self._has_doomed = True  # until a sweep found none
        self._doomed_position = 0  # histories doomed before it wait for the index to reach it
        self._is_giving_back = True  # until there was nothing to be given back
        self._load_since_house = float(HOUSE_COMMITS)  # commits since a slice, large ones more

    @property
    def free_bytes_min(self) -> int:
        """How much of the disk is left free; appends are refused beyond it."""
        return self._free_bytes_min

    @free_bytes_min.setter
    def free_bytes_min(self, size: int) -> None:
        self._free_bytes_min = size
        self._is_room_known = False

    async def open(self) -> None:
        """Open the file and bring it to a state that may be served."""
        await self._connect()
        try:
            self._next_position, self._highest_number = await self._call(self._database.prepare)
            self._seal = self._database.seal
            found = await self._call(self._database.unsettled)
            self._epoch_floors = await self._call(self._database.ended.epoch_floors)
        except BaseException:
            await self.close()
            raise
        self._unsettled = Unsettled(found)
        self._entries_since_settling = found.entries
        self._doomed_position = self._next_position
        self._is_whole = True

    def new_number(self) -> AgentNumber:
        """Return a number that no history ever had."""
        self._highest_number = AgentNumber(self._highest_number + 1)
        return self._highest_number

    def commit(self, batch: Batch) -> Awaitable[Position]:
        """Record *batch* as one transaction, durably; return its first position."""
        base = self._next_position
        entries, changes = batch.entries, batch.changes
        try:
            rows = pack_rows(base, entries, self._seal)
        except MemoryError as error:  # nothing was begun: the only place where that is certain
            raise OverloadedError(
                "the daemon has no memory for it; nothing of this was recorded, "
                f"try again in {RETRY_MS} ms",
                retry_ms=RETRY_MS,
            ) from error
        size = sum([len(data) for _, data in rows])
        self._bytes_since_checkpoint += size
        self._load_since_house += 1 + size / HOUSE_COMMIT_BYTES
        next_position = Position(base + len(entries))
        write = self._database.write
        if not entries and not changes:
            return self._committed(None, batch, next_position, rows, None)
        if not self._is_room_known or self._damage is not None:
            return self._commit_carefully(batch, next_position, rows)
        settling = self._next_slice() if self._is_settling_due() else None
        done = self._begin(lambda: write(rows, changes, base, next_position, settling))
        return self._committed(done, batch, next_position, rows, settling)

    async def _commit_carefully(
        self, batch: Batch, next_position: Position, rows: list[Row]
    ) -> Position:
        """Look at the disk first: after each checkpoint, and for as long as it is full."""
        if rows:  # a compaction makes room, so it needs none
            free_bytes_min = self._free_bytes_min
            await self._call(lambda: self._database.check_room(free_bytes_min))
            self._is_room_known = True
        write, base = self._database.write, self._next_position
        settling = self._next_slice() if rows and self._is_settling_due() else None
        done = self._begin(lambda: write(rows, batch.changes, base, next_position, settling))
        return await self._committed(done, batch, next_position, rows, settling)

    async def _committed(
        self,
        done: asyncio.Future[None] | None,
        batch: Batch,
        next_position: Position,
        rows: list[Row],
        settling: Slice | None,
    ) -> Position:
        base = self._next_position
        if done is None:
            return base
        try:
            await done
        except (sqlite3.Error, OSError, JournalError) as error:
            self._not_settled(settling)
            raise self._translate(error) from error
        self._settled(settling)
        self._next_position = next_position
        if rows:
            self._seal = seal_of(rows[-1][1])
        entries, changes = batch.entries, batch.changes
        self._unsettled.current.add(base, entries, [row[0] for row in rows])
        self._entries_since_settling += len(entries)
        self._commits_since_checkpoint += 1
        for change in changes:
            if change.is_removed:
                uid, epoch = change.record.uid, change.record.epoch
                self._epoch_floors[uid] = max(self.epoch_floor(uid), epoch)
            elif change.compacted is None and change.copy is not Copy.GIVEN_UP:
                continue
            self._has_doomed, self._doomed_position = True, next_position
        return base

    async def load(self, names: Seq[tuple[Uid, AgentId]]) -> list[AgentRecord | None]:
        """Return what is committed of each agent."""
        found = await self._call(lambda: self._database.load(names))
        return [None if record is None else self._up_to_date(record) for record in found]

    def _up_to_date(self, record: AgentRecord) -> AgentRecord:
        """Add to the counters what is not settled yet."""
        for story in self._unsettled.stories(record.number):
            record = replace(
                record,
                next_sequence=Sequence(max(record.next_sequence, story.next_sequence)),
                last_iteration=max(record.last_iteration, story.last_iteration),
                updated_at=story.updated_at,
                key_high=max(record.key_high, *(story.keys or ("",))),
            )
        return record

    async def find_key(self, number: AgentNumber, key: str) -> Sequence | None:
        """Return where *key* was used in a history."""
        sequence = self._unsettled.find_key(number, key)
        if sequence is not None:
            return Sequence(sequence)
        return await self._call(lambda: self._database.find_key(number, key))

    async def read(
        self, number: AgentNumber, *, from_sequence: int, limit: int, bytes_max: int
    ) -> list[Entry]:
        """Return neighbouring entries of a history."""
        limit = min(limit, SLICE_ENTRIES)
        async with self._reader:
            runs = self._unsettled.runs(number, from_sequence, limit)
            return await self._call(
                lambda: self._database.read(number, from_sequence, limit, bytes_max, runs)
            )

    async def read_keyed(
        self, number: AgentNumber, *, from_sequence: int, limit: int, bytes_max: int
    ) -> list[KeyedEntry]:
        """Return what ``read`` does, each entry with its key."""
        limit = min(limit, KEYED_SLICE_ENTRIES)
        database = self._database
        async with self._reader:
            runs = self._unsettled.runs(number, from_sequence, limit)
            return await self._call(
                lambda: with_keys(
                    database, database.read(number, from_sequence, limit, bytes_max, runs)
                )
            )

    async def scan(self, wanted: Filter, *, from_position: int, limit: int, bytes_max: int) -> Scan:
        """Return a slice of the journal in position order."""
        end = self._next_position
        is_far = end - from_position > one_agent.NEAR_END
        if is_far and wanted.uid is not None and wanted.agent_id is not None:
            return await one_agent.scan(
                self,
                (wanted.uid, wanted.agent_id),
                from_position=from_position,
                end=end,
                limit=limit,
                bytes_max=bytes_max,
            )
        async with self._reader:
            end = self._next_position
            if from_position >= end:
                return Scan(entries=[], next_position=Position(from_position), is_end=True)
            found, reached = await self._call(
                lambda: self._database.scan(wanted, from_position, end, limit, bytes_max)
            )
        if reached is None:
            # Nothing is left behind the last entry found; what was committed
            # while the slice was read was read too, or is behind this end.
            last = found[-1][1].position + 1 if found else 0
            reached = max(end, last, from_position)
        is_end = reached >= self._next_position
        return Scan(entries=found, next_position=Position(reached), is_end=is_end)

    async def position_of_last(
        self, wanted: Filter, count: int, *, before: int | None = None
    ) -> Position:
        """Return the position from which a scan yields the last *count* entries."""
        end = self._next_position if before is None else min(before, self._next_position)
        if count == 0:
            return Position(end)
        if wanted.uid is not None and wanted.agent_id is not None:
            name = wanted.uid, wanted.agent_id
            return await one_agent.position_of_last(self, name, count, Position(end))
        reached: int = end
        while count > 0 and reached > 0:
            async with self._reader:
                start, left = reached, count
                reached, count = await self._call(
                    lambda start=start, left=left: self._database.count_back(wanted, start, left)  # type: ignore[misc]
                )
        return Position(reached)

    async def agents(  # noqa: PLR0913 - the operation has so many members
        self,
        *,
        uid: Uid | None,
        state: AgentState | None,
        kind: str | None,
        after: int,
        limit: int,
        newest: bool = False,
    ) -> tuple[list[AgentRecord], int | None]:
        """Return agents by first position."""
        size = min(limit, AGENTS_SLICE)
        async with self._reader:
            found = await self._call(
                lambda: self._database.agents(uid, state, after, size, newest=newest)
            )
        wanted = [
            self._up_to_date(record)
            for record in found
            if state in (None, record.state) and kind in (None, record.kind)
        ]
        return wanted, found[-1].first_position if len(found) == size else None

    async def agents_named(
        self, uid: Uid, prefix: str, *, after: str, limit: int
    ) -> list[AgentRecord]:
        """Return agents whose ids begin with *prefix*, by id."""
        size = min(limit, AGENTS_SLICE)
        # Ids are printable ASCII: nothing stands between one and itself with \x01 behind it.
        begin, end = max(prefix, f"{after}\x01"), f"{prefix}\x7f"
        async with self._reader:
            found = await self._call(lambda: self._database.agents_named(uid, begin, end, size))
        return [self._up_to_date(record) for record in found]

    async def unfinished(self, *, after: int, limit: int) -> list[Unfinished]:
        """Return agents that have an attachment, by first position."""
        size = min(limit, AGENTS_SLICE)
        async with self._reader:
            return await self._call(lambda: self._database.unfinished(after, size))

    async def ended(
        self, state: AgentState, kind: str | None, *, before: int, limit: int
    ) -> list[AgentRecord]:
        """Return agents of a group that ended before a time, as far as that is settled."""
        found = await super().ended(state, kind, before=before, limit=limit)
        return [self._up_to_date(record) for record in found]

    async def maintain(self) -> bool:
        """Checkpoint, settle, sweep or give back a slice; return whether there is more to do."""
        if self._damage is not None:
            return False
        if self._is_checkpoint_due():
            self._commits_since_checkpoint = self._bytes_since_checkpoint = 0
            self._is_room_known = False
            await self._call(lambda: self._database.checkpoint("PASSIVE"))
            return True
        if self._is_settling_due():
            await self._settle_slice()
            return True
        if self._has_doomed:
            oldest = self._unsettled.oldest
            self._load_since_house = 0.0
            self._has_doomed = await self._call(
                lambda: self._database.sweep(oldest.first_position, self._next_position)
            )
            self._bytes_since_checkpoint += SWEPT_BYTES if self._has_doomed else 0
            self._is_giving_back = True
        elif self._is_giving_back:
            self._load_since_house = 0.0
            self._is_giving_back = await self._call(self._database.room.give_back)
            self._bytes_since_checkpoint += GIVEN_BACK_BYTES if self._is_giving_back else 0
        self._expect_quiet()
        return self._has_doomed or self._is_giving_back

    @property
    def is_maintenance_due(self) -> bool:
        """Tell whether the WAL has grown enough, or something is to be swept.

        Under load the index is settled by the commits themselves: a slice in the
        same transaction costs no sync of its own.
        """
        is_house_due = self._has_doomed or self._is_giving_back
        return self._damage is None and (
            self._is_checkpoint_due() or (is_house_due and self._load_since_house >= HOUSE_COMMITS)
        )

    def _is_checkpoint_due(self) -> bool:
        return (
            self._commits_since_checkpoint >= self.checkpoint_commits
            or self._bytes_since_checkpoint >= CHECKPOINT_BYTES
        )

    def _is_settling_due(self) -> bool:
        current = self._unsettled.current
        if (
            self._to_settle
            or current.entries >= self._settle_entries
            or current.keys >= SETTLE_KEYS
        ):
            return True
        return (
            self._has_doomed
            and current.entries > 0
            and (current.first_position < self._doomed_position)
        )

    def _next_slice(self) -> Slice:
        """Take the next agents of the frozen generation, by number.

        With twice as many entries as were committed since the last slice, so
        that settling keeps up with any load.
        """
        frozen = self._unsettled.frozen
        if frozen is None:
            frozen = self._unsettled.freeze()
            self._to_settle = sorted(frozen.stories, reverse=True)
            self._entries_since_settling = 0
        wanted = max(2 * self._entries_since_settling, SETTLE_SLICE_ENTRIES_MIN)
        self._entries_since_settling = 0
        numbers: list[AgentNumber] = []
        entries = 0
        while self._to_settle and entries < wanted:
            number = self._to_settle.pop()
            numbers.append(number)
            entries += len(frozen.stories[number].positions)
        return Slice(frozen, numbers, not self._to_settle)

    def _settled(self, settling: Slice | None) -> None:
        if settling is not None and settling.is_last:
            self._unsettled.frozen = None

    def _not_settled(self, settling: Slice | None) -> None:
        """Have a slice settled again, since it was not."""
        if settling is not None:
            self._to_settle += reversed(settling.numbers)

    async def _settle_slice(self) -> None:
        settling = self._next_slice()
        try:
            await self._call(lambda: self._database.settle(settling))
        except StorageFullError:
            self._not_settled(settling)
            raise
        self._settled(settling)

    async def settle_all(self) -> None:
        """Bring the index up to date, so that the next start finds nothing to do."""
        while self._unsettled.frozen or self._unsettled.current.entries:
            await self._settle_slice()

    @property
    def next_position(self) -> Position:
        """The position of the next entry."""
        return self._next_position

    def _expect_quiet(self) -> None:
        """Mark how far the log has come, when nothing is committed for a while."""
        if self._quiet is None and self._commits_since_checkpoint:
            loop, seen = asyncio.get_running_loop(), self._commits_since_checkpoint
            self._quiet = loop.call_later(QUIET_SECONDS, self._mark_log, seen)

    def _mark_log(self, seen: int) -> None:
        self._quiet = None
        if not self._is_whole or self._damage is not None:
            return
        if seen != self._commits_since_checkpoint:
            self._expect_quiet()
            return
        # Nobody waits for it, and if it fails the next checkpoint says so.
        self._begin(self._database.checkpoints.mark_log).add_done_callback(_pass_over)

    async def close(self) -> None:
        """Close the file; closing twice is allowed."""
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None
        await super().close()


def _pass_over(done: asyncio.Future[None]) -> None:
    """Have an exception be nobody's."""
    if not done.cancelled():
        done.exception()
