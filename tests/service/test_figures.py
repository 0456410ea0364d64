"""What ``stats`` tells of agents, attempts and refusals, and to whom."""

from __future__ import annotations

from typing import Any

from agent_journal.errors import DamagedError
from agent_journal.model import AgentId
from agent_journal.service import attaching
from agent_journal.service.figures import all_figures
from agent_journal.store.refusing import RefusingStore
from helpers import ALICE, BOB, ROOT, Service, append, settled, terminated

A = AgentId("a")


def attach(agent_id: str = "a", **fields: object) -> dict[str, object]:
    return {"op": "attach", "agent_id": agent_id, **fields}


async def host(service: Service) -> dict[str, Any]:
    """Return what an administrator is told of all."""
    figures: dict[str, Any] = await service.connect(ROOT).ask_one({"op": "stats", "uid": "*"})
    return figures


def some(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


async def test_agents_are_counted_by_state_for_each_uid() -> None:
    async with Service() as service:
        alice, bob = service.connect(ALICE), service.connect(BOB)
        await alice.ask(
            append("a"), append("b"), terminated("b"), append("c"), terminated("c", "x")
        )
        await alice.ask({"op": "park", "agent_id": "a"})
        await bob.ask(append("a"), append("gone"), terminated("gone"))
        await bob.ask({"op": "compact", "agent_id": "gone"}, append("gone"))
        told = [(await one.ask_one({"op": "stats"}))["agents"] for one in (alice, bob)]
        assert [some(counts) for counts in told] == [
            {"completed": 1, "failed": 1, "parked": 1},
            {"running": 2},
        ]
        assert some((await host(service))["agents"]) == {
            "completed": 1,
            "failed": 1,
            "parked": 1,
            "running": 2,
        }
        root = service.connect(ROOT)
        of_bob = await root.ask_one({"op": "stats", "uid": BOB})
        assert some(of_bob["agents"]) == {"running": 2}
        assert {*of_bob["uids"]} == {str(BOB)}


async def test_attempts_are_counted_by_how_they_end() -> None:
    async with Service() as service:
        first, second = service.connect(), service.connect()
        await first.ask(attach())
        await second.ask(attach(take_over=True))
        await second.ask({"op": "detach", "agent_id": "a", "epoch": 2})
        attempt = await attaching.record_launch(service.context, ALICE, A, command="x")
        assert attempt is not None
        end = attaching.record_end(service.context, ALICE, A, attempt, how="launch_failed")
        assert await end
        assert not await attaching.record_end(service.context, ALICE, A, attempt, how="exited"), (
            "it has ended"
        )
        third = service.connect()
        await third.ask(attach())
        third.die()
        await settled()
        told = await host(service)
        assert some(told["attempts_ended"]) == {
            "replaced": 1,
            "detached": 1,
            "launch_failed": 1,
            "lost": 1,
        }
        assert told["attempts_launched"] == 1
        assert (told["attaches"], told["attaches_resumed"]) == (3, 2)
        assert told["parks"] == 0
        await attaching.park(service.context, ALICE, A, reason="enough")
        assert (await host(service))["parks"] == 1


async def test_a_refused_commit_changes_no_figure() -> None:
    """What was not recorded did not happen: not to the agents, and not to their attempts."""
    async with Service() as service:
        client = service.connect()
        await client.ask(append("b"))
        before = await host(service)
        service.store.fail_next_as_full()
        await client.ask(attach("b"))
        after = await host(service)
        for name in ("agents", "attaches", "attempts_ended", "commits", "entries_committed"):
            assert after[name] == before[name], name
        assert after["storage_full"]
        assert after["refused"] == {"storage_full": 1}
        await client.ask(append("b"))
        assert not (await host(service))["storage_full"]


async def test_a_commit_that_needs_no_room_says_nothing_of_the_next_append() -> None:
    """What removes entries is allowed while the disk is full, and may have freed too little."""
    async with Service() as service:
        client = service.connect()
        await client.ask(append("a"))
        await client.ask(append("b"))
        service.store.fail_next_as_full()
        await client.ask(append("b"))
        for request in (
            {"op": "compact", "agent_id": "a", "force": True},
            {"op": "forget", "agent_id": "b", "force": True},
        ):
            assert (await client.ask_one(request))["ok"]
            assert (await host(service))["storage_full"]
        await client.ask(append("c"))
        assert not (await host(service))["storage_full"]


async def test_what_another_does_changes_nothing_that_a_plain_uid_is_told() -> None:
    async with Service() as service:
        alice, bob = service.connect(ALICE), service.connect(BOB)
        await alice.ask(append("a"))

        async def told() -> dict[str, Any]:
            figures = await alice.ask_one({"op": "stats"})
            return {name: value for name, value in figures.items() if "commit_ms" not in name}

        before = await told()
        await bob.ask(append("x"), append("y"), "nonsense", terminated("x"), attach("z"))
        bob.die()
        await settled()
        assert await told() == before
        assert before["is_admin"] is False
        assert {*before["uids"]} == {str(ALICE)}


async def test_a_scrape_sees_what_its_caller_may() -> None:
    async with Service() as service:
        clients = [service.connect(uid) for uid in (ALICE, BOB, ROOT)]
        alice, _, root = (client.session._caller for client in clients)
        assert all_figures(root)["uids"].keys() == {str(uid) for uid in (ALICE, BOB, ROOT)}
        assert all_figures(alice)["uids"].keys() == {str(ALICE)}


async def test_of_a_damaged_journal_it_is_told_that_it_is_damaged() -> None:
    async with Service() as service:
        assert (await host(service))["damaged"] is False
        whole = service.context.store
        service.context.store = RefusingStore(DamagedError("it rots", part="page"))
        told = await host(service)
        assert (told["damaged"], told["agents"]) == (True, None)
        service.context.store = whole
