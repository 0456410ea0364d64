"""Settling: the index is moved forward by a slice of what it has not reached."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from .unsettled import Slice

SETTLED_PER_STATEMENT: Final = 64

Put = Callable[[str, Sequence[tuple[object, ...]], int], None]


def settle(query: Callable[..., sqlite3.Cursor], put: Put, settling: Slice) -> None:
    """Put agents' stories into the index, within the transaction that is open."""
    generation = settling.generation
    stories = [(number, generation.stories[number]) for number in settling.numbers]
    agents = [
        (
            number,
            story.next_sequence,
            story.last_iteration,
            story.updated_at,
            max(story.keys) if story.keys else "",
        )
        for number, story in stories
    ]
    keys = [
        (number, key, sequence)
        for number, story in stories
        if story.keys
        for key, sequence in sorted(story.keys.items())
    ]
    runs = list(generation.packed_runs(settling.numbers))
    put("put_runs", runs, SETTLED_PER_STATEMENT)
    put("settle_agents", agents, SETTLED_PER_STATEMENT)
    put("put_keys", keys, SETTLED_PER_STATEMENT)
    if settling.is_last:
        query("set_mark", generation.next_position, "settled_position")
