"""The journal verified while it is served, a slice at a time.

Three stages: each agent's history is read to its end, which compares every
checksum; each entry of the log is looked up in the index, and its key among the
keys; each page of the file is held against its sum.  A request does as much as
takes some milliseconds and answers with a cursor that says all there is to know
of how far it came, so nothing is kept here of who verifies.

What is read and is not what was written is damage like any other: from then on
the daemon refuses.  What does not fit together is told, and served on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ..errors import InvalidError, UnknownOpError
from ..store.base import AgentRecord
from ..store.sqlite import SqliteStore
from ..wire_requests import Verify
from .context import Context
from .copying import check_operator
from .operations import Caller

SLICES: Final = 16  # of a request, with commits in between
READ_ENTRIES: Final = 512
READ_BYTES: Final = 256 * 1024
STAGES: Final = ("histories", "index", "pages")


@dataclass(slots=True)
class Progress:
    """How far a verification has come, and what this request found."""

    stage: str = STAGES[0]
    at: int = 0  # in the stage: a position, or a page
    sequence: int = 0  # in the first stage: within the agent behind *at*
    of: int = 0
    agents: int = 0
    entries: int = 0
    pages: int = 0
    problems: list[str] = field(default_factory=list)
    is_done: bool = False

    @property
    def cursor(self) -> str | None:
        """What goes on from here; ``None`` at the end."""
        return None if self.is_done else f"{self.stage}:{self.at}:{self.sequence}"

    def begin(self, stage: str) -> None:
        """Go on with the next stage."""
        self.stage, self.at, self.sequence = stage, 0, 0


async def verify(caller: Caller, request: Verify) -> dict[str, object]:
    """Look at a part of the journal, and say where the next one begins."""
    check_operator(caller)
    context = caller.context
    await context.store.load([])  # says it, where the journal is damaged
    store = context.store
    if not isinstance(store, SqliteStore):
        raise UnknownOpError("this journal is not kept in a file; there is nothing to verify")
    progress = _progress_at(request.cursor)
    for _ in range(SLICES):
        if progress.is_done:
            break
        match progress.stage:
            case "histories":
                await _read_history(context, progress)
            case "index":
                await _check_index(store, progress)
            case _:
                await _check_pages(store, progress)
    return {
        "cursor": progress.cursor,
        "stage": progress.stage,
        "at": progress.at,
        "of": progress.of,
        "agents": progress.agents,
        "entries": progress.entries,
        "pages": progress.pages,
        "problems": progress.problems,
    }


def _progress_at(cursor: str | None) -> Progress:
    if cursor is None:
        return Progress(at=-1)
    stage, _, place = cursor.partition(":")
    at, _, sequence = place.partition(":")
    try:
        if stage in STAGES:
            return Progress(stage=stage, at=int(at), sequence=int(sequence))
    except ValueError:
        pass
    raise InvalidError('"cursor" is none that "verify" gave', field="cursor")


async def _read_history(context: Context, progress: Progress) -> None:
    """Read a slice of the next agent, and go on to the one behind it at its end."""
    store = context.store
    found, _ = await store.agents(uid=None, state=None, kind=None, after=progress.at, limit=1)
    if not found:
        progress.begin("index")
        return
    record = found[0]
    progress.of = max(progress.of, record.first_position + 1)
    entries = await store.read(
        record.number,
        from_sequence=progress.sequence,
        limit=READ_ENTRIES,
        bytes_max=READ_BYTES,
    )
    expected = range(progress.sequence, progress.sequence + len(entries))
    if [entry.sequence for entry in entries] != [*expected]:
        progress.problems.append(f"{_name(record)}: its sequences do not follow each other")
    progress.entries += len(entries)
    progress.sequence += len(entries)
    if progress.sequence < record.next_sequence and entries:
        return
    if progress.sequence < record.next_sequence and await _is_still(context, record):
        progress.problems.append(
            f"{_name(record)}: it has {record.next_sequence} entries, "
            f"and those from {progress.sequence} on cannot be found"
        )
    progress.agents += 1
    progress.at, progress.sequence = record.first_position, 0


async def _is_still(context: Context, record: AgentRecord) -> bool:
    """Tell whether an agent was not compacted meanwhile."""
    (now,) = await context.store.load([(record.uid, record.agent_id)])
    return now is not None and now.number == record.number


def _name(record: AgentRecord) -> str:
    return f"agent {record.agent_id} of uid {record.uid}"


async def _check_index(store: SqliteStore, progress: Progress) -> None:
    checked = await store.check_rows(progress.at)
    progress.problems += checked.problems
    progress.of = store.next_position
    if checked.next_position is None:
        progress.begin("pages")
        progress.at = 1
    else:
        progress.at = checked.next_position


async def _check_pages(store: SqliteStore, progress: Progress) -> None:
    checked, progress.of = await store.check_pages(progress.at)
    progress.pages += checked
    progress.at += checked
    progress.is_done = not checked
