"""The model beside a real daemon: sockets, SQLite, restarts; all clients are this process."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from itertools import count, groupby
from typing import Any, Final

from agent_journal.testing.daemon import RawConnection, RunningDaemon
from hostile.model import Model
from hostile.model_answers import Reply, Request
from hostile.model_host import Host
from hostile.model_requests import encoded
from hostile.model_state import ANY
from integration.observed import stats, wait_until

OTHERS: Final = (4_000_000_001, 4_000_000_002)  # in whose place the daemon's own user may act
LIMITS: Final = {"read_entries_max": 12, "reply_bytes_max": 4096}
CONFIG: Final = '[limits]\nread_entries_max = 12\nreply_bytes_max = "4KiB"\n'


class SocketHost(Host):
    """A real daemon, asked by several connections of one process."""

    def __init__(self, chance: random.Random, daemon: RunningDaemon) -> None:
        self.chance = chance
        self.daemon = daemon
        self.model = Model(daemon_uid=os.geteuid(), now=lambda: ANY, limits=LIMITS)
        self.model.namespaces = OTHERS
        self.connections: dict[int, RawConnection] = {}
        self.told: list[str] = []
        self.asked = 0
        self._numbers = count(1)
        self._past = []

    def enter(self) -> int:
        """Connect; return the connection's number."""
        number = next(self._numbers)
        self.connections[number] = self.daemon.connect()
        self.model.connect(number, os.geteuid(), os.getpid())
        self.told.append(f"{number} connects")
        return number

    def exit(self, number: int) -> None:
        """Close a connection, and wait until the daemon knows."""
        self.told.append(f"{number} leaves")
        self.connections.pop(number).close()
        open_now = len(self.connections) + 1
        wait_until(lambda: stats(self.daemon)["connections"] == open_now, "it was closed")
        self.model.close(number)

    def say(self, number: int, requests: Sequence[Request]) -> None:
        """Send requests together, and hold each reply, and everything, to the model.

        In one piece where they are for one namespace: the order is kept within each.
        """
        for _, piece in groupby(requests, key=lambda request: request.get("uid")):
            together = [*piece]
            self._send(number, together)
            replies = [self._next(number) for _ in together]
            for request, (entries, reply) in zip(together, replies, strict=True):
                self._take(self.model, number, request, entries, reply)
        self._check_observed(self.model, *self._look())

    def begin_again(self, *, kill: bool) -> None:
        """Restart the daemon, by its leave or without."""
        self.told.append("kill" if kill else "stop")
        if kill:
            self.daemon.kill()
        else:
            self.daemon.stop()
        for number in list(self.connections):
            self.connections.pop(number).close()
            self.model.close(number)
        self.daemon.start()

    def _send(self, number: int, requests: Sequence[Request]) -> None:
        self.asked += len(requests)
        lines = [encoded(self.chance, request) for request in requests]
        self.told += [f"{number} → {line.decode()}" for line in lines]
        self.connections[number].send(b"".join(line + b"\n" for line in lines))

    def _next(self, number: int) -> tuple[list[Reply], Reply]:
        """Return the next reply, and the entries that a tail shows before it."""
        entries: list[Reply] = []
        while True:
            line = self.connections[number].line()
            self.told.append(f"{number} ← {line.decode()}")
            reply = Reply(line)
            if reply.entry is None:
                return entries, reply
            entries.append(reply)

    def _look(self) -> tuple[list[Reply], list[Any]]:
        with self.daemon.connect() as observer:
            observer.send_line({"op": "tail", "uid": "*", "follow": False, "from_position": 0})
            entries: list[Reply] = []
            while (reply := Reply(observer.line())).entry is not None:
                entries.append(reply)
            agents: list[Any] = []
            more = True
            while more:
                after = agents[-1]["first_position"] if agents else None
                page = observer.request({"op": "agents", "uid": "*", "limit": 1000, "after": after})
                agents += page["agents"]
                more = page["more"]
            return entries, agents


def play_on_socket(chance: random.Random, daemon: RunningDaemon, steps: int) -> int:
    """Play *steps* actions; return how many requests were held to the model."""
    host: Any = SocketHost(chance, daemon)
    for _ in range(steps):
        numbers = sorted(host.connections)
        what = chance.random()
        if len(numbers) < 2 or (what < 0.05 and len(numbers) < 5):
            host.enter()
        elif what < 0.1:
            host.exit(chance.choice(numbers))
        elif what < 0.12:
            host.begin_again(kill=chance.random() < 0.5)
        else:
            number = chance.choice(numbers)
            host.say(number, [host.make(number) for _ in range(chance.choice([1, 1, 2, 5]))])
    for number in list(host.connections):
        host.exit(number)
    asked: int = host.asked
    return asked
