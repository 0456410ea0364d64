"""What an append records, and what it is refused with."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent_journal.model import DAEMON_EVENTS
from agent_journal.wire import render_timestamp
from helpers import ALICE, BOB, ROOT, Service, append, code_of, codes_of, settled, terminated


async def test_an_append_is_answered_with_its_place() -> None:
    async with Service() as service:
        client = service.connect()
        assert await client.ask(append("a", id=1), append("b", id="x"), append("a")) == [
            {"id": 1, "ok": True, "sequence": 0, "position": 0, "count": 1},
            {"id": "x", "ok": True, "sequence": 0, "position": 1, "count": 1},
            {"ok": True, "sequence": 1, "position": 2, "count": 1},
        ]


async def test_an_append_is_answered_only_when_it_is_durable() -> None:
    """Invariant: a caller that got a sequence number can lose power and keep its entry."""
    async with Service() as service:
        client = service.connect()
        service.store.hold("commit")
        assert await client.ask(append(id=1)) == []
        assert await service.events() == []
        service.store.release("commit")
        await settled()
        assert [reply["sequence"] for reply in client.replies] == [0]
        assert await service.events() == ["Noted"]


async def test_entries_are_one_transaction_with_neighbouring_sequences() -> None:
    async with Service() as service:
        client = service.connect()
        entries = [{"iteration": n, "event": {f"E{n}": n}} for n in range(5)]
        await client.ask(append("a"))
        assert await client.ask_one(
            {"id": 7, "op": "append", "agent_id": "a", "entries": entries}
        ) == {
            "id": 7,
            "ok": True,
            "sequence": 1,
            "position": 1,
            "count": 5,
        }
        assert len(service.store.batches[-1].entries) == 5
        assert await service.events() == ["Noted", "E0", "E1", "E2", "E3", "E4"]


async def test_the_time_of_receipt_is_the_timestamp_unless_the_client_gives_one() -> None:
    async with Service() as service:
        client = service.connect()
        start = service.clock.wall_us()
        await client.ask(append("a"))
        service.clock.advance(1.5)
        service.store.hold("commit")
        client.send(append("a"))
        service.clock.advance(60)
        client.send(append("a", timestamp="2001-02-03T04:05:06.7+01:00"))
        service.store.release("commit")
        await settled()
        _, _, reply = await client.ask({"op": "read", "agent_id": "a"})
        assert [entry["timestamp"] for entry in reply["entries"]] == [
            render_timestamp(start),
            render_timestamp(start + 1_500_000),
            "2001-02-03T03:05:06.700000Z",
        ]


async def test_an_agents_life_follows_from_its_entries() -> None:
    """Started with the first, completed or failed with Terminated, in the same transaction."""
    async with Service() as service:
        client = service.connect()
        client.send(append("a"), append("b"), terminated("a"), terminated("b", "LimitReached"))
        client.send({"op": "append", "agent_id": "c", "event": {"Terminated": None}})
        client.send(append("d", "Terminator"))
        await settled()
        assert codes_of(client.replies) == [None] * 6
        shown = {
            name: (await client.ask_one({"op": "describe", "agent_id": name}))["agent"]
            for name in "abcd"
        }
        assert [(shown[name]["state"], shown[name].get("reason")) for name in "abcd"] == [
            ("completed", "Completed"),
            ("failed", "LimitReached"),
            ("failed", None),
            ("running", None),
        ]
        for batch in service.store.batches:
            finished = [c for c in batch.changes if c.record.state != "running"]
            assert all(b'"Terminated"' in batch.entries[c.index].event for c in finished)


async def test_a_finished_agent_takes_no_more_entries() -> None:
    async with Service() as service:
        client = service.connect()
        replies = await client.ask(append(), terminated(), append(), terminated(), append("b"))
        assert codes_of(replies) == [None, None, "agent_finished", "agent_finished", None]
        assert replies[2]["error"]["state"] == "completed"
        assert await service.events() == ["Noted", "Terminated"]


async def test_a_compacted_agent_begins_again() -> None:
    async with Service() as service:
        client = service.connect()
        compact = {"op": "compact", "agent_id": "a"}
        replies = await client.ask(append(), terminated(), compact, append(), compact, terminated())
        assert [reply.get("removed") for reply in replies] == [None, None, 2, None, None, None]
        assert code_of(replies[4]) == "agent_unfinished"
        assert (replies[3]["sequence"], replies[5]["sequence"]) == (0, 1)
        agent = (await client.ask_one({"op": "describe", "agent_id": "a"}))["agent"]
        assert (agent["state"], agent["entries"], agent["reason"]) == ("completed", 2, "Completed")


@pytest.mark.parametrize("reload", [False, True], ids=["in_memory", "from_the_store"])
async def test_a_compacted_agent_that_begins_again_runs(*, reload: bool) -> None:
    """Its state and reason are those of the new history, not of the old one."""
    async with Service() as service:
        client = service.connect()
        await client.ask(append(), terminated(), {"op": "compact", "agent_id": "a"})
        if reload:
            service.context.heads.forget()
        assert code_of(await client.ask_one(append())) is None
        agent = (await client.ask_one({"op": "describe", "agent_id": "a"}))["agent"]
        assert (agent["state"], agent.get("reason")) == ("running", None)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no_event": ({"op": "append", "agent_id": "a"}, "event"),
    "two_events": ({"op": "append", "agent_id": "a", "event": {"A": 1, "B": 2}}, "event"),
    "bad_agent": (append("-x"), "agent_id"),
    "long_agent": (append("x" * 129), "agent_id"),
    "empty_key": (append(key=""), "key"),
    "long_key": (append(key="k" * 257), "key"),
    "negative_iteration": (append(iteration=-1), "iteration"),
    "no_entries": ({"op": "append", "agent_id": "a", "entries": []}, "entries"),
    "entries_and_event": (append(entries=[{"event": {"A": 1}}]), "entries"),
    "entries_and_key": (
        {"op": "append", "agent_id": "a", "key": "k", "entries": [{"event": {"A": 1}}]},
        "entries",
    ),
    "bad_member": (
        {"op": "append", "agent_id": "a", "entries": [{"event": {"A": 1}}, {"event": {}}]},
        "entries[1].event",
    ),
    "member_without_event": (
        {"op": "append", "agent_id": "a", "entries": [{"event": {"A": 1}}, {}]},
        "entries[1].event",
    ),
    "bad_key_of_a_member": (
        {"op": "append", "agent_id": "a", "entries": [{"event": {"A": 1}, "key": "k" * 257}]},
        "entries[0].key",
    ),
    "a_key_twice": (
        {"op": "append", "agent_id": "a", "entries": [{"event": {"A": 1}, "key": "k"}] * 2},
        "entries",
    ),
    "behind_terminated": (
        {"op": "append", "agent_id": "a", "entries": [{"event": {"Terminated": {}}}] * 2},
        "entries[0].event",
    ),
    "daemons_own": (append(event="Parked"), "event"),
    "daemons_own_member": (
        {"op": "append", "agent_id": "a", "entries": [{"event": {"Forked": 1}}]},
        "entries[0].event",
    ),
}


@pytest.mark.parametrize("known", [False, True], ids=["unknown_agent", "known_agent"])
@pytest.mark.parametrize("name", sorted(BAD))
async def test_a_bad_append_names_its_field_and_leaves_no_trace(name: str, *, known: bool) -> None:
    """Neither an entry nor an agent nor a number; its neighbours are recorded all the same."""
    message, field = BAD[name]
    async with Service() as service:
        client = service.connect()
        if known:
            await client.ask(append("a", "Before"))
        good = append("a", "Good")
        replies = await client.ask({**message, "id": 1}, good, {**message, "id": 2}, good)
        assert codes_of(replies) == ["invalid", None, "invalid", None]
        assert [reply["error"]["field"] for reply in replies[::2]] == [field] * 2
        assert [reply["id"] for reply in replies[::2]] == [1, 2]
        assert [reply["sequence"] for reply in replies[1::2]] == [int(known), int(known) + 1]
        assert await service.events() == ["Before"] * known + ["Good", "Good"]
        listed = (await client.ask_one({"op": "agents"}))["agents"]
        assert [agent["agent_id"] for agent in listed] == ["a"]


@pytest.mark.parametrize("name", sorted(DAEMON_EVENTS))
async def test_the_daemons_own_events_cannot_be_forged(name: str) -> None:
    async with Service() as service:
        client = service.connect()
        reply = await client.ask_one(append(event=name))
        assert code_of(reply) == "invalid"
        assert name in reply["error"]["message"]


async def test_one_bad_line_does_not_fail_its_neighbours() -> None:
    """Of any kind, in the middle of a piece; each gets its own error, in order."""
    async with Service(frame_bytes_max=4096) as service:
        client = service.connect()
        replies = await client.ask(
            append(id=1),
            "what?",
            append(id=2),
            {"op": "fly", "id": 3},
            append(id=4),
            b"\xff",
            b"x" * 5000,
            append(id=5, expected_sequence=17),
            append(id=6, epoch=3),
            append(id=7, expected_sequence=3),
            {"op": "hello", "protocol": 9, "id": 8},
            append(id=9),
        )
        assert [reply.get("id") for reply in replies] == [
            *[1, None, 2, 3, 4, None, None, 5, 6, 7, 8, 9]
        ]
        assert codes_of(replies) == [
            *[None, "malformed", None, "unknown_op", None, "malformed", "frame_too_large"],
            *["sequence_conflict", "stale_epoch", None, "unsupported_protocol", None],
        ]
        assert await service.next_sequence() == 5


async def test_expected_sequences_may_be_pipelined() -> None:
    """Each is checked against what is queued before it, not against what is on the disk."""
    async with Service() as service:
        client = service.connect()
        service.store.hold("commit")
        client.send(*[append(expected_sequence=n, id=n) for n in range(4)])
        client.send(append(expected_sequence=3, id=4), append(expected_sequence=5, id=5))
        client.send(append(expected_sequence=4, id=6))
        service.store.release("commit")
        await settled()
        replies = client.replies
        assert codes_of(replies) == [
            *[None] * 4,
            "sequence_conflict",
            "sequence_conflict",
            None,
        ]
        conflict = replies[4]["error"]
        assert (conflict["expected"], conflict["actual"]) == (3, 4)
        assert (conflict["retryable"], conflict["outcome"]) == (False, "not_recorded")


async def test_two_writers_of_one_agent_take_turns() -> None:
    async with Service() as service:
        one, other = service.connect(), service.connect()
        await one.ask(append(expected_sequence=0))
        service.store.hold("commit")
        for n in range(1, 6):
            (one, other)[n % 2].send(append(expected_sequence=n))
        service.store.release("commit")
        await settled()
        assert [reply["sequence"] for reply in one.replies] == [2, 4]
        assert [reply["sequence"] for reply in other.replies] == [1, 3, 5]


async def test_everybody_has_a_namespace_of_their_own() -> None:
    async with Service() as service:
        alice, bob = service.connect(ALICE), service.connect(BOB)
        await alice.ask(append("a", "Alices"), terminated("a"))
        assert (await bob.ask_one(append("a", "Bobs")))["sequence"] == 0
        assert await service.events("a", ALICE) == ["Alices", "Terminated"]
        assert await service.events("a", BOB) == ["Bobs"]


@pytest.mark.parametrize(
    "message",
    [
        append("a", uid=BOB),
        {"op": "append", "agent_id": "a", "entries": [{"event": {"A": 1}}], "uid": BOB},
        {"op": "read", "agent_id": "a", "uid": BOB},
        {"op": "describe", "agent_id": "a", "uid": BOB},
        {"op": "agents", "uid": BOB},
        {"op": "agents", "uid": "*"},
        {"op": "compact", "agent_id": "a", "uid": BOB, "force": True},
        {"op": "tail", "uid": BOB},
        {"op": "tail", "uid": "*", "follow": False},
        {"op": "stats", "uid": BOB},
        {"op": "stats", "uid": "*"},
    ],
    ids=json.dumps,
)
async def test_nobody_but_an_admin_acts_for_another(message: dict[str, Any]) -> None:
    """Whether the other has such an agent or not is not told either."""
    async with Service() as service:
        bob, alice = service.connect(BOB), service.connect(ALICE)
        for _ in range(2):
            reply = await alice.ask_one(message)
            assert code_of(reply) == "forbidden"
            await bob.ask(append("a"))
        assert await service.next_sequence("a", BOB) == 2


async def test_ones_own_uid_may_always_be_named() -> None:
    async with Service() as service:
        alice = service.connect(ALICE)
        replies = await alice.ask(
            append("a"), append("a", uid=ALICE), append("a"), {"op": "agents", "uid": ALICE}
        )
        assert codes_of(replies) == [None] * 4
        assert [reply["sequence"] for reply in replies[:3]] == [0, 1, 2]


async def test_an_admin_acts_in_any_namespace() -> None:
    """In order with the admin's own, and with what the owner has on the way."""
    async with Service() as service:
        root, alice = service.connect(ROOT), service.connect(ALICE)
        service.store.hold("commit")
        alice.send(append("a", "First"), append("a", "Second"))
        root.send(append("a", "Own"), append("a", "Third", uid=ALICE, expected_sequence=2))
        root.send({"op": "read", "agent_id": "a", "uid": ALICE}, {"op": "read", "agent_id": "a"})
        await settled()
        service.store.release("commit")
        await settled()
        own, third, alices, roots = root.replies
        assert (own["sequence"], third["sequence"]) == (0, 2)
        assert [next(iter(e["event"])) for e in alices["entries"]] == ["First", "Second", "Third"]
        assert [next(iter(e["event"])) for e in roots["entries"]] == ["Own"]
        assert await service.events("a", ROOT) == ["Own"]
