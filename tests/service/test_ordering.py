"""Replies come in the order of the requests, whatever the requests are and however they come."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import ALICE, BOB, ROOT, Message, Service, append, codes_of, encoded, settled

AGENTS = ["a", "b", "c"]


def requests() -> st.SearchStrategy[Any]:
    agent = st.sampled_from(AGENTS)
    key = st.none() | st.sampled_from(["k1", "k2", "k3"])
    event: st.SearchStrategy[Message] = st.sampled_from(["A", "B", "Terminated"]).map(
        lambda name: {name: {}}
    )
    member = st.builds(
        lambda event, key: {"event": event, **({} if key is None else {"key": key})}, event, key
    )
    return st.one_of(
        st.builds(
            lambda agent, member: {"op": "append", "agent_id": agent, **member}, agent, member
        ),
        st.builds(
            lambda agent, members: {"op": "append", "agent_id": agent, "entries": members},
            agent,
            st.lists(member, max_size=3),
        ),
        st.builds(
            lambda agent, expected: append(agent, expected_sequence=expected),
            agent,
            st.integers(0, 3),
        ),
        st.builds(lambda agent: {"op": "read", "agent_id": agent, "limit": 3}, agent),
        st.builds(lambda agent: {"op": "describe", "agent_id": agent}, agent),
        st.builds(lambda agent: {"op": "compact", "agent_id": agent, "force": True}, agent),
        st.sampled_from([append("a", uid=BOB), append("a", uid=ALICE), {"op": "read"}]),
        st.sampled_from([{"op": "ping"}, {"op": "hello"}, {"op": "stats"}, {"op": "agents"}]),
        st.sampled_from([{"op": "tail", "follow": False, "last": 0}, {"op": "nonsense"}]),
        st.sampled_from([b"{", b"\xff", b"[]", b"", b"x" * 5000]),
    )


class Conversation:
    """What one client sends, in which pieces."""

    def __init__(self, sent: list[Any], cuts: list[int], uid: int) -> None:
        self.sent = [
            {**one, "id": place} if isinstance(one, dict) else one for place, one in enumerate(sent)
        ]
        data = encoded(self.sent)
        places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
        self.pieces = [data[a:b] for a, b in pairwise(places)]
        self.uid = uid

    def check(self, replies: list[Message], *, is_alone: bool) -> None:
        """Each line was answered once, in order, with its own id; a read saw what was before it.

        That last only where no other connection may have compacted it.
        """
        expected = [place if isinstance(one, dict) else None for place, one in enumerate(self.sent)]
        assert [reply.get("id") for reply in replies] == expected
        sequences: dict[str, int] = {}
        for one, reply in zip(self.sent, replies, strict=True):
            assert reply["ok"] or reply["error"]["outcome"] == "not_recorded"
            assert reply["ok"] or reply["error"]["code"] not in {"storage_failed", "shutting_down"}
            if is_alone and isinstance(one, dict) and one["op"] == "read" and reply["ok"]:
                assert reply["next_sequence"] + 3 * reply["more"] >= min(
                    sequences.get(one["agent_id"], 0), 3
                )
            if isinstance(one, dict) and one["op"] == "append" and reply["ok"] and "uid" not in one:
                sequences[one["agent_id"]] = reply["sequence"] + reply["count"]
            if isinstance(one, dict) and one["op"] == "compact" and reply["ok"]:
                sequences[one["agent_id"]] = 0


conversations = st.lists(
    st.builds(
        Conversation,
        st.lists(requests(), max_size=15),
        st.lists(st.integers(0, 10**6), max_size=6),
        st.sampled_from([ALICE, ALICE, BOB, ROOT]),
    ),
    min_size=1,
    max_size=3,
)


@given(
    conversations=conversations,
    turns=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=40),
    batch_entries_max=st.sampled_from([1, 3, 1000]),
    heads_max=st.sampled_from([4, 1000]),
)
def test_replies_come_in_the_order_of_the_requests(
    conversations: list[Conversation],
    turns: list[tuple[int, int]],
    batch_entries_max: int,
    heads_max: int,
) -> None:
    """For any mixture of operations, cut into any pieces, between any others' pieces."""

    async def talk() -> None:
        async with Service(
            frame_bytes_max=4096, batch_entries_max=batch_entries_max, heads_max=heads_max
        ) as service:
            clients = [(service.connect(talk.uid), talk) for talk in conversations]  # type: ignore[arg-type]
            waiting = [[*talk.pieces] for talk in conversations]
            for which, steps in turns:
                if which < len(waiting) and waiting[which]:
                    clients[which][0].send_bytes(waiting[which].pop(0))
                for _ in range(steps):
                    await asyncio.sleep(0)
            for (client, _), pieces in zip(clients, waiting, strict=True):
                for piece in pieces:
                    client.send_bytes(piece)
            await settled()
            for client, conversation in clients:
                uids = [other.uid for other in conversations]
                conversation.check(client.replies, is_alone=uids.count(conversation.uid) == 1)

    asyncio.run(talk())


