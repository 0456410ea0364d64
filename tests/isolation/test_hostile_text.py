"""What an agent says drives no terminal, forges no line of a log, and is no shell's to run.

An agent puts an escape sequence, and words that a shell would obey, into every text
that the protocol takes, and into what its process writes.  Then every command that
shows something of it is run, on a terminal and into a pipe.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_journal import cli as commands
from agent_journal.testing.daemon import RunningDaemon
from cli.test_pty import CLI, PAINT, on_a_terminal
from integration.observed import wait_until

# Clear the screen, set the title, an 8-bit CSI, right-to-left, a line of its own, a NUL.
NASTY = (
    "A\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\u2066\u2028\r\nok: all is well\x7f\x00$(id);`id`'\"|&"
)
JOINERS = {"\u200c", "\u200d"}

# What the process of an agent writes as its last words.
DYING = f"import sys; sys.stderr.write({NASTY!r}); sys.exit(3)"


def harmful(text: str) -> set[str]:
    """Return the control characters of *text*, but for lines and the colours of ours."""
    text = PAINT.sub("", text).replace("\n", "")
    return {one for one in text if unicodedata.category(one)[0] in "CZ"} - JOINERS - {" "}


def nasty_requests() -> Iterator[dict[str, object]]:
    """Yield what puts it everywhere."""
    usage = {"input_tokens": 1, NASTY: NASTY}
    step = {"key": NASTY, "name": NASTY, "input_hash": NASTY}
    events: list[dict[str, object]] = [
        {"Started": {"goal": NASTY}},
        {NASTY: {NASTY: NASTY}},
        {"ReasoningComplete": {"thought": NASTY, "actions": [{"tool": NASTY}]}},
        {"PolicyEvaluated": {"allowed": [], "denied": [{"tool": NASTY, "reason": NASTY}]}},
        {"ToolsDispatched": {"calls": [{"tool": NASTY}]}},
        {"ObservationsCollected": {"observations": [{"tool": NASTY, "error": NASTY}]}},
        {"RecoveryTriggered": NASTY},
        {"StepStarted": {**step, "effect": NASTY, "idempotency_key": NASTY}},
        {"StepCompleted": {**step, "result": {NASTY: [NASTY]}, "usage": usage}},
        {"StepStarted": {**step, "key": f"2{NASTY}", "effect": "unsafe"}},
        {"StepFailed": {**step, "key": "3", "error": {"type": NASTY, "message": NASTY}}},
        {"StepStarted": {**step, "key": f"-{NASTY}", "effect": "unsafe"}},
    ]
    command = {"argv": [sys.executable, "-c", DYING, NASTY.replace("\0", "")],
               "cwd": "/", "env": {"NOISE": NASTY.replace("\0", "")}}  # fmt: skip
    yield {"op": "attach", "agent_id": "n", "kind": "k", "command": command}
    for event in events:
        yield {"op": "append", "agent_id": "n", "epoch": 1, "event": event, "key": f"{event}"[:60]}
    yield {"op": "signal", "agent_id": "n", "name": NASTY, "payload": {NASTY: NASTY}, "key": NASTY}
    yield {"op": "fork", "agent_id": "n", "at_sequence": 7, "as": "waits"}
    yield {"op": "attach", "agent_id": "waits"}
    names = [NASTY, f"-{NASTY}"]
    yield {"op": "detach", "agent_id": "waits", "epoch": 1, "wait_for": names}
    for agent_id, end in (("failed", {"reason": NASTY, "message": NASTY, "error": {NASTY: NASTY}}),
                          ("completed", {"reason": "Completed", "answer": NASTY})):  # fmt: skip
        yield {"op": "append", "agent_id": agent_id, "event": {"Terminated": end}}
    yield {"op": "append", "agent_id": "cancelled", "event": {"Noted": 1}}
    yield {"op": "cancel", "agent_id": "cancelled", "reason": NASTY}
    yield {"op": "append", "agent_id": "parked", "event": {"StepStarted": events[9]["StepStarted"]}}
    yield {"op": "park", "agent_id": "parked", "reason": NASTY}
    yield {"op": "append", "agent_id": "unparked", "event": {"Noted": 1}}
    yield {"op": "park", "agent_id": "unparked", "reason": NASTY}
    yield {"op": "resume", "agent_id": "unparked", "reason": NASTY}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """Return a daemon with an agent that was started once by it, and died with a curse."""
    config = '[log]\nformat = "console"\n[resume]\nstart_with = "process"\nattempts_max = 2\n'
    config += "backoff_seconds_initial = 0\nbackoff_seconds_max = 0\n"
    with RunningDaemon(tmp_path_factory.mktemp("hostile"), config=config) as daemon:
        requests = [*nasty_requests()]
        program = [sys.executable, "-c", SAY, str(daemon.socket)]
        said = subprocess.run(program, input=json.dumps(requests), capture_output=True,
                              text=True, check=True, timeout=30).stdout  # fmt: skip
        replies = [json.loads(line) for line in said.splitlines()]
        assert all(reply["ok"] for reply in replies), replies

        def is_parked() -> bool:
            agent = daemon.request({"op": "describe", "agent_id": "n"})["agent"]
            return str(agent["state"]) == "parked"

        wait_until(is_parked, "its budget is spent")
        yield daemon


# From a process of its own, whose end is the agent's.
SAY = """
import json, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
lines = connection.makefile("rwb")
for request in json.load(sys.stdin):
    lines.write(json.dumps(request).encode() + b"\\n")
    lines.flush()
    print(lines.readline().decode().strip())
