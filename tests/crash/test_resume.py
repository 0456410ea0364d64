"""An agent that is killed at any moment ends as if it had lived, started again by the daemon.

The quick subset runs with every ``make test``; ``make crash`` runs the rest.
``CRASH_SEED`` repeats a run that failed, ``AGENT_KILLS`` makes it longer.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_journal.testing.daemon import RunningDaemon
from crash.resume_cycle import CONFIG, Killer, World, state_of, wait_until
from crash.resume_judge import BrokenResumeError, Judge, check

MUTANTS = Path(__file__).parent / "mutants"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path, config=CONFIG) as daemon:
        yield daemon


@pytest.mark.timeout(180)
def test_an_agent_that_is_killed_ends_as_if_it_had_lived(
    daemon: RunningDaemon, tmp_path: Path, seed: str
) -> None:
    killer = Killer(daemon, tmp_path, seed)
    killer.run(30)
    # Otherwise nothing was shown.
    assert killer.in_doubt.total() > 0
    assert killer.attempts > killer.agents


@pytest.mark.crash
@pytest.mark.timeout(3600)
def test_an_agent_that_is_killed_many_times_ends_as_if_it_had_lived(
    tmp_path: Path, seed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """500 kills, in journals that grow for 50 of them."""
    wanted = int(os.environ.get("AGENT_KILLS", "500"))
    done = 0
    while done < wanted:
        directory = tmp_path / f"journal-{done}"
        directory.mkdir()
        with RunningDaemon(directory, config=CONFIG) as daemon:
            killer = Killer(daemon, directory, f"{seed}/{done}")
            killer.run(min(50, wanted - done))
        done += killer.kills.total()
        with capsys.disabled():
            print(  # noqa: T201 - minutes pass
                f"\n{done} kills; of these last {dict(killer.kills)} and "
                f"{killer.recovery_kills} more in recovery, {killer.rivals} rivals: "
                f"{killer.agents} agents, {killer.attempts} attempts, {killer.calls} calls, "
                f"steps in doubt {dict(killer.in_doubt)}, {killer.answers} decided; "
                "none doubled, none lost",
                end="",
            )
        assert killer.in_doubt.total() > 0


def test_an_agent_that_does_not_record_its_intents_is_caught(
    daemon: RunningDaemon, tmp_path: Path, seed: str
) -> None:
    """By what it did to the world, not only by what is missing in the journal."""
    killer = Killer(
        daemon,
        tmp_path,
        seed,
        program=MUTANTS / "skips_intents.py",
        victims=["agent"],
        judge=Judge.judge_by_effects,
    )
    with pytest.raises(BrokenResumeError, match=r"was done [2-9] times") as caught:
        killer.run(200)
    print(caught.value)  # noqa: T201 - with -s one sees by what


def replace_a_stopped_owner(
    daemon: RunningDaemon, world: World, place: str, *, is_restarted: bool = False
) -> None:
    """Stop an owner at *place*, let another take over, and wake the first.

    Raises:
        BrokenResumeError: the first could still write, or went on.
    """
    zombie = world.start(f"hold={place}")
    world.wait_for("holding", zombie.pid)
    zombie.send_signal(signal.SIGSTOP)
    wait_until(lambda: state_of(zombie.pid) == "T", "the owner is stopped")

    owner = world.start("take-over", "hold=step-49")
    world.wait_for("holding", owner.pid)
    if is_restarted:
        daemon.kill()
        daemon.start()
    before = [entry.sequence for entry in world.entries()]
    zombie.send_signal(signal.SIGCONT)
    world.open_gate(zombie.pid)
    zombie.wait()

    check(zombie.returncode == 1, f"the stopped owner ended with {zombie.returncode}")
    check(
        world.told("fenced") == [[str(zombie.pid), "1", "stale_epoch", "2"]],
        f"the stopped owner was told {world.told('fenced')}",
    )
    check([entry.sequence for entry in world.entries()] == before, "it recorded something")
    world.open_gate(owner.pid)
    check(owner.wait() == 0, f"the one that took over ended with {owner.returncode}")
    world.judge()


@pytest.mark.parametrize(
    ("place", "is_restarted"),
    [
        pytest.param("step-11", False, id="between_steps"),
        pytest.param("behind-step-9", True, id="within_a_step_and_a_restart_of_the_daemon"),
    ],
)
def test_an_owner_that_was_stopped_and_replaced_can_not_go_on(
    daemon: RunningDaemon,
    tmp_path: Path,
    place: str,
    is_restarted: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Its next append is stale, and its step in flight is its successor's to find in doubt."""
    world = World(daemon, "report", tmp_path / "world")
    try:
        replace_a_stopped_owner(daemon, world, place, is_restarted=is_restarted)
    finally:
        world.close()


def test_a_daemon_that_ignores_epochs_is_caught(tmp_path: Path) -> None:
    argv = [sys.executable, str(MUTANTS / "ignores_epochs.py")]
    with RunningDaemon(tmp_path, config=CONFIG, argv=argv) as daemon:
        world = World(daemon, "report", tmp_path / "world")
        try:
            with pytest.raises(BrokenResumeError) as caught:
                replace_a_stopped_owner(daemon, world, "step-11")
        finally:
            world.close()
    print(caught.value)  # noqa: T201 - with -s one sees by what


def test_of_two_starts_at_once_one_is_told_who_has_the_agent(
    daemon: RunningDaemon, tmp_path: Path
) -> None:
    """With the epoch and the process that has it; of four, to be sure."""
    world = World(daemon, "report", tmp_path / "world")
    try:
        starts = [world.start("hold=start,step-1") for _ in range(4)]
        for process in starts:
            world.wait_for("holding", process.pid, "start")
        for process in starts:
            world.open_gate(process.pid)
        wait_until(lambda: len(world.told("refused")) == 3, "three are refused")
        wait_until(lambda: world.told("attached"), "the winner says so")
        ((winner, epoch),) = world.told("attached")
        assert epoch == "1"
        refused = {told[0]: told[1:] for told in world.told("refused")}
        losers = [process for process in starts if str(process.pid) != winner]
        assert refused == {str(process.pid): [epoch, winner] for process in losers}
        assert [process.wait() for process in losers] == [1, 1, 1]
        assert [entry.name for entry in world.entries()] == [
            "AttemptStarted", "StepStarted", "StepCompleted",
        ]  # fmt: skip
        world.wait_for("holding", winner, "step-1")
        world.open_gate(int(winner))
        wait_until(lambda: world.state() == "completed", "the winner ends")
        world.judge()
    finally:
        world.close()
