"""Room, memory and descriptors run out, and are there again: with each operation in turn."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from agent_journal.testing.daemon import DaemonError, RawConnection
from crash.snapshot import Snapshot, take_snapshot
from faults.calls import CHANGING, GROWING, Action
from faults.daemons import FaultyDaemon, Starter
from integration.observed import descriptors, error_of, line_of, noted, wait_until

CONFIG: Final = "[commit]\nfree_bytes_min = 0\ncheckpoint_commits = 3\n"
ROUNDS: Final = 2

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def daemon(starter: Starter, tmp_path: Path) -> Iterator[FaultyDaemon]:
    with FaultyDaemon(starter, tmp_path, config=CONFIG) as daemon:
        yield daemon


# Room


def operations() -> dict[str, dict[str, Any]]:
    """Return one request of each operation that records something."""
    event = {"Noted": "x" * 5000}
    return {
        "append": {"op": "append", "agent_id": "a", "event": event},
        "append_to_a_new_agent": {"op": "append", "agent_id": "new", "event": event},
        "append_with_a_key": {"op": "append", "agent_id": "a", "event": event, "key": "0"},
        "append_many": {"op": "append", "agent_id": "a", "entries": [{"event": event}] * 20},
        "terminate": {"op": "append", "agent_id": "a", "event": {"Terminated": {}}},
        "attach": {"op": "attach", "agent_id": "w"},
        "attach_a_new_agent": {"op": "attach", "agent_id": "n"},
        "detach": {"op": "detach", "agent_id": "h", "epoch": 1},
        "signal": {"op": "signal", "agent_id": "a", "name": "go", "key": "s"},
        "decide": {"op": "decide", "agent_id": "w", "step": "one", "rerun": True},
        "fork": {"op": "fork", "agent_id": "a", "at_sequence": 2, "as": "f"},
        "park": {"op": "park", "agent_id": "w"},
        "resume": {"op": "resume", "agent_id": "p"},
        "cancel": {"op": "cancel", "agent_id": "w"},
    }


def prepare(ask: Ask) -> None:
    """Have agents on which each operation can be tried."""
    for index in range(3):
        ask(op="append", agent_id="a", event={"Noted": index})
    ask(op="attach", agent_id="h")
    ask(op="attach", agent_id="w")
    started = {"key": "one", "name": "one", "input_hash": "", "effect": "once"}
    ask(op="append", agent_id="w", epoch=1, event={"StepStarted": started})
    ask(op="detach", agent_id="w", epoch=1)
    ask(op="append", agent_id="p", event={"Noted": 1})
    ask(op="park", agent_id="p")


@pytest.mark.parametrize("name", operations())
def test_each_operation_is_refused_on_a_full_disk_and_works_when_there_is_room(
    daemon: FaultyDaemon, name: str
) -> None:
    """A refused one has left nothing, not in memory either; what only reads goes on."""
    request = operations()[name]
    with daemon.connect() as connection:

        def ask(**message: Any) -> dict[str, Any]:
            reply = connection.request(message)
            assert reply["ok"], reply
            return reply

        prepare(ask)
        before = told_of(daemon)
        for _ in range(ROUNDS):
            daemon.calls.inject_now(Action.FAIL, error=errno.ENOSPC, kinds=GROWING)
            error = error_of(connection.request(request))
            assert (error["code"], error["retryable"]) == ("storage_full", True)
            assert error["outcome"] == "not_recorded"
            assert "room" in error["message"]
            assert told_of(daemon) == before
            daemon.calls.heal()
        ask(**request)
        after = told_of(daemon)
        assert after != before
        daemon.kill()
    daemon.start()
    assert states_of(told_of(daemon)) == states_of(after)
    assert daemon.stop() == 0


def told_of(daemon: FaultyDaemon) -> Snapshot:
    """Return the journal as it is told; where it ends in positions is nobody's concern."""
    found = take_snapshot(daemon)
    return Snapshot(found.entries, found.states, 0)


