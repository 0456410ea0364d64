"""The daemon's core through thousands of schedules, each in milliseconds, each repeatable.

Repeat one that failed, and see all of it:

    python -m simulation SEED        (with tests/ on the path)
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from simulation.mutants import MUTANTS, mutant
from simulation.world import Report, run_schedule

QUICK, FULL = 500, 100_000
MUTANT_SCHEDULES_MAX = 5000  # the rarest shows itself in some 500 of them
TESTS = Path(__file__).parents[1]

# A coroutine that a killed process had only just made is unwound like all others.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


def shown(report: Report) -> str:
    faults = "\n  ".join(fault[:600] for fault in report.faults[:10])
    return f"schedule {report.seed}:\n  {faults}\nrepeat: python -m simulation {report.seed}"


@pytest.mark.sized
@pytest.mark.timeout(4 * 3600)
def test_every_promise_is_kept_whatever_happens_when(
    size: Callable[[int, int], int], seed: str, figures: Callable[..., None]
) -> None:
    """Nothing lost, doubled, out of order or fenced off and written; everybody answered."""
    count = size(QUICK, FULL)
    bad: list[str] = []
    requests = commits = lives = launches = 0
    seconds = 0.0
    for number in range(count):
        report = run_schedule(f"{seed}/{number}")
        requests += report.requests
        commits += report.commits
        lives += report.lives
        launches += report.launches
        seconds += report.seconds
        if report.faults:
            bad.append(shown(report))
        if len(bad) > 3:
            break
    figures(
        schedules=count,
        bad=len(bad),
        requests=requests,
        commits=commits,
        daemons=lives,
        launches=launches,
        virtual_hours=round(seconds / 3600, 1),
        seed=seed,
    )
    assert not bad, "\n".join(bad)
    assert requests > 20 * count, "hardly anything was asked"
    assert lives > 1.5 * count, "hardly any daemon was restarted"


@pytest.mark.parametrize("name", MUTANTS, ids=lambda name: name.replace(" ", "_"))
@pytest.mark.timeout(900)
def test_a_mutant_is_caught(name: str, seed: str) -> None:
    """The checks have teeth: a daemon with this mistake fails a schedule, and soon."""
    with mutant(name):
        for number in range(MUTANT_SCHEDULES_MAX):
            report = run_schedule(f"{seed}/{number}")
            if report.faults:
                print(f"schedule {number}: {report.faults[0][:200]}")  # noqa: T201 - with -s
                return
    pytest.fail(f"{MUTANT_SCHEDULES_MAX} schedules did not show that {name}")


class TestDeterminism:
    """A seed is the whole schedule: what it showed once, it shows again."""

    def test_a_seed_gives_the_same_trace_twice(self, seed: str) -> None:
        for number in range(10):
            first, second = (run_schedule(f"{seed}/{number}") for _ in range(2))
            assert first.trace == second.trace

    @pytest.mark.parametrize("hash_seed", ["0", "12345"])
    def test_and_in_another_process_with_other_hashes(self, hash_seed: str, seed: str) -> None:
        seeds = [f"{seed}/{number}" for number in range(10)]
        here = [run_schedule(one).digest for one in seeds]
        program = (
            "import sys; from simulation.world import run_schedule\n"
            "for seed in sys.argv[1:]: print(run_schedule(seed).digest)"
        )
        path = os.pathsep.join([str(TESTS), *sys.path])
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, *seeds],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == here

    def test_seeds_differ(self, seed: str) -> None:
        digests = {run_schedule(f"{seed}/{number}").digest for number in range(20)}
        assert len(digests) == 20
