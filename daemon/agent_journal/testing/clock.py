"""A clock that stands still until a test moves it, and chance that a test chooses."""

from __future__ import annotations

from typing import Final

from ..clock import Clock

FIRST_WALL_US: Final = 1_700_000_000_000_000  # 2023-11-14T22:13:20Z: recognisable in a failure


class ManualClock(Clock):
    """The time that a test says it is."""

    def __init__(self, *, wall_us: int = FIRST_WALL_US, monotonic: float = 0.0) -> None:
        self._wall_us = wall_us
        self._monotonic = monotonic
        self.next_chance = 0.5

    def wall_us(self) -> int:
        """Return microseconds since 1970 in UTC."""
        return self._wall_us

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return self._monotonic

    def chance(self) -> float:
        """Return the number that the test chose."""
        return self.next_chance

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._wall_us += round(seconds * 1_000_000)
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as a person or NTP does; no time passes."""
        self._wall_us += round(seconds * 1_000_000)
