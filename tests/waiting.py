"""Waits for something to happen, by looking: for what a test cannot be told of."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(found: Callable[[], Any]) -> Any:
    """Return what *found* finds once it is something."""
    deadline = time.monotonic() + 30
    while not (value := found()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return value
