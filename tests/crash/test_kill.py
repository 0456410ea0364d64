"""Nothing that was acknowledged is missing, doubled, reordered or altered by ``kill -9``.

The quick subset runs with every ``make test``; ``make crash`` runs the rest.
``CRASH_SEED`` repeats a run that failed, ``CRASH_CYCLES`` makes it longer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agent_journal.testing.daemon import RunningDaemon
from crash.cycle import Crashes

STARTERS = Path(__file__).parent / "starters"

DAEMON = [sys.executable, "-m", "agent_journal"]
# The same daemon with an index that is moved forward every few entries: in the
# milliseconds that a load lasts here, one that waits for thousands hardly begins.
HURRIED = [sys.executable, str(STARTERS / "small_generations.py")]

CONFIG = "[commit]\ncheckpoint_commits = 5\n"

Run = Callable[[Sequence[str], str, int], Crashes]


@pytest.fixture
def run(tmp_path: Path, seed: str) -> Run:
    def run(argv: Sequence[str], name: str, cycles: int) -> Crashes:
        directory = tmp_path / name
        directory.mkdir()
        with RunningDaemon(directory, argv=argv, config=CONFIG) as daemon:
            crashes = Crashes(daemon, f"{seed}/{name}")
            crashes.run(cycles)
            assert daemon.stop() == 0
            daemon.start()
            crashes.checker.check(daemon)
        return crashes

    return run


@pytest.mark.parametrize("argv", [DAEMON, HURRIED], ids=["as_it_is", "hurried"])
def test_what_was_acknowledged_survives_kill_9(run: Run, argv: Sequence[str]) -> None:
    crashes = run(argv, "quick", 12)
    checker = crashes.checker
    # Otherwise nothing was shown: nobody was interrupted, or nothing was written.
    assert checker.acknowledged > 1000
    assert checker.in_doubt > 0


@pytest.mark.crash
@pytest.mark.timeout(3600)
def test_what_was_acknowledged_survives_kill_9_many_times(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """300 cycles, over journals that grow for 25 of them."""
    wanted = int(os.environ.get("CRASH_CYCLES", "300"))
    done = acknowledged = in_doubt = recorded = startup_kills = 0
    while done < wanted:
        argv = DAEMON if done // 25 % 2 == 0 else HURRIED
        crashes = run(argv, f"journal-{done}", min(25, wanted - done))
        done += crashes.cycles
        acknowledged += crashes.checker.acknowledged
        in_doubt += crashes.checker.in_doubt
        recorded += crashes.checker.recorded_in_doubt
        startup_kills += crashes.startup_kills
        with capsys.disabled():
            print(  # noqa: T201 - minutes pass
                f"\n{done} cycles, {startup_kills} more kills at start: "
                f"{acknowledged} requests acknowledged and all kept, "
                f"{in_doubt} in doubt of which {recorded} were recorded",
                end="",
            )