"""

# A program that steps otherwise than it did, and says so in words of its own.
REPLAYED = f"""
from agent_journal.client import connect
with connect() as journal, journal.agent() as agent:
    agent.step({NASTY!r}, lambda: 1)
    agent.step({"other" + NASTY!r}, lambda: 2)
"""
_FILES = Path(tempfile.mkdtemp(prefix="agent-journal-"))
EXPORTED, BROKEN = str(_FILES / "exported"), str(_FILES / "broken")

AGENTS = ["n", "waits", "failed", "completed", "cancelled", "parked", "unparked"]
COMMANDS = [
    ["agents"],
    ["agents", "--uid", "*"],
    ["tail", "--no-follow", "-n", "100"],
    ["ls"],
    ["ls", NASTY.replace("\0", "")],
    ["stats"],
    ["log"],
    ["log", "-o", "cat"],
    ["log", "-g", NASTY.replace("\0", "")],
    ["trace", "n"],
    ["metrics"],
    ["top", "-n", "1"],
    ["vacuum", "--time", "1d", "--dry-run"],
    ["forget", NASTY.replace("\0", ""), "--yes"],
    ["verify"],
    ["verify", "--offline", NASTY.replace("\0", "")],
    ["verify-replay", "n", "--", sys.executable, "-c", "import sys; sys.stderr.write('\x1b[2J')"],
    ["verify-replay", "n", "--", sys.executable, "-c", REPLAYED],
    ["export", "n", "-o", EXPORTED],
    ["import", EXPORTED],
    ["import", BROKEN],
    ["restore", NASTY.replace("\0", "")],
    ["read", "absent"],
    ["describe", NASTY.replace("\0", "")],
    ["append", "n", json.dumps({NASTY: NASTY})],
    ["append", NASTY.replace("\0", ""), '{"A":1}'],
    ["append", "completed", '{"A":1}', "--key", NASTY.replace("\0", "")],
    ["signal", "completed", NASTY.replace("\0", "")],
    ["decide", "n", NASTY.replace("\0", ""), "--rerun"],
    ["decide", "completed", NASTY.replace("\0", ""), "--error", NASTY.replace("\0", "")],
    ["attach", NASTY.replace("\0", "")],
    ["call", json.dumps({"op": NASTY})],
    ["call", json.dumps({"op": "read", "agent_id": "n"})],
    ["call", json.dumps({"op": "describe", "agent_id": NASTY})],
    ["compact", NASTY.replace("\0", "")],
    ["fork", "n", "--at", "3", "--as", NASTY.replace("\0", "")],
    *([verb, agent] for verb in ("describe", "read", "show", "why") for agent in AGENTS),
]


ON_A_TERMINAL = [
    ["--json", "read", "n"],
    ["--json", "tail", "--no-follow", "-n", "100"],
    ["call", json.dumps({"op": "read", "agent_id": "n"})],
    ["export", "n", "failed", "completed"],
    *COMMANDS[:3],
    *([verb, "n"] for verb in ("read", "show", "why", "describe")),
    *(["--json", verb, "n"] for verb in ("show", "why", "describe")),
]


@pytest.fixture(scope="module")
def shown(daemon: RunningDaemon) -> dict[str, str]:
    """Return what each command shows, on a terminal and in a pipe, as a table and as JSON."""
    found = {}
    Path(BROKEN).write_text(json.dumps({NASTY: NASTY}) + "\n" + NASTY + "\n")
    for command in COMMANDS:
        for form in ([], ["--json"]):
            argv = ["-s", str(daemon.socket), "--wait", "0", *form, *command]
            environ = {**os.environ, "PYTHONUTF8": "1"}
            piped = subprocess.run([*CLI, *argv], capture_output=True, check=False, env=environ,
                                   stdin=subprocess.DEVNULL, timeout=30)  # fmt: skip
            name = shlex.join([*form, *command])
            found[f"{name} | cat"] = (piped.stdout + piped.stderr).decode()
    for command in ON_A_TERMINAL:
        argv = ["-s", str(daemon.socket), *command]
        found[shlex.join(command)] = "\n".join(on_a_terminal(*argv, columns=2000))
    shutil.rmtree(_FILES)
    return found


def test_every_command_is_tried() -> None:
    """But for those that show nothing that agents wrote, and the demo, which has its own."""
    tried = {command[0] for command in COMMANDS} | {"run", "demo"}
    quiet = {"park", "resume", "cancel", "ping", "hook", "backup", "accept-loss", "bench"}
    quiet |= {"completion", "config", "disk-usage", "doctor", "help", "install", "uninstall"}
    assert tried | quiet >= {*commands.COMMANDS}


def test_no_command_gives_a_terminal_anything_to_obey(shown: dict[str, str]) -> None:
    assert len(shown) == 2 * len(COMMANDS) + len(ON_A_TERMINAL)
    found = {name: harmful(text) for name, text in shown.items()}
    for name in found:
        if (
            name.removeprefix("--json ").split()[0] in {"read", "tail", "log", "call"}
            and name[-5:] == "| cat"
        ):
            found[name] -= {*"\x7f\x9b\u2028\u202e\u2066"}  # JSON allows them, byte for byte
    assert {name: text for name, text in found.items() if text} == {}
    assert "Traceback" not in "".join(shown.values())


def test_no_command_shows_a_line_that_an_agent_made(shown: dict[str, str]) -> None:
    lines = [line for text in shown.values() for line in text.splitlines()]
    assert not [line for line in lines if line.startswith("ok: all is well")]


def test_all_of_it_was_there_to_be_shown(shown: dict[str, str]) -> None:
    """Else the tests above would show nothing: it is shown, as its escapes."""
    for name in ("read n | cat", "show n | cat", "why n | cat", "show n", "describe waits | cat",
                 "why parked | cat", "agents | cat"):  # fmt: skip
        assert "\\x1b[2J" in shown[name], (name, shown[name])


def test_what_is_advised_to_be_typed_runs_nothing_else(
    shown: dict[str, str], tmp_path: Path
) -> None:
    """It is pasted into a shell: a step's key with a semicolon in it must not end the command."""
    tried = [
        line.partition("try: ")[2] for text in shown.values()
        for line in PAINT.sub("", text).splitlines() if "try: agent-journal" in line
    ]  # fmt: skip
    assert any("decide parked" in line for line in tried), tried
    assert any("signal waits" in line for line in tried), tried
    program = tmp_path / "agent-journal"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "ran $#" >> "$0.ran"\n')
    program.chmod(0o755)
    said = re.compile(r"agent-journal (decide|signal) (?!--help)")
    commands = [line for line in tried if said.match(line)]
    for line in commands:
        done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False,
                              env={"PATH": str(tmp_path)}, timeout=10)  # fmt: skip
        assert (done.stdout, done.stderr) == ("", ""), line
    ran = (tmp_path / "agent-journal.ran").read_text().splitlines()
    assert len(ran) == len(commands)
    assert {*ran} <= {"ran 3", "ran 4", "ran 5", "ran 6"}, ran


