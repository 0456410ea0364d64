"""Forgetting and removing agents: who may go, what comes behind, and who is fenced off."""

from __future__ import annotations

from typing import Any

import pytest

from agent_journal.errors import ShuttingDownError
from agent_journal.model import AgentId
from helpers import ALICE, BOB, Service, append, code_of, settled, terminated

A = AgentId("a")


def forget(agent_id: str = "a", **fields: Any) -> dict[str, Any]:
    return {"op": "forget", "agent_id": agent_id, **fields}


def describe(agent_id: str = "a", **fields: Any) -> dict[str, Any]:
    return {"op": "describe", "agent_id": agent_id, **fields}


def attach(agent_id: str = "a", **fields: Any) -> dict[str, Any]:
    return {"op": "attach", "agent_id": agent_id, **fields}


async def test_an_agent_that_ended_is_gone_as_if_it_had_never_been() -> None:
    async with Service() as service:
        client = service.connect()
        await client.ask(append(key="k"), terminated())
        assert await client.ask_one(forget()) == {"ok": True, "removed": 2}
        for request in (
            describe(),
            {"op": "read", "agent_id": "a"},
            {"op": "signal", "agent_id": "a", "name": "n"},
            {"op": "compact", "agent_id": "a"},
            forget(),
        ):
            assert code_of(await client.ask_one(request)) == "not_found", request
        assert service.heads() == {}
        assert (await client.ask_one({"op": "agents"}))["agents"] == []


async def test_its_id_and_its_keys_are_free_again() -> None:
    """Also for what was sent behind the forget, before that was answered."""
    async with Service() as service:
        client = service.connect()
        await client.ask(append(key="k", event="First"), terminated())
        service.store.hold()
        client.send(forget(wait=False))
        await settled()
        other = service.connect()
        other.send(append(key="k", event="Second"))
        await settled()
        service.store.release()
        await settled()
        assert client.replies[-1] == {"ok": True, "removed": 2}
        assert other.replies[-1]["sequence"] == 0
        assert await service.events() == ["Second"]


async def test_an_unfinished_agent_is_forgotten_by_force_alone() -> None:
    """And nothing of it is touched where that is not said."""
    async with Service() as service:
        client = service.connect()
        await client.ask_one(append())
        reply = await client.ask_one(forget())
        assert code_of(reply) == "agent_unfinished"
        assert reply["error"]["state"] == "running"
        assert await service.events() == ["Noted"]
        assert await client.ask_one(forget(force=True)) == {"ok": True, "removed": 1}
        assert code_of(await client.ask_one(describe())) == "not_found"


async def test_whoever_held_a_removed_agent_is_fenced_off_the_one_that_gets_its_id() -> None:
    """Invariant: whoever held a removed agent is fenced off the one that gets its id."""
    async with Service() as service:
        old, new = service.connect(), service.connect()
        first = await old.ask_one(attach())
        assert first["epoch"] == 1
        assert (await new.ask_one(forget(force=True)))["ok"]
        assert service.resumer.news[-1] == ("finished", ALICE, A)
        assert code_of(await old.ask_one(append(epoch=1))) == "stale_epoch"
        second = await new.ask_one(attach())
        assert second["epoch"] == 2
        assert (second["attempt"], second["resumed"]) == (1, False)
        assert code_of(await old.ask_one(append(epoch=1))) == "stale_epoch"
        assert (await new.ask_one(append(epoch=2)))["ok"]
        # Nobody else's epochs are touched by that.
        assert (await service.connect(BOB).ask_one(attach()))["epoch"] == 1


async def test_another_uids_agent_does_not_exist() -> None:
    async with Service() as service:
        await service.connect(BOB).ask(append(), terminated())
        client = service.connect()
        assert code_of(await client.ask_one(forget())) == "not_found"
        assert code_of(await client.ask_one(forget(uid=BOB))) == "forbidden"
        assert await service.events(uid=BOB) == ["Noted", "Terminated"]


async def test_two_who_forget_one_agent_are_both_answered() -> None:
    async with Service() as service:
        clients = [service.connect() for _ in range(3)]
        await clients[0].ask(append(), terminated())
        service.store.hold()
        for client in clients:
            client.send(forget())
        await settled()
        service.store.release()
        await settled()
        codes = sorted(str(code_of(client.replies[-1])) for client in clients)
        assert codes == ["None", "not_found", "not_found"]


async def test_a_removal_that_is_not_recorded_leaves_the_agent_as_it_was() -> None:
    async with Service() as service:
        client = service.connect()
        await client.ask(append(), terminated())
        service.store.fail_next_as_full()
        assert code_of(await client.ask_one(forget())) == "storage_full"
        assert (await client.ask_one(describe()))["agent"]["entries"] == 2
        assert await client.ask_one(forget()) == {"ok": True, "removed": 2}


async def test_who_steers_an_agent_that_goes_meanwhile_begins_no_new_one() -> None:
    """A signal with a key looks that up first; by then the agent is gone."""
    async with Service() as service:
        client, other = service.connect(), service.connect()
        await client.ask_one(append())
        service.store.hold("find_key")
        other.send({"op": "signal", "agent_id": "a", "name": "n", "key": "k"})
        await settled()
        assert (await client.ask_one(forget(force=True)))["ok"]
        service.store.release("find_key")
        await settled()
        assert code_of(other.replies[-1]) == "not_found"
        assert await service.events() == []


async def test_a_forget_is_answered_when_what_is_left_was_erased() -> None:
    """With ``wait`` false it is answered before, when nobody can read it any more."""
    async with Service() as service:
        client = service.connect()
        await client.ask(append(), terminated(), append("b"), terminated("b"))
        service.store.hold("erase")
        client.send(forget())
        await settled()
        assert client.replies == []
        assert code_of(await service.connect().ask_one(describe())) == "not_found"
        assert (await service.connect().ask_one(forget("b", wait=False)))["ok"]
        service.store.release("erase")
        await settled()
        assert client.replies == [{"ok": True, "removed": 2}]


async def test_nobody_waits_for_ever_for_housekeeping_when_the_daemon_stops() -> None:
    async with Service() as service:
        await service.connect().ask_one(append())
        waiting = service.committer.next_housekeeping()
        service.committer.close()
        await settled()
        with pytest.raises(ShuttingDownError):
            waiting.result()
        with pytest.raises(ShuttingDownError):
            service.committer.next_housekeeping()
