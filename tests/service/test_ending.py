"""How a conversation ends: half-closed, closed, lost, or by the daemon."""

from __future__ import annotations

import pytest

from helpers import Service, append, code_of, codes_of, encoded, settled

ASKED = [
    append("a", id=1),
    {"op": "read", "agent_id": "a", "id": 2},
    append("new", id=3),
    {"op": "ping", "id": 4},
    {"op": "compact", "agent_id": "a", "force": True, "id": 5},
    append("a", key="k", id=6),
]


@pytest.mark.parametrize("held", [None, "commit", "load", "read"])
async def test_a_half_closed_client_gets_all_its_answers(held: str | None) -> None:
    """Every complete line is answered, then the daemon closes."""
    async with Service() as service:
        client = service.connect()
        await client.ask(append("a"))
        if held is not None:
            service.store.hold(held)
        client.send(*ASKED)
        client.end()
        await settled()
        assert client.sink.is_closed == (held is None)
        if held is not None:
            service.store.release(held)
            await settled()
        replies = client.replies
        assert [reply["id"] for reply in replies] == [1, 2, 3, 4, 5, 6]
        assert codes_of(replies) == [None] * 6
        assert client.sink.is_closed


@pytest.mark.parametrize("held", [None, "commit", "load", "read"])
async def test_a_line_that_did_not_end_is_no_request(held: str | None) -> None:
    """Nothing of it is recorded, and it is told of last, in its turn."""
    async with Service() as service:
        client = service.connect()
        await client.ask(append("a"))
        if held is not None:
            service.store.hold(held)
        client.send(*ASKED)
        client.send_bytes(encoded([append("a", "Unfinished")]).rstrip())
        client.end()
        await settled()
        if held is not None:
            service.store.release(held)
            await settled()
        replies = client.replies
        assert [reply.get("id") for reply in replies] == [1, 2, 3, 4, 5, 6, None]
        assert code_of(replies[-1]) == "malformed"
        assert "newline" in replies[-1]["error"]["message"]
        assert client.sink.is_closed
        assert "Unfinished" not in await service.events()


async def test_an_append_behind_the_last_is_told_of_the_end_and_of_nothing_else() -> None:
    """What is queued is still committed, and heads that are loaded meanwhile don't know it."""
    async with Service() as service:
        client = service.connect()
        await client.ask(append())
        service.store.hold("commit")
        client.send(append(), append())
        await settled()
        service.committer.close()
        late = service.connect()
        for _ in range(2):
            replies = await late.ask(append(expected_sequence=3), append(key="k"))
            assert codes_of(replies) == ["shutting_down"] * 2
        service.store.release("commit")
        assert [reply["sequence"] for reply in await client.ask()] == [1, 2]


async def test_nothing_sent_is_nothing_answered() -> None:
    async with Service() as service:
        client = service.connect()
        client.end()
        assert client.sink.is_closed
        assert client.replies == []


async def test_the_rest_of_a_line_too_long_is_not_told_of_again() -> None:
    async with Service(frame_bytes_max=4096) as service:
        client = service.connect()
        client.send_bytes(b"x" * 9000)
        await settled()
        client.end()
        assert codes_of(client.replies) == ["frame_too_large"]
        assert client.sink.is_closed


@pytest.mark.parametrize("held", [None, "commit"])
async def test_close_is_answered_behind_everything_before_it(held: str | None) -> None:
    """And what comes behind it is not looked at."""
    async with Service() as service:
        client = service.connect()
        await client.ask(append("a"))
        if held is not None:
            service.store.hold(held)
        client.send(append("a", id=1), {"op": "close", "id": 2}, append("a", "Behind", id=3))
        await settled()
        service.store.release("commit")
        await settled()
        assert [reply["id"] for reply in client.replies] == [1, 2]
        assert client.sink.is_closed
        assert await service.events() == ["Noted", "Noted"]