def states_of(found: Snapshot) -> dict[Any, list[bytes]]:
    """Return the entries; this process is still the owner of what it attached to."""
    return {name: [entry.event for entry in entries] for name, entries in found.entries.items()}


@pytest.mark.parametrize("error", [errno.EDQUOT, errno.EROFS], ids=["quota", "read_only"])
def test_a_disk_that_takes_nothing_more_is_an_end_that_is_told_and_no_loss(
    daemon: FaultyDaemon, error: int
) -> None:
    """SQLite tells neither from a failing disk: the daemon ends, and starts when it is over."""
    kinds = GROWING if error == errno.EDQUOT else CHANGING
    with daemon.connect() as connection:
        assert connection.request(noted("before"))["ok"]
        daemon.calls.inject_now(Action.FAIL, error=error, kinds=kinds)
        refused = error_of(connection.request(noted("x" * 20_000)))
        assert refused["code"] in ("storage_failed", "storage_full")
        if refused["code"] == "storage_failed":
            assert daemon.wait() == 74
            with pytest.raises(DaemonError, match=str(daemon.state)):
                daemon.start()
            assert daemon.exit_code in (74, 78)
    daemon.calls.heal()
    if daemon.exit_code is not None:
        daemon.start()
    entries = daemon.request({"op": "read", "agent_id": "a"})["entries"]
    assert [entry["event"]["Noted"] for entry in entries][:1] == ["before"]
    assert daemon.request(noted("after"))["ok"]


# Descriptors


OWNER: Final = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(b'{"op":"attach","agent_id":"o"}\\n')
print(connection.recv(1000).decode(), end="", flush=True)
sys.stdin.read()
"""


def test_an_owner_is_watched_by_its_connection_where_there_is_no_pidfd(
    starter: Starter, tmp_path: Path
) -> None:
    with FaultyDaemon(starter, tmp_path, modules=("faults.no_pidfds",)) as daemon:
        command = [sys.executable, "-c", OWNER, str(daemon.socket)]
        owner = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        with owner:
            assert owner.stdout is not None
            assert json.loads(owner.stdout.readline())["ok"]
            rival = daemon.request({"op": "attach", "agent_id": "o"})
            assert error_of(rival)["code"] == "agent_attached"
            owner.kill()
            owner.wait()
            wait_until(lambda: state_of(daemon, "o") == "interrupted", "its end is noticed")
        assert daemon.request({"op": "attach", "agent_id": "o"})["epoch"] == 2


def state_of(daemon: FaultyDaemon, agent_id: str) -> str:
    state: str = daemon.request({"op": "describe", "agent_id": agent_id})["agent"]["state"]
    return state


def test_descriptors_that_run_out_cost_new_clients_only_and_come_back(
    starter: Starter, tmp_path: Path
) -> None:
    """Those who are connected go on; the others are told, or wait; then all is as before."""
    with (
        FaultyDaemon(
            starter, tmp_path, config=CONFIG, limits={"RLIMIT_NOFILE": (96, 96)}
        ) as daemon,
        ExitStack() as stack,
    ):
        before = descriptors(daemon)
        old = [stack.enter_context(daemon.connect()) for _ in range(10)]
        for index, connection in enumerate(old):
            assert connection.request(noted("x", agent_id=f"a{index}"))["ok"]
        with ExitStack() as crowd:
            refused = 0
            for _ in range(150):
                with contextlib.suppress(OSError):  # the kernel refuses, too
                    connection = crowd.enter_context(daemon.connect())
                with contextlib.suppress(OSError):  # refused, and closed already
                    connection.send_line({"op": "ping"})
            for index, connection in enumerate(old * 3):
                sequence = connection.request(noted("y", agent_id=f"a{index % 10}"))["sequence"]
                assert sequence == 1 + index // 10
            refused = daemon_refusals(old[0])
            assert refused > 0
        wait_until(lambda: descriptors(daemon) <= before + len(old), "the crowd has left")
        for _ in range(20):
            with daemon.connect() as new:
                assert new.request({"op": "ping"})["ok"]
        assert daemon.stop() == 0


def daemon_refusals(connection: RawConnection) -> int:
    """Return how many clients were refused."""
    count: int = connection.request({"op": "stats", "uid": "*"})["connections_refused"]
    return count


# Memory


def size_of(pid: int) -> int:
    """Return how much address space a process has."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmSize:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the daemon is gone")


