"""A soak of seconds, and of a minute: everybody at once, and nothing is lost or left behind.

``make soak`` is the hour; ``make soak SECONDS=600`` another time.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_journal.testing.daemon import RunningDaemon
from soak.rounds import GROWTH_MAX, Rest, growth, soak


def check(directory: Path, seconds: float) -> None:
    said: list[str] = []
    with RunningDaemon(directory) as daemon:
        found = soak(daemon, seconds, said.append)
        assert not found.problems, "\n".join([*said, *found.problems])
        for what in ("appended", "checked", "read", "followed", "attached", "reconnected"):
            assert found.counts[what] > 0, said
        assert daemon.stop() == 0


@pytest.mark.timeout(300)
def test_a_soak_of_seconds_finds_nothing(tmp_path: Path) -> None:
    check(tmp_path, 6)


@pytest.mark.crash
@pytest.mark.timeout(500)
def test_a_soak_of_a_minute_finds_nothing(tmp_path: Path) -> None:
    check(tmp_path, 60)


def test_what_grows_is_said() -> None:
    """The last rounds are held against the most of the first, with the leave that each has."""
    first = Rest(memory=100 << 20, descriptors=20, threads=4, wal=1 << 20)
    assert growth([first] * 8) == []
    leave = Rest(
        memory=first.memory + GROWTH_MAX.memory,
        descriptors=first.descriptors + GROWTH_MAX.descriptors,
        threads=first.threads + GROWTH_MAX.threads,
        wal=first.wal + GROWTH_MAX.wal,
    )
    assert growth([first] * 6 + [leave] * 2) == []
    for name, more in (("memory", 33 << 20), ("descriptors", 2), ("threads", 3), ("wal", 70 << 20)):
        values = {
            field: getattr(first, field) for field in ("memory", "descriptors", "threads", "wal")
        }
        values[name] += more
        [problem] = growth([first] * 6 + [Rest(**values)] * 2)
        assert problem.startswith(f"{name} grew from ")
