"""What was answered survives a power cut, at whatever moment and however unkind the disk.

A daemon is recorded under load, through crashes and restarts, and from the
recording every disk is built that a power cut could have left, as far as one gets
(``power/disk.py`` says what can be left).  The daemon's recovery is started on
each, and what it makes of it is held against what had been answered by then.

``CRASH_SEED`` repeats the load, though not the scheduler; a failure names the
trace, the moment and the choice, with which ``power/replay.py`` repeats it exactly.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crash.power.hunt import Found, Job, jobs_of, run
from crash.power.recording import compiled
from workers import side_by_side

if TYPE_CHECKING:
    from conftest import Figures, Size

MUTANTS = Path(__file__).parent / "mutants"
QUICK = 5_000  # disks


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    return compiled(tmp_path)


@pytest.mark.sized
@pytest.mark.timeout(6 * 3600)
def test_what_was_answered_survives_a_power_cut(  # noqa: PLR0913, PLR0917 - fixtures
    recorder: Path,
    seed: str,
    size: Size,
    workers: int,
    figures: Figures,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wanted = size(QUICK, 1_000_000)
    jobs = jobs_of(recorder.parent / "traces", recorder, seed, wanted, served_every=2)
    found = Found()
    with closing(side_by_side(run, jobs, workers)) as done:
        for one in done:
            found.add(one)
            if wanted > QUICK and found.traces % 20 == 0:
                with capsys.disabled():
                    print(f"\n{found.states} disks, {len(found.bad)} bad", end="", flush=True)  # noqa: T201
            assert not found.bad, "\n".join(found.bad[:10])
    figures(
        states=found.states,
        traces=found.traces,
        served_by_a_daemon=found.served,
        bad=len(found.bad),
        seed=seed,
    )
    assert found.states >= 0.9 * wanted


@pytest.mark.parametrize(
    "mutant", ["ack_before_commit", "synchronous_normal", "synchronous_off", "no_directory_sync"]
)
def test_a_daemon_that_would_lose_something_is_caught(
    mutant: str, recorder: Path, seed: str
) -> None:
    env, argv = {}, [sys.executable, str(MUTANTS / f"{mutant}.py")]
    if mutant == "no_directory_sync":
        # SQLite's own and ours: one of them alone would do.
        env, argv = {"POWER_NO_DIRECTORY_SYNC": "1"}, [sys.executable, "-m", "agent_journal"]
    job = Job(
        directory=recorder.parent / "trace",
        recorder=recorder,
        seed=f"{seed}/{mutant}",
        wanted=400,
        argv=argv,
        env=env,
        lives=1,
    )
    found = run(job)
    print("\n".join(found.bad[:3]))  # noqa: T201 - with -s one sees by what
    assert any("lost" in one or "answered before" in one for one in found.bad)


@pytest.mark.parametrize("mutant", ["sums_unsynced", "mark_ahead"])
def test_a_daemon_that_would_refuse_a_whole_journal_is_caught(
    mutant: str, recorder: Path, seed: str
) -> None:
    """What a power cut leaves is no damage.

    Such a daemon is wrong at a few moments only, which not every trace has.
    """
    for attempt in range(8):
        job = Job(
            directory=recorder.parent / f"trace-{attempt}",
            recorder=recorder,
            seed=f"{seed}/{mutant}/{attempt}",
            wanted=800,
            argv=[sys.executable, str(MUTANTS / f"{mutant}.py")],
            lives=2,
        )
        found = run(job)
        print("\n".join(found.bad[:3]))  # noqa: T201 - with -s one sees by what
        if any("DamagedError" in one for one in found.bad):
            return
    pytest.fail("it was not caught")
