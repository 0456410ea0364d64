"""The thread that commits."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from agent_journal.store.database_thread import wake_on_time


def slack() -> str:
    """Return how late the kernel may wake this thread, in nanoseconds."""
    return Path(f"/proc/{threading.get_native_id()}/timerslack_ns").read_text("ascii").strip()


@pytest.mark.skipif(
    not Path("/proc/self/timerslack_ns").exists(), reason="the kernel has no timerslack_ns"
)
def test_only_the_thread_that_asks_is_woken_on_time() -> None:
    """The others, and what they start, sleep as ever."""
    found: list[str] = []

    def ask() -> None:
        wake_on_time()
        found.append(slack())

    before = slack()
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found == ["1"]
    assert slack() == before != "1"
