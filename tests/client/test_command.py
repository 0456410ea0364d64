"""What is recorded of how an agent was started, and what a launched process does with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import agent_journal
from agent_journal.client import _command as command
from agent_journal.client._attempt import SUSPEND_AFTER_S
from agent_journal.client._command import allowed, command_of, named_or_launched
from agent_journal.errors import AgentAttachedError, ForbiddenError, InvalidError
from client.fake_agents import FakeAgents, Process

SOURCE = Path(agent_journal.__file__).parents[1]
PROGRAM = """\
import json
from agent_journal.client._command import command_of
print(json.dumps(command_of(None, ["WANTED"])))
"""


def recorded(arguments: list[str], cwd: Path, *, stdin: str = "") -> Any:
    environment = {
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(SOURCE),
        "WANTED": "yes",
        "API_TOKEN": "secret",
        "AGENT_JOURNAL_SOCKET": "/nowhere",
    }
    printed = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return json.loads(printed)


class TestOwnCommand:
    def test_a_programs_file_is_run_again_with_its_arguments(self, tmp_path: Path) -> None:
        (tmp_path / "agent.py").write_text(PROGRAM)
        found = recorded(["-O", "agent.py", "--topic", "rain"], tmp_path)
        assert found["argv"][1:] == ["-O", "agent.py", "--topic", "rain"]
        assert os.path.isabs(found["argv"][0])  # noqa: PTH117 - text
        assert found["cwd"] == str(tmp_path)

    def test_a_module_and_a_text_are_run_again_too(self, tmp_path: Path) -> None:
        (tmp_path / "agent.py").write_text(PROGRAM)
        assert recorded(["-m", "agent", "x"], tmp_path)["argv"][1:] == ["-m", "agent", "x"]
        assert recorded(["-c", PROGRAM], tmp_path)["argv"][1:] == ["-c", PROGRAM]

    def test_what_was_read_from_standard_input_cannot_be(self, tmp_path: Path) -> None:
        assert recorded(["-"], tmp_path, stdin=PROGRAM) is None
        assert recorded([], tmp_path, stdin=PROGRAM) is None

    def test_of_the_environment_only_what_is_named_is_recorded(self, tmp_path: Path) -> None:
        (tmp_path / "agent.py").write_text(PROGRAM)
        environment = recorded(["agent.py"], tmp_path)["env"]
        assert environment == {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(SOURCE),
            "WANTED": "yes",
        }

    def test_it_can_be_said_otherwise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir("/")
        assert command_of(False, []) is None  # noqa: FBT003 - as the user says it
        found = command_of(["/bin/agent", "x"], [])
        assert found is not None
        assert (found["argv"], found["cwd"]) == (["/bin/agent", "x"], "/")
        whole = {"argv": ["/bin/agent"], "cwd": "/tmp", "env": {}}  # noqa: S108 - a path
        assert command_of(whole, []) == whole

    def test_no_name_on_the_list_is_a_secrets(self) -> None:
        names = [*command.VARIABLES, "LC_ALL"]
        assert allowed(dict.fromkeys([*names, "SSH_AUTH_SOCK"], "x"), []).keys() == {*names}
        assert not [name for name in names if "KEY" in name or "TOKEN" in name or "SECRET" in name]


@pytest.fixture(autouse=True)
def no_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what other tests' processes, which are all this one, have entered and not left."""
    monkeypatch.setattr("agent_journal.client._attempt._entered", set())


class Attaching(FakeAgents):
    """Refuses attaches as it is told."""

    def __init__(self, *refusals: Exception) -> None:
        super().__init__()
        self.refusals = [*refusals]

    def _attach(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.refusals:
            raise self.refusals.pop(0)
        return super()._attach(request)

    @property
    def attaches(self) -> list[dict[str, Any]]:
        return [request for request in self.requests if request["op"] == "attach"]


def attached(journal: FakeAgents, **options: Any) -> Process:
    """Attach with *options*, which a process of the tests otherwise has of its own."""
    process = Process(journal, suspend_after_s=None)
    values = {name: getattr(process._attempt.options, name) for name in _NAMES}
    process._attempt.options = type(process._attempt.options)(**{**values, **options})
    return process.attach()


_NAMES = ("launcher", "command", "environment", "take_over", "suspend_after_s")


class TestAttaching:
    def test_a_daemon_that_runs_no_commands_of_ours_is_content_without(self) -> None:
        journal = Attaching(ForbiddenError("not of your uid"))
        process = attached(journal, command=None)
        first, second = journal.attaches
        assert "command" in first
        assert "command" not in second
        assert process._attempt.suspend_after_s > 10**9

    def test_a_command_that_was_asked_for_is_not_given_up_silently(self) -> None:
        with pytest.raises(ForbiddenError):
            attached(Attaching(ForbiddenError("no")), command=["/bin/agent"])

    def test_a_launched_process_leaves_its_command_as_it_is(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AGENT_JOURNAL_AGENT_ID", "report-42")
        monkeypatch.setenv("AGENT_JOURNAL_ATTEMPT", "3")
        journal = Attaching()
        process = attached(journal, command=None)
        assert "command" not in journal.attaches[0]
        assert process._attempt.suspend_after_s == SUSPEND_AFTER_S

    def test_a_launcher_goes_without_a_command(self) -> None:
        journal = Attaching()
        attached(journal, command=None, launcher="nightly")
        (request,) = journal.attaches
        assert request["launcher"] == "nightly"
        assert "command" not in request

    def test_who_left_its_block_and_lives_on_may_enter_it_again(self) -> None:
        journal = Attaching(AgentAttachedError("it is held", pid=os.getpid(), epoch=1))
        attached(journal)
        assert [request.get("take_over") for request in journal.attaches] == [None, True]

    def test_who_is_in_its_block_may_not_enter_it_twice(self) -> None:
        process = attached(Attaching())
        process._entered()
        with pytest.raises(AgentAttachedError):
            attached(Attaching(AgentAttachedError("it is held", pid=os.getpid(), epoch=1)))
        process._left()

    def test_another_process_is_left_alone(self) -> None:
        with pytest.raises(AgentAttachedError):
            attached(Attaching(AgentAttachedError("it is held", pid=1, epoch=1)))


class TestLaunched:
    def test_the_agent_is_the_one_it_was_launched_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AGENT_JOURNAL_AGENT_ID", "report-42")
        assert named_or_launched(None) == "report-42"
        assert named_or_launched("other") == "other"

    def test_without_a_name_and_a_launch_it_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AGENT_JOURNAL_AGENT_ID", raising=False)
        with pytest.raises(InvalidError, match="agent_id"):
            named_or_launched(None)
