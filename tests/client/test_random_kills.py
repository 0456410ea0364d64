"""An agent of fifty steps and the daemon are killed at random moments; nothing is done twice.

Effects are counted outside of the journal, in a file.  An agent is started
again by hand each time: the daemon's own limits on that are tested elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

import agent_journal
from agent_journal.client import Client, Entry, connect
from agent_journal.testing.daemon import RunningDaemon

PROGRAM = Path(__file__).parent / "programs" / "fifty.py"
STEPS = 50
PATIENCE_S = 30.0

# A start takes some 100 ms, and the fifty steps about 300 more.
LIFE_S_MAX = 0.4


def expected() -> str:
    text = "begin"
    for _ in range(STEPS):
        text = hashlib.sha256(text.encode()).hexdigest()
    return text


class Killer:
    """Kills agents, the daemon, or both, until it has killed as often as it should."""

    def __init__(self, daemon: RunningDaemon, directory: Path, seed: str, *options: str) -> None:
        self.daemon = daemon
        self.directory = directory
        self.chance = Random(seed)  # noqa: S311 - chosen by the seed, to be repeated
        self.options = options
        self.kills: Counter[str] = Counter()
        self.doubts = 0
        self.agents = 0
        self._pause = threading.Event()

    def run(self, kills: int) -> None:
        """Have one agent after the other work, and be killed, to its end."""
        while self.kills.total() < kills:
            self.agents += 1
            directory = self.directory / f"agent-{self.agents}"
            directory.mkdir()
            self._one(f"agent-{self.agents}", directory, kills)
            with connect(self.daemon.socket) as journal:
                self.doubts += check(journal, f"agent-{self.agents}", directory)

    def _one(self, agent_id: str, directory: Path, kills: int) -> None:
        while True:
            with self._start(agent_id, directory) as process:
                if self.kills.total() < kills:
                    self._pause.wait(self.chance.uniform(0.05, LIFE_S_MAX))
                    self._kill(process)
                _, said = process.communicate(timeout=PATIENCE_S)
            if process.returncode == 0 or f"{agent_id} is completed" in said:
                return  # (it was killed when all was recorded)
            # One that starts while the daemon is down says so, and is started again.
            assert process.returncode == -9 or "DaemonNotRunningError" in said, said

    def _kill(self, process: subprocess.Popen[str]) -> None:
        whom = self.chance.choice(["agent", "agent", "daemon", "both"])
        if whom != "agent":
            self.daemon.kill()
        if whom != "daemon":
            process.kill()
        if whom != "agent":
            self._pause.wait(self.chance.uniform(0, 0.05))
            self.daemon.start()
        self.kills[whom] += 1

    def _start(self, agent_id: str, directory: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(PROGRAM), agent_id, str(directory), *self.options],
            env={
                "PATH": os.environ["PATH"],
                "AGENT_JOURNAL_SOCKET": str(self.daemon.socket),
                "PYTHONPATH": str(Path(agent_journal.__file__).parents[1]),
            },
            stderr=subprocess.PIPE,
            text=True,
        )


def check(journal: Client, agent_id: str, directory: Path) -> int:
    """Check one agent's whole story; return how many of its steps were in doubt."""
    entries = list(journal.read(agent_id))
    assert entries[-1].payload == {"reason": "Completed", "result": expected()}
    assert journal.describe(agent_id).state == "completed"

    ends = Counter(key_of(entry) for entry in entries if entry.name == "StepCompleted")
    assert ends == {f"step-{number}": 1 for number in range(STEPS)}

    effects = Counter((directory / "effects").read_text().split())
    assert effects == {f"step-{number}": 1 for number in range(1, STEPS, 2)}

    told = directory / "doubts"
    doubted = set(steps_in_doubt(entries))
    assert doubted == ({*told.read_text().split()} if told.exists() else set())
    return len(doubted)


def steps_in_doubt(entries: list[Entry]) -> Iterator[str]:
    """Yield the steps with effects that were begun and had no end when the next attempt began."""
    begun: set[str] = set()
    for entry in entries:
        if entry.name == "StepStarted":
            begun.add(key_of(entry))
        elif entry.name == "StepCompleted":
            begun.discard(key_of(entry))
        elif entry.name == "AttemptStarted":
            yield from (key for key in begun if int(key.removeprefix("step-")) % 2)


def key_of(entry: Entry) -> str:
    return str(entry.payload["key"])  # type: ignore[index]


Start = Callable[..., Killer]


@pytest.fixture
def killer(tmp_path: Path, seed: str) -> Iterator[Start]:
    with RunningDaemon() as daemon:
        yield lambda *options: Killer(daemon, tmp_path, seed, *options)


@pytest.mark.timeout(180)
def test_killed_thirty_times_nothing_is_done_twice(killer: Start) -> None:
    made = killer()
    made.run(30)
    assert {*made.kills} == {"agent", "daemon", "both"}


@pytest.mark.crash
@pytest.mark.timeout(3600)
def test_killed_many_times_nothing_is_done_twice(
    killer: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    made = killer()
    made.run(int(os.environ.get("AGENT_KILLS", "500")))
    with capsys.disabled():
        print(  # noqa: T201 - what was shown
            f"\n{made.agents} agents of {STEPS} steps, {dict(made.kills)} kills, "
            f"{made.doubts} steps in doubt, all reported; no effect doubled"
        )
    assert made.doubts > 0


@pytest.mark.timeout(180)
def test_without_the_record_of_the_intent_it_shows(killer: Start) -> None:
    """The mutant does a step again that it was killed in; the check above must notice."""
    with pytest.raises(AssertionError):
        killer("without-intents").run(60)
