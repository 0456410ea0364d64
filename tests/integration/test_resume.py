"""Agents are killed, the daemon is killed, and what is unfinished goes on.

The agents are real processes that talk JSON lines over the socket, as a program
in any language would.  What they did is told by the journal.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent_journal.testing.daemon import RunningDaemon
from integration.observed import wait_until

CONFIG = """
[resume]
start_with = "process"
attempts_max = 3
backoff_seconds_initial = 0.01
backoff_seconds_max = 0.05
per_second = 1000
"""

AGENT = """
import json, os, signal, socket, sys

agent_id, attempt = os.environ["AGENT_JOURNAL_AGENT_ID"], os.environ.get("AGENT_JOURNAL_ATTEMPT")
connection = socket.socket(socket.AF_UNIX)
connection.connect(os.environ["AGENT_JOURNAL_SOCKET"])
lines = connection.makefile("rwb")


def ask(op, **members):
    lines.write(json.dumps({"op": op, "agent_id": agent_id, **members}).encode() + b"\\n")
    lines.flush()
    reply = json.loads(lines.readline())
    assert reply["ok"], reply
    return reply


def attach(**members):
    return ask("attach", **members)


def own_command():
    return {"argv": [sys.executable, *sys.argv], "cwd": os.getcwd(),
            "env": {"PATH": os.environ["PATH"], "AGENT_JOURNAL_AGENT_ID": agent_id}}


def record(event, /, **content):
    return ask("append", iteration=0, epoch=epoch, event={event: content})


def step(key, **members):
    record("StepCompleted", key=key, name=key, input_hash="", result=attempt, **members)


def finish():
    record("Terminated", reason="Completed")


