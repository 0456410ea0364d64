"""How much is taken in: back-pressure first, refusal at twice, and nobody pays for another."""

from __future__ import annotations

from typing import Any

import pytest

from agent_journal.service.session import LINE_OVERHEAD_BYTES
from helpers import ALICE, BOB, Client, Service, append, codes_of, encoded, settled

KIB = 1024
EVENT_BYTES = KIB
COST = EVENT_BYTES + LINE_OVERHEAD_BYTES


def large(agent_id: str = "a") -> bytes:
    """Return an append whose event is exactly EVENT_BYTES long."""
    filler = b"x" * (EVENT_BYTES - len(b'{"Blob":""}'))
    return b'{"op":"append","agent_id":"%b","event":{"Blob":"%b"}}' % (agent_id.encode(), filler)


async def fill(client: Client, pieces: int) -> int:
    """Send until the daemon stops reading; return how many pieces it took."""
    for sent in range(pieces):
        if not client.sink.is_reading:
            return sent
        client.send(large())
        await settled()
    return pieces


class TestOneConnection:
    async def test_reading_stops_at_the_bound_and_goes_on_at_half_of_it(self) -> None:
        async with Service(
            connection_bytes_in_flight_max=10 * COST, batch_entries_max=3
        ) as service:
            client = service.connect()
            await client.ask(append("a"))
            service.store.hold("commit")
            assert await fill(client, 100) == 10
            assert not client.sink.is_reading
            while not client.sink.is_reading:
                in_flight = service.context.admission.bytes_in_flight
                assert in_flight >= 5 * COST
                service.store.release("commit")
                service.store.hold("commit")
                await settled()
            assert service.context.admission.bytes_in_flight < 5 * COST
            service.store.release("commit")
            await settled()
            assert codes_of(client.replies) == [None] * 10

    async def test_what_was_in_the_same_piece_is_still_taken(self) -> None:
        """A bound is reached by a piece at a time; nothing of it is lost."""
        async with Service(connection_bytes_in_flight_max=4 * COST) as service:
            client = service.connect()
            await client.ask(append("a"))
            service.store.hold("commit")
            client.send(*[large()] * 50)
            assert not client.sink.is_reading
            service.store.release("commit")
            await settled()
            assert codes_of(client.replies) == [None] * 50
            assert client.sink.is_reading

    @pytest.mark.parametrize(
        "line", [{"op": "ping"}, "nonsense", {"op": "hello"}, append("-bad")], ids=str
    )
    async def test_replies_that_wait_behind_an_append_are_bounded_too(self, line: object) -> None:
        """A disk that takes seconds must not fill the memory with answers to pings."""
        bound = 64 * KIB
        async with Service(connection_bytes_in_flight_max=bound) as service:
            client = service.connect()
            await client.ask(append("a"))
            service.store.hold("commit")
            client.send(append("a"))
            await settled()
            piece = [line] * 100
            sent = 0
            while client.sink.is_reading:
                client.send(*piece)  # type: ignore[arg-type]
                sent += len(encoded(piece))  # type: ignore[arg-type]
                assert sent < 8 * bound, "nothing stops a client that sends behind a slow disk"
            service.store.release("commit")
            await settled()
            assert client.sink.is_reading
            assert len(client.replies) == client.sent - 1

    async def test_a_backlog_stops_the_reading(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append("a"))
            service.store.hold("read")
            client.send({"op": "read", "agent_id": "a"})
            await settled()
            assert client.sink.is_reading
            client.send(append("a"), append("a"))
            assert not client.sink.is_reading
            service.store.release("read")
            await settled()
            assert client.sink.is_reading
            assert len(client.replies) == 3

    async def test_a_client_that_does_not_read_is_not_read_from(self) -> None:
        """And costs the others nothing; when it reads again everything goes on."""
        async with Service() as service:
            client, other = service.connect(), service.connect()
            await client.ask(append("a"))
            client.send(append("a"), {"op": "read", "agent_id": "a"})
            client.stall(50_000)
            assert not client.sink.is_reading
            assert service.context.admission.bytes_in_flight >= 50_000
            assert codes_of(await other.ask(append("a"), {"op": "agents"})) == [None, None]
            client.catch_up()
            await settled()
            assert client.sink.is_reading
            assert codes_of(client.replies) == [None, None]

    async def test_a_read_waits_until_the_replies_before_it_were_taken(self) -> None:
        """One page at a time is in memory for a client that does not read."""
        async with Service() as service:
            client = service.connect()
            await client.ask(*[large()] * 20)
            reads = service.store.calls["read"]
            client.send(*[{"op": "read", "agent_id": "a", "id": n} for n in range(9)])
            client.stall()
            await settled()
            assert service.store.calls["read"] <= reads + 1
            client.catch_up()
            await settled()
            assert [reply["id"] for reply in client.replies] == [*range(9)]


