"""What is bounded beside what is in flight, each with a bound small enough to be reached."""

from __future__ import annotations

import asyncio
import gc
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent_journal.service import heads
from agent_journal.service.owners import Owners
from agent_journal.service.server import Connection, Server
from agent_journal.service.session import Session
from helpers import ALICE, BOB, FakeProcesses, Service, append, code_of, codes_of, settled

REASON_CHARACTERS_MAX = 4096


async def test_a_page_of_agents_is_no_larger_than_a_reply_may_be() -> None:
    """However long the reasons are that they carry; the pages together hold them all."""
    async with Service(reply_bytes_max=20_000) as service:
        client = service.connect()
        names = [f"agent-{number}" for number in range(30)]
        reason = "x" * REASON_CHARACTERS_MAX
        for name in names:
            await client.ask(append(name), {"op": "park", "agent_id": name, "reason": reason})
        found: list[str] = []
        more, after = True, None
        while more:
            before = len(client.sink.written)
            page = await client.ask_one({"op": "agents", "limit": 100, "after": after})
            assert len(client.sink.written) - before < 20_000 + 2 * REASON_CHARACTERS_MAX
            found += [agent["agent_id"] for agent in page["agents"]]
            more, after = page["more"], found[-1]
        assert found == names


async def test_a_listing_is_refused_where_there_is_no_room_for_its_reply() -> None:
    async with Service(uid_bytes_in_flight_max=65_536, bytes_in_flight_max=65_536) as service:
        client, stalled = service.connect(), service.connect()
        await client.ask(append("a"))
        stalled.stall(70_000)
        refused = await client.ask_one({"op": "agents"})
        assert code_of(refused) == "overloaded"
        assert refused["error"]["retry_ms"] > 0
        stalled.catch_up()
        await settled()
        assert code_of(await client.ask_one({"op": "agents"})) is None


async def test_hello_tells_how_long_a_line_of_this_connection_may_be() -> None:
    """Also where the configuration has changed since: new connections have the new bound."""
    async with Service(frame_bytes_max=8192) as service:
        before = service.connect()
        await before.ask({"op": "ping"})
        config = service.context.config
        service.context.config = replace(
            config, limits=replace(config.limits, frame_bytes_max=4096)
        )
        after = service.connect()
        for client, bound in ((before, 8192), (after, 4096)):
            hello = await client.ask_one({"op": "hello"})
            assert hello["limits"]["frame_bytes_max"] == bound
            too_long = await client.ask_one(b"x" * (bound + 1))
            assert too_long["error"]["frame_bytes_max"] == bound


async def test_a_flood_is_taken_when_the_load_goes() -> None:
    """Refused for now is for now: each append is taken in the end, once, by asking again."""
    async with Service(
        uid_bytes_in_flight_max=20_000,
        bytes_in_flight_max=20_000,
        connection_bytes_in_flight_max=10_000,
    ) as service:
        clients = [service.connect(uid) for uid in (ALICE, ALICE, BOB, BOB)]
        for client in clients:
            await client.ask(append("a"))
        service.store.hold("commit")
        left = {
            client: [
                {**append("a"), "id": number, "event": {"Blob": "x" * 1000}} for number in range(60)
            ]
            for client in clients
        }
        refusals = rounds = 0
        while any(left.values()):
            for client, requests in left.items():
                client.send(*requests)
            await settled()
            service.store.release("commit")
            await settled()
            for client, requests in left.items():
                codes = codes_of(client.replies)
                assert set(codes) <= {None, "overloaded"}
                refusals += codes.count("overloaded")
                left[client] = [
                    request for request, code in zip(requests, codes, strict=True) if code
                ]
            service.store.hold("commit")
            rounds += 1
            assert rounds < 100
        service.store.release("commit")
        assert refusals, "the bound was never reached"
        await settled()
        assert service.context.admission.bytes_in_flight == 0
        assert await service.next_sequence("a", ALICE) == 2 * 61
        assert await service.next_sequence("a", BOB) == 2 * 61


