"""examples/python/durable_agent.py, killed where it is at its most awkward."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import agent_journal
from agent_journal.client import EXIT_SUSPENDED, Client, connect
from agent_journal.testing.daemon import RunningDaemon

EXAMPLE = Path(__file__).parents[2] / "examples" / "python" / "durable_agent.py"
PATIENCE_S = 20.0


@pytest.fixture
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture
def journal(daemon: RunningDaemon) -> Iterator[Client]:
    with connect(daemon.socket) as client:
        yield client


class Example:
    """The example at work on some files."""

    def __init__(self, daemon: RunningDaemon, directory: Path) -> None:
        self.outbox = directory / "outbox"
        self.files = [str(directory / name) for name in ("a.txt", "b.txt")]
        for file in self.files:
            Path(file).write_text("one two three")
        self.environment = {
            "PATH": os.environ["PATH"],
            "AGENT_JOURNAL_SOCKET": str(daemon.socket),
            "PYTHONPATH": str(Path(agent_journal.__file__).parents[1]),
        }

    def start(self, *options: str, tool_seconds: float = 0) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(EXAMPLE), *options, str(self.outbox), *self.files],
            env={**self.environment, "TOOL_SECONDS": str(tool_seconds)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def published(self) -> list[str]:
        if not self.outbox.exists():
            return []
        return [json.loads(line)["text"] for line in self.outbox.read_text().splitlines()]


@pytest.fixture
def example(daemon: RunningDaemon, tmp_path: Path) -> Example:
    return Example(daemon, tmp_path)


def until(is_so: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.01)):
        if is_so():
            return
        pause.wait(0.01)
    pytest.fail("it never came to be")


def agent_of(said: str) -> str:
    found = re.search(r"agent (\S+)", said)
    assert found
    return found[1]


def test_it_publishes_what_it_counted(journal: Client, example: Example) -> None:
    said, complained = example.start().communicate(timeout=PATIENCE_S)
    assert complained == ""
    assert said.splitlines()[1:] == [
        "turn 1: count_words",
        "turn 2: count_words",
        "turn 3: publish",
    ]
    (text,) = example.published()
    assert [line.split()[0] for line in text.splitlines()] == ["3", "3"]
    described = journal.describe(agent_of(said))
    assert (described.state, described.kind) == ("completed", "sum-up")
    assert described.last_completed_iteration >= 2


def test_killed_while_it_publishes_it_publishes_once(journal: Client, example: Example) -> None:
    process = example.start(tool_seconds=0.4)
    until(lambda: bool(example.published()))
    process.kill()
    said, _ = process.communicate()
    agent_id = agent_of(said)
    until(lambda: journal.describe(agent_id).state == "completed")
    assert len(example.published()) == 1
    reasoned = [
        entry.payload["key"]  # type: ignore[index]
        for entry in journal.read(agent_id)
        if entry.name == "StepStarted" and entry.payload["name"] == "ask_model"  # type: ignore[index]
    ]
    assert reasoned == ["reason:1", "reason:2", "reason:3"], "no model call is made twice"


def test_it_waits_for_leave_in_no_process(journal: Client, example: Example) -> None:
    process = example.start("--ask")
    said, complained = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, complained) == (EXIT_SUSPENDED, "")
    agent_id = agent_of(said)
    assert journal.describe(agent_id).state == "waiting"
    assert example.published() == []
    journal.signal(agent_id, "leave", True)  # noqa: FBT003 - the payload
    until(lambda: journal.describe(agent_id).state == "completed")
    assert len(example.published()) == 1