class TestOneUid:
    async def test_all_its_connections_stop_at_the_bound(self) -> None:
        """And others' go on as if nothing were."""
        async with Service(
            uid_bytes_in_flight_max=20 * COST, bytes_in_flight_max=100 * COST
        ) as service:
            alices = [service.connect(ALICE) for _ in range(5)]
            bob = service.connect(BOB)
            for client in (alices[0], bob):
                await client.ask(append("a"))
            service.store.hold("commit")
            taken = [await fill(client, 10) for client in alices]
            assert sum(taken) <= 20 + len(alices)
            assert await fill(bob, 10) == 10
            service.store.release("commit")
            await settled()
            for client in (*alices, bob):
                assert client.sink.is_reading
                assert set(codes_of(client.replies)) <= {None}

    async def test_beyond_twice_the_bound_appends_are_refused(self) -> None:
        """Which is certain and cheap; nothing of them is recorded, and a retry is worth it."""
        async with Service(
            uid_bytes_in_flight_max=10 * COST, bytes_in_flight_max=1000 * COST
        ) as service:
            alice, late, bob = service.connect(ALICE), service.connect(ALICE), service.connect(BOB)
            for client in (alice, bob):
                await client.ask(append("a"))
            service.store.hold("commit")
            alice.send(*[large()] * 25)  # in one piece: it was there before anybody could say no
            replies = await late.ask(append("a"), append("never-seen"), {"op": "ping"})
            assert codes_of(replies) == ["overloaded", "overloaded", None]
            refused = replies[0]["error"]
            assert (refused["retryable"], refused["outcome"]) == (True, "not_recorded")
            assert refused["retry_ms"] > 0
            bob.send(append("a"))
            await settled()
            service.store.release("commit")
            await settled()
            assert codes_of(alice.replies) == [None] * 25
            assert codes_of(bob.replies) == [None]
            assert await service.next_sequence("a") == 26
            assert codes_of(await late.ask(append("a"))) == [None]

    async def test_a_read_is_refused_where_there_is_no_room_for_its_reply(self) -> None:
        async with Service(
            uid_bytes_in_flight_max=64 * KIB, bytes_in_flight_max=64 * KIB
        ) as service:
            client, stalled = service.connect(), service.connect()
            await client.ask(append("a"))
            stalled.stall(70_000)
            replies = await client.ask({"op": "read", "agent_id": "a"}, {"op": "ping"})
            assert codes_of(replies) == ["overloaded", None]
            stalled.catch_up()
            await settled()
            assert codes_of(await client.ask({"op": "read", "agent_id": "a"})) == [None]


class TestAll:
    async def test_the_sum_is_bounded_whoever_it_is(self) -> None:
        async with Service(
            uid_bytes_in_flight_max=20 * COST, bytes_in_flight_max=30 * COST
        ) as service:
            clients = [service.connect(ALICE), service.connect(BOB), service.connect(ALICE)]
            for client in clients:
                await client.ask(append("a"))
            service.store.hold("commit")
            for client in clients:
                await fill(client, 18)
            assert service.context.admission.bytes_in_flight <= (30 + len(clients)) * COST
            assert not all(client.sink.is_reading for client in clients)
            service.store.release("commit")
            await settled()
            assert all(client.sink.is_reading for client in clients)

    async def test_one_that_waited_for_room_and_is_gone_is_not_woken(self) -> None:
        async with Service(
            uid_bytes_in_flight_max=10 * COST, bytes_in_flight_max=100 * COST
        ) as service:
            client, gone = service.connect(), service.connect()
            await client.ask(append("a"))
            service.store.hold("commit")
            client.send(*[large()] * 12)
            gone.send(large())
            assert not gone.sink.is_reading
            gone.lose()
            assert gone.session not in service.context.admission._waiting
            service.store.release("commit")
            await settled()
            assert codes_of(client.replies) == [None] * 12
            assert not gone.sink.is_reading

    async def test_who_is_let_on_again_is_not_answered_out_of_order(self) -> None:
        """Room is found while its own replies are about to be written: those come first."""
        async with Service(connection_bytes_in_flight_max=COST) as service:
            client = service.connect()
            service.store.hold("commit")
            first = {**append("new"), "id": 1, "event": {"Blob": "x" * COST}}
            client.send(first, {**append("-bad"), "id": 2})
            await settled()
            service.context.admission.wait(client.session)  # since before there was room
            service.store.release("commit")
            await settled()
            assert [reply["id"] for reply in client.replies] == [1, 2]