async def test_a_read_behind_an_append_sees_it() -> None:
    async with Service() as service:
        client = service.connect()
        service.store.hold("commit")
        for _ in range(2):
            client.send(
                append(), {"op": "read", "agent_id": "a"}, {"op": "describe", "agent_id": "a"}
            )
        await settled()
        assert client.replies == []
        service.store.release("commit")
        await settled()
        replies = client.replies
        assert [len(reply["entries"]) for reply in replies[1::3]] == [1, 2]
        assert [reply["agent"]["entries"] for reply in replies[2::3]] == [1, 2]


async def test_what_needs_no_disk_waits_its_turn_all_the_same() -> None:
    async with Service() as service:
        client = service.connect()
        await client.ask(append())
        service.store.hold("commit")
        client.send(append(id=1), {"op": "ping", "id": 2}, "nonsense", append(id=3))
        client.send({"op": "hello", "id": 4})
        await settled()
        assert client.replies == []
        service.store.release("commit")
        await settled()
        assert [reply.get("id") for reply in client.replies] == [1, 2, None, 3, 4]


@pytest.mark.parametrize("held", ["read", "load"])
async def test_what_is_served_is_answered_before_what_came_behind_it(held: str) -> None:
    """A slow read of one connection; neither its own appends nor bad lines overtake it."""
    async with Service(frame_bytes_max=4096) as service:
        client, other = service.connect(), service.connect()
        await client.ask(append())
        service.store.hold(held)
        client.send({"op": "read", "agent_id": "a", "id": 1})
        await settled()
        client.send(append(id=2), "nonsense", b"x" * 5000, {"op": "ping", "id": 3})
        await settled()
        assert client.replies == []
        assert codes_of(await other.ask(append())) == [None]  # nobody else is held up
        service.store.release(held)
        await settled()
        replies = client.replies
        assert [reply.get("id") for reply in replies] == [1, 2, None, None, 3]
        assert codes_of(replies) == [None, None, "malformed", "frame_too_large", None]


async def test_a_line_discarded_for_want_of_room_is_told_of_in_its_turn() -> None:
    """What came before it in the same piece is answered first."""
    async with Service(partial_bytes_max=1000) as service:
        client = service.connect()
        client.send_bytes(encoded([{"op": "ping", "id": 1}]) + b"x" * 2000)
        await settled()
        replies = client.replies
        client.send_bytes(b"\n" + encoded([{"op": "ping", "id": 2}]))
        await settled()
        replies += client.replies
        assert [reply.get("id") for reply in replies] == [1, None, 2]
        assert codes_of(replies) == [None, "overloaded", None]


async def test_a_line_discarded_while_a_request_is_served_is_told_of_behind_it() -> None:
    async with Service(partial_bytes_max=1000) as service:
        client = service.connect()
        await client.ask(append())
        service.store.hold("read")
        client.send({"op": "read", "agent_id": "a", "id": 1})
        await settled()
        client.send_bytes(b"x" * 2000)
        await settled()
        service.store.release("read")
        await settled()
        replies = client.replies
        assert codes_of(replies) == [None, "overloaded"]
        assert replies[0]["id"] == 1


async def test_a_run_is_answered_in_one_write() -> None:
    """Appends that came together are answered together: a system call, not hundreds."""
    async with Service() as service:
        client = service.connect()
        await client.ask(append("a"), append("b"))
        writes = client.sink.writes
        replies = await client.ask(*[append("ab"[n % 2], id=n) for n in range(500)])
        assert [reply["id"] for reply in replies] == [*range(500)]
        assert client.sink.writes == writes + 1


async def test_ids_of_all_kinds_come_back() -> None:
    ids = [0, -1, 2**63, -(2**80), "", "x", "ä💾", '"\\\n%d%s', "null", 1, "1"]
    async with Service() as service:
        client = service.connect()
        await client.ask(append())
        for make in (append, lambda id: {"op": "ping", "id": id}):  # noqa: A006
            replies = await client.ask(*[make(id=one) for one in ids])
            assert [reply["id"] for reply in replies] == ids
            assert json.dumps([type(reply["id"]).__name__ for reply in replies]) == json.dumps(
                [type(one).__name__ for one in ids]
            )
