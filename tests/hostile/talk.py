"""Hostile clients of a daemon without sockets, and a neighbour whom nothing may reach.

A ``Round`` is one life of the daemon: some thousand lines, in pieces cut anywhere,
from clients of several uids.  At its end ``helpers.Service`` holds the daemon to what
it owes everybody, and the neighbour reads back what it wrote.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Final

from agent_journal.model import Uid
from helpers import ALICE, BOB, ROOT, Client, Service, settled
from hostile.answers import WrongAnswer, check_answers, error_as_documented
from hostile.judge import Verdict, judge

FRAME_BYTES_MAX: Final = 4096
UIDS: Final = (ALICE, ALICE, BOB, ROOT)
ROUND_LINES: Final = 2000
BATCH_LINES: Final = 200


class Neighbour:
    """Writes now and then, on a connection of its own, and reads all of it back."""

    def __init__(self, service: Service, uid: Uid, name: str) -> None:
        self._client = service.connect(uid)
        self._agent_id = f"neighbour-{name}"
        self._written = 0

    async def write(self) -> None:
        """Append one entry, and see that it is taken."""
        event = {"Said": [self._agent_id, self._written]}
        request = {"op": "append", "agent_id": self._agent_id, "event": event}
        reply = await self._client.ask_one(request)
        if reply.get("sequence") != self._written:
            raise WrongAnswer(f"the neighbour was answered {reply}, not {self._written}")
        self._written += 1

    async def check(self) -> None:
        """Find what was written, unaltered."""
        reply = await self._client.ask_one({"op": "read", "agent_id": self._agent_id})
        said = [entry["event"]["Said"] for entry in reply["entries"]]
        if said != [[self._agent_id, n] for n in range(self._written)]:
            raise WrongAnswer(f"the neighbour's entries are {said}")


class Round:
    """Hostile lines to one daemon."""

    def __init__(self, service: Service, chance: random.Random, seen: Counter[str]) -> None:
        self._service = service
        self._chance = chance
        self._seen = seen
        self._client: Client | None = None

    async def play(self, lines: Sequence[bytes]) -> None:
        """Send *lines*, and hold each answer to what the document says."""
        name = f"{self._chance.randrange(10**9)}"
        neighbours = [Neighbour(self._service, uid, name) for uid in (ALICE, BOB)]
        for start in range(0, len(lines), BATCH_LINES):
            await self._batch(lines[start : start + BATCH_LINES])
            for neighbour in neighbours:
                await neighbour.write()
        await self._leave()
        for neighbour in neighbours:
            await neighbour.check()

    async def _batch(self, lines: Sequence[bytes]) -> None:
        verdicts = [judge(line, FRAME_BYTES_MAX) for line in lines]
        begun = 0
        for index, verdict in enumerate(verdicts):
            if verdict.begins_stream or (verdict.op == "close" and "ok" in verdict.codes):
                await self._exchange(lines[begun:index], verdicts[begun:index])
                await self._turn(lines[index], verdict)
                begun = index + 1
        await self._exchange(lines[begun:], verdicts[begun:])
        if self._chance.random() < 0.1:
            await self._leave()

    async def _exchange(self, lines: Sequence[bytes], verdicts: Sequence[Verdict]) -> None:
        """Send *lines* in pieces, and hold the answers to the verdicts."""
        if not lines:
            return
        client = self._present()
        await self._send(client, b"\n".join(lines) + b"\n")
        check_answers(lines, verdicts, _taken(client), self._seen)
        if client.sink.is_closed or not client.sink.is_reading:
            raise WrongAnswer(f"the connection does not go on behind {lines[-1]!r}")

    async def _send(self, client: Client, data: bytes) -> None:
        """Send *data* cut where chance has it, as often as not while the daemon is busy."""
        chance = self._chance
        while data:
            size = int(chance.choice((1, 10, 1000, 70_000)) * (chance.random() + 0.1)) + 1
            client.send_bytes(data[:size])
            data = data[size:]
            if chance.random() < 0.2:
                await settled()
        await settled()

    async def _turn(self, line: bytes, verdict: Verdict) -> None:
        """Send a line that makes the connection a stream, or ends it."""
        client = self._present()
        client.send_bytes(line + b"\n")
        await settled()
        if not client.session.is_streaming:
            check_answers([line], [verdict], _taken(client), self._seen)
            if client.sink.is_closed != (verdict.op == "close"):
                raise WrongAnswer(f"closed, or not, behind {line!r}")
            self._client = None if client.sink.is_closed else client
            return
        self._seen["stream"] += 1
        await client.ask(b'{"op":"ping","id":"refused"}', b"nonsense", b'{"op":"close","id":"end"}')
        lines = [json.loads(one) for one in bytes(client.sink.written).split(b"\n")[:-1]]
        refused, malformed, closed = [one for one in lines if "entry" not in one][-3:]
        codes = [error_as_documented(refused), error_as_documented(malformed)]
        if codes != ["invalid", "malformed"] or closed != {"id": "end", "ok": True}:
            raise WrongAnswer(f"a stream answered {refused}, {malformed}, {closed}")
        if not client.sink.is_closed:
            raise WrongAnswer("a stream was closed and goes on")
        self._client = None

    async def _leave(self) -> None:
        """End the connection, in one way or another, within a line or behind it."""
        client, self._client = self._client, None
        if client is None:
            return
        if self._chance.random() < 0.5:
            client.send_bytes(b'{"op":"pi' if self._chance.random() < 0.5 else b"")
            client.lose()
            return
        client.send_bytes(b'{"op":"ping"}')
        client.end()
        await settled()
        check_answers([b""], [judge(b"")], _taken(client), self._seen)
        if not client.sink.is_closed:
            raise WrongAnswer("the input ended, and the connection goes on")

    def _present(self) -> Client:
        if self._client is None:
            self._client = self._service.connect(self._chance.choice(UIDS))
        return self._client


def _taken(client: Client) -> bytes:
    """Return what was written since this was asked the last time."""
    written = bytes(client.sink.written)
    client.sink.written.clear()
    return written
