"""The only module that asks for the time, or for chance."""

from __future__ import annotations

import os
import time


class Clock:
    """The system's time; tests pass one that is stepped by hand."""

    def wall_us(self) -> int:
        """Return microseconds since 1970 in UTC; may jump."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    def chance(self) -> float:
        """Return a number evenly spread over 0 to 1, 1 excluded."""
        # Not of random, which takes a client that imports this longer than all else.
        return int.from_bytes(os.urandom(6), "big") / 2**48
