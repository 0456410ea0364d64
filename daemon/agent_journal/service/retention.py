"""Retention: agents that ended long enough ago are removed, the first ones first.

Who is next is read off an index (``store/ended.py``), a group of one state and one
kind at a time, so nothing that is kept is ever looked at.  What is found is archived
where that is wanted, and then removed a few agents in a transaction; before the next
few it is waited until the entries of these are swept, and then a while, so that
writers have the daemon for themselves most of the time.

Invariant: an agent that has not ended is never removed, nor one whose archive is not
durable.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from ..errors import JournalError, ShuttingDownError, StorageFailedError, StoreError
from ..lifecycle import is_terminal
from ..model import SEQUENCE_MAX, TERMINAL, AgentState, Micros
from ..store.base import AgentRecord, EndedGroup
from .archiving import archive, remove_remains
from .config_retention import Retention as Options
from .context import Context
from .heads import Head
from .removing import remove, swept

LOOK_SECONDS: Final = 10.0  # how often it is looked whether somebody is to go
RETRY_SECONDS: Final = 60.0  # behind a failure that a person has to see to
PLAN_AGENTS: Final = 256  # looked up, and archived, at once
REMOVED_AT_ONCE: Final = 16
REST: Final = 3  # times as long as that took, the writers have the daemon for themselves
REST_SECONDS_MAX: Final = 1.0
LOG_SECONDS: Final = 60.0  # a long removal is told of so often
ENTRY_BYTES: Final = 4096  # what an entry may take: rather too few go at once for a size
DAY_MICROS: Final = 86_400 * 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ByRule:
    """Who is to go by the configuration: whoever is old enough, or as many as are too much."""

    options: Options
    now: Micros

    @property
    def bytes_max(self) -> int:
        """How large the journal may be; 0: any size."""
        return self.options.journal_bytes_max

    def ended_before(self, group: EndedGroup) -> int | None:
        """Return before when agents of *group* must have ended to go; ``None``: they stay."""
        days = self.options.of(group.kind).days(group.state)
        return int(self.now - days * DAY_MICROS) if days else None

    def is_for_size(self, group: EndedGroup) -> bool:
        """Tell whether agents of *group* go where the journal is too large."""
        return not self.options.of(group.kind).is_spared_by_size


@dataclass(frozen=True, slots=True, kw_only=True)
class ByHand:
    """Who is to go because a person said so; kinds that size spares are spared here, too."""

    options: Options
    before: int | None = None
    bytes_max: int = 0
    states: frozenset[AgentState] = TERMINAL
    kind: str | None = None  # only this one; none: any

    def is_of(self, group: EndedGroup) -> bool:
        """Tell whether agents of *group* are asked for at all."""
        return group.state in self.states and self.kind in {None, group.kind}

    def ended_before(self, group: EndedGroup) -> int | None:
        """Return before when agents of *group* must have ended to go; ``None``: they stay."""
        return self.before if self.is_of(group) else None

    def is_for_size(self, group: EndedGroup) -> bool:
        """Tell whether agents of *group* go where the journal is too large."""
        return self.is_of(group) and not self.options.of(group.kind).is_spared_by_size


Wanted = ByRule | ByHand


@dataclass(slots=True, kw_only=True)
class Plan:
    """Whom to remove next, and up to when they must have ended."""

    records: list[AgentRecord] = field(default_factory=list)
    ended_before: int = 0
    is_for_size: bool = False


@dataclass(slots=True)
class Removed:
    """What was removed."""

    agents: int = 0
    entries: int = 0
    archives: list[str] = field(default_factory=list)


class Retention:
    """Removes agents, for the configuration's rules and for a person's; one at a time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._turn = asyncio.Lock()
        self._is_due = asyncio.Event()

    async def keep(self) -> None:
        """Apply the configuration's rules, for as long as the daemon runs."""
        context = self._context
        if context.config.retention.archive is not None:
            await asyncio.to_thread(remove_remains, context.config.retention.archive)
        while True:
            try:
                await self._apply()
                await self._rest(LOOK_SECONDS)
            except (ShuttingDownError, StorageFailedError):
                return
            except (JournalError, OSError) as error:
                if isinstance(error, StoreError):
                    return  # nothing is served any more
                context.log.warning(
                    "retention_failed", error=str(error), retry_seconds=RETRY_SECONDS
                )
                await self._rest(RETRY_SECONDS)
            except Exception:
                context.log.exception("retention_failed")  # a defect of ours; all else goes on
                await self._rest(RETRY_SECONDS)

    def look(self) -> None:
        """Look now whether somebody is to go: the rules have changed."""
        self._is_due.set()

    async def _rest(self, seconds: float) -> None:
        self._is_due.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_due.wait()

    async def _apply(self) -> None:
        """Remove all who are to go by now."""
        context, total = self._context, Removed()
        told = context.clock.monotonic()
        try:
            while (options := context.config.retention).is_on:
                removed = await self.remove_some(ByRule(options=options, now=context.now))
                if removed is None or not removed.agents:
                    break
                total.agents += removed.agents
                total.entries += removed.entries
                total.archives += removed.archives
                if context.clock.monotonic() - told >= LOG_SECONDS:
                    self._tell(total)
                    told, total = context.clock.monotonic(), Removed()
        finally:
            self._tell(total)

    def _tell(self, removed: Removed) -> None:
        if removed.agents:
            self._context.log.info(
                "agents_removed",
                agents=removed.agents,
                entries=removed.entries,
                archives=len(removed.archives),
            )

    async def plan(self, wanted: Wanted) -> Plan:
        """Return some of those who are to go."""
        groups = await self._context.store.ended_groups()
        for group in groups:
            before = wanted.ended_before(group)
            if before is not None and group.oldest < before:
                return await self._some_of(group, before)
        return await self._plan_for_size(wanted, groups)

    async def _some_of(self, group: EndedGroup, before: int) -> Plan:
        found = await self._context.store.ended(
            group.state, group.kind, before=before, limit=PLAN_AGENTS
        )
        return Plan(records=found, ended_before=before)

    async def _plan_for_size(self, wanted: Wanted, groups: list[EndedGroup]) -> Plan:
        """Return the first that ended, as many as are about too much."""
        excess = await self.excess(wanted)
        mine = sorted(
            (group for group in groups if wanted.is_for_size(group)), key=lambda one: one.oldest
        )
        if not excess or not mine:
            return Plan()
        # Up to where the next group begins; behind it, it is that one's turn.
        before = mine[1].oldest + 1 if len(mine) > 1 else SEQUENCE_MAX
        plan = await self._some_of(mine[0], before)
        size = 0
        for count, record in enumerate(plan.records, 1):
            size += (record.next_sequence + 1) * ENTRY_BYTES
            if size >= excess:
                plan.records = plan.records[:count]
                break
        plan.is_for_size = True
        return plan

    async def excess(self, wanted: Wanted) -> int:
        """Return by how many bytes the journal is too large."""
        if not wanted.bytes_max:
            return 0
        space = await self._context.store.space()
        return max(space.used_bytes - wanted.bytes_max, 0)

    async def remove_some(self, wanted: Wanted) -> Removed | None:
        """Remove some of those who are to go; ``None``: there are none.

        Raises:
            OSError: they could not be archived, and were kept.
        """
        async with self._turn:
            plan = await self.plan(wanted)
            if not plan.records:
                return None
            removed = Removed()
            records = plan.records
            if wanted.options.archive is not None:
                records = await self._archived(wanted.options, records, removed)
            waiting = iter(records)
            while some := list(islice(waiting, REMOVED_AT_ONCE)):
                await self._remove(some, plan.ended_before, removed)
                if plan.is_for_size and not await self.excess(wanted):
                    break
            return removed

    async def _archived(
        self, options: Options, records: list[AgentRecord], removed: Removed
    ) -> list[AgentRecord]:
        context, directory = self._context, options.archive
        assert directory is not None  # noqa: S101 - who calls this has looked
        try:
            records, path = await archive(context, directory, records)
        except OSError as error:
            context.metrics.archives_failed += 1
            raise OSError(
                f"agents could not be archived in {directory}, and are kept: {error}; "
                "make room or correct retention.archive"
            ) from error
        if path is not None:
            removed.archives.append(path.name)
            context.metrics.agents_archived += len(records)
        return records

    async def _remove(
        self, records: list[AgentRecord], ended_before: int, removed: Removed
    ) -> None:
        """Remove a few agents in one transaction, and wait until nobody feels it."""
        context = self._context
        begun = context.clock.monotonic()
        counts = await asyncio.gather(
            *(self._remove_one(record, ended_before) for record in records)
        )
        gone = [count for count in counts if count is not None]
        removed.agents += len(gone)
        removed.entries += sum(gone)
        context.metrics.agents_removed += len(gone)
        context.metrics.entries_removed += sum(gone)
        await swept(context, records[0].uid)
        took = context.clock.monotonic() - begun
        await asyncio.sleep(min(REST * took, REST_SECONDS_MAX))

    async def _remove_one(self, record: AgentRecord, ended_before: int) -> int | None:
        """Remove an agent if it still is the one that was found; return its entries."""

        def may_go(head: Head) -> bool:
            is_same = head.number == record.number and is_terminal(head.state)
            return is_same and head.updated_at < ended_before

        removal = await remove(self._context, record.uid, record.agent_id, may_go)
        return None if removal is None else removal.entries
