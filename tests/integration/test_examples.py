"""Every client in examples/ does what it shows, against a real daemon.

Each is run as a newcomer would run it: alone, with its socket found by the
documented rules.  What it did is then read back from the daemon itself.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import agent_journal
from agent_journal.testing.daemon import RunningDaemon

EXAMPLES = Path(__file__).parents[2] / "examples"

Client = Callable[[Path], list[str]]
"""Returns how to start one of the clients; a directory is there for what is built."""

RECORDED = [
    (0, {"Started": {"goal": "greet"}}),
    (1, {"StepCompleted": {"result": "Hello!"}}),
    (1, {"Terminated": {"reason": "Completed"}}),
]


def program(name: str) -> str:
    """Return the path of *name*, or skip and say what is not checked then."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: the example that needs it was not run")
    return found


def nc_with_unix_sockets() -> None:
    usage = subprocess.run([program("nc"), "-h"], capture_output=True, text=True, check=False)
    if "OpenBSD" not in usage.stderr:
        pytest.skip("this nc is not OpenBSD's: examples/shell/append.sh was not run")


def shell_nc(_: Path) -> list[str]:
    nc_with_unix_sockets()
    return [program("sh"), str(EXAMPLES / "shell" / "append.sh")]


def shell_socat(_: Path) -> list[str]:
    program("socat")
    return [program("bash"), str(EXAMPLES / "shell" / "append-socat.sh")]


def python(_: Path) -> list[str]:
    # -I -S: nothing but the standard library can be imported.
    return [sys.executable, "-I", "-S", str(EXAMPLES / "python" / "append.py")]


def node(_: Path) -> list[str]:
    return [program("node"), str(EXAMPLES / "node" / "append.mjs")]


def c(directory: Path) -> list[str]:
    built = directory / "append"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    source = EXAMPLES / "c" / "append.c"
    subprocess.run([program("cc"), *warnings, "-o", str(built), str(source)], check=True)
    return [str(built)]


CLIENTS = pytest.mark.parametrize(
    "client", [shell_nc, shell_socat, python, node, c], ids=lambda client: client.__name__
)


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """Return what is XDG_RUNTIME_DIR, in which a user's daemon has its own."""
    directory = tmp_path / "runtime"
    (directory / "agent-journal").mkdir(parents=True)
    return directory


@pytest.fixture
def daemon(runtime: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(runtime / "agent-journal") as running:
        yield running


def run(argv: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run *argv* in an environment in which only *environment* leads to a daemon."""
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **environment}
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=40, check=False)


def recorded(daemon: RunningDaemon, agent_id: str) -> list[tuple[int, dict[str, Any]]]:
    reply = daemon.request({"op": "read", "agent_id": agent_id})
    assert reply["ok"], reply
    return [(entry["iteration"], entry["event"]) for entry in reply["entries"]]


@CLIENTS
def test_a_client_records_a_start_a_step_and_an_end_and_shows_them(
    client: Client, daemon: RunningDaemon, tmp_path: Path
) -> None:
    """Run twice with one id nothing is recorded twice: the entries carry keys."""
    argv = [*client(tmp_path), "example-1"]
    for _ in range(2):
        done = run(argv, AGENT_JOURNAL_SOCKET=str(daemon.socket))
        assert done.returncode == 0, done
        assert done.stderr == ""
        assert recorded(daemon, "example-1") == RECORDED
        for _, event in RECORDED:
            assert json.dumps(event).replace(" ", "") in done.stdout.replace(" ", "")


@CLIENTS
def test_a_client_finds_the_users_own_daemon_and_names_a_new_agent(
    client: Client, daemon: RunningDaemon, runtime: Path, tmp_path: Path
) -> None:
    done = run(client(tmp_path), XDG_RUNTIME_DIR=str(runtime))
    assert done.returncode == 0, done
    (agent,) = daemon.request({"op": "agents"})["agents"]
    assert agent["state"] == "completed"
    assert recorded(daemon, agent["agent_id"]) == RECORDED


@CLIENTS
def test_a_client_ends_with_the_daemons_word_where_an_entry_is_refused(
    client: Client, daemon: RunningDaemon, tmp_path: Path
) -> None:
    daemon.request({"op": "append", "agent_id": "ended", "event": {"Terminated": {}}})
    done = run([*client(tmp_path), "ended"], AGENT_JOURNAL_SOCKET=str(daemon.socket))
    assert done.returncode == 1, done
    assert "agent_finished" in done.stderr
    assert len(recorded(daemon, "ended")) == 1


@CLIENTS
def test_a_client_says_so_where_no_daemon_is(client: Client, tmp_path: Path) -> None:
    done = run(client(tmp_path), AGENT_JOURNAL_SOCKET=str(tmp_path / "nobody.sock"))
    assert done.returncode == 1, done
    assert "is agent-journald running?" in done.stderr


def test_the_agent_loop_goes_on_behind_its_last_step(daemon: RunningDaemon, tmp_path: Path) -> None:
    """It dies at a file that is not there, and does not repeat the steps before it."""
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("one two three")
    argv = [sys.executable, str(EXAMPLES / "python" / "agent_loop.py"), "count-1"]
    argv += [str(first), str(second)]
    environment = {
        "AGENT_JOURNAL_SOCKET": str(daemon.socket),
        "PYTHONPATH": str(Path(agent_journal.__file__).parents[1]),  # not every one is installed
    }
    died = run(argv, **environment)
    assert died.returncode == 1, died
    assert "count-1: done" in died.stdout
    assert str(second) in died.stderr
    before = recorded(daemon, "count-1")
    assert daemon.request({"op": "describe", "agent_id": "count-1"})["agent"]["state"] == "running"

    daemon.kill()
    daemon.start()
    first.unlink()  # whoever counts it again fails
    second.write_text("four five")
    resumed = run(argv, **environment)
    assert resumed.returncode == 0, resumed
    assert "count-1: recorded" in resumed.stdout
    assert "count-2: done" in resumed.stdout
    assert "5 words in 2 files" in resumed.stdout
    after = recorded(daemon, "count-1")
    assert after[: len(before)] == before
    assert after[-1][1] == {"Terminated": {"key": "end", "reason": "Completed", "words": 5}}
    keys = [
        json.dumps([name, payload["key"]]) for _, event in after for name, payload in event.items()
    ]
    assert len(keys) == len(set(keys))

    again = run(argv, **environment)
    assert again.returncode == 0, again
    assert recorded(daemon, "count-1") == after
