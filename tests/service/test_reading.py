"""What is read back: pages, agents, compaction, counters."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agent_journal.store.memory import MemoryStore
from helpers import (
    ALICE,
    BOB,
    ROOT,
    Client,
    Message,
    Service,
    append,
    code_of,
    codes_of,
    settled,
    terminated,
)


async def all_pages(client: Client, **fields: Any) -> list[Message]:
    """Read on until there is no more."""
    entries: list[Message] = []
    sequence, more = fields.pop("from_sequence", 0), True
    while more:
        reply = await client.ask_one({"op": "read", "from_sequence": sequence, **fields})
        assert reply["ok"]
        assert reply["entries"] or not reply["more"]
        entries += reply["entries"]
        sequence, more = reply["next_sequence"], reply["more"]
    return entries


class TestRead:
    async def test_an_entry_comes_back_as_it_was_sent(self) -> None:
        """The event byte for byte, white space between tokens aside."""
        event = '{"Noted":{"a":1.0,"b":"\\u00e4ä","b":[1e400, 1]}}'
        async with Service() as service:
            client = service.connect()
            await client.ask(
                '{"op":"append","agent_id":"a","iteration":7,'
                f'"timestamp":"2026-01-02T03:04:05Z","event":{event}}}'
            )
            client.send({"op": "read", "agent_id": "a", "id": 1})
            await settled()
            assert bytes(client.sink.written).splitlines()[-1].decode() == (
                '{"id":1,"ok":true,"entries":[{"sequence":0,"position":0,'
                '"timestamp":"2026-01-02T03:04:05.000000Z","agent_id":"a","iteration":7,'
                f'"event":{event}}}],"next_sequence":1,"more":false}}'
            )

    @pytest.mark.parametrize(
        ("asked", "sequences", "next_sequence", "more"),
        [
            ({}, [0, 1, 2, 3, 4], 5, False),
            ({"limit": 2}, [0, 1], 2, True),
            ({"from_sequence": 3}, [3, 4], 5, False),
            ({"from_sequence": 4, "limit": 1}, [4], 5, False),
            ({"from_sequence": 5}, [], 5, False),
            ({"from_sequence": 2**62}, [], 5, False),
            ({"limit": 5}, [0, 1, 2, 3, 4], 5, False),
        ],
        ids=str,
    )
    async def test_a_page_says_where_the_next_one_begins(
        self, asked: Message, sequences: list[int], next_sequence: int, *, more: bool
    ) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(*[append()] * 5)
            reply = await client.ask_one({"op": "read", "agent_id": "a", **asked})
            assert [entry["sequence"] for entry in reply["entries"]] == sequences
            assert (reply["next_sequence"], reply["more"]) == (next_sequence, more)

    async def test_a_page_ends_early_at_its_bounds(self) -> None:
        """At the daemon's own limit of entries, and at about so many bytes; never empty."""
        async with Service(read_entries_max=7, reply_bytes_max=4096) as service:
            client = service.connect()
            await client.ask(*[append()] * 20)
            reply = await client.ask_one({"op": "read", "agent_id": "a", "limit": 1000})
            assert (len(reply["entries"]), reply["more"]) == (7, True)
            assert len(await all_pages(client, agent_id="a", limit=1000)) == 20
            blob = {"op": "append", "agent_id": "b"}
            sizes = [1000] * 9 + [9000, 10, 9000, 9000]
            await client.ask(*[{**blob, "event": {"Blob": "x" * size}} for size in sizes])
            entries = await all_pages(client, agent_id="b")
            assert [len(entry["event"]["Blob"]) for entry in entries] == sizes
            lines = bytes(client.sink.written).splitlines()
            pages = [line for line in lines if b'"entries":[' in line]
            assert all(
                len(page) <= 4096 + 200 or len(json.loads(page)["entries"]) == 1 for page in pages
            )

    @pytest.mark.parametrize("op", ["read", "describe", "compact"])
    async def test_an_agent_that_is_not_there_is_not_found(self, op: str) -> None:
        async with Service() as service:
            client, other = service.connect(), service.connect(BOB)
            await other.ask(append("theirs"))
            for name in ("nobody", "theirs"):
                assert code_of(await client.ask_one({"op": op, "agent_id": name})) == "not_found"
            reply = await client.ask_one({"op": op, "agent_id": "-"})
            assert (code_of(reply), reply["error"]["field"]) == ("invalid", "agent_id")

    async def test_an_agent_compacted_in_the_middle_of_a_page_ends_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No entry of the new history follows one of the old."""
        store = MemoryStore()
        real = store.read

        async def one_by_one(number: Any, **wanted: Any) -> Any:
            return await real(number, **{**wanted, "limit": 1})

        monkeypatch.setattr(store, "read", one_by_one)
        async with Service(store) as service:
            reader, writer = service.connect(), service.connect()
            await writer.ask(*[append(event="Old")] * 5)
            service.store.hold("read")
            reader.send({"op": "read", "agent_id": "a"})
            await settled()
            compact = {"op": "compact", "agent_id": "a", "force": True}
            await writer.ask(compact, *[append(event="New")] * 3)
            service.store.release("read")
            await settled()
            (reply,) = reader.replies
            assert {next(iter(entry["event"])) for entry in reply["entries"]} <= {"Old"}


class TestAgents:
    async def test_what_is_known_of_an_agent(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append("other"))
            await client.ask(
                append("a", iteration=3, timestamp="2026-01-01T00:00:00Z"),
                append("a", iteration=2, timestamp="2026-01-01T00:01:00Z"),
            )
            reply = await client.ask_one({"op": "describe", "agent_id": "a", "id": 1})
            assert reply == {
                "id": 1,
                "ok": True,
                "agent": {
                    "agent_id": "a",
                    "kind": None,
                    "state": "running",
                    "uid": ALICE,
                    "entries": 2,
                    "latest_sequence": 1,
                    "next_sequence": 2,
                    "last_completed_iteration": 3,
                    "epoch": 0,
                    "attempts": 0,
                    "created_at": "2026-01-01T00:00:00.000000Z",
                    "updated_at": "2026-01-01T00:01:00.000000Z",
                    "first_position": 1,
                },
            }

    async def test_a_compacted_agent_still_answers(self) -> None:
        """Its latest sequence is 0, as with one entry: ``next_sequence`` tells them apart."""
        async with Service() as service:
            client = service.connect()
            await client.ask(append("a", iteration=5), terminated("a"), append("one"))
            await client.ask({"op": "compact", "agent_id": "a"})
            shown = {}
            for name in ("a", "one"):
                shown[name] = (await client.ask_one({"op": "describe", "agent_id": name}))["agent"]
            assert [shown[name]["latest_sequence"] for name in ("a", "one")] == [0, 0]
            assert [shown[name]["next_sequence"] for name in ("a", "one")] == [0, 1]
            assert shown["a"]["entries"] == shown["a"]["last_completed_iteration"] == 0
            assert shown["a"]["state"] == "completed"

    async def test_agents_are_listed_in_pages(self) -> None:
        async with Service() as service:
            client, other = service.connect(), service.connect(BOB)
            names = [f"agent-{n}" for n in range(25)]
            await client.ask(*[append(name) for name in reversed(names)])
            await other.ask(append("theirs"))
            for cursor in ("agent_id", "first_position"):
                found: list[str] = []
                after: dict[str, object] = {}
                more = True
                while more:
                    reply = await client.ask_one({"op": "agents", "limit": 10, **after})
                    found += [agent["agent_id"] for agent in reply["agents"]]
                    more = reply["more"]
                    after = {"after": reply["agents"][-1][cursor]}
                assert found == names[::-1]

    async def test_agents_are_listed_by_state(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(*[append(f"agent-{n}") for n in range(9)])
            await client.ask(terminated("agent-1"), terminated("agent-4", "Error"))
            found = {
                state: [
                    agent["agent_id"]
                    for agent in (await client.ask_one({"op": "agents", "state": state}))["agents"]
                ]
                for state in ("completed", "failed", "running", "parked")
            }
            assert found["completed"] == ["agent-1"]
            assert found["failed"] == ["agent-4"]
            assert len(found["running"]) == 7
            assert found["parked"] == []
            reply = await client.ask_one({"op": "agents", "kind": "nothing"})
            assert (reply["agents"], reply["more"]) == ([], False)

    async def test_an_admin_lists_everybodys(self) -> None:
        async with Service() as service:
            root = service.connect(ROOT)
            for uid in (BOB, ALICE, BOB):
                await service.connect(uid).ask(append("a"), append(f"of-{uid}"))
            reply = await root.ask_one({"op": "agents", "uid": "*", "limit": 3})
            assert reply["more"]
            assert [(a["uid"], a["agent_id"]) for a in reply["agents"]] == [
                (BOB, "a"),
                (BOB, f"of-{BOB}"),
                (ALICE, "a"),
            ]
            after = reply["agents"][-1]["first_position"]
            rest = await root.ask_one({"op": "agents", "uid": "*", "after": after})
            assert [agent["agent_id"] for agent in rest["agents"]] == [f"of-{ALICE}"]
            by_name = await root.ask_one({"op": "agents", "uid": "*", "after": "a"})
            assert (code_of(by_name), by_name["error"]["field"]) == ("invalid", "after")
            only = await root.ask_one({"op": "agents", "uid": ALICE, "after": "a"})
            assert [agent["agent_id"] for agent in only["agents"]] == [f"of-{ALICE}"]

    async def test_a_list_goes_on_behind_agents_only_that_are_there(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append("a"))
            reply = await client.ask_one({"op": "agents", "after": "nobody"})
            assert code_of(reply) == "not_found"

    async def test_neither_describe_nor_agents_reads_entries(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(*[append(f"agent-{n}") for n in range(50)])
            await client.ask({"op": "describe", "agent_id": "agent-3"}, {"op": "agents"})
            assert service.store.calls["read"] == service.store.calls["scan"] == 0


class TestCompact:
    async def test_an_unfinished_agent_is_compacted_by_force_only(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append(), append())
            reply = await client.ask_one({"op": "compact", "agent_id": "a"})
            assert (code_of(reply), reply["error"]["state"]) == ("agent_unfinished", "running")
            assert await service.next_sequence() == 2
            reply = await client.ask_one({"op": "compact", "agent_id": "a", "force": True, "id": 1})
            assert reply == {"id": 1, "ok": True, "removed": 2}
            assert (await client.ask_one(append()))["sequence"] == 0

    async def test_a_compaction_between_anothers_appends_is_in_one_place(self) -> None:
        """What was queued before it is gone, what came behind it begins at 0."""
        async with Service() as service:
            writer, compactor = service.connect(), service.connect()
            await writer.ask(append(event="Old"))
            service.store.hold("commit")
            writer.send(*[append(event="Old")] * 3)
            await settled()
            compactor.send({"op": "compact", "agent_id": "a", "force": True})
            await settled()
            writer.send(*[append(event="New", key=f"{n}") for n in range(3)])
            await settled()
            service.store.release("commit")
            await settled()
            assert compactor.replies == [{"ok": True, "removed": 4}]
            assert [reply["sequence"] for reply in writer.replies] == [1, 2, 3, 0, 1, 2]
            assert await service.events() == ["New"] * 3

    async def test_two_compactions_at_once_remove_it_once(self) -> None:
        async with Service() as service:
            one, other = service.connect(), service.connect()
            await one.ask(append(), append(), terminated())
            service.store.hold("commit")
            for client in (one, other):
                client.send({"op": "compact", "agent_id": "a"})
            await settled()
            service.store.release("commit")
            await settled()
            removed = [client.replies[0]["removed"] for client in (one, other)]
            assert sorted(removed) == [0, 3]

    async def test_many_writers_and_compactors_leave_one_history(self) -> None:
        async with Service(heads_max=4, batch_entries_max=5) as service:
            clients = [service.connect() for _ in range(4)]
            for step in range(60):
                client = clients[step % 4]
                name = f"agent-{step % 3}"
                if step % 7 == 6:
                    client.send({"op": "compact", "agent_id": name, "force": True})
                else:
                    client.send(*[append(name, key=f"{step:02}-{n}") for n in range(3)])
                if step % 5 == 0:
                    await asyncio.sleep(0)
            await settled()
            assert all(set(codes_of(c.replies)) <= {None, "not_found"} for c in clients)


class TestOthers:
    async def test_hello_says_what_is_spoken_and_within_which_limits(self) -> None:
        async with Service(frame_bytes_max=5000) as service:
            client = service.connect()
            for message in ({"op": "hello"}, {"op": "hello", "protocol": 1}):
                reply = await client.ask_one(message)
                assert (reply["server"], reply["protocol"], reply["boot_id"]) == (
                    "agent-journald",
                    1,
                    "boot",
                )
                assert reply["limits"]["frame_bytes_max"] == 5000
                assert reply["limits"].keys() == {
                    *("frame_bytes_max", "read_entries_max", "reply_bytes_max"),
                    *("agent_id_bytes_max", "key_bytes_max"),
                }
            reply = await client.ask_one({"op": "hello", "protocol": 2})
            assert (code_of(reply), reply["error"]["supported"]) == ("unsupported_protocol", [1])

    async def test_ping_does_not_touch_the_store(self) -> None:
        async with Service() as service:
            client = service.connect()
            assert await client.ask({"op": "ping", "id": 1}) == [{"id": 1, "ok": True}]
            assert {*service.store.calls} <= {"maintain"}  # which nobody asked for

    async def test_stats_count_what_was_done(self) -> None:
        async with Service() as service:
            alice, bob, root = (service.connect(uid) for uid in (ALICE, BOB, ROOT))
            await alice.ask(append(), append(), "nonsense", append(expected_sequence=9))
            await bob.ask(append())
            service.clock.advance(2.5)
            own, everybodys = await root.ask({"op": "stats"}, {"op": "stats", "uid": "*"})
            of_alice = await alice.ask_one({"op": "stats"})
            assert of_alice["uptime_seconds"] == 2.5
            assert not {"entries_committed", "bytes_committed", "refused", "commits"} & {*of_alice}
            assert everybodys["entries_committed"] == 3
            assert everybodys["uptime_seconds"] == 2.5
            assert everybodys["refused"] == {"malformed": 1, "sequence_conflict": 1}
            assert (own["connections"], everybodys["connections"]) == (1, 3)
            assert everybodys["queued_entries"] == everybodys["bytes_in_flight"] == 0

    async def test_what_only_waits_is_no_commit(self) -> None:
        """A repeat that waits for the first write has an empty batch of its own."""
        async with Service() as service:
            client, root = service.connect(), service.connect(ROOT)
            await client.ask(append(key="k"))
            before = (await root.ask_one({"op": "stats"}))["commits"]
            await client.ask(append(key="k"), append(key="k"))
            assert (await root.ask_one({"op": "stats"}))["commits"] == before