class TestTheClientIsGone:
    """Nobody works for those who have left, and what they had sent is recorded all the same."""

    @pytest.mark.parametrize("held", ["read", "load", "scan"])
    async def test_what_was_served_is_given_up(self, held: str) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append("a"))
            service.store.hold(held)
            asked: dict[str, Any] = {
                "read": {"op": "read", "agent_id": "a"},
                "load": {"op": "describe", "agent_id": "a"},
                "scan": {"op": "tail", "follow": False},
            }
            client.send(asked[held], append("a"))
            await settled()
            client.lose()
            await settled()
            assert client.session._task is None
            assert service.context.admission.bytes_in_flight == 0
            service.store.release(held)
            await settled()
            assert await service.next_sequence() == 1, "what was behind it was not looked at"

    async def test_what_was_queued_is_recorded(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append("a"))
            service.store.hold("commit")
            client.send(*[append("a")] * 5)
            await settled()
            client.lose()
            service.store.release("commit")
            await settled()
            assert await service.next_sequence() == 6


async def test_a_request_waits_as_long_as_the_disk_does() -> None:
    """There is no deadline in the daemon: a certain answer late is worth more than a guess."""
    async with Service() as service:
        client = service.connect()
        await client.ask(append("a"))
        service.store.hold("commit")
        client.send(append("a"))
        await settled()
        service.clock.advance(3600)
        await settled()
        assert client.replies == []
        service.store.release("commit")
        await settled()
        assert codes_of(client.replies) == [None]


async def test_heads_and_their_keys_are_bounded_whoever_fills_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heads, "KEYS_MAX", 4)
    async with Service(heads_max=8) as service:
        clients = [service.connect(uid) for uid in (ALICE, BOB)]
        for number in range(100):
            for client in clients:
                line = {**append(f"agent-{number % 30}"), "key": f"key-{number}"}
                assert code_of(await client.ask_one(line)) is None
        loaded = [*service.heads(ALICE).values(), *service.heads(BOB).values()]
        assert len(loaded) <= 8
        assert all(len(head.keys) + len(head.keys_before) <= 8 for head in loaded)


async def test_one_descriptor_for_all_agents_of_a_process_and_none_when_it_has_gone() -> None:
    processes = FakeProcesses()
    owners = Owners(processes.find)
    for number in range(100):
        owners.hold((ALICE, f"agent-{number}"), 1, 4711, None)  # type: ignore[arg-type]
    assert len(processes.opened) == len(owners._processes) == 1
    for number in range(100):
        owners.release((ALICE, f"agent-{number}"), 1)  # type: ignore[arg-type]
    assert not any((owners._processes, owners._holds, owners._of_process, owners._of_link))
    assert processes.opened[0].is_closed


async def test_lines_of_any_kind_are_answered_without_growing_the_session() -> None:
    """Ten thousand of each: nothing of them stays."""
    async with Service() as service:
        client = service.connect()
        for line in ('{"op":"ping"}', "nonsense", '{"op":"hello","protocol":7}'):
            for _ in range(100):
                client.send(*[line] * 100)
                await settled()
            assert len(client.replies) == 10_000
            session = client.session
            assert not any((session._pending, session._unread, session._lines))
        assert len(service.context.metrics.refused) <= 4
        assert len(asyncio.all_tasks()) < 6


async def test_nothing_is_kept_of_a_connection_that_has_ended(tmp_path: Path) -> None:
    """Session and connection held each other, and lived on until garbage was collected."""
    async with Service() as service:
        server = Server(service.context, service.tasks)
        path = tmp_path / "s"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        await server.listen(listener)
        gc.collect()
        gc.disable()
        try:
            for line in (b'{"op":"ping"}\n', b"GET /metrics HTTP/1.0\r\n\r\n", b"half a li", b""):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(line)
                writer.write_eof()
                await reader.read()
                writer.close()
                await writer.wait_closed()
            server.stop()
            await server.close()
            await settled()
            kept = [one for one in gc.get_objects() if isinstance(one, Session | Connection)]
        finally:
            gc.enable()
        assert not kept