epoch = attach(command=own_command())["epoch"]
"""


class Agents:
    """Starts agents, watches them through the daemon, and leaves none behind."""

    def __init__(self, daemon: RunningDaemon, directory: Path) -> None:
        self.daemon = daemon
        self.directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, agent_id: str, code: str) -> subprocess.Popen[bytes]:
        """Start an agent by hand, which says how it is started again."""
        script = self.directory / f"{agent_id}.py"
        script.write_text(AGENT + code)
        process = subprocess.Popen(
            [sys.executable, script],
            env={
                **os.environ,
                "AGENT_JOURNAL_SOCKET": str(self.daemon.socket),
                "AGENT_JOURNAL_AGENT_ID": agent_id,
            },
            stderr=subprocess.DEVNULL,
        )
        self._processes.append(process)
        return process

    def describe(self, agent_id: str) -> dict[str, Any]:
        reply = self.daemon.request({"op": "describe", "agent_id": agent_id})
        agent: dict[str, Any] = reply.get("agent", {"state": "none"})
        return agent

    def events(self, agent_id: str) -> list[tuple[str, Any]]:
        entries = self.daemon.request({"op": "read", "agent_id": agent_id})["entries"]
        return [next(iter(entry["event"].items())) for entry in entries]

    def names(self, agent_id: str) -> list[str]:
        return [name for name, _ in self.events(agent_id)]

    def wait_for(self, agent_id: str, state: str) -> dict[str, Any]:
        """Wait until an agent is in a state."""
        wait_until(lambda: self.describe(agent_id)["state"] == state, f"{agent_id} is {state}")
        return self.describe(agent_id)

    def wait_for_event(self, agent_id: str, name: str, count: int = 1) -> None:
        def is_there() -> bool:
            described = self.describe(agent_id)
            return described["state"] != "none" and self.names(agent_id).count(name) >= count

        wait_until(is_there, f"{agent_id} has {count} {name}")

    def pids(self) -> Iterator[int]:
        """Yield everybody whom the daemon started."""
        for path in self.directory.glob("attempts/*/*/*/process.json"):
            started = json.loads(path.read_text())
            yield started["pid"]
            yield started["keeper_pid"]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path, config=CONFIG) as daemon:
        yield daemon


@pytest.fixture
def agents(daemon: RunningDaemon) -> Iterator[Agents]:
    agents = Agents(daemon, daemon.directory)
    yield agents
    agents.close()


def test_an_agent_that_is_killed_goes_on_and_finishes(agents: Agents) -> None:
    agents.start(
        "a",
        "if attempt is None:\n    step('one'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "if attempt == '2':\n    step('two'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "step('three'); finish()",
    )
    agents.wait_for("a", "completed")
    events = agents.events("a")
    assert [name for name, _ in events] == [
        "AttemptStarted", "StepCompleted", "AttemptEnded",
        "AttemptStarted", "StepCompleted", "AttemptEnded",
        "AttemptStarted", "StepCompleted", "Terminated",
    ]  # fmt: skip
    started = [content for name, content in events if name == "AttemptStarted"]
    assert [content["launched"] for content in started] == [False, True, True]
    assert [content["attempt"] for content in started] == [1, 2, 3]
    ended = [content for name, content in events if name == "AttemptEnded"]
    assert ended[0] == {"attempt": 1, "how": "lost"}
    assert ended[1] == {"attempt": 2, "how": "signalled", "signal": "SIGKILL"}


def test_the_daemon_is_restarted_and_leaves_alone_who_lives(
    daemon: RunningDaemon, agents: Agents
) -> None:
    """Who died meanwhile is resumed; who lives is watched, and its end is learnt."""
    code = "step('first')\nwhile attempt == '2': signal.pause()\nsignal.pause()"
    living = agents.start("living", code)
    dead = agents.start("dead", "step('first')\nif attempt: finish()\nsignal.pause()")
    launched = agents.start(
        "launched", "step('first')\nif not attempt: sys.exit(1)\nsignal.pause()"
    )
    for agent_id, count in (("living", 1), ("dead", 1), ("launched", 2)):
        agents.wait_for_event(agent_id, "StepCompleted", count)
    launched.wait()
    before = agents.describe("launched")
    daemon.kill()
    dead.kill()
    dead.wait()
    daemon.start()

    agents.wait_for("dead", "completed")
    assert agents.describe("dead")["attempts"] == 2
    described = agents.describe("living")
    assert (described["state"], described["attempts"]) == ("running", 1)
    assert described["owner"] == {"pid": living.pid, "alive": True}
    described = agents.describe("launched")
    assert (described["state"], described["attempts"]) == ("running", 2)
    assert described["owner"] == before["owner"]

    living.kill()
    living.wait()
    agents.wait_for_event("living", "AttemptStarted", 2)
    os.kill(described["owner"]["pid"], signal.SIGTERM)
    agents.wait_for_event("launched", "AttemptEnded", 2)
    ends = [content for name, content in agents.events("launched") if name == "AttemptEnded"]
    assert ends[1]["how"] == "signalled", "the keeper told, to a daemon that did not start it"
    assert ends[1]["signal"] == "SIGTERM"


def test_an_agent_that_ended_while_the_daemon_was_down_is_told_with_its_status(
    daemon: RunningDaemon, agents: Agents
) -> None:
    agents.start(
        "a",
        "step('x')\n"
        "if not attempt: sys.exit(1)\n"
        "if attempt == '3': finish()\n"
        "else:\n    signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); signal.pause()",
    )
    agents.wait_for_event("a", "StepCompleted", 2)
    pid = agents.describe("a")["owner"]["pid"]
    daemon.kill()
    os.kill(pid, signal.SIGTERM)
    wait_until(
        (agents.directory / f"attempts/{os.geteuid()}/a/2/status.json").exists, "the agent ended"
    )
    daemon.start()
    agents.wait_for("a", "completed")
    ends = [content for name, content in agents.events("a") if name == "AttemptEnded"]
    assert ends[1] == {"attempt": 2, "how": "exited", "exit_code": 9}


def test_a_restart_counts_as_one_attempt_and_nobody_s_crash(
    daemon: RunningDaemon, agents: Agents
) -> None:
    process = agents.start("a", "step('x')\nif attempt == '2': finish()\nsignal.pause()")
    agents.wait_for_event("a", "StepCompleted")
    daemon.kill()
    process.kill()
    process.wait()
    daemon.start()
    described = agents.wait_for("a", "completed")
    assert described["attempts"] == 2


def test_an_agent_that_always_crashes_is_parked_with_the_end_of_its_stderr(
    agents: Agents,
) -> None:
    agents.start("bad", "print('no model here', file=sys.stderr); sys.exit(3)")
    agents.start("good", "step('x')\nif not attempt: os.kill(os.getpid(), 9)\nfinish()")
    described = agents.wait_for("bad", "parked")
    assert described["attempts"] == 4, "the first, and three that were launched"
    assert "resumed 3 times" in described["reason"]
    assert "exited with status 3" in described["reason"]
    name, parked = agents.events("bad")[-1]
    assert name == "Parked"
    assert parked["stderr"] == "no model here"
    name, ended = agents.events("bad")[-2]
    assert name == "AttemptEnded"
    assert (ended["how"], ended["exit_code"], ended["stderr"]) == ("exited", 3, "no model here")
    agents.wait_for("good", "completed")

    # A person's word lets it go on, with a budget of its own.
    reply = agents.daemon.request({"op": "resume", "agent_id": "bad"})
    assert reply["ok"], reply
    agents.wait_for_event("bad", "Parked", 2)
    assert agents.names("bad").count("AttemptStarted") == 8


def test_one_that_makes_a_little_progress_every_time_is_parked_too(agents: Agents) -> None:
    agents.start("a", "step('k'); sys.exit(1)")
    described = agents.wait_for("a", "parked")
    assert agents.names("a").count("StepCompleted") == 4
    assert described["incident"]["attempts"] == 3
    assert described["incident"]["steps"] == 4


def test_tokens_are_a_budget_too(tmp_path: Path) -> None:
    config = CONFIG + "[resume.kinds.dear]\ntokens_max = 100\nattempts_max = 1000\n"
    with RunningDaemon(tmp_path, config=config) as daemon:
        agents = Agents(daemon, tmp_path)
        try:
            agents.start(
                "a",
                "epoch = attach(kind='dear', take_over=True)['epoch']\n"
                "step('k', usage={'input_tokens': 30, 'output_tokens': 12}); sys.exit(1)",
            )
            described = agents.wait_for("a", "parked")
            assert "126 tokens" in described["reason"]
            assert agents.names("a").count("StepCompleted") == 3
        finally:
            agents.close()


def test_an_agent_that_gave_itself_up_is_resumed_when_it_is_due(agents: Agents) -> None:
    wake_at = datetime.now(UTC) + timedelta(seconds=0.3)
    agents.start(
        "a",
        f"if attempt: finish()\nelse: ask('detach', epoch=epoch, wake_at={wake_at.isoformat()!r})",
    )
    agents.wait_for("a", "completed")
    started = [
        entry["timestamp"]
        for entry in agents.daemon.request({"op": "read", "agent_id": "a"})["entries"]
        if "AttemptStarted" in entry["event"]
    ]
    assert datetime.fromisoformat(started[1]) >= wake_at


def test_it_is_resumed_when_due_by_another_daemon_too(
    daemon: RunningDaemon, agents: Agents
) -> None:
    wake_at = datetime.now(UTC) + timedelta(seconds=1)
    process = agents.start(
        "a",
        f"if attempt: finish()\nelse: ask('detach', epoch=epoch, wake_at={wake_at.isoformat()!r})",
    )
    process.wait()
    assert agents.describe("a")["state"] == "waiting"
    daemon.kill()
    daemon.start()
    agents.wait_for("a", "completed")


def test_an_agent_that_waits_for_a_signal_is_resumed_by_it(agents: Agents) -> None:
    process = agents.start(
        "a", "if attempt: finish()\nelse: ask('detach', epoch=epoch, wait_for=['approval'])"
    )
    process.wait()
    assert agents.describe("a")["state"] == "waiting"
    for name in ("another", "approval"):
        reply = agents.daemon.request({"op": "signal", "agent_id": "a", "name": name})
        assert reply["ok"], reply
    agents.wait_for("a", "completed")
    assert agents.describe("a")["attempts"] == 2


def test_a_process_that_never_attaches_is_ended_and_counts(tmp_path: Path) -> None:
    """Within a while of its own: it might attach when the next one has."""
    with RunningDaemon(tmp_path, config=CONFIG + "attach_seconds = 0.3\n") as daemon:
        agents = Agents(daemon, tmp_path)
        try:
            script = tmp_path / "a.py"
            agents.start(
                "a",
                "script = sys.argv[0]\nopen(script, 'w').write("
                "'import signal; signal.pause()')\nsys.exit(1)",
            )
            described = agents.wait_for("a", "parked")
            assert script.read_text() == "import signal; signal.pause()"
            assert described["attempts"] == 4
            ends = [content for name, content in agents.events("a") if name == "AttemptEnded"]
            assert [end["how"] for end in ends] == ["lost", *["signalled"] * 3]
            assert "did not attach in time" in ends[1]["stderr"]
            assert all(_is_gone(pid) for pid in agents.pids())
        finally:
            agents.close()


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_what_can_not_be_started_is_parked_and_says_why(agents: Agents) -> None:
    process = agents.start("a", "os.unlink(sys.argv[0]); signal.pause()")
    gone = agents.directory / "elsewhere"
    gone.mkdir()
    agents.wait_for("a", "running")
    agents.start(
        "b",
        "import pathlib\n"
        f"gone = pathlib.Path({str(gone)!r})\n"
        "epoch = attach(take_over=True, command={'argv': [str(gone / 'x')], 'cwd': '/'})['epoch']\n"
        "sys.exit(1)",
    )
    described = agents.wait_for("b", "parked")
    assert "could not be started" in described["reason"]
    _, parked = agents.events("b")[-1]
    assert "No such file" in parked["stderr"]
    process.kill()


def test_output_is_kept_for_the_last_attempts(agents: Agents) -> None:
    agents.start("a", "print('out', attempt); sys.stdout.flush(); sys.exit(1)")
    agents.wait_for("a", "parked")
    kept = agents.directory / "attempts" / str(os.geteuid()) / "a"
    assert {path.name for path in kept.iterdir()} == {"2", "3", "4"}
    assert (kept / "4" / "stdout").read_text() == "out 4\n"
    assert not (kept / "4" / "spec").exists()


def test_a_launcher_of_the_configuration_starts_agents(tmp_path: Path) -> None:
    script = tmp_path / "launched.py"
    config = CONFIG + (
        f"[launchers.mine]\nargv = [{json.dumps(sys.executable)}, {json.dumps(str(script))}, "
        '"--agent={agent_id}", "--attempt={attempt}", "$HOME"]\n'
    )
    with RunningDaemon(tmp_path, config=config, env={"API_KEY": "secret"}) as daemon:
        agents = Agents(daemon, tmp_path)
        try:
            script.write_text(
                AGENT.replace("attach(command=own_command())", "attach()")
                + ("step('x', argv=sys.argv[1:], keys='API_KEY' in os.environ)\nfinish()")
            )
            agents.start(
                "a-1",
                "epoch = attach(take_over=True, launcher='mine')['epoch']\n"
                "os.kill(os.getpid(), signal.SIGKILL)",
            )
            agents.wait_for("a-1", "completed")
            _, step = agents.events("a-1")[-2]
            assert step["argv"] == ["--agent=a-1", "--attempt=3", "$HOME"]
            assert step["keys"] is False
            started = [one for name, one in agents.events("a-1") if name == "AttemptStarted"]
            assert started[-1]["command"] == "mine"
        finally:
            agents.close()


def test_named_variables_of_the_daemon_are_passed_on(tmp_path: Path) -> None:
    """Secrets come from the daemon's environment, and are not in the journal."""
    config = CONFIG + 'env = ["API_KEY"]\n'
    with RunningDaemon(tmp_path, config=config, env={"API_KEY": "s3cr3t"}) as daemon:
        agents = Agents(daemon, tmp_path)
        try:
            agents.start(
                "a",
                "if not attempt: sys.exit(1)\n"
                "step('k' if os.environ.get('API_KEY') == 's3cr3t' else 'none'); finish()",
            )
            agents.wait_for("a", "completed")
            assert agents.events("a")[-2][1]["key"] == "k"
            assert daemon.stop() == 0
            assert b"s3cr3t" not in daemon.database.read_bytes()
        finally:
            agents.close()


