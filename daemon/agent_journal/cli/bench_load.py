"""Clients that append as fast as they are answered, in one process and one thread.

Each has a connection of its own and keeps some appends in flight.  The time of an
append is from when it was written to when its answer was read; answers come in the
order of the requests, so a count of lines is enough to tell whose one is.
"""

from __future__ import annotations

import json
import select
import socket
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..clock import Clock
from .failures import CommandError

READ_BYTES: Final = 1 << 18
DRAIN_S_MAX: Final = 30.0  # for what is in flight when the time is over
TICK_S: Final = 0.1
SAMPLES_MAX: Final = 5_000_000  # 40 MB of times
_REFUSED: Final = b'"ok":false'


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is to be appended: how much at once, how large, for how long."""

    clients: int
    in_flight: int
    event_bytes: int
    seconds: float


@dataclass(slots=True)
class Tally:
    """What came of it."""

    seconds: float
    times_ms: array[float]

    @property
    def per_second(self) -> float:
        """Acknowledged appends a second."""
        return len(self.times_ms) / self.seconds if self.seconds else 0.0


def request_of(agent_id: str, event_bytes: int) -> bytes:
    """Return an append whose event has so many bytes, or a few more where that is too few."""
    bare = '{"Noted":""}'
    text = "x" * max(event_bytes - len(bare), 0)
    event = {"Noted": text}
    request = {"op": "append", "agent_id": agent_id, "event": event}
    return json.dumps(request, separators=(",", ":")).encode() + b"\n"


class _Client:
    """One connection, and when each append in flight on it was sent."""

    def __init__(self, path: Path, request: bytes, clock: Clock) -> None:
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connection.connect(str(path))
        self.connection.setblocking(False)  # noqa: FBT003 - socket's own signature
        self._request = request
        self._clock = clock
        self._sent: deque[float] = deque()
        self._unwritten = b""
        self._tail = b""

    @property
    def in_flight(self) -> int:
        return len(self._sent)

    @property
    def wants_to_write(self) -> bool:
        return bool(self._unwritten)

    def send(self, count: int) -> None:
        """Put *count* more appends in flight."""
        self._sent.extend([self._clock.monotonic()] * count)
        self._unwritten += self._request * count
        self.write()

    def write(self) -> None:
        """Hand to the kernel what it takes."""
        if self._unwritten:
            try:
                written = self.connection.send(self._unwritten)
            except BlockingIOError:
                return
            except ConnectionError:
                raise _closed() from None
            self._unwritten = self._unwritten[written:]

    def read(self, times_ms: array[float]) -> int:
        """Take note of the answers that have come; return how many.

        Raises:
            CommandError: one was refused, or the daemon is gone.
        """
        try:
            data = self.connection.recv(READ_BYTES)
        except ConnectionError:
            data = b""
        if not data:
            raise _closed()
        now = self._clock.monotonic()
        if _REFUSED in data or _REFUSED in self._tail + data[: len(_REFUSED)]:
            raise CommandError(f"an append was refused: {_message(data)}", "agent-journal doctor")
        self._tail = data[-len(_REFUSED) :]
        answered = data.count(b"\n")
        for _ in range(answered):
            times_ms.append((now - self._sent.popleft()) * 1000)
        return answered


def _closed() -> CommandError:
    return CommandError("the daemon closed a connection", "agent-journal doctor, and its log")


def _message(data: bytes) -> str:
    for line in data.split(b"\n"):
        if _REFUSED in line:
            try:
                return str(json.loads(line)["error"]["message"])
            except (ValueError, KeyError, TypeError):
                break
    return "its answer could not be read"


def run_load(path: Path, agents: list[str], load: Load, progress: Callable[[float], None]) -> Tally:
    """Append to *agents*, one for each client, until the time is over; count what was answered."""
    clock = Clock()
    times_ms: array[float] = array("d")
    poll = select.poll()
    clients: dict[int, _Client] = {}
    try:
        for agent_id in agents:
            client = _Client(path, request_of(agent_id, load.event_bytes), clock)
            clients[client.connection.fileno()] = client
            poll.register(client.connection, select.POLLIN)
        began = clock.monotonic()
        for client in clients.values():
            client.send(load.in_flight)
        until, now = began + load.seconds, began
        while now < until and len(times_ms) < SAMPLES_MAX:
            _turn(clients, poll, times_ms, refills=True)
            now = clock.monotonic()
            progress(now - began)
        seconds = clock.monotonic() - began
        counted = len(times_ms)
        # What was in flight is waited for: its time counts, since the slowest may be in it.
        while any(c.in_flight for c in clients.values()) and clock.monotonic() < now + DRAIN_S_MAX:
            _turn(clients, poll, times_ms, refills=False)
        whole = clock.monotonic() - began
    finally:
        for client in clients.values():
            client.connection.close()
    return Tally(seconds if counted == len(times_ms) else whole, times_ms)


def _turn(
    clients: dict[int, _Client], poll: select.poll, times_ms: array[float], *, refills: bool
) -> None:
    """Serve whoever is ready; what was answered is sent anew."""
    for descriptor, events in poll.poll(TICK_S * 1000):
        client = clients[descriptor]
        if events & select.POLLOUT:
            client.write()
        if events & ~select.POLLOUT:
            answered = client.read(times_ms)
            if refills:
                client.send(answered)
        poll.modify(descriptor, select.POLLIN | (select.POLLOUT if client.wants_to_write else 0))
