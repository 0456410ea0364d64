"""Too much: it is refused with a time to wait, counted to the byte, and over when it is over.

Clients of several uids bring what chance has them bring while the disk stands still, goes
on, or is full.  After each step the counters are held to what the sessions really hold;
in the end every request was answered once, ``ok`` is in the journal, ``overloaded`` is not,
and nothing is left in flight.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from agent_journal.model import AgentId, Uid
from agent_journal.testing.daemon import RunningDaemon
from helpers import ALICE, Client, Service, code_of, settled
from integration.observed import MIB, line_of, noted, rss_bytes, stats, wait_until_alone

Size = Callable[[int, int], int]
Figures = Callable[..., None]

KIB: Final = 1024
LIMITS: Final = {
    "frame_bytes_max": 16 * KIB,
    "connection_bytes_in_flight_max": 8 * KIB,
    "uid_bytes_in_flight_max": 24 * KIB,
    "bytes_in_flight_max": 48 * KIB,
    "partial_bytes_max": 16 * KIB,
    "reply_bytes_max": 8 * KIB,
}
CHUNK: Final = 12 * KIB  # the most that comes in one piece
UIDS: Final = (ALICE, Uid(ALICE + 10), Uid(ALICE + 20))


class Flood:
    """Clients that keep to no bounds."""

    def __init__(self, service: Service, chance: random.Random) -> None:
        self.service = service
        self.chance = chance
        self.clients: list[Client] = []
        self.asked: dict[int, list[dict[str, Any] | None]] = {}
        self.rest: dict[int, bytes] = {}  # what a client has begun to say
        self.number = 0
        self.most = 0

    def step(self) -> None:
        """Do one thing."""
        chance, store = self.chance, self.service.store
        if len(self.clients) < 12 and chance.random() < 0.3:
            client = self.service.connect(chance.choice(UIDS))
            self.clients.append(client)
            self.asked[id(client)], self.rest[id(client)] = [], b""
        if not self.clients:
            return
        client = chance.choice(self.clients)
        match chance.choice(["say"] * 12 + ["hold", "release", "full", "stall", "read"]):
            case "say":
                self._say(client)
            case "hold":
                store.hold("commit")
            case "release":
                store.release("commit")
            case "full":
                store.fail_next_as_full()
            case "stall":
                client.stall(chance.choice([1, 70_000]))
            case "read":
                client.catch_up()

    def _say(self, client: Client) -> None:
        """Send some requests, or part of one, as long as the daemon reads."""
        if not client.sink.is_reading:
            return
        lines = [self._request(client) for _ in range(self.chance.choice([1, 3, 30]))]
        data = self.rest[id(client)] + b"".join(lines)
        size = min(
            CHUNK, len(data) if self.chance.random() < 0.7 else self.chance.randrange(len(data))
        )
        self.rest[id(client)] = data[size:]
        client.send_bytes(data[:size])

    def _request(self, client: Client) -> bytes:
        self.number += 1
        kind = self.chance.random()
        request: dict[str, Any] | None
        if kind < 0.7:
            filler = "x" * self.chance.choice([1, 100, 3000])
            event = {"Said": [self.number, filler]}
            agent_id = f"flood-{self.chance.randrange(3)}"
            request = {"op": "append", "id": self.number, "agent_id": agent_id, "event": event}
        elif kind < 0.8:
            request = {"op": "read", "id": self.number, "agent_id": "flood-0"}
        elif kind < 0.9:
            request = {"op": "ping", "id": self.number}
        else:
            request = None
        self.asked[id(client)].append(request)
        return b"nonsense\n" if request is None else line_of(request)

    def finish(self) -> None:
        """Say what was begun to its end, and read everything."""
        for client in self.clients:
            client.catch_up()
            if self.rest[id(client)]:
                client.send_bytes(self.rest[id(client)])
                self.rest[id(client)] = b""

    def check_counters(self) -> None:
        """Hold the counters to what is really held, and to the bounds."""
        admission = self.service.context.admission
        held = partial = 0
        for uid in UIDS:
            account = admission.accounts.get(uid)
            own = 0
            for client in self.clients:
                if client.uid != uid:
                    continue
                session = client.session
                own += sum(map(len, session._unread)) + len(session._lines)
                own += sum(
                    len(one) if isinstance(one, bytes) else one.size_bytes
                    for one in session._pending
                )
                own += client.sink.unsent_bytes
                partial += session._framer.partial_bytes
            assert (account.bytes_in_flight if account else 0) == own
            held += own
        assert admission.bytes_in_flight == held
        assert admission.partial_bytes == partial
        self.most = max(self.most, held)
        # What may come beyond the bounds: a piece for each connection, and its replies.
        pieces = len(self.clients) * (2 * CHUNK + 70_000)
        assert held <= 2 * LIMITS["bytes_in_flight_max"] + pieces
        assert partial <= LIMITS["partial_bytes_max"] + LIMITS["frame_bytes_max"]


async def flood(seed: str, steps: int, seen: Counter[str]) -> None:
    """Flood one daemon, and look at all that is left of it."""
    chance = random.Random(seed)  # noqa: S311 - a seed repeats it
    async with Service(**LIMITS) as service:
        crowd = Flood(service, chance)
        for _ in range(steps):
            crowd.step()
            if chance.random() < 0.5:
                await settled()
            crowd.check_counters()
        service.store._failures.clear()
        service.store.release("commit")
        await settled()
        crowd.finish()
        await settled()
        crowd.check_counters()
        assert service.context.admission.bytes_in_flight == 0
        for client in crowd.clients:
            assert client.sink.is_reading, "the load is gone, and somebody is not read from"
            reply = await _last_reply(client)
            assert reply["ok"], f"the load is gone, and an append gets {reply}"
        recorded = {}
        for uid in UIDS:
            for number in range(3):
                for _, said in await _said(service, f"flood-{number}", uid):
                    recorded[said[0]] = uid
        for client in crowd.clients:
            check_answers(client, crowd.asked[id(client)], recorded, seen)
        seen["most in flight"] = max(seen["most in flight"], crowd.most)


async def _last_reply(client: Client) -> dict[str, Any]:
    client.send({"op": "append", "id": "last", "agent_id": "last", "event": {"A": 1}})
    await settled()
    reply: dict[str, Any] = json.loads(bytes(client.sink.written).split(b"\n")[-2])
    return reply


async def _said(service: Service, agent_id: str, uid: Uid) -> list[tuple[str, Any]]:
    (record,) = await service.store.store.load([(uid, AgentId(agent_id))])
    return [] if record is None else await service.payloads(agent_id, uid)


def check_answers(
    client: Client,
    asked: list[dict[str, Any] | None],
    recorded: dict[int, Uid],
    seen: Counter[str],
) -> None:
    """Find one answer to each request, in order, and what it says in the journal."""
    replies = client.replies[:-1]
    # A line that was thrown away for want of memory is answered, and then gone.
    assert len(replies) == len(asked)
    for request, reply in zip(asked, replies, strict=True):
        code = code_of(reply)
        seen[code or "ok"] += 1
        if code == "overloaded":
            assert reply["error"]["retry_ms"] > 0
            assert reply["error"]["outcome"] == "not_recorded"
        if request is None:
            assert code in ("malformed", "overloaded")
            continue
        assert reply["id"] == request["id"] or (reply["id"] is None and code == "overloaded")
        assert code in (None, "overloaded", "storage_full", "not_found"), reply
        if request["op"] == "append":
            assert (request["id"] in recorded) == (code is None), reply


@pytest.mark.sized
@pytest.mark.timeout(1800)
async def test_overload_is_refused_counted_and_over(
    size: Size, seed: str, figures: Figures
) -> None:
    seen: Counter[str] = Counter()
    floods = size(40, 4000)
    for number in range(floods):
        await flood(f"{seed}-{number}", 150, seen)
    assert seen["overloaded"] > 0, "it was no overload"
    figures(floods=floods, bad=0, **seen, seed=seed)


NARROW: Final = """
[limits]
frame_bytes_max = "16KiB"
connection_bytes_in_flight_max = "16KiB"
uid_bytes_in_flight_max = "256KiB"
bytes_in_flight_max = "256KiB"
partial_bytes_max = "64KiB"
reply_bytes_max = "64KiB"
"""


@pytest.mark.parametrize(
    "line",
    [line_of(noted("x" * 2000)), line_of({"op": "read", "agent_id": "a"}), b"nonsense\n"],
    ids=["append", "read", "nonsense"],
)
def test_memory_follows_the_configured_bounds(tmp_path: Path, line: bytes) -> None:
    """Not the number of clients, nor how much they send: with small bounds it stays small."""
    with RunningDaemon(tmp_path, config=NARROW) as daemon:
        for _ in range(50):
            daemon.request(noted("x" * 2000))
        before = rss_bytes(daemon)
        data = line * (256 * KIB // len(line) + 1)
        connections = [daemon.connect() for _ in range(150)]
        try:
            for connection in connections:
                connection.socket.settimeout(0)
                for _ in range(8):
                    try:
                        connection.socket.send(data)
                    except BlockingIOError:
                        break
            with daemon.connect() as other:
                assert other.request({"op": "ping"})["ok"]
                assert rss_bytes(daemon) - before < 48 * MIB
        finally:
            for connection in connections:
                connection.close()
        wait_until_alone(daemon)
        after = stats(daemon)
        assert after["bytes_in_flight"] == after["queued_entries"] == 0
        assert daemon.request(noted())["ok"], "the load is gone"