def test_the_log_has_lines_of_the_daemon_s_alone(daemon: RunningDaemon) -> None:
    """Also where it is a person's terminal that it goes to, and for names that are refused."""
    for request in ({"op": NASTY}, {"op": "read", "agent_id": NASTY}, {NASTY: NASTY},
                    {"op": "attach", "agent_id": "x", "launcher": NASTY}):  # fmt: skip
        assert not daemon.request(request)["ok"]
    with daemon.connect() as connection:
        connection.send(f"{NASTY}\n".encode())
        reply = connection.line().decode()
    assert harmful(reply) == set()
    assert harmful(daemon.log) == set()
    assert len(daemon.log.splitlines()) > 3
    assert "ok: all is well" not in {line.strip() for line in daemon.log.splitlines()}


def test_errors_carry_no_control_character(daemon: RunningDaemon) -> None:
    """Not even as JSON: their words are shown to people as they are."""
    requests: list[dict[str, object]] = [
        {"op": NASTY},
        {"op": "read", "agent_id": NASTY},
        {"op": "agents", "after": NASTY},
        {"op": "agents", "state": NASTY},
        {"op": "attach", "agent_id": "x", "kind": NASTY},
        {"op": "attach", "agent_id": "x", "launcher": NASTY},
        {"op": "attach", "agent_id": "x", "command": {"argv": [NASTY], "cwd": "/"}},
        {"op": "attach", "agent_id": "x", "command": {"argv": ["a"], "cwd": NASTY}},
        {"op": "attach", "agent_id": "x",
         "command": {"argv": ["a"], "cwd": "/", "env": {NASTY: "1"}}},
        {"op": "decide", "agent_id": "n", "step": NASTY, "rerun": True},
        {"op": "fork", "agent_id": "n", "at_sequence": 1, "as": NASTY},
        {"op": "append", "agent_id": "n", "event": {"Signalled": NASTY}},
        {"op": "append", "agent_id": "x", "event": {"A": 1}, "timestamp": NASTY},
        {"op": "append", "agent_id": "x", "event": {"A": 1}, "key": NASTY * 20},
        {"op": "read", "agent_id": "n", NASTY: 1, "limit": NASTY},
        {"op": "signal", "agent_id": "n", "name": NASTY, "payload": 2, "key": NASTY},
        {"op": "hello", "protocol": NASTY},
        {"op": "read", "agent_id": "n", "uid": NASTY},
    ]  # fmt: skip
    for request in requests:
        reply = daemon.request(request)
        assert not reply["ok"], request
        assert {name: value for name, value in reply["error"].items()
                if isinstance(value, str) and harmful(value)} == {}, request  # fmt: skip