class TestLost:
    @pytest.mark.parametrize(
        "message",
        [
            {"op": "read", "agent_id": "a"},
            {"op": "describe", "agent_id": "a"},
            {"op": "agents"},
            {"op": "tail", "follow": False},
            append("never-seen"),
            append("a", key="a"),
        ],
        ids=str,
    )
    async def test_what_was_being_served_is_dropped(self, message: dict[str, object]) -> None:
        """At whatever it waits for; nobody else notices."""
        for held in ("load", "find_key", "read", "scan", "agents", "commit"):
            async with Service() as service:
                client, other = service.connect(), service.connect()
                await client.ask(append("a", key="z"))
                service.store.hold(held)
                client.send(message, append("a", "Behind"))
                await settled()
                client.lose()
                await settled()
                service.store.release(held)
                await settled()
                assert client.session.is_quiet()
                assert codes_of(await other.ask(append("a"), append("never-seen"))) == [None, None]

    async def test_another_who_waits_for_the_same_agent_is_served(self) -> None:
        """The one who was loading it is gone; the one who waited loads it."""
        async with Service() as service:
            gone, stays = service.connect(), service.connect()
            service.store.hold("load")
            gone.send(append("a"))
            stays.send(append("a"))
            await settled()
            gone.lose()
            await settled()
            service.store.release("load")
            await settled()
            assert codes_of(stays.replies) == [None]

    async def test_an_unfinished_line_is_not_held_for_the_dead(self) -> None:
        async with Service() as service:
            client = service.connect()
            client.send_bytes(b"x" * 1000)
            client.lose()
            assert service.context.admission.partial_bytes == 0


class TestStopping:
    async def test_what_is_queued_is_recorded_and_answered(self) -> None:
        async with Service() as service:
            clients = [service.connect() for _ in range(3)]
            await clients[0].ask(append("a"))
            service.store.hold("commit")
            for client in clients:
                client.send(append("a"), {"op": "ping"})
            await settled()
            for client in clients:
                client.send(append("a"))
                client.session.stop()
            service.committer.close()
            await settled()
            assert not any(client.sink.is_closed for client in clients)
            assert not any(client.sink.is_reading for client in clients)
            service.store.release("commit")
            await settled()
            assert all(codes_of(client.replies) == [None] * 3 for client in clients)
            assert all(client.sink.is_closed for client in clients)
            assert await service.next_sequence() == 7

    async def test_what_is_served_is_answered(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append("a"))
            service.store.hold("read")
            client.send({"op": "read", "agent_id": "a"})
            await settled()
            client.session.stop()
            assert not client.sink.is_closed
            service.store.release("read")
            await settled()
            assert codes_of(client.replies) == [None]
            assert client.sink.is_closed

    async def test_what_was_taken_in_and_not_looked_at_is_refused_and_not_forgotten(self) -> None:
        """A client that gets no answer cannot know whether its entry was recorded."""
        async with Service() as service:
            client = service.connect()
            await client.ask(append("a"))
            service.store.hold("read")
            client.send({"op": "read", "agent_id": "a", "id": 1}, append("a", id=2), "x", append())
            await settled()
            client.session.stop()
            service.committer.close()
            service.store.release("read")
            await settled()
            replies = client.replies
            assert [reply.get("id") for reply in replies] == [1, 2, None, None]
            assert codes_of(replies)[:2] == [None, "shutting_down"]
            assert client.sink.is_closed

    async def test_what_needs_the_committer_then_is_refused(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append("a"))
            service.committer.close()
            await settled()
            replies = await client.ask(
                append("a"),
                {"op": "compact", "agent_id": "a", "force": True},
                {"op": "tail"},
            )
            assert codes_of(replies) == ["shutting_down"] * 3
            assert codes_of(await client.ask({"op": "read", "agent_id": "a"})) == [None]
            assert replies[0]["error"]["outcome"] == "not_recorded"
            assert await service.next_sequence() == 1

    async def test_stopping_twice_is_stopping(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append("a"))
            service.store.hold("commit")
            client.send(append("a"))
            client.session.stop()
            client.session.stop()
            client.end()
            await settled()
            service.store.release("commit")
            await settled()
            assert codes_of(client.replies) == [None]
            assert client.sink.is_closed
