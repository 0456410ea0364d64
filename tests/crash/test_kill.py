"""Nothing that was acknowledged is missing, doubled, reordered or altered by ``kill -9``.

``CRASH_SEED`` repeats a run that failed.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent_journal.testing.daemon import RunningDaemon
from crash.cycle import Crashes
from crash.forked import ForkedDaemon, Starter

if TYPE_CHECKING:
    from conftest import Figures, Size

CONFIG = "[commit]\ncheckpoint_commits = 5\n"
PER_JOURNAL = 25  # it grows, and with it each look at it
FULL = 5_000


def crash(daemon: RunningDaemon, seed: str, cycles: int) -> Crashes:
    """Crash a daemon so many times, and stop it well at the end."""
    with daemon:
        crashes = Crashes(daemon, seed)
        crashes.run(cycles)
        assert daemon.stop() == 0
        daemon.start()
        crashes.checker.check(daemon)
    return crashes


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, seed: str) -> None:
    """A few times with a daemon as everybody starts it; those below are forked."""
    checker = crash(RunningDaemon(tmp_path, config=CONFIG), seed, 3).checker
    # Otherwise nothing was shown: nobody was interrupted, or nothing was written.
    assert checker.acknowledged > 100
    assert checker.in_doubt > 0


@pytest.mark.sized
@pytest.mark.timeout(4 * 3600)
def test_what_was_acknowledged_survives_kill_9_many_times(
    tmp_path: Path, seed: str, size: Size, figures: Figures, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every second journal has an index that is moved forward every few entries.

    In the milliseconds that a load lasts here, one that waits for thousands hardly begins.
    """
    wanted = size(50, FULL)
    sums: Counter[str] = Counter()
    with Starter() as starter:
        while sums["cycles"] < wanted:
            done = sums["cycles"]
            directory = tmp_path / f"journal-{done}"
            directory.mkdir()
            hurried = done // PER_JOURNAL % 2 == 1
            daemon = ForkedDaemon(starter, directory, config=CONFIG, hurried=hurried)
            found = crash(daemon, f"{seed}/{done}", min(PER_JOURNAL, wanted - done))
            sums.update(found.figures())
            shutil.rmtree(directory)
            if done // 500 != sums["cycles"] // 500:
                with capsys.disabled():
                    print(f"\n{dict(sums)}", end="", flush=True)  # noqa: T201 - an hour passes
    assert sums["acknowledged"] > 10 * wanted
    assert sums["in_doubt"] > 0
    figures(**sums, lost=0, seed=seed)
