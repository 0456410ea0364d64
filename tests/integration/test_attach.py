"""Owners as real processes: killed, stopped, forked, and outliving the daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from agent_journal.testing.daemon import RawConnection, RunningDaemon

# Hands lines from its input to the daemon and back, as nc -U does, which is not
# everywhere.  "fork" leaves a child behind that holds the connection open until
# its input ends; "again" opens another connection in place of the first.
OWNER = """
import os, socket, sys
def connect():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(sys.argv[1])
    return connection, connection.makefile("rb")
connection, replies = connect()
for line in sys.stdin:
    if line == "fork\\n":
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.close(writing)
            for other in (0, 1):
                os.close(other)
            os.read(int(sys.argv[2]), 1)
            os._exit(0)
        print("forked", flush=True)
    elif line == "again\\n":
        replies.close()
        connection.close()
        connection, replies = connect()
        print("again", flush=True)
    else:
        connection.sendall(line.encode())
        sys.stdout.write(replies.readline().decode())
        sys.stdout.flush()
"""


class OwnerProcess:
    """A process of its own, which says what it is told."""

    def __init__(self, daemon: RunningDaemon, descriptor: int = -1) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(daemon.socket), str(descriptor)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            pass_fds=(descriptor,) if descriptor >= 0 else (),
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def tell(self, line: str) -> str:
        self.send(line)
        return self.answer()

    def ask(self, op: str, agent_id: str = "a", **fields: Any) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.tell(json.dumps({"op": op, "agent_id": agent_id, **fields}))
        )
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path) as running:
        yield running


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def noted(**fields: Any) -> dict[str, Any]:
    return {"event": {"Noted": 1}, **fields}


def follow(daemon: RunningDaemon, stack: ExitStack, agent_id: str = "a") -> RawConnection:
    """Return a tail of an agent, from its first entry on."""
    connection = stack.enter_context(daemon.connect())
    connection.send_line({"op": "tail", "agent_id": agent_id, "from_position": 0})
    return connection


def until(connection: RawConnection, name: str) -> Any:
    """Wait for an event of that name; return its value."""
    while True:
        event = connection.reply()["entry"]["event"]
        if name in event:
            return event[name]


def describe(daemon: RunningDaemon, agent_id: str = "a") -> dict[str, Any]:
    agent: dict[str, Any] = daemon.request({"op": "describe", "agent_id": agent_id})["agent"]
    return agent


def attach(daemon: RunningDaemon, **fields: Any) -> dict[str, Any]:
    return daemon.request({"op": "attach", "agent_id": "a", **fields})


def descriptors_of(daemon: RunningDaemon) -> int:
    return len([*Path(f"/proc/{daemon.pid}/fd").iterdir()])


def test_a_killed_owner_is_noticed(daemon: RunningDaemon, stack: ExitStack) -> None:
    tail = follow(daemon, stack)
    owner = stack.enter_context(OwnerProcess(daemon))
    assert owner.ask("attach")["epoch"] == 1
    assert until(tail, "AttemptStarted")["pid"] == owner.pid
    assert owner.ask("append", **noted(epoch=1))["ok"]
    owner.kill()
    assert until(tail, "AttemptEnded") == {"attempt": 1, "how": "lost"}
    agent = describe(daemon)
    assert agent["state"] == "interrupted"
    assert "owner" not in agent


def test_a_zombie_is_fenced_off(daemon: RunningDaemon, stack: ExitStack) -> None:
    """Stopped, replaced, continued: what it says then is not recorded."""
    zombie = stack.enter_context(OwnerProcess(daemon))
    other = stack.enter_context(OwnerProcess(daemon))
    zombie.ask("attach")
    os.kill(zombie.pid, signal.SIGSTOP)
    refused = other.ask("attach")
    assert refused["error"]["code"] == "agent_attached"
    assert (refused["error"]["epoch"], refused["error"]["pid"]) == (1, zombie.pid)
    assert other.ask("attach", take_over=True)["epoch"] == 2
    recorded = describe(daemon)["entries"]
    zombie.send(json.dumps({"op": "append", "agent_id": "a", **noted(epoch=1)}))
    os.kill(zombie.pid, signal.SIGCONT)
    stale = json.loads(zombie.answer())
    assert stale["error"]["code"] == "stale_epoch"
    assert stale["error"]["current"] == 2
    assert describe(daemon)["entries"] == recorded
    assert other.ask("append", **noted(epoch=2))["ok"]
    zombie.kill()
    assert other.ask("append", **noted(epoch=2))["ok"]
    assert describe(daemon)["owner"] == {"pid": other.pid, "alive": True}


def test_a_process_that_lost_its_connection_is_still_the_owner(
    daemon: RunningDaemon, stack: ExitStack
) -> None:
    owner = stack.enter_context(OwnerProcess(daemon))
    owner.ask("attach")
    assert owner.tell("again") == "again\n"
    assert attach(daemon)["error"]["code"] == "agent_attached"
    reply = owner.ask("attach")
    assert (reply["epoch"], reply["attempt"]) == (2, 1)
    assert owner.ask("append", **noted(epoch=1))["error"]["code"] == "stale_epoch"
    assert owner.ask("append", **noted(epoch=2))["ok"]


def test_a_child_that_holds_the_connection_holds_the_agent(
    daemon: RunningDaemon, stack: ExitStack
) -> None:
    """The kernel does not say of an open connection whose it is now."""
    reading, writing = os.pipe()
    tail = follow(daemon, stack)
    try:
        owner = stack.enter_context(OwnerProcess(daemon, reading))
        owner.ask("attach")
        assert owner.tell("fork") == "forked\n"
        owner.kill()
        assert attach(daemon)["error"]["code"] == "agent_attached"
        assert describe(daemon)["owner"] == {"pid": owner.pid, "alive": True}
    finally:
        os.close(reading)
        os.close(writing)
    assert until(tail, "AttemptEnded") == {"attempt": 1, "how": "lost"}


def test_many_agents_of_one_process_cost_one_descriptor(
    daemon: RunningDaemon, stack: ExitStack
) -> None:
    owner = stack.enter_context(OwnerProcess(daemon))
    owner.ask("attach", "agent-0")
    before = descriptors_of(daemon)
    for n in range(1, 100):
        assert owner.ask("attach", f"agent-{n}")["ok"]
    assert descriptors_of(daemon) == before
    tail = follow(daemon, stack, "agent-99")
    owner.kill()
    until(tail, "AttemptEnded")
    states = daemon.request({"op": "agents", "limit": 1000})["agents"]
    assert {agent["state"] for agent in states} == {"interrupted"}
    descriptors = descriptors_of(daemon)
    assert descriptors < before + 2  # the tail's connection


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_an_owner_outlives_the_daemon(daemon: RunningDaemon, stack: ExitStack, end: str) -> None:
    """It is known again by its start time, may go on, and its death is noticed."""
    owner = stack.enter_context(OwnerProcess(daemon))
    owner.ask("attach")
    if end == "killed":
        daemon.kill()
    else:
        daemon.stop()
    daemon.start()
    refused = attach(daemon)
    assert refused["error"]["code"] == "agent_attached"
    assert refused["error"]["pid"] == owner.pid
    assert owner.tell("again") == "again\n"
    assert owner.ask("append", **noted(epoch=1))["sequence"] == 1
    tail = follow(daemon, stack)
    owner.kill()
    assert until(tail, "AttemptEnded") == {"attempt": 1, "how": "lost"}


def test_an_owner_that_died_with_the_daemon_is_replaced(
    daemon: RunningDaemon, stack: ExitStack
) -> None:
    owner = stack.enter_context(OwnerProcess(daemon))
    owner.ask("attach")
    daemon.kill()
    owner.kill()
    daemon.start()
    reply = attach(daemon)
    assert (reply["epoch"], reply["attempt"]) == (2, 2)
    entries = daemon.request({"op": "read", "agent_id": "a"})["entries"]
    assert [[*entry["event"]] for entry in entries[:3]] == [
        ["AttemptStarted"],
        ["AttemptEnded"],
        ["AttemptStarted"],
    ]
    assert entries[1]["event"]["AttemptEnded"]["how"] == "lost"


def test_an_answer_that_was_lost_with_the_daemon_is_given_again(
    daemon: RunningDaemon, stack: ExitStack
) -> None:
    """Same epoch, same expected sequence, same event: no key is needed."""
    owner = stack.enter_context(OwnerProcess(daemon))
    owner.ask("attach")
    request = noted(epoch=1, expected_sequence=1)
    first = owner.ask("append", **request)
    daemon.kill()
    daemon.start()
    owner.tell("again")
    assert owner.ask("append", **request) == {**first, "duplicate": True}


def test_a_fork_outlives_a_crash_whole_or_not_at_all(
    daemon: RunningDaemon, stack: ExitStack
) -> None:
    entries = [{"event": {"Noted": n}} for n in range(3000)]
    daemon.request({"op": "append", "agent_id": "a", "entries": entries})
    connection = stack.enter_context(daemon.connect())
    connection.send_line({"op": "fork", "agent_id": "a", "at_sequence": 3000, "as": "b"})
    # Some of it is on the disk when the position has risen.
    probe = stack.enter_context(daemon.connect())
    position = 0
    while position < 3300:
        position = probe.request({"op": "append", "agent_id": "p", **noted()})["position"]
    daemon.kill()
    daemon.start()
    found = daemon.request({"op": "read", "agent_id": "b", "limit": 5000})
    if found["ok"]:
        assert len(found["entries"]) == 3001
        assert found["entries"][3000]["event"] == {"Forked": {"from": "a", "at_sequence": 3000}}
    else:
        assert found["error"]["code"] == "not_found"
        reply = daemon.request({"op": "fork", "agent_id": "a", "at_sequence": 3000, "as": "b"})
        assert reply["next_sequence"] == 3001
