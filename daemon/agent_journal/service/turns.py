"""Has what is worked on side by side pass one place in the order in which it was begun.

Nobody is waited for for long: where one takes longer than the others may be kept
waiting, they go past it.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

from ..clock import Clock
from .schedule import Schedule

TURN_SECONDS: Final = 1.0
"""How long, from its beginning, one may keep those behind it waiting."""


class Turn:
    """One's place in the order; given up when its ``with`` block is left."""

    def __init__(self, schedule: Schedule[Turn], before: asyncio.Event) -> None:
        self._schedule = schedule
        self._before = before
        self.is_over = asyncio.Event()

    async def comes(self) -> None:
        """Wait until those that began before have passed, or were too slow."""
        await self._before.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._schedule.cancel(self)
        self.is_over.set()


class Turns:
    """The order of what was begun."""

    def __init__(self, clock: Clock) -> None:
        self._schedule: Schedule[Turn] = Schedule(clock, lambda turn: turn.is_over.set())
        self._last = asyncio.Event()
        self._last.set()

    def take(self) -> Turn:
        """Return the place behind all that were begun before."""
        turn = Turn(self._schedule, self._last)
        self._last = turn.is_over
        self._schedule.after(turn, TURN_SECONDS)
        return turn

    def close(self) -> None:
        """Ring no more: nobody waits."""
        self._schedule.close()

    def look(self) -> None:
        """Do what is due by the clock; a timer does so too."""
        self._schedule.look()
