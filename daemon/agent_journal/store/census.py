"""How many agents there are, by uid and state, without reading them all.

There may be a million, and somebody asks every second.  So the numbers are kept:
each change says which state it ends, and moves one agent from there to the next.
What was there before the file was opened is counted once, behind everything else:
slice by slice along the index of states, while the daemon serves.

Both go on at once, and an agent may change its place in that index meanwhile.
What is before the place that the count has reached is counted and what is behind
it is not, whatever moves: an agent that leaves a place before it is taken off,
and one that gets to a place before it is added, since the count will not come
by there again.  Agents that began after the opening are left to their changes.

Everything but ``counts`` runs on the connection's thread, so a slice sees a
change whole or not at all.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from ..model import SEQUENCE_MAX, AgentState, Uid
from .base import AgentChange, AgentCounts, AgentRecord, Copy

SLICE_AGENTS: Final = 4096  # about a millisecond
SLICE_GROUPS: Final = 100  # of a uid in a state, where each has few

_NOT_AGENTS: Final = frozenset({Copy.BEGUN, Copy.GIVEN_UP})

Query = Callable[..., sqlite3.Cursor]


class Census:
    """The numbers, and how far the count has come."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._end = 0  # agents that begin there or behind it began after the opening
        self._reached = ("", -1, -1)  # state, uid and first position: how the index is ordered
        self._is_complete = False
        self._counts: Counter[tuple[Uid, AgentState]] = Counter()
        self._lock = threading.Lock()  # an agent is never seen in two states, or in none

    def begin(self, next_position: int) -> None:
        """Take note of where the journal ended when it was opened."""
        self._end = next_position

    @property
    def counts(self) -> AgentCounts | None:
        """How many agents there are, ``None`` until all are counted; from any thread."""
        with self._lock:
            return dict(self._counts) if self._is_complete else None

    def take(self, changes: Iterable[AgentChange]) -> None:
        """Count what a transaction changed that is committed."""
        with self._lock:
            for change in changes:
                record = change.record
                if change.copy in _NOT_AGENTS:
                    continue
                if change.was is record.state and not change.is_removed:
                    continue
                if change.was is not None and self._is_counted(record, change.was):
                    self._counts[record.uid, change.was] -= 1
                if not change.is_removed and self._is_counted(record, record.state):
                    self._counts[record.uid, record.state] += 1

    def _is_counted(self, record: AgentRecord, state: AgentState) -> bool:
        """Tell whether the count has passed the place that an agent has in a state."""
        first = record.first_position
        is_since = not 0 <= first < self._end
        return is_since or self._is_complete or (state, record.uid, first) <= self._reached

    def count_slice(self) -> bool:
        """Count some agents more; False: all are counted."""
        left = SLICE_AGENTS
        for _ in range(SLICE_GROUPS):
            if self._is_complete or left <= 0:
                break
            left -= self._count(left)
        return not self._is_complete

    def _count(self, limit: int) -> int:
        """Count up to *limit* agents of one uid in one state; return how many there were."""
        found = self._query("next_to_count", *self._reached, self._end).fetchone()
        if found is None:
            self._is_complete = True
            return 0
        state, uid, first = found
        count, last = self._query("count_agents", state, uid, first, self._end, limit).fetchone()
        with self._lock:
            self._counts[uid, AgentState(state)] += count
            self._reached = (state, uid, last if count == limit else SEQUENCE_MAX)
        return int(count)
