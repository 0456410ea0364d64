"""docs/RESUME.md: its programs are run as they stand, killed, and run again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import agent_journal
from agent_journal.client import (
    EXIT_SUSPENDED,
    AsyncDurableAgent,
    Client,
    DurableAgent,
    Effect,
    connect,
)
from agent_journal.testing.daemon import RunningDaemon

DOCUMENT = (Path(__file__).parents[2] / "docs" / "RESUME.md").read_text("utf-8")
PROGRAMS = {
    found[1]: found[2]
    for found in re.finditer(r"```python\n# (\S+)\n(.*?)```", DOCUMENT, re.DOTALL)
}
PATIENCE_S = 20.0


class Desk:
    """A directory with the document's programs, and a daemon."""

    def __init__(self, daemon: RunningDaemon, journal: Client, directory: Path) -> None:
        self.directory = directory
        self.journal = journal
        self.environment = {
            "PATH": os.environ["PATH"],
            "AGENT_JOURNAL_SOCKET": str(daemon.socket),
            "PYTHONPATH": str(Path(agent_journal.__file__).parents[1]),
            "PYTHONUNBUFFERED": "1",
        }
        for name, text in PROGRAMS.items():
            (directory / name).write_text(text)

    def start(self, name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, name],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str) -> tuple[int, str, str]:
        process = self.start(name)
        said, complained = process.communicate(timeout=PATIENCE_S)
        return process.returncode, said, complained

    def end_of(self, agent_id: str) -> Any:
        """Wait for the agent to complete, and return what it ended with."""
        until(lambda: self.journal.describe(agent_id).state == "completed")
        *_, last = self.journal.read(agent_id)
        payload: Any = last.payload
        return payload.get("result")


def until(is_so: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.01)):
        if is_so():
            return
        pause.wait(0.01)
    pytest.fail("it never came to be")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with RunningDaemon() as daemon, connect(daemon.socket) as journal:
        yield Desk(daemon, journal, tmp_path)


def test_the_report_is_written_though_its_agent_is_killed(desk: Desk) -> None:
    log = desk.directory / "searches.log"
    process = desk.start("report.py")
    until(lambda: log.exists() and "why" in log.read_text())
    process.kill()
    said, _ = process.communicate()
    assert said.count("asking the model") == 1
    end = desk.end_of("report-45")
    assert end == {"answers": ["an answer to 'what is rain?'", "an answer to 'why rain?'"]}
    # The step in flight is idempotent, and was called again; what was done before was not.
    assert log.read_text().split("\n") == ["what is rain?", "why rain?", "why rain?", ""]
    starts = [e.payload["key"] for e in desk.journal.read("report-45") if e.name == "StepStarted"]  # type: ignore[index]
    assert starts == ["plan", "search:1", "search:2", "search:2"]
    assert desk.journal.describe("report-45").attempts == 2


def test_the_report_is_written_where_nothing_happens(desk: Desk) -> None:
    code, said, complained = desk.run("report.py")
    assert (code, complained) == (0, "")
    assert said.splitlines() == [
        "asking the model",
        "searching: what is rain?",
        "searching: why rain?",
    ]


def test_the_payment_is_made_once(desk: Desk) -> None:
    (desk.directory / "crash").touch()
    code, _, complained = desk.run("payment.py")
    assert code == 1
    assert "the machine went down" in complained
    desk.end_of("payment-7")
    payments = json.loads((desk.directory / "bank.json").read_text())
    assert [*payments.values()] == [{"amount": 30, "to": "Ada"}]
    names = [entry.name for entry in desk.journal.read("payment-7")]
    assert names.count("StepStarted") == 1


def test_the_approval_is_waited_for_outside_of_any_process(desk: Desk) -> None:
    code, _, complained = desk.run("approval.py")
    assert (code, complained) == (EXIT_SUSPENDED, "")
    assert f"code {EXIT_SUSPENDED}" in DOCUMENT
    waiting = desk.journal.describe("expense-9")
    assert (waiting.state, waiting.wait_for) == ("waiting", ("approval",))
    desk.journal.signal("expense-9", "approval", {"granted": True})
    assert desk.end_of("expense-9") == {"cost": 1200, "granted": True}


def test_the_decorated_functions_are_steps(desk: Desk) -> None:
    assert desk.run("decorated.py") == (0, "", "")
    assert desk.end_of("words-1") == 8
    keys = [e.payload["key"] for e in desk.journal.read("words-1") if e.name == "StepStarted"]  # type: ignore[index]
    assert keys == ["length:rain", "length:snow"]


def test_the_framework_records_its_own_calls(desk: Desk) -> None:
    code, said, complained = desk.run("framework.py")
    assert (code, said, complained) == (0, "{'text': 'because'}\n", "")
    (end,) = [e.payload for e in desk.journal.read("chat-3") if e.name == "StepCompleted"]
    assert end["usage"] == {"input_tokens": 3, "output_tokens": 1}  # type: ignore[index,call-overload]


def test_every_program_of_the_document_is_run_here() -> None:
    source = Path(__file__).read_text("utf-8")
    assert len(PROGRAMS) == DOCUMENT.count("```python")
    for name in PROGRAMS:
        assert f'"{name}"' in source


def test_every_name_that_the_document_gives_is_there() -> None:
    for effect in Effect:
        assert f'`"{effect}"`' in DOCUMENT
    for name in re.findall(r"`agent\.(\w+)", DOCUMENT):
        assert hasattr(DurableAgent, name)
        assert hasattr(AsyncDurableAgent, name)
    for name in re.findall(r"`([A-Z]\w+(?:Error|Warning))`", DOCUMENT):
        assert name in agent_journal.client.__all__, name
