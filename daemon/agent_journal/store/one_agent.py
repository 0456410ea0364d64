"""One agent's entries by position, found through its history and not along the log.

The log has everybody's entries.  To go along it from an old entry of one agent to
the journal's end takes a minute where there are millions; the agent's history is
found by sequence at once, and in it positions rise, so a place is found by halves.
Near the end the log is the shorter way: that is where a ``tail`` follows.

The functions ask a store's own ``load`` and ``read``, which take turns with others.
"""

from __future__ import annotations

from typing import Final

from ..model import AgentId, Position, Uid
from .base import AgentRecord, Scan, Store

NEAR_END: Final = 4096  # positions that a scan looks at sooner than at a history


async def position_of_last(
    store: Store, name: tuple[Uid, AgentId], count: int, end: Position
) -> Position:
    """Return the position from which a scan up to *end* yields the agent's last *count* entries."""
    record = await _find(store, name)
    if record is None:
        return end
    sequence = await _sequence_at(store, record, end)
    position = await _position_of(store, record, max(sequence - count, 0))
    # What was copied for it lies before its beginning, and a scan does not show it.
    return end if position is None else Position(min(max(position, record.first_position), end))


async def scan(  # noqa: PLR0913 - as many as a store's own
    store: Store,
    name: tuple[Uid, AgentId],
    *,
    from_position: int,
    end: int,
    limit: int,
    bytes_max: int,
) -> Scan:
    """Return a slice of the agent's entries from *from_position* up to *end*, in position order."""
    record = await _find(store, name)
    if record is None:
        return Scan(entries=[], next_position=Position(end), is_end=True)
    begin = Position(max(from_position, record.first_position))
    sequence = await _sequence_at(store, record, begin)
    found = await store.read(
        record.number, from_sequence=sequence, limit=limit, bytes_max=bytes_max
    )
    entries = [entry for entry in found if begin <= entry.position < end]
    has_all = not entries or entries[-1].sequence + 1 >= record.next_sequence
    reached = Position(end if has_all else entries[-1].position + 1)
    return Scan(
        entries=[(record, entry) for entry in entries], next_position=reached, is_end=has_all
    )


async def _find(store: Store, name: tuple[Uid, AgentId]) -> AgentRecord | None:
    (record,) = await store.load([name])
    return record if record is not None and record.next_sequence else None


async def _sequence_at(store: Store, record: AgentRecord, position: Position) -> int:
    """Return the first sequence of a history that is not before *position*."""
    low, high = 0, int(record.next_sequence)
    while low < high:
        middle = (low + high) // 2
        found = await _position_of(store, record, middle)
        if found is None:
            break  # compacted meanwhile
        low, high = (middle + 1, high) if found < position else (low, middle)
    return low


async def _position_of(store: Store, record: AgentRecord, sequence: int) -> Position | None:
    found = await store.read(record.number, from_sequence=sequence, limit=1, bytes_max=1)
    return found[0].position if found else None
