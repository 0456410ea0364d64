"""On a real terminal of 80 columns: colours, and lines that fit."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from agent_journal.cli.terminal import width_of
from cli.fake_daemon import FakeDaemon, agent, entry
from cli.stories import killed_twice, page

CLI = [sys.executable, "-c", "from agent_journal.cli import program; program()"]
PAINT = re.compile(r"\x1b\[[0-9;]*m")


def on_a_terminal(*argv: str, columns: int = 80, **environ: str) -> list[str]:
    """Run a command on a terminal of its own and return the lines it shows."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}}
    command = subprocess.Popen(
        [*CLI, *argv],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**kept, "TERM": "xterm", "PYTHONUTF8": "1", **environ},
    )
    os.close(theirs)
    shown = bytearray()
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        shown += data
    os.close(ours)
    command.wait()
    return shown.decode().replace("\r\n", "\n").splitlines()


@pytest.fixture
def filled(fake: FakeDaemon) -> FakeDaemon:
    goal = "write a long report about 世界 " * 20 + "\x1b[2J"
    entries = [
        entry(0, {"Started": {"goal": goal}}),
        entry(1, {"ObservationsCollected": {"observations": [{"tool": "ls", "result": {}}]}}),
        entry(2, {"Terminated": {"reason": "Completed"}}),
    ]
    fake.on("read", {"entries": entries, "next_sequence": 3, "more": False})
    agents = [
        agent("3f2c1c9e-8d7a-4a52-9b0f-0c8f6b2f7f11", state="completed", entries=1_234_567),
        agent("b", state="parked", kind="nightly", reason="gave up after 5 attempts: " + "x" * 90),
    ]
    fake.on("agents", {"agents": agents, "more": False})
    fake.on("describe", {"agent": agent("b", state="running")})
    fake.on("tail", [{"entry": entry} for entry in entries] + [{"position": 12}])
    return fake


@pytest.mark.parametrize("command", ["read a", "agents", "describe b", "tail --no-follow"])
def test_lines_fit_and_are_coloured(filled: FakeDaemon, command: str) -> None:
    lines = on_a_terminal("-s", str(filled.path), *command.split())
    assert len(lines) >= 3
    assert lines[0].startswith("\x1b[1m")
    for line in lines:
        plain = PAINT.sub("", line)
        assert "\x1b" not in plain
        assert width_of(plain) <= 80 or command.startswith("tail")


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", ["show", "why"])
def test_a_story_fits_and_is_coloured(filled: FakeDaemon, command: str, columns: int) -> None:
    stderr = "long last words \x1b[2J" * 20
    story = killed_twice().add("Noted", text="x" * 300).add("Parked", reason="no", stderr=stderr)
    filled.on("read", page(story))
    filled.on("describe", {"agent": agent("a", state="parked", reason="because " * 30)})
    lines = on_a_terminal("-s", str(filled.path), command, "a", columns=columns)
    assert any("\x1b[" in line for line in lines)
    for line in lines:
        plain = PAINT.sub("", line)
        assert "\x1b" not in plain
        # What is to be typed or searched for is not cut.
        is_whole = plain.startswith(("try:", "a is")) or (command, plain[:2]) == ("why", "  ")
        assert width_of(plain) <= columns or is_whole


def test_states_and_events_have_their_colours(filled: FakeDaemon) -> None:
    agents = "\n".join(on_a_terminal("-s", str(filled.path), "agents", columns=120))
    assert "\x1b[1;31m‖ parked\x1b[0m" in agents
    assert "\x1b[2m✓ completed\x1b[0m" in agents
    entries = "\n".join(on_a_terminal("-s", str(filled.path), "read", "a"))
    assert "\x1b[32mStarted\x1b[0m" in entries
    assert "\x1b[34mObservationsCollected\x1b[0m" in entries
    assert "…" in entries


def test_no_color_is_obeyed(filled: FakeDaemon) -> None:
    for command in (["agents"], ["read", "a"]):
        lines = on_a_terminal("-s", str(filled.path), *command, NO_COLOR="1")
        assert len(lines) >= 3
        assert not any("\x1b" in line for line in lines)


def test_json_cannot_harm_the_terminal(filled: FakeDaemon) -> None:
    r"""Invariant: no control character reaches the screen; in JSON it is its ``\u`` escape."""
    filled.encode = lambda reply: json.dumps(reply, ensure_ascii=False).replace(
        "世界", "\x9b31m\x7f"
    )
    for command in (["read", "a"], ["call", '{"op": "read", "agent_id": "a"}']):
        shown = "\n".join(on_a_terminal("-s", str(filled.path), *command, "--json"))
        assert "\\u009b31m\\u007f" in shown
        assert not {"\x1b", "\x9b", "\x7f"} & set(shown)


def test_json_is_not_coloured(filled: FakeDaemon) -> None:
    lines = on_a_terminal("-s", str(filled.path), "read", "a", "--json")
    assert len(lines) == 3
    assert not any("\x1b" in line for line in lines)


def test_call_is_pretty_on_a_terminal(filled: FakeDaemon) -> None:
    lines = on_a_terminal("-s", str(filled.path), "call", '{"op": "describe", "agent_id": "b"}')
    assert lines[0] == "{"
    assert '    "agent_id": "b",' in lines
    assert lines[-1] == "}"


def test_errors_are_coloured() -> None:
    lines = on_a_terminal("-s", "/nowhere/journal.sock", "ping")
    assert lines[0].startswith("\x1b[1;31magent-journal:\x1b[0m no journal daemon")
    assert lines[1].startswith("\x1b[1mtry:\x1b[0m ")