@pytest.mark.parametrize("room_mib", [1, 4, 16, 40])
def test_memory_that_runs_out_costs_requests_and_not_the_journal(
    starter: Starter, tmp_path: Path, room_mib: int
) -> None:
    """What was acknowledged is there, what was refused is not, and the others are answered."""
    config = CONFIG + '[limits]\nframe_bytes_max = "8MiB"\nreply_bytes_max = "8MiB"\n'
    with FaultyDaemon(starter, tmp_path, config=config, hurried=0) as daemon, ExitStack() as stack:
        small = stack.enter_context(daemon.connect())
        recorded = [f"{index}" for index in range(20)]
        for text in recorded:
            assert small.request(noted(text))["ok"]
        resource.prlimit(
            daemon.pid, resource.RLIMIT_AS, (size_of(daemon.pid) + (room_mib << 20),) * 2
        )
        crowd = [Greedy(daemon, index) for index in range(8)]
        for greedy in crowd:
            greedy.start()
        for greedy in crowd:
            greedy.join()
        try:
            assert small.request({"op": "ping"})["ok"]
            reply = small.request(noted("after"))
            if reply["ok"]:
                recorded.append("after")
        except (EOFError, OSError):
            assert daemon.wait() == 74
        if daemon.exit_code is None:
            daemon.kill()
        daemon.start()
        found = daemon.request({"op": "read", "agent_id": "a"})["entries"]
        assert [entry["event"]["Noted"] for entry in found][: len(recorded)] == recorded
        for greedy in crowd:
            greedy.check()


class Greedy(threading.Thread):
    """A client that sends megabytes at once."""

    def __init__(self, daemon: FaultyDaemon, number: int) -> None:
        super().__init__(daemon=True)
        self._daemon = daemon
        self._agent = f"g{number}"
        self._connection = daemon.connect()
        self._outcomes: list[bool | None] = []

    def run(self) -> None:
        """Send, one after the other, until the connection ends."""
        with self._connection as connection:
            for index in range(4):
                event = {"Noted": f"{index}" + "x" * (3 << 20)}
                self._outcomes.append(None)
                try:
                    connection.send(line_of(noted(agent_id=self._agent, event=event)))
                    reply = connection.reply()
                except (OSError, EOFError):
                    return
                if reply["ok"] or error_of(reply)["outcome"] == "not_recorded":
                    self._outcomes[-1] = reply["ok"]

    def check(self) -> None:
        """Compare what is there with what was answered."""
        found: list[str] = []
        while True:
            request = {"op": "read", "agent_id": self._agent, "from_sequence": len(found)}
            reply = self._daemon.request(request)
            if not reply["ok"]:
                assert error_of(reply)["code"] == "not_found"
                break
            found += [entry["event"]["Noted"][0] for entry in reply["entries"]]
            if not reply["more"]:
                break
        certain = [str(index) for index, outcome in enumerate(self._outcomes) if outcome]
        doubted = {str(index) for index, outcome in enumerate(self._outcomes) if outcome is None}
        assert [index for index in found if index not in doubted] == certain


def test_a_daemon_that_is_killed_for_its_memory_is_a_daemon_that_is_killed(
    daemon: FaultyDaemon,
) -> None:
    """The kernel's OOM killer sends SIGKILL: what that leaves is tried at each call."""
    assert daemon.request(noted("before"))["ok"]
    os.kill(daemon.pid, signal.SIGKILL)
    assert daemon.wait() == -signal.SIGKILL
    daemon.start()
    assert daemon.request(noted("after"))["sequence"] == 1
