"""A flood beside a quiet client: how many turns the quiet one waits, counted and not timed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from agent_journal.model import Uid
from helpers import ALICE, BOB, Service, append, codes_of, encoded, settled

Size = Callable[[int, int], int]
Figures = Callable[..., None]

KIB = 1024
COMMITS_MAX = 2  # the one that is on its way, and its own
TURNS_MAX = 8  # of the loop: others' window, and the way of a reply

LARGE = b'{"op":"append","agent_id":"flood","event":{"Blob":"%b"}}' % (b"x" * 4 * KIB)
SMALL = b'{"op":"append","agent_id":"flood","event":{"A":1}}'


async def next_commit(service: Service) -> None:
    """Let one commit through, and hold the next."""
    service.store.release("commit")
    service.store.hold("commit")
    await settled()


@pytest.mark.parametrize("line", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("flooders", [1, 50])
@pytest.mark.parametrize("uids", [1, 3])
async def test_a_quiet_uid_waits_for_one_turn_of_each_other(
    line: bytes, flooders: int, uids: int, seed: str
) -> None:
    """However much others have queued before it, and while that goes on."""
    chance = random.Random(seed)  # noqa: S311 - a seed repeats it
    async with Service(batch_entries_max=64) as service:
        flood = [service.connect(Uid(ALICE + 10 + n % uids)) for n in range(flooders * uids)]
        quiet = service.connect(BOB)
        await quiet.ask(append("quiet"))
        for client in flood:
            await client.ask(append("flood"))
        service.store.hold("commit")
        most = 0
        for _ in range(20):
            for client in flood:
                if client.sink.is_reading:
                    client.send(*[line] * (1000 // flooders))
            for _ in range(chance.randrange(3)):
                await next_commit(service)
            most = max(most, service.committer.queued_entries)
            quiet.send(append("quiet"))
            commits = 0
            while not (replies := quiet.replies):
                await next_commit(service)
                commits += 1
                assert commits <= uids + COMMITS_MAX
            assert codes_of(replies) == [None]
        assert most > 64, "it was no flood"


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ({"op": "ping"}, 4000),
        ("nonsense", 4000),
        (append("-bad"), 4000),
        ({"op": "describe", "agent_id": "nobody"}, 400),
        ("", 4000),
    ],
    ids=["ping", "nonsense", "invalid", "describe", "empty"],
)
@pytest.mark.parametrize("flooders", [1, 10])
async def test_a_quiet_client_waits_for_a_window_and_not_for_a_flood(
    line: dict[str, object] | str, count: int, flooders: int
) -> None:
    """Of requests that need no disk; of each client so much is looked at and then others' come."""
    async with Service() as service:
        flood = [service.connect(ALICE) for _ in range(flooders)]
        quiet = service.connect(BOB)
        data = encoded([line] * count)
        for client in flood:
            client.send_bytes(data)
        for _ in range(20):
            quiet.send({"op": "ping"})
            turns = 0
            while not quiet.replies:
                await asyncio.sleep(0)
                turns += 1
                assert turns <= TURNS_MAX
        answered = sum(client.sink.written.count(b"\n") for client in flood)
        assert answered < flooders * count, "the flood is over: nothing was shown"
        await settled()
        assert [client.sink.written.count(b"\n") for client in flood] == [count] * flooders


@pytest.mark.parametrize("stalled", [1, 30])
async def test_who_does_not_read_holds_up_nobody(stalled: int) -> None:
    async with Service(reply_bytes_max=64 * KIB) as service:
        quiet = service.connect(BOB)
        await quiet.ask(*[append("large", "N" * 500)] * 200)
        crowd = [service.connect(ALICE) for _ in range(stalled)]
        for client in crowd:
            client.stall()
            client.send(*[{"op": "tail", "follow": False, "from_position": 0}] * 5)
        for _ in range(10):
            assert codes_of(await quiet.ask(append("large"))) == [None]
        for client in crowd:
            client.catch_up()
        await settled()
        assert all(client.session.is_quiet() for client in crowd)
