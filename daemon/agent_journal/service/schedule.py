"""What is due when: one heap and one timer, for times of day and for durations.

A duration runs on the clock that never goes back.  A time of day is reckoned
in it too, and anew when the wall clock was set or the host slept, which is
looked for now and then: an agent that is to wake at nine wakes at nine.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Hashable
from itertools import count
from typing import Final, Generic, NamedTuple, TypeVar

from ..clock import Clock
from ..model import Micros

LOOK_SECONDS: Final = 15.0
"""How late a jump of the wall clock is noticed."""

TICK_SECONDS: Final = 0.001  # what is due sooner is due then; rounding must not make it spin
JUMP_SECONDS: Final = 0.5  # what is less is the clocks' drifting apart

_MICROS: Final = 1_000_000

Key = TypeVar("Key", bound=Hashable)


class _Entry(NamedTuple):
    due: float  # on the monotonic clock
    order: int  # of two that are due together, the one that was set first
    wall: Micros | None


class Schedule(Generic[Key]):
    """Calls back with each key when it is due."""

    def __init__(self, clock: Clock, on_due: Callable[[Key], object]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._entries: dict[Key, _Entry] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = count()
        self._offset = self._offset_now()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def at(self, key: Key, when: Micros) -> None:
        """Have *key* be due at a time of day, and not when it was before."""
        self._offset_check()
        self._put(key, when / _MICROS - self._offset, when)

    def after(self, key: Key, seconds: float) -> None:
        """Have *key* be due after a while, and not when it was before."""
        self._put(key, self._clock.monotonic() + seconds, None)

    def cancel(self, key: Key) -> None:
        """Forget when *key* was due; it need not have been."""
        self._entries.pop(key, None)  # its place in the heap is passed over

    def _put(self, key: Key, due: float, wall: Micros | None) -> None:
        entry = self._entries[key] = _Entry(due, next(self._order), wall)
        heapq.heappush(self._heap, (due, entry.order, key))
        if self._timer is None or self._heap[0][1] == entry.order:
            self._arm()
        if len(self._heap) > 2 * len(self._entries) + 64:
            self._rebuild()

    def look(self) -> None:
        """Call back with all that is due."""
        self._offset_check()
        while self._heap and self._heap[0][0] <= self._clock.monotonic():
            popped = heapq.heappop(self._heap)
            if self._is_live(popped):
                key = popped[2]
                del self._entries[key]
                self._on_due(key)
        self._arm()

    def _is_live(self, place: tuple[float, int, Key]) -> bool:
        """Tell whether a place in the heap is still that of its key."""
        entry = self._entries.get(place[2])
        return entry is not None and entry.order == place[1]

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # What was cancelled, or put off, is not waited for: behind it nothing would
        # ever be the first, and so nothing would set the timer again.
        while self._heap and not self._is_live(self._heap[0]):
            heapq.heappop(self._heap)
        if self._heap:
            seconds = self._heap[0][0] - self._clock.monotonic()
            loop = asyncio.get_running_loop()
            seconds = min(max(seconds, TICK_SECONDS), LOOK_SECONDS)
            self._timer = loop.call_later(seconds, self.look)

    def _offset_now(self) -> float:
        return self._clock.wall_us() / _MICROS - self._clock.monotonic()

    def _offset_check(self) -> None:
        offset = self._offset_now()
        if abs(offset - self._offset) < JUMP_SECONDS:
            return
        self._offset = offset
        for key, entry in self._entries.items():
            if entry.wall is not None:
                self._entries[key] = entry._replace(due=entry.wall / _MICROS - offset)
        self._rebuild()

    def _rebuild(self) -> None:
        self._heap = [(entry.due, entry.order, key) for key, entry in self._entries.items()]
        heapq.heapify(self._heap)
        self._arm()

    def close(self) -> None:
        """Call back no more."""
        self._entries.clear()
        self._heap.clear()
        self._arm()
