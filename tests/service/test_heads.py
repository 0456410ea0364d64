"""Heads: what an agent's next entry must be, kept for as many agents as there is room for."""

from __future__ import annotations

import asyncio

import pytest

from agent_journal.model import AgentId
from helpers import ALICE, BOB, Service, append, codes_of, settled, terminated


async def test_an_agent_is_loaded_once_however_many_ask_for_it() -> None:
    async with Service() as service:
        clients = [service.connect() for _ in range(8)]
        service.store.hold("load")
        for client in clients:
            client.send(append("a"))
        await settled()
        service.store.release("load")
        await settled()
        assert service.store.calls["load"] == 1
        assert sorted(client.replies[0]["sequence"] for client in clients) == [*range(8)]


async def test_a_known_agent_costs_no_look_up() -> None:
    async with Service() as service:
        client = service.connect()
        await client.ask(append("a"))
        loads = service.store.calls["load"]
        for _ in range(10):
            await client.ask(append("a"))
        assert service.store.calls["load"] == loads


@pytest.mark.parametrize("heads_max", [4, 5, 8, 16])
async def test_so_many_are_kept_and_the_numbers_go_on(heads_max: int) -> None:
    async with Service(heads_max=heads_max) as service:
        clients = [service.connect(uid) for uid in (ALICE, BOB)]
        for _ in range(3):
            for client in clients:
                for n in range(20):
                    await client.ask(append(f"agent-{n}"))
                    kept = len(service.heads(ALICE)) + len(service.heads(BOB))
                    assert kept <= heads_max + 1
        for uid in (ALICE, BOB):
            for n in range(20):
                assert await service.next_sequence(f"agent-{n}", uid) == 3


async def test_none_that_is_on_its_way_is_dropped() -> None:
    """The store does not know what is queued, so a head loaded anew would number it again."""
    async with Service(heads_max=4, batch_entries_max=2) as service:
        client = service.connect()
        service.store.hold("commit")
        for _ in range(3):
            for n in range(12):
                client.send(append(f"agent-{n}"))
                await settled()
        service.store.release("commit")
        await settled()
        assert codes_of(client.replies) == [None] * 36
        for n in range(12):
            assert await service.next_sequence(f"agent-{n}") == 3


async def test_what_is_queued_behind_a_batch_is_kept_when_the_batch_is_done() -> None:
    """Of an agent with entries in the batch on its way and in the queue behind it."""
    async with Service(heads_max=4, batch_entries_max=1) as service:
        writer, others = service.connect(), service.connect()
        await writer.ask(append("a"))
        service.store.hold("commit")
        for _ in range(3):
            writer.send(append("a"))
        await settled()
        for n in range(10):  # crowd it out, as far as that goes
            service.store.release("commit")
            service.store.hold("commit")
            others.send(append(f"other-{n}"))
            await settled()
            writer.send(append("a"))
            await settled()
        service.store.release("commit")
        await settled()
        assert [reply["sequence"] for reply in writer.replies] == [*range(1, 14)]


async def test_an_agents_state_is_loaded_with_it() -> None:
    async with Service(heads_max=4) as service:
        client = service.connect()
        await client.ask(append("a", key="k", iteration=5), terminated("a"), append("b"))
        for _ in range(2):
            await client.ask(*[append(f"other-{n}") for n in range(10)])
            assert codes_of(await client.ask(append("a"), append("b"))) == ["agent_finished", None]
            assert (await client.ask_one(append("a", key="k")))["duplicate"]


async def test_a_load_that_was_overtaken_by_a_failure_is_done_again() -> None:
    """What it brought is from before the heads were forgotten."""
    async with Service() as service:
        client, other = service.connect(), service.connect()
        await other.ask(append("b"))
        service.store.hold("load")
        client.send(append("a"))
        await settled()
        service.store.fail_next_as_full()
        assert codes_of(await other.ask(append("b"))) == ["storage_full"]
        service.store.release("load")
        await settled()
        assert codes_of(client.replies) == [None]
        assert service.store.calls["load"] >= 3


async def test_agents_that_were_only_looked_at_leave_room() -> None:
    """Heads that carry nothing new are dropped before anything grows."""
    async with Service(heads_max=8) as service:
        client = service.connect()
        for n in range(100):
            name = f"agent-{n}"
            replies = await client.ask(append(name, expected_sequence=5), append(name, epoch=1))
            assert codes_of(replies) == ["sequence_conflict", "stale_epoch"]
        assert len(service.heads()) <= 9
        assert (await client.ask_one({"op": "agents"}))["agents"] == []


async def test_many_sessions_over_few_heads_make_whole_histories() -> None:
    async with Service(heads_max=4, batch_entries_max=3) as service:
        clients = [service.connect(uid) for uid in (ALICE, BOB, ALICE, BOB)]
        for step in range(120):
            clients[step % 4].send(append(f"agent-{step % 7}", key=f"{step}"))
            if step % 10 == 3:
                service.store.hold("commit")
            elif step % 10 == 7:
                service.store.release("commit")
            if step % 3:
                await asyncio.sleep(0)
        service.store.release("commit")
        await settled()
        for client in clients:
            assert codes_of(client.replies) == [None] * 30


async def test_a_compacted_agent_is_in_memory_what_it_is_on_the_disk() -> None:
    """Else a full memory would change it: where its attempt began goes with the entries."""
    async with Service() as service:
        client = service.connect()
        await client.ask(append(), {"op": "attach", "agent_id": "a"})
        await client.ask({"op": "compact", "agent_id": "a", "force": True})
        head = service.heads()["a"].record()
        (stored,) = await service.store.store.load([(ALICE, AgentId("a"))])
        assert stored is not None
        assert stored.attachment == head.attachment
        assert stored.attachment is not None
        assert stored.attachment.attempt_sequence == 0
