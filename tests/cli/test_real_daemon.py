"""The commands against a real daemon: what a script may rely on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from agent_journal.client import connect
from agent_journal.testing.daemon import RunningDaemon
from cli.fake_daemon import Result, Run

CLI = [sys.executable, "-c", "from agent_journal.cli import program; program()"]


@pytest.fixture
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture
def ask(daemon: RunningDaemon, run: Run) -> Callable[..., Result]:
    def ask(*argv: str, stdin: str = "") -> Result:
        return run("-s", str(daemon.socket), *argv, stdin=stdin)

    return ask


def test_a_life_of_an_agent(ask: Run) -> None:
    assert ask("append", "a", '{"Started": {"goal": "g"}}').out.startswith("recorded as sequence 0")
    lines = "".join(json.dumps({"Noted": n}) + "\n" for n in range(3000))
    assert ask("append", "a", "-", stdin=lines).out == "3,000 entries recorded for 1 agent\n"
    assert ask("compact", "a").code == 5
    assert ask("append", "a", '{"Terminated": {"reason": "Completed"}}').code == 0
    assert ask("append", "a", '{"Late": 1}').code == 5
    entries = ask("read", "a", "--json").objects
    assert [entry["sequence"] for entry in entries] == list(range(3002))
    assert [entry["event"] for entry in entries[1:-1]] == [{"Noted": n} for n in range(3000)]
    part = ask("read", "a", "--from", "2990", "--limit", "5", "--json").objects
    assert [entry["sequence"] for entry in part] == list(range(2990, 2995))
    [agent] = ask("agents", "--state", "completed", "--json").objects
    assert (agent["agent_id"], agent["entries"]) == ("a", 3002)
    described = dict(line.split(maxsplit=1) for line in ask("describe", "a").lines)
    assert described["state"] == "completed"
    assert ask("compact", "a").out == "3,002 entries of a removed\n"
    assert ask("read", "nobody").code == 4


def test_the_tables_of_a_real_journal(ask: Run) -> None:
    ask("append", "report-42", '{"Started": {"goal": "g"}}', "--iteration", "3")
    assert "report-42" in ask("agents").out
    assert "Started" in ask("read", "report-42").lines[1]
    assert "report-42" in ask("tail", "--no-follow").lines[1]
    assert ask("stats").code == 0
    assert ask("stats", "--json").objects
    assert ask("ping").code == 0
    assert ask("call", '{"op": "hello", "protocol": 1}').objects[0]["ok"] is True


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["append", "a b", '{"X": 1}'], 2),
        (["append", "a", '{"X": 1, "Y": 2}'], 2),
        (["append", "a", '{"Parked": {}}'], 2),
        (["append", "a", '{"X": 1}', "--expected-sequence", "9"], 5),
        (["append", "a", '{"X": 1}', "--timestamp", "yesterday"], 2),
        (["call", '{"op": "levitate"}'], 2),
        (["describe", "nobody"], 4),
    ],
    ids=str,
)
def test_refusals_have_their_exit_codes(ask: Run, argv: list[str], code: int) -> None:
    result = ask(*argv)
    assert result.code == code
    assert result.what
    assert result.hint


def test_a_key_makes_it_safe_to_repeat(ask: Run) -> None:
    for _ in range(2):
        assert ask("append", "a", '{"X": 1}', "--key", "once").code == 0
    assert len(ask("read", "a", "--json").objects) == 1
    assert ask("append", "a", '{"X": 2}', "--key", "once").code == 5


def test_what_was_read_can_be_appended_again(ask: Run) -> None:
    ask("append", "a", '{"X": [1.10, 1e400, "é", {"y": 123456789012345678901234567890}]}')
    raw = ask("call", '{"op": "read", "agent_id": "a"}').out
    assert ask("read", "a", "--json").out.count("123456789012345678901234567890") == 1
    body = ask("read", "a", "--json").out.replace('"agent_id":"a"', '"agent_id":"b"')
    assert ask("append", "-", stdin=body).out == "1 entry recorded for 1 agent\n"
    assert "1.10,1e400" in raw.replace(", ", ",")
    assert "1.10, 1e400" in ask("read", "b", "--json").out
    [copied] = ask("read", "b", "--json").objects
    assert copied["event"]["X"][2] == "é"


def test_a_stream_goes_on_over_a_killed_daemon(daemon: RunningDaemon) -> None:
    """The producer does not notice: every line is recorded once, in order."""
    command = subprocess.Popen(
        [*CLI, "append", "a", "-", "--json", "-s", str(daemon.socket)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert command.stdin is not None
    assert command.stdout is not None
    stdin = command.stdin

    def produce() -> None:
        for number in range(20_000):
            stdin.write(json.dumps({"Noted": number}).encode() + b"\n")
        stdin.close()

    producer = threading.Thread(target=produce)
    producer.start()
    results = [json.loads(command.stdout.readline()) for _ in range(3000)]
    daemon.kill()
    daemon.start()
    results += [json.loads(line) for line in command.stdout]
    producer.join()
    assert command.wait() == 0
    command.stdout.close()
    assert [result["sequence"] for result in results] == list(range(20_000))
    with connect(daemon.socket) as journal:
        events = [entry.event for entry in journal.read("a")]
    assert events == [{"Noted": number} for number in range(20_000)]


def test_a_slow_producer_has_each_line_recorded_at_once(daemon: RunningDaemon) -> None:
    command = subprocess.Popen(
        [*CLI, "append", "a", "-", "--json", "-s", str(daemon.socket)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert command.stdin is not None
    assert command.stdout is not None
    for number in range(3):
        command.stdin.write(b'{"X": 1}\n')
        command.stdin.flush()
        assert json.loads(command.stdout.readline())["sequence"] == number
    command.stdin.close()
    assert command.wait() == 0
    command.stdout.close()


def test_tail_follows_over_a_killed_daemon(daemon: RunningDaemon, ask: Run) -> None:
    ask("append", "a", '{"X": 0}')
    command = subprocess.Popen(
        [*CLI, "tail", "a", "--json", "-s", str(daemon.socket)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    try:
        assert command.stdout is not None
        assert json.loads(command.stdout.readline())["sequence"] == 0
        ask("append", "a", '{"X": 1}')
        assert json.loads(command.stdout.readline())["sequence"] == 1
        daemon.kill()
        daemon.start()
        ask("append", "a", '{"X": 2}')
        assert json.loads(command.stdout.readline())["sequence"] == 2
    finally:
        command.kill()
        command.communicate()


def test_tail_without_following_ends(ask: Run) -> None:
    for number in range(5):
        ask("append", "a", json.dumps({"X": number}))
    last = ask("tail", "-n", "2", "--no-follow", "--json").objects
    assert [entry["sequence"] for entry in last] == [3, 4]
    rest = ask("tail", "--from-position", str(last[0]["position"]), "--no-follow", "--json").objects
    assert rest == last
