"""What a daemon is asked while it is recorded: a bit of everything that it can do.

Each connection is a generator that yields requests and is sent their replies; a
burst of one goes out together with the bursts of the others, so that commits hold
the requests of several.  Agents are few and small, and histories end and begin
again, because the journal is read back thousands of times.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Callable, Generator, Iterator
from random import Random
from typing import Any

from agent_journal.testing.daemon import RawConnection, RunningDaemon

Request = dict[str, Any]
Conversation = Generator[list[Request], list[Request], None]

_VALUES: tuple[Any, ...] = ("1.0", "é😀", None, [[], {}], 12345678901234567890, {"b": 1, "a": 2})


class Load:
    """Conversations with a daemon that goes down again and again."""

    def __init__(self, seed: str, uid: int, answered: Callable[[int], None] | None = None) -> None:
        self.random = Random(seed)  # noqa: S311 - repeatable, not secret
        self.requests: list[Request] = []
        self._mark = f"{zlib.crc32(seed.encode()):08x}"  # of keys: an earlier load had others
        self._uid = uid
        self._answered = answered or (lambda _: None)  # told the newest request that was
        self._made = 0
        self._lives = 0  # processes that the daemon has had

    def run(self, daemon: RunningDaemon, rounds: int) -> bool:
        """Talk for so many rounds; return whether the daemon is still there."""
        self._lives += 1
        kinds: tuple[Callable[[], Conversation], ...] = (
            self._plain,
            self._keyed,
            self._groups,
            self._elsewhere,
            self._attached,
            self._lived,
            self._brief,
            self._steered,
        )
        talks = [(kind(), RawConnection(daemon.socket)) for kind in kinds]
        bursts = [next(talk) for talk, _ in talks]
        try:
            for _ in range(rounds):
                for burst, (_, connection) in zip(bursts, talks, strict=True):
                    self._send(connection, burst)
                for place, (talk, connection) in enumerate(talks):
                    replies = [connection.reply() for _ in bursts[place]]
                    for reply in replies[-1:]:
                        self._answered(reply["id"])
                    bursts[place] = talk.send(replies)
        except (OSError, EOFError):
            return False
        finally:
            for _, connection in talks:
                connection.close()
        return True

    def _send(self, connection: RawConnection, burst: list[Request]) -> None:
        first = len(self.requests)
        lines = []
        for number, request in enumerate(burst, first):
            request["id"] = number
            lines.append(json.dumps(request, ensure_ascii=False).encode() + b"\n")
        self.requests += burst
        with contextlib.suppress(BrokenPipeError):  # what was answered before is still to be read
            connection.send(b"".join(lines))

    # What is asked for

    def _event(self, name: str = "Noted") -> Request:
        self._made += 1
        size = self.random.choice((0, 10, 40, 200, 900 if self.random.random() < 0.1 else 5))
        value = {"n": self._made, "v": self.random.choice(_VALUES), "pad": "x" * size}
        return {name: value}

    def _entry(self, **more: object) -> Request:
        return {"iteration": self.random.randrange(9), "event": self._event(), **more}

    def _append(self, agent: str, **more: object) -> Request:
        return {"op": "append", "agent_id": agent, **self._entry(**more)}

    def _bursts(self) -> Iterator[int]:
        while True:
            yield self.random.choice((0, 1, 1, 2, 5))

    def _plain(self) -> Conversation:
        for size in self._bursts():
            agents = (f"plain-{self.random.randrange(3)}" for _ in range(size))
            requests = [self._append(agent) for agent in agents]
            if self.random.random() < 0.2:
                requests.append({"op": "read", "agent_id": "plain-0", "from_sequence": 0})
            yield requests

    def _keyed(self) -> Conversation:
        made: list[Request] = []
        for size in self._bursts():
            requests = []
            for _ in range(size):
                if made and self.random.random() < 0.2:
                    requests.append(dict(self.random.choice(made)))
                else:
                    key = f"k{self._lives}-{self._made:04}-{self._mark}"
                    requests.append(self._append("keyed", key=key))
            made += requests
            yield requests

    def _groups(self) -> Conversation:
        for size in self._bursts():
            entries = [self._entry() for _ in range(3 * size)]
            groups = [{"op": "append", "agent_id": f"group-{size % 2}", "entries": entries}]
            yield groups if entries else []

    def _elsewhere(self) -> Conversation:
        for size in self._bursts():
            yield [self._append("plain-0", uid=self._uid + 100_001) for _ in range(size)]

    def _attached(self) -> Conversation:
        """Attach, write under an epoch, give up, be told something, and come to an end."""
        number = 0
        while True:
            agent = f"held-{number % 3}"
            attach: Request = {"op": "attach", "agent_id": agent, "kind": "k", "take_over": True}
            (reply,) = yield [attach]
            if not reply["ok"]:
                yield [{"op": "compact", "agent_id": agent, "force": True}]
                number += 1
                continue
            epoch = reply["epoch"]
            for _ in range(self.random.randrange(4)):
                yield [self._append(agent, epoch=epoch) for _ in range(self.random.randrange(4))]
            if self.random.random() < 0.4:
                end = {"Terminated": {"reason": "Completed", "n": number}}
                last: Request = self._append(agent, epoch=epoch) | {"event": end}
                yield [last]
            else:
                detach: Request = {"op": "detach", "agent_id": agent, "epoch": epoch}
                yield [detach | {"wait_for": ["go"]}]
                yield [{"op": "signal", "agent_id": agent, "name": "no", "payload": number}]
            number += 1

    def _lived(self) -> Conversation:
        """Live, end, be compacted or forgotten, and begin again."""
        while True:
            agent = f"lived-{self.random.randrange(2)}"
            for size in range(self.random.randrange(1, 4)):
                yield [self._append(agent) for _ in range(size + 1)]
            end = self.random.choice(("compact", "forget"))
            yield [{"op": end, "agent_id": agent, "force": True}]

    def _brief(self) -> Conversation:
        """Begin and end, and be removed: by hand, or by the configuration at the next start."""
        number = 0
        while True:
            number += 1
            agent = f"brief-{number % 3}"
            attach: Request = {"op": "attach", "agent_id": agent, "kind": "brief"}
            (reply,) = yield [attach | {"take_over": True}]
            if reply["ok"]:
                end = {"Terminated": {"reason": "Completed", "n": number}}
                last: Request = self._append(agent, epoch=reply["epoch"]) | {"event": end}
                yield [self._append(agent, epoch=reply["epoch"]), last]
            if self.random.random() < 0.6:
                yield [{"op": "vacuum", "kind": "brief"}]

    def _steered(self) -> Conversation:
        """Be forked, parked, resumed and cancelled."""
        number = 0
        while True:
            number += 1
            origin, fork = "origin", f"fork-{self._lives}-{number}"
            (reply,) = yield [self._append(origin)]
            at = self.random.randrange((reply.get("sequence") or 0) + 1)
            asked: list[Request] = [
                {"op": "fork", "agent_id": origin, "at_sequence": at, "as": fork},
                {"op": "park", "agent_id": fork, "reason": "wait"},
                {"op": "resume", "agent_id": fork},
                {"op": "cancel", "agent_id": fork, "reason": "enough"},
                {"op": "compact", "agent_id": fork, "force": True},
            ]
            for request in asked[: self.random.randrange(1, 6)]:
                yield [request]
            if number % 4 == 0:
                yield [{"op": "compact", "agent_id": origin, "force": True}]
