"""How long to wait before the next attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

RETRY_S: Final = 30.0  # a daemon's restart with a large journal to check ends well within this

BACKOFF_FIRST_S: Final = 0.05  # a restarting daemon needs about this long
BACKOFF_MAX_S: Final = 2.0  # a daemon that came back is noticed within this

# A full disk is rarely emptied within seconds, and the agent should hear of it.
STORAGE_FULL_REPEATS_MAX: Final = 2


def backoff_s(failures: int, random: Callable[[], float]) -> float:
    """Return how long to wait after so many failures in a row: nothing after the first.

    The jitter keeps clients that were all cut off at once from coming back at once.
    """
    if failures <= 1:
        return 0.0
    delay_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 2, 30))
    return delay_s * (1.0 + random()) / 2
