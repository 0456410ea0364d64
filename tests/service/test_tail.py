"""A tail shows each durable entry once, in order, to whoever may see it, as fast as it is read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import ALICE, BOB, ROOT, Message, Service, append, code_of, codes_of, settled


def positions(lines: Iterable[Message]) -> list[int]:
    return [line["entry"]["position"] for line in lines if "entry" in line]


class TestWhatIsThere:
    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            ({}, [0, 1, 2, 3, 4, 5]),
            ({"from_position": 4}, [4, 5]),
            ({"from_position": 6}, []),
            ({"from_position": 99}, []),
            ({"last": 2}, [4, 5]),
            ({"last": 0}, []),
            ({"last": 99}, [0, 1, 2, 3, 4, 5]),
            ({"agent_id": "b"}, [1, 3, 5]),
            ({"agent_id": "b", "last": 2}, [3, 5]),
            ({"agent_id": "b", "from_position": 2}, [3, 5]),
            ({"agent_id": "nobody"}, []),
            ({"agent_id": "nobody", "last": 3}, []),
            ({"before_position": 0}, []),
            ({"before_position": 3}, [0, 1, 2]),
            ({"before_position": 99}, [0, 1, 2, 3, 4, 5]),
            ({"from_position": 2, "before_position": 4}, [2, 3]),
            ({"from_position": 4, "before_position": 2}, []),
            ({"last": 2, "before_position": 4}, [2, 3]),
            ({"last": 9, "before_position": 4}, [0, 1, 2, 3]),
            ({"last": 0, "before_position": 4}, []),
            ({"agent_id": "b", "before_position": 4}, [1, 3]),
            ({"agent_id": "b", "before_position": 3, "last": 1}, [1]),
            ({"agent_id": "b", "before_position": 1, "last": 1}, []),
        ],
        ids=str,
    )
    async def test_it_is_shown_and_then_the_connection_takes_requests_again(
        self, asked: Message, expected: list[int]
    ) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(*[append("ab"[n % 2]) for n in range(6)])
            tail = {"op": "tail", "id": 1, "follow": False, **asked}
            *entries, end, ping = await client.ask(tail, {"op": "ping", "id": 2})
            assert positions(entries) == expected
            assert all(line["id"] == 1 for line in entries)
            assert (end["id"], end["ok"]) == (1, True)
            assert end["position"] >= min(asked.get("before_position", 6), 6)
            assert ping == {"id": 2, "ok": True}

    async def test_where_it_ended_the_next_one_goes_on(self) -> None:
        async with Service() as service:
            client = service.connect()
            seen, position = [], 0
            for _ in range(5):
                await client.ask(append("a"), append("b"))
                tail = {"op": "tail", "follow": False, "from_position": position, "agent_id": "b"}
                *entries, end = await client.ask(tail)
                seen += positions(entries)
                position = end["position"]
            assert seen == [1, 3, 5, 7, 9]

    async def test_only_ones_own_entries_are_shown(self) -> None:
        async with Service() as service:
            alice, bob, root = (service.connect(uid) for uid in (ALICE, BOB, ROOT))
            for client in (alice, bob, alice, root, bob):
                await client.ask(append("a"))
            tail = {"op": "tail", "follow": False}
            assert positions(await alice.ask(tail)) == [0, 2]
            assert positions(await bob.ask(tail)) == [1, 4]
            assert positions(await root.ask(tail)) == [3]
            assert positions(await root.ask({**tail, "uid": BOB})) == [1, 4]
            everybodys = await root.ask({**tail, "uid": "*"})
            assert [line["entry"]["uid"] for line in everybodys[:-1]] == [
                ALICE,
                BOB,
                ALICE,
                ROOT,
                BOB,
            ]
            assert "uid" not in (await root.ask({**tail, "uid": BOB}))[0]["entry"]

    async def test_compacted_entries_are_not_shown(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(*[append("ab"[n % 2]) for n in range(6)])
            await client.ask({"op": "compact", "agent_id": "a", "force": True}, append("a"))
            lines = await client.ask({"op": "tail", "follow": False})
            assert positions(lines) == [1, 3, 5, 6]

    @pytest.mark.parametrize(
        ("asked", "field"),
        [({"from_position": 1, "last": 1}, "last"), ({"agent_id": "-"}, "agent_id")],
        ids=str,
    )
    @pytest.mark.parametrize("follow", [False, True])
    async def test_one_that_is_refused_makes_no_stream(
        self, asked: Message, field: str, *, follow: bool
    ) -> None:
        """What comes behind it is answered as ever, in order."""
        async with Service() as service:
            client = service.connect()
            replies = await client.ask(
                {"op": "tail", "id": 1, "follow": follow, **asked},
                {"op": "ping", "id": 2},
                append("a", id=3),
            )
            assert [reply["id"] for reply in replies] == [1, 2, 3]
            assert codes_of(replies) == ["invalid", None, None]
            assert replies[0]["error"]["field"] == field


class TestFollowing:
    async def test_entries_come_as_they_are_committed(self) -> None:
        async with Service() as service:
            client, tail = service.connect(), service.connect()
            await client.ask(append("a"))
            assert await tail.ask({"op": "tail", "id": "t"}) == []
            service.store.hold("commit")
            client.send(append("a"))
            await settled()
            assert tail.replies == []  # only what is durable is shown
            service.store.release("commit")
            await settled()
            (line,) = tail.replies
            assert line["id"] == "t"
            assert line["entry"].keys() == {
                *("sequence", "position", "timestamp", "agent_id", "iteration", "event")
            }
            assert (line["entry"]["sequence"], line["entry"]["position"]) == (1, 1)

    async def test_an_append_of_its_own_connection_comes_first(self) -> None:
        """Its reply, then the stream, which begins behind what was already there."""
        async with Service() as service:
            client, other = service.connect(), service.connect()
            await client.ask(append("a"))
            service.store.hold("commit")
            client.send(append("a", id=1), {"op": "tail", "id": 2, "from_position": 0})
            await settled()
            assert client.replies == []
            service.store.release("commit")
            await settled()
            reply, *lines = client.replies
            assert reply["id"] == 1
            assert positions(lines) == [0, 1]
            await other.ask(append("a"))
            assert positions(client.replies) == [2]

    async def test_a_tail_of_an_agent_yet_to_come(self) -> None:
        async with Service() as service:
            client, tail = service.connect(), service.connect()
            await tail.ask({"op": "tail", "agent_id": "a", "last": 5})
            await client.ask(append("b"), append("a"), append("b"), append("a"))
            assert positions(tail.replies) == [1, 3]

    async def test_a_tail_from_a_position_yet_to_come(self) -> None:
        async with Service() as service:
            client, tail = service.connect(), service.connect()
            await tail.ask({"op": "tail", "from_position": 3})
            for _ in range(3):
                await client.ask(append("a"), append("a"))
            assert positions(tail.replies) == [3, 4, 5]

    @given(
        steps=st.lists(
            st.one_of(
                st.tuples(st.just("append"), st.integers(1, 5)),
                st.tuples(
                    st.sampled_from(["turn", "hold", "release", "stall", "catch_up"]), st.just(1)
                ),
            ),
            max_size=40,
        ),
        start=st.sampled_from([{}, {"from_position": 0}, {"last": 2}]),
        slice_entries=st.sampled_from([1, 2, 1000]),
    )
    def test_none_is_missing_and_none_comes_twice(
        self, steps: list[tuple[str, int]], start: Message, slice_entries: int
    ) -> None:
        """Whatever is committed while the tail reads, waits or is waited for."""

        async def follow() -> None:
            async with Service() as service:
                real = service.store.store.scan

                async def in_slices(wanted: object, **named: int) -> object:
                    return await real(wanted, **{**named, "limit": slice_entries})  # type: ignore[arg-type]

                service.store.store.scan = in_slices  # type: ignore[method-assign,assignment]
                writer, tail, one = service.connect(), service.connect(), service.connect()
                await writer.ask(*[append("ab"[n % 2]) for n in range(5)])
                tail.send({"op": "tail", **start})
                one.send({"op": "tail", "agent_id": "a", **start})
                await settled()
                for what, count in steps:
                    if what == "append":
                        writer.send(*[append("ab"[n % 2]) for n in range(count)])
                    elif what == "turn":
                        await asyncio.sleep(0)
                    elif what == "hold":
                        service.store.hold("commit")
                    elif what == "release":
                        service.store.release("commit")
                    elif what == "stall":
                        tail.stall()
                    else:
                        tail.catch_up()
                service.store.release("commit")
                tail.catch_up()
                await settled()
                sent = 5 + sum(count for what, count in steps if what == "append")
                first = {"from_position": 0, "last": 3}.get(next(iter(start), ""), 5)
                assert positions(tail.replies) == [*range(first, sent)]
                of_a = positions(
                    await service.connect().ask({"op": "tail", "agent_id": "a", "follow": False})
                )
                behind = {"from_position": 0, "last": 2}.get(next(iter(start), ""), 5)
                assert positions(one.replies) == [p for p in of_a if p >= behind]

        asyncio.run(follow())

    async def test_a_slow_reader_is_waited_for_and_holds_up_nobody(self) -> None:
        async with Service(reply_bytes_max=4096) as service:
            client, slow, fast = (service.connect() for _ in range(3))
            for tail in (slow, fast):
                await tail.ask({"op": "tail"})
            await client.ask(append("a"))
            slow.stall()
            scans = service.store.calls["scan"]
            for _ in range(50):
                assert codes_of(await client.ask(*[append("a")] * 10)) == [None] * 10
            assert positions(fast.replies) == [*range(501)]
            written = len(slow.sink.written)
            assert written < 8192  # a slice at the most is on its way to it
            assert service.store.calls["scan"] - scans < 150
            slow.catch_up()
            await settled()
            assert positions(slow.replies) == [*range(501)]

    async def test_tails_that_wait_cost_a_commit_one_wake_up_each(self) -> None:
        async with Service() as service:
            client = service.connect()
            tails = [service.connect() for _ in range(20)]
            for tail in tails:
                await tail.ask({"op": "tail"})
            scans = service.store.calls["scan"]
            await client.ask(append("a"))
            assert service.store.calls["scan"] - scans == 20
            assert all(positions(tail.replies) == [0] for tail in tails)


class TestClosing:
    @pytest.mark.parametrize("pieces", ["together", "at_once", "later"])
    async def test_close_ends_the_stream_and_the_connection(self, pieces: str) -> None:
        """In the same piece as the tail, in the next, or when the stream runs."""
        async with Service() as service:
            client, other = service.connect(), service.connect()
            tail, close = {"op": "tail", "id": 1}, {"op": "close", "id": 2}
            if pieces == "together":
                client.send(tail, close)
            else:
                client.send(tail)
                if pieces == "later":
                    await settled()
                    await other.ask(append("a"))
                client.send(close)
            await settled()
            assert client.replies[-1] == {"id": 2, "ok": True}
            assert client.sink.is_closed
            await other.ask(append("a"))

    async def test_nothing_but_close_is_taken_on_it(self) -> None:
        """Anything else is refused, and the stream goes on."""
        async with Service() as service:
            client, other = service.connect(), service.connect()
            await client.ask({"op": "tail", "id": 1})
            replies = await client.ask(append("a", id=2), "nonsense", {"op": "ping", "id": 3})
            assert [reply.get("id") for reply in replies] == [2, None, 3]
            assert codes_of(replies) == ["invalid", "malformed", "invalid"]
            await other.ask(append("a"))
            assert positions(client.replies) == [0]
            assert codes_of(await client.ask({"op": "close"})) == [None]

    async def test_what_is_refused_on_a_stream_waits_for_what_came_before_it(self) -> None:
        """The answer to an append before the tail comes before that to a ping behind it."""
        async with Service() as service:
            client = service.connect()
            await client.ask(append("a"))
            service.store.hold("commit")
            client.send(append("a", id=1), {"op": "tail", "id": 2}, {"op": "ping", "id": 3})
            await settled()
            client.send({"op": "ping", "id": 4}, {"op": "close", "id": 5})
            await settled()
            service.store.release("commit")
            await settled()
            replies = client.replies
            assert [reply["id"] for reply in replies] == [1, 3, 4, 5]
            assert codes_of(replies) == [None, "invalid", "invalid", None]

    async def test_a_line_too_long_is_refused_on_a_stream_as_ever(self) -> None:
        async with Service(frame_bytes_max=4096) as service:
            client = service.connect()
            await client.ask({"op": "tail"})
            (reply,) = await client.ask(b"x" * 5000)
            assert code_of(reply) == "frame_too_large"

    async def test_a_stream_whose_client_sends_nothing_more_goes_on(self) -> None:
        """A client may shut down its writing side and go on reading."""
        async with Service() as service:
            client, other = service.connect(), service.connect()
            await client.ask({"op": "tail"})
            client.end()
            await other.ask(append("a"))
            assert positions(client.replies) == [0]
            assert not client.sink.is_closed
            client.lose()

    async def test_a_stream_whose_client_is_gone_ends(self) -> None:
        async with Service() as service:
            client, other = service.connect(), service.connect()
            await client.ask({"op": "tail"})
            client.lose()
            await settled()
            scans = service.store.calls["scan"]
            await other.ask(append("a"))
            assert service.store.calls["scan"] == scans

    @pytest.mark.parametrize("started", [False, True])
    async def test_a_daemon_that_stops_ends_its_streams(self, *, started: bool) -> None:
        async with Service() as service:
            client, other = service.connect(), service.connect()
            await other.ask(append("a"))
            client.send({"op": "tail", "from_position": 0})
            if started:
                await settled()
            await service.close()
            assert client.sink.is_closed

    async def test_a_daemon_that_stops_answers_a_tail_that_it_cuts_short(self) -> None:
        """Every line is answered, in order: what is behind it must not seem to be its answer."""
        async with Service() as service:
            client, other = service.connect(), service.connect()
            await other.ask(append("a"))
            service.store.hold("scan")
            client.send({"id": 1, "op": "tail", "follow": False}, {"id": 2, "op": "ping"})
            await settled()
            client.session.stop()
            await settled()
            replies = client.replies
            assert [reply["id"] for reply in replies] == [1, 2]
            assert codes_of(replies) == ["shutting_down", None]

    async def test_a_daemon_that_stops_says_so_on_its_streams(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask({"op": "tail", "id": 1})
            await service.close()
            (last,) = client.replies
            assert (last["id"], code_of(last)) == (1, "shutting_down")

    async def test_a_committer_that_ends_ends_the_streams_and_says_so(self) -> None:
        async with Service() as service:
            client, other = service.connect(), service.connect()
            await client.ask({"op": "tail", "id": 1})
            await other.ask(append("a"))
            service.store.fail_next_as_failed()
            await other.ask(append("a"))
            *lines, last = client.replies
            assert positions(lines) == [0]
            assert (last["id"], code_of(last)) == (1, "shutting_down")