def test_resuming_can_be_switched_off_by_kind(tmp_path: Path) -> None:
    config = CONFIG + "[resume.kinds.manual]\nenabled = false\n"
    with RunningDaemon(tmp_path, config=config) as daemon:
        agents = Agents(daemon, tmp_path)
        try:
            code = "if attempt: finish()\nelse: sys.exit(1)"
            agents.start("m", "epoch = attach(kind='manual', take_over=True)['epoch']\n" + code)
            agents.start("a", code)
            agents.wait_for("m", "interrupted")
            agents.wait_for("a", "completed")
            assert agents.describe("m")["state"] == "interrupted"
            assert daemon.request({"op": "resume", "agent_id": "m"})["ok"]
            agents.wait_for("m", "completed")
        finally:
            agents.close()


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_agents_outlive_the_daemon(daemon: RunningDaemon, agents: Agents, how: str) -> None:
    """Those that it started, too: they are nobody's children."""
    agents.start("a", "step('x')\nif not attempt: sys.exit(1)\nsignal.pause()")
    agents.wait_for_event("a", "StepCompleted", 2)
    pid = agents.describe("a")["owner"]["pid"]
    end: Callable[[], object] = daemon.kill if how == "kill" else daemon.stop
    end()
    assert not _is_gone(pid)
    daemon.start()
    assert agents.describe("a")["owner"] == {"pid": pid, "alive": True}


def test_a_daemon_that_is_idle_behind_many_attempts_has_no_zombies(
    daemon: RunningDaemon, agents: Agents
) -> None:
    agents.start("a", "sys.exit(1)")
    agents.wait_for("a", "parked")
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text()
    assert children.strip() == ""
