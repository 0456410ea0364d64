"""A fork: the first entries of another agent, at once and whole, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from agent_journal.model import AgentId
from agent_journal.service import forking
from agent_journal.store.memory import MemoryStore
from agent_journal.testing.plain_journal import scan_all
from helpers import ALICE, Service, append, code_of, settled


def fork(at: int, agent_id: str = "a", new: str = "b", **fields: Any) -> dict[str, Any]:
    return {"op": "fork", "agent_id": agent_id, "at_sequence": at, "as": new, **fields}


def read(agent_id: str = "b") -> dict[str, Any]:
    return {"op": "read", "agent_id": agent_id}


async def test_a_fork_has_the_first_entries_and_goes_its_own_way() -> None:
    async with Service() as service:
        service.resumer.launchers = {"python"}
        client = service.connect()
        await client.ask({"op": "attach", "agent_id": "a", "kind": "report", "launcher": "python"})
        for iteration in (1, 7, 3, 9):
            await client.ask(
                append(epoch=1, iteration=iteration, event=f"E{iteration}", key=f"{iteration}")
            )
            service.clock.advance(1)
        reply = await client.ask_one(fork(4))
        assert reply == {"ok": True, "agent_id": "b", "next_sequence": 5}
        copied = (await client.ask_one(read()))["entries"]
        origin = (await client.ask_one(read("a")))["entries"]
        for copy, entry in zip(copied[:4], origin[:4], strict=True):
            assert copy["position"] > origin[-1]["position"]
            assert {**entry, "agent_id": "b", "position": copy["position"]} == copy
        assert copied[4]["event"] == {"Forked": {"from": "a", "at_sequence": 4}}
        agent = (await client.ask_one({"op": "describe", "agent_id": "b"}))["agent"]
        assert (agent["state"], agent["kind"], agent["launcher"]) == ("waiting", "report", "python")
        assert (agent["epoch"], agent["attempts"]) == (0, 0)
        assert (agent["entries"], agent["last_completed_iteration"]) == (5, 7)
        assert agent["first_position"] == copied[4]["position"]
        assert (await client.ask_one(append("a", epoch=1)))["sequence"] == 5
        reply = await client.ask_one({"op": "attach", "agent_id": "b"})
        assert (reply["epoch"], reply["resumed"], reply["next_sequence"]) == (1, True, 6)


@pytest.mark.parametrize("at", [0, 3])
async def test_the_ends_are_places_to_fork_at(at: int) -> None:
    async with Service() as service:
        client = service.connect()
        await client.ask(append(), append(), append())
        assert (await client.ask_one(fork(at)))["next_sequence"] == at + 1
        assert await service.events("b") == ["Noted"] * at + ["Forked"]
        assert (await client.ask_one(append("b")))["sequence"] == at + 1


async def test_what_has_ended_can_be_forked() -> None:
    async with Service() as service:
        client = service.connect()
        await client.ask(append(), {"op": "cancel", "agent_id": "a"})
        assert (await client.ask_one(fork(1)))["ok"]
        agent = (await client.ask_one({"op": "describe", "agent_id": "b"}))["agent"]
        assert agent["state"] == "waiting"
        assert "reason" not in agent


async def test_a_fork_can_be_forked_and_compacted() -> None:
    async with Service() as service:
        client = service.connect()
        await client.ask(append(), append(), fork(2), fork(3, "b", "c"))
        assert await service.events("c") == ["Noted", "Noted", "Forked", "Forked"]
        removed = await client.ask_one({"op": "compact", "agent_id": "b", "force": True})
        assert removed["removed"] == 3
        assert await service.events("c") == ["Noted", "Noted", "Forked", "Forked"]


async def test_a_tail_is_shown_the_fork_and_not_the_copies() -> None:
    """Nothing appears below what a tail has seen; the originals were shown."""
    async with Service() as service:
        client, reader = service.connect(), service.connect()
        await client.ask(append(), append())
        reader.send({"op": "tail", "from_position": 0})
        await settled()
        service.store.hold()
        client.send(fork(2))
        for _ in range(3):
            await settled()
            service.store.release()
            service.store.hold()
        service.store.release()
        await settled()
        await client.ask(append())
        shown = [reply["entry"] for reply in reader.replies]
        assert [next(iter(entry["event"])) for entry in shown] == [
            "Noted",
            "Noted",
            "Forked",
            "Noted",
        ]
        positions = [entry["position"] for entry in shown]
        assert positions == sorted(positions)
        last = await reader_of(service, {"op": "tail", "agent_id": "b", "last": 5, "follow": False})
        assert [entry["sequence"] for entry in last] == [2]
        reader.lose()


async def reader_of(service: Service, request: dict[str, Any]) -> list[dict[str, Any]]:
    replies = await service.connect().ask(request)
    return [reply["entry"] for reply in replies if "entry" in reply]


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (fork(4), "invalid", "at_sequence"),
        (fork(-1), "invalid", "at_sequence"),
        (fork(1, new="a"), "invalid", "as"),
        (fork(1, new="there"), "invalid", "as"),
        (fork(1, new="emptied"), "invalid", "as"),
        (fork(1, new="-"), "invalid", "as"),
        (fork(1, "nobody"), "not_found", None),
    ],
    ids=str,
)
async def test_a_fork_that_cannot_be(request_: Any, code: str, field: str | None) -> None:
    async with Service() as service:
        client = service.connect()
        await client.ask(append(), append(), append(), append("there"), append("emptied"))
        await client.ask({"op": "compact", "agent_id": "emptied", "force": True})
        refused = await client.ask_one(request_)
        assert code_of(refused) == code
        assert refused["error"].get("field") == field
        assert len(await scan_all(service.store.store)) == 4


async def test_writers_go_on_between_the_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "SLICE_ENTRIES", 3)
    async with Service() as service:
        client, writer = service.connect(), service.connect()
        await client.ask(*[append(event=f"E{n}") for n in range(10)])
        service.store.batches.clear()
        client.send(fork(10))
        for n in range(400):
            writer.send(append("w", event=f"W{n}"))
            await writer.ask()
        await settled()
        assert [reply["ok"] for reply in client.replies] == [True]
        assert await service.events("b") == [f"E{n}" for n in range(10)] + ["Forked"]
        copying = [
            sum(b'"E' in entry.event for entry in batch.entries) for batch in service.store.batches
        ]
        assert max(copying) == 3


class TestNotAtAll:
    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(forking, "SLICE_ENTRIES", 2)

    async def begin(self, service: Service) -> Any:
        """Have a fork on its way, held before its next slice."""
        client = service.connect()
        await client.ask(*[append(event=f"E{n}") for n in range(6)])
        service.store.hold("read")
        client.send(fork(6))
        await settled()
        return client

    async def test_an_agent_that_is_there_first_wins(self) -> None:
        async with Service() as service:
            client = await self.begin(service)
            await service.connect().ask(append("b", event="Mine"))
            service.store.release("read")
            (refused,) = await client.ask()
            assert code_of(refused) == "invalid"
            assert await service.events("b") == ["Mine"]
            await nothing_is_left(service)

    async def test_a_client_that_leaves_in_the_middle(self) -> None:
        async with Service() as service:
            client = await self.begin(service)
            client.lose()
            await settled()
            service.store.release("read")
            await settled()
            assert await service.store.store.load([(ALICE, AgentId("b"))]) == [None]
            await nothing_is_left(service)

    async def test_a_source_that_is_compacted_meanwhile(self) -> None:
        async with Service() as service:
            client = await self.begin(service)
            compact = {"op": "compact", "agent_id": "a", "force": True}
            await service.connect().ask(compact)
            service.store.release("read")
            (refused,) = await client.ask()
            assert code_of(refused) == "invalid"
            assert refused["error"]["field"] == "at_sequence"  # as behind the compaction
            assert await service.store.store.load([(ALICE, AgentId("b"))]) == [None]
            await nothing_is_left(service)

    async def test_a_source_that_is_forgotten_meanwhile(self) -> None:
        async with Service() as service:
            client = await self.begin(service)
            await service.connect().ask({"op": "forget", "agent_id": "a", "force": True})
            service.store.release("read")
            (refused,) = await client.ask()
            assert code_of(refused) == "not_found"
            assert await service.store.store.load([(ALICE, AgentId("b"))]) == [None]

    async def test_a_full_disk_in_the_middle(self) -> None:
        async with Service() as service:
            client = await self.begin(service)
            service.store.fail_next_as_full()
            service.store.release("read")
            (refused,) = await client.ask()
            assert code_of(refused) == "storage_full"
            assert await service.store.store.load([(ALICE, AgentId("b"))]) == [None]
            assert (await client.ask_one(fork(6)))["ok"]


async def nothing_is_left(service: Service) -> None:
    """Find no entry in the store that nobody sees; behind the interface, for that reason."""
    store = service.store.store
    assert isinstance(store, MemoryStore)
    kept = [entry for entry in store._log if entry is not None]
    assert len(kept) == len(await scan_all(store))
