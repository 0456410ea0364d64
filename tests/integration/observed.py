"""What a test sees of a daemon from outside, and how it waits for what takes a moment."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from agent_journal.testing.daemon import RawConnection, RunningDaemon

MIB: Final = 1024 * 1024
PATIENCE_S: Final = 20.0
BLOCKED_S: Final = 0.5  # a socket that takes nothing for so long takes nothing at all


def noted(text: str = "", **members: object) -> dict[str, object]:
    """Return an append to agent ``a``, or as *members* say otherwise."""
    return {"op": "append", "agent_id": "a", "event": {"Noted": text}, **members}


def rss_bytes(daemon: RunningDaemon) -> int:
    """Return what the daemon's process has in memory."""
    for line in Path(f"/proc/{daemon.pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the daemon is gone")


def descriptors(daemon: RunningDaemon) -> int:
    """Return how many files and sockets the daemon has open."""
    return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))


def stats(daemon: RunningDaemon) -> dict[str, Any]:
    """Return the daemon's counters, of everybody."""
    return daemon.request({"op": "stats", "uid": "*"})


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Wait for something that takes a moment.

    Raises:
        AssertionError: it did not come about.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, f"in vain for {PATIENCE_S:g} s: {what}"
        time.sleep(0.01)


def wait_until_alone(daemon: RunningDaemon) -> None:
    """Wait until no connection is open but the one that asks."""
    wait_until(lambda: bool(stats(daemon)["connections"] == 1), "the connections were ended")


def send_until_blocked(connection: RawConnection, data: bytes) -> int:
    """Send *data* as far as the daemon takes it without a reply being read; return how far."""
    sent = 0
    view = memoryview(data)
    connection.socket.settimeout(0)
    try:
        while sent < len(data):
            _, writable, _ = select.select([], [connection.socket], [], BLOCKED_S)
            if not writable:
                break
            sent += _send_some(connection.socket, view[sent:])
    finally:
        connection.socket.settimeout(PATIENCE_S)
    return sent


def _send_some(connected: socket.socket, data: memoryview) -> int:
    try:
        return connected.send(data)
    except BlockingIOError:
        return 0


def error_of(reply: dict[str, Any]) -> dict[str, Any]:
    """Return the ``error`` of *reply*, after a look at what each error must have."""
    assert reply["ok"] is False, reply
    assert "id" in reply, reply
    error: dict[str, Any] = reply["error"]
    assert isinstance(error["message"], str), error
    assert error["message"], error
    assert isinstance(error["retryable"], bool), error
    assert error["outcome"] in ("not_recorded", "unknown"), error
    return error


def line_of(message: dict[str, object]) -> bytes:
    """Return *message* as it is sent."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"
