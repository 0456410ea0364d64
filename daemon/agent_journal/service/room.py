"""How much room the journal takes, and removing agents by hand so that it takes less.

A person's ``vacuum`` goes through the same hands as the configuration's rules: what
would be archived is archived, and writers come first.  A request removes some; whoever
asked asks again while there is more.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from ..errors import InvalidError, UnknownOpError
from ..model import SEQUENCE_MAX, TERMINAL
from ..wire import check_agent_id, micros_from
from ..wire_requests import DiskUsage, Vacuum
from .archiving import archived_bytes
from .copying import check_operator
from .operations import Caller
from .retention import ByHand, Removed, Retention

BLOCK_BYTES: Final = 512  # of st_blocks, whatever the file system's own are


async def vacuum(caller: Caller, request: Vacuum) -> dict[str, object]:
    """Remove some agents that have ended, or tell how many would go."""
    check_operator(caller)
    context = caller.context
    await context.store.load([])  # says it, where the journal is damaged
    retention = context.retention
    if retention is None:
        raise UnknownOpError("agents are not removed here")
    wanted = _wanted(caller, request)
    if request.dry_run:
        return await _told(caller, retention, wanted)
    removed = await retention.remove_some(wanted)
    space = await context.store.space()
    done = removed or Removed()
    return {
        "agents": done.agents,
        "entries": done.entries,
        "archives": done.archives,
        "used_bytes": space.used_bytes,
        "excess_bytes": await retention.excess(wanted),
        "more": done.agents > 0,
    }


def _wanted(caller: Caller, request: Vacuum) -> ByHand:
    states = frozenset(request.states or TERMINAL)
    if not states <= TERMINAL:
        raise InvalidError(
            '"states": only agents that have ended are removed; '
            f"name one or more of {', '.join(sorted(TERMINAL))}",
            field="states",
        )
    if request.kind is not None:
        check_agent_id(request.kind, "kind")
    before: int | None = None
    if request.ended_before is not None:
        before = micros_from(request.ended_before, "ended_before")
    if before is None and request.bytes_max is None:
        if request.states is None and request.kind is None:
            raise InvalidError(
                'say who is to go: "ended_before", "bytes_max", "states" or "kind"',
                field="ended_before",
            )
        before = SEQUENCE_MAX
    return ByHand(
        options=caller.context.config.retention,
        before=before,
        bytes_max=request.bytes_max or 0,
        states=states,
        kind=request.kind,
    )


async def _told(caller: Caller, retention: Retention, wanted: ByHand) -> dict[str, object]:
    """Tell what would go, and change nothing."""
    store = caller.context.store
    agents = 0
    for group in await store.ended_groups():
        before = wanted.ended_before(group)
        if before is not None:
            agents += await store.count_ended(group.state, group.kind, before=before)
    space = await store.space()
    return {
        "agents": agents,
        "entries": 0,
        "archives": [],
        "used_bytes": space.used_bytes,
        "excess_bytes": await retention.excess(wanted),
        "more": False,
    }


async def disk_usage(caller: Caller, request: DiskUsage) -> dict[str, object]:  # noqa: ARG001 - it says nothing more
    """Tell how much room the journal's files take."""
    check_operator(caller)
    context = caller.context
    space = await context.store.space()
    archive = context.config.retention.archive
    attempts = context.attempts
    return {
        "database_bytes": space.file_bytes,
        "free_bytes": space.free_bytes,
        "log_bytes": space.log_bytes,
        "sums_bytes": space.sums_bytes,
        "output_bytes": 0
        if attempts is None
        else await asyncio.to_thread(_bytes_in, attempts.root),
        "archive_bytes": 0 if archive is None else await asyncio.to_thread(archived_bytes, archive),
        "gives_back": space.gives_back,
    }


def _bytes_in(root: Path) -> int:
    """Return how much room all files below *root* take."""
    size = 0
    for directory, _, names in os.walk(root):
        for name in names:
            try:
                size += Path(directory, name).lstat().st_blocks * BLOCK_BYTES
            except OSError:
                continue  # it has just gone
    return size