class TestUnfinishedLines:
    async def test_they_are_counted_until_they_end(self) -> None:
        async with Service(partial_bytes_max=10_000) as service:
            client, other = service.connect(), service.connect()
            admission = service.context.admission
            client.send_bytes(b'{"op":')
            other.send_bytes(b"x" * 100)
            assert admission.partial_bytes == 106
            client.send_bytes(b'"ping"}\n{"op"')
            assert admission.partial_bytes == 105
            client.send_bytes(b':"ping"}\n')
            other.lose()
            assert admission.partial_bytes == 0
            await settled()
            assert codes_of(client.replies) == [None, None]

    async def test_the_one_that_is_too_much_is_discarded(self) -> None:
        """It is told so, and its connection goes on; the others' lines are kept."""
        async with Service(partial_bytes_max=1000) as service:
            patient, greedy = service.connect(), service.connect()
            patient.send_bytes(b'{"op":"ping","x":"' + b"x" * 500)
            greedy.send_bytes(b'{"op":"ping","x":"' + b"x" * 600)
            await settled()
            assert codes_of(greedy.replies) == ["overloaded"]
            greedy.send_bytes(b'x"}\n' + encoded([{"op": "ping"}]))
            patient.send_bytes(b'"}\n')
            await settled()
            assert codes_of(greedy.replies) == codes_of(patient.replies) == [None]


async def test_accounts_are_kept_for_those_who_are_there() -> None:
    """A uid that is gone and has nothing in flight leaves nothing behind, however it went."""
    async with Service() as service:
        stays = service.connect(ALICE)
        await stays.ask(append("a"))
        for how in ("idle", "commit", "load"):
            client = service.connect(BOB)
            await client.ask(append("a"))
            if how != "idle":
                service.store.hold(how)
                client.send({"op": "read", "agent_id": "a"} if how == "load" else append("a"))
                await settled()
            client.lose()
            service.store.release(how)
            await settled()
            assert [*service.context.admission.accounts] == [ALICE], how


async def test_a_client_that_leaves_while_it_is_served_leaves_no_account_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Service() as service:
        client = service.connect(BOB)
        await client.ask(append("a"))
        load = service.store.store.load

        async def load_and_lose(names: Any) -> Any:
            found = await load(names)
            client.lose()
            return found

        monkeypatch.setattr(service.store.store, "load", load_and_lose)
        client.send({"op": "read", "agent_id": "a"})
        await settled()
        assert not service.context.admission.accounts


async def test_one_that_comes_back_while_its_last_request_is_served_is_one_account(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the request comes to is counted with what is there now, and takes nothing of it."""
    async with Service() as service:
        await service.connect().ask(append("a"))
        service.clients[0].lose()
        service.heads().clear()  # so that the next one has to be looked up
        leaving = service.connect()
        load = service.store.store.load

        async def load_and_leave(names: Any) -> Any:
            found = await load(names)
            leaving.lose()
            service.connect()
            return found

        monkeypatch.setattr(service.store.store, "load", load_and_leave)
        service.store.hold("commit")
        leaving.send(append("a"))
        await settled()
        client = service.clients[-1]
        (reply,) = await client.ask({"op": "stats"})
        assert reply["uids"][str(ALICE)]["bytes_in_flight"] > 0
        service.store.release("commit")
        await settled()
        (reply,) = await client.ask({"op": "stats"})
        assert reply["uids"] == {str(ALICE): {"connections": 1, "bytes_in_flight": 0}}
