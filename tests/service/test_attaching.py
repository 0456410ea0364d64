"""Attaching: who gets an agent, in which epoch, and who is told what instead."""

from __future__ import annotations

import asyncio

import pytest

from agent_journal.model import AgentId, AgentState
from agent_journal.service.attaching import attach as attach_for
from agent_journal.service.attaching import record_end
from agent_journal.service.operations import Caller
from agent_journal.wire_requests import Attach
from helpers import ALICE, BOB, ROOT, Service, append, code_of, settled, terminated

A = AgentId("a")


def attach(agent_id: str = "a", **fields: object) -> dict[str, object]:
    return {"op": "attach", "agent_id": agent_id, **fields}


def detach(agent_id: str = "a", **fields: object) -> dict[str, object]:
    return {"op": "detach", "agent_id": agent_id, "epoch": 1, **fields}


def describe(agent_id: str = "a", **fields: object) -> dict[str, object]:
    return {"op": "describe", "agent_id": agent_id, **fields}


class TestTheFirst:
    async def test_an_agent_begins_with_its_first_attach(self) -> None:
        async with Service() as service:
            client = service.connect()
            reply = await client.ask_one(attach(kind="report"))
            assert reply == {
                "ok": True,
                "epoch": 1,
                "attempt": 1,
                "state": "running",
                "next_sequence": 1,
                "resumed": False,
            }
            assert await service.payloads() == [
                (
                    "AttemptStarted",
                    {
                        "attempt": 1,
                        "epoch": 1,
                        "launched": False,
                        "pid": client.pid,
                        "command": None,
                    },
                )
            ]
            agent = (await client.ask_one(describe()))["agent"]
            assert (agent["kind"], agent["state"]) == ("report", "running")
            assert (agent["epoch"], agent["attempts"]) == (1, 1)
            assert agent["owner"] == {"pid": client.pid, "alive": True}
            assert service.resumer.news == [("attached", ALICE, A)]

    async def test_an_agent_that_was_only_recorded_can_be_attached_to(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append(), append())
            reply = await client.ask_one(attach())
            assert (reply["epoch"], reply["attempt"]) == (1, 1)
            assert (reply["next_sequence"], reply["resumed"]) == (3, True)
            assert await service.events() == ["Noted", "Noted", "AttemptStarted"]

    async def test_the_epoch_is_granted_by_the_transaction_that_records_it(self) -> None:
        """Before it is durable nobody is told, and afterwards everything is."""
        async with Service() as service:
            client = service.connect()
            service.store.hold()
            assert await client.ask(attach()) == []
            assert service.resumer.news == []
            service.store.release()
            (reply,) = await client.ask()
            assert reply["epoch"] == 1
            batch = service.store.batches[-1]
            (change,) = batch.changes
            assert len(batch.entries) == 1
            assert change.record.epoch == 1
            assert change.record.attachment is not None
            assert change.record.attachment.owner is not None
            assert change.record.attachment.owner.pid == client.pid

    async def test_one_whose_end_is_told_first_is_not_told_of_behind_it(self) -> None:
        """Both are recorded in one transaction; of two that wait, either may go on first."""
        async with Service() as service:
            client = service.connect()
            caller = Caller(service.context, client.session._caller.peer, client.sink)
            service.store.hold()
            attaching = attach_for(caller, Attach(agent_id="a"))
            attaching.send(None)  # up to where it waits for its commit
            end = asyncio.create_task(
                record_end(service.context, ALICE, A, 1, how="exited", pid=client.pid)
            )
            await settled()
            service.store.release()
            assert await end
            assert service.resumer.news == [("interrupted", ALICE, A)]
            with pytest.raises(StopIteration):
                attaching.send(None)
            assert service.resumer.news == []

    async def test_an_attach_that_was_not_recorded_gives_nothing(self) -> None:
        async with Service() as service:
            client, other = service.connect(), service.connect()
            service.store.fail_next_as_full()
            assert code_of(await client.ask_one(attach())) == "storage_full"
            assert len(service.context.owners) == 0
            assert (await other.ask_one(attach()))["epoch"] == 1

    async def test_one_that_left_before_it_was_refused_holds_nothing(self) -> None:
        """Its process lives, and is told nothing; the agent is free all the same."""
        async with Service() as service:
            client = service.connect()
            service.store.hold()
            service.store.fail_next_as_full()
            await client.ask(attach())
            client.lose()
            await settled()
            service.store.release()
            await settled()
            assert (await service.connect().ask_one(attach()))["epoch"] == 1

    async def test_a_take_over_that_was_not_recorded_leaves_the_owner(self) -> None:
        async with Service() as service:
            owner, other = service.connect(), service.connect()
            await owner.ask_one(attach())
            service.store.fail_next_as_full()
            refused = await other.ask_one(attach(take_over=True))
            assert code_of(refused) == "storage_full"
            assert (await owner.ask_one(append(epoch=1)))["ok"]
            refused = await other.ask_one(attach())
            assert code_of(refused) == "agent_attached"
            assert refused["error"]["pid"] == owner.pid

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"agent_id": "-a"}, "agent_id"),
            ({"kind": "no such kind"}, "kind"),
            ({"kind": 5}, "kind"),
            ({"launcher": "nobody"}, "launcher"),
            ({"launcher": "../x"}, "launcher"),
            ({"command": {"argv": ["x"]}}, "command"),
            ({"take_over": 1}, "take_over"),
        ],
        ids=str,
    )
    async def test_a_bad_attach_names_its_field(
        self, fields: dict[str, object], field: str
    ) -> None:
        async with Service() as service:
            refused = await service.connect().ask_one({**attach(), **fields})
            assert code_of(refused) == "invalid"
            assert refused["error"]["field"] == field
            assert await service.events() == []


class TestALiveOwner:
    async def test_a_live_owner_is_not_replaced(self) -> None:
        """Two starts of the same agent at once: one wins, the other is told who."""
        async with Service() as service:
            first, second = service.connect(), service.connect()
            first.send(attach())
            second.send(attach())
            won = (await first.ask())[0]
            lost = (await second.ask())[0]
            assert won["epoch"] == 1
            assert code_of(lost) == "agent_attached"
            assert lost["error"]["epoch"] == 1
            assert lost["error"]["pid"] == first.pid
            assert await service.events() == ["AttemptStarted"]

    @pytest.mark.parametrize("what_is_left", ["the connection", "the process"])
    async def test_one_of_connection_and_process_is_enough_to_be_alive(
        self, what_is_left: str
    ) -> None:
        async with Service() as service:
            owner, other = service.connect(), service.connect()
            await owner.ask_one(attach())
            if what_is_left == "the process":
                owner.lose()
            else:
                service.processes.end(owner.pid)
            assert code_of(await other.ask_one(attach())) == "agent_attached"
            assert (await other.ask_one(describe()))["agent"]["owner"]["alive"]

    async def test_an_owner_that_cannot_be_seen_is_gone_with_its_connection(self) -> None:
        """In another pid namespace: the kernel says pid 0."""
        async with Service() as service:
            owner, other = service.connect(pid=0), service.connect()
            assert (await owner.ask_one(attach()))["epoch"] == 1
            refused = await other.ask_one(attach())
            assert refused["error"]["pid"] == 0
            owner.lose()
            assert (await other.ask_one(attach()))["epoch"] == 2

    async def test_the_same_process_may_come_back_on_another_connection(self) -> None:
        """It gets a new epoch, for the old one's answers are lost; the attempt goes on."""
        async with Service() as service:
            owner = service.connect()
            await owner.ask(attach(), append(epoch=1))
            owner.lose()
            again = service.connect(pid=owner.pid)
            assert await again.ask_one(attach()) == {
                "ok": True,
                "epoch": 2,
                "attempt": 1,
                "state": "running",
                "next_sequence": 2,
                "resumed": True,
            }
            assert await service.events() == ["AttemptStarted", "Noted"]
            assert code_of(await again.ask_one(append(epoch=1))) == "stale_epoch"
            assert (await again.ask_one(append(epoch=2)))["sequence"] == 2
            agent = (await again.ask_one(describe()))["agent"]
            assert (agent["epoch"], agent["attempts"]) == (2, 1)

    async def test_one_process_holds_an_agent_once(self) -> None:
        """While its first connection is open: it has started the agent twice."""
        async with Service() as service:
            owner = service.connect()
            await owner.ask_one(attach())
            second = service.connect(pid=owner.pid)
            assert code_of(await second.ask_one(attach())) == "agent_attached"
            assert code_of(await owner.ask_one(attach())) == "agent_attached"

    async def test_an_owner_from_before_a_restart_is_known_again(self) -> None:
        """Same boot, same pid, same start time: it is left alone, and may come back."""
        async with Service() as before:
            await before.connect(pid=77).ask_one(attach())
        async with Service(before.store.store) as service:
            other = service.connect()
            assert code_of(await other.ask_one(attach())) == "agent_attached"
            reply = await service.connect(pid=77).ask_one(attach())
            assert (reply["epoch"], reply["attempt"]) == (2, 1)

    async def test_an_owner_from_before_a_restart_may_go_on_without_a_word(self) -> None:
        async with Service() as before:
            await before.connect(pid=77).ask_one(attach())
        async with Service(before.store.store) as service:
            assert (await service.connect(pid=77).ask_one(append(epoch=1)))["sequence"] == 1

    @pytest.mark.parametrize("proof", ["another boot", "another start time", "no such process"])
    async def test_an_owner_from_before_a_restart_that_is_proved_dead_is_replaced(
        self, proof: str
    ) -> None:
        async with Service() as before:
            await before.connect(pid=77).ask_one(attach())
        async with Service(before.store.store) as service:
            match proof:
                case "another boot":
                    service.context.boot_id = "the next"
                case "another start time":
                    service.processes.start_times[77] = 5
                case _:
                    service.processes.end(77)
            reply = await service.connect().ask_one(attach())
            assert (reply["epoch"], reply["attempt"]) == (2, 2)
            assert (await service.payloads())[1] == (
                "AttemptEnded",
                {"attempt": 1, "how": "lost"},
            )


class TestTakingOver:
    async def test_a_take_over_fences_the_owner_off(self) -> None:
        async with Service() as service:
            owner, other = service.connect(), service.connect()
            await owner.ask(attach(), append(epoch=1))
            reply = await other.ask_one(attach(take_over=True))
            assert (reply["epoch"], reply["attempt"], reply["resumed"]) == (2, 2, True)
            assert (await service.payloads())[2:] == [
                ("AttemptEnded", {"attempt": 1, "how": "replaced"}),
                (
                    "AttemptStarted",
                    {
                        "attempt": 2,
                        "epoch": 2,
                        "launched": False,
                        "pid": other.pid,
                        "command": None,
                    },
                ),
            ]
            recorded = await service.next_sequence()
            stale = await owner.ask_one(append(epoch=1))
            assert code_of(stale) == "stale_epoch"
            assert stale["error"]["current"] == 2
            assert await service.next_sequence() == recorded
            assert (await other.ask_one(append(epoch=2)))["ok"]

    async def test_what_the_owner_had_sent_before_is_recorded_before(self) -> None:
        """The take-over and its entries are one transaction, behind what was queued."""
        async with Service() as service:
            owner, other = service.connect(), service.connect()
            await owner.ask_one(attach())
            service.store.hold()
            owner.send(append(epoch=1, event="Queued"))
            assert await other.ask(attach(take_over=True)) == []
            assert await owner.ask(append(epoch=1, event="Late")) == []
            service.store.release()
            replies = await owner.ask()
            assert [code_of(reply) for reply in replies] == [None, "stale_epoch"]
            assert await service.events() == [
                "AttemptStarted",
                "Queued",
                "AttemptEnded",
                "AttemptStarted",
            ]

    async def test_the_end_of_a_replaced_owner_is_nobodys_loss(self) -> None:
        async with Service() as service:
            owner, other = service.connect(), service.connect()
            await owner.ask_one(attach())
            await other.ask_one(attach(take_over=True))
            service.resumer.news  # noqa: B018 - forget what was told
            owner.die()
            agent = (await other.ask_one(describe()))["agent"]
            assert (agent["state"], agent["owner"]["pid"]) == ("running", other.pid)
            assert service.resumer.news == []

    async def test_a_take_over_needs_no_owner(self) -> None:
        async with Service() as service:
            assert (await service.connect().ask_one(attach(take_over=True)))["epoch"] == 1
            assert await service.events() == ["AttemptStarted"]


class TestDetaching:
    async def test_an_agent_that_was_given_up_waits(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask_one(attach())
            assert await client.ask_one(detach()) == {"ok": True, "state": "waiting"}
            assert await service.payloads() == [
                ("AttemptStarted", (await service.payloads())[0][1]),
                ("AttemptEnded", {"attempt": 1, "how": "detached"}),
            ]
            agent = (await client.ask_one(describe()))["agent"]
            assert agent["state"] == "waiting"
            assert "owner" not in agent
            assert service.resumer.news == [("attached", ALICE, A), ("waiting", ALICE, A, None)]
            assert len(service.context.owners) == 0
            assert code_of(await client.ask_one(append(epoch=1))) == "stale_epoch"
            client.die()
            assert (await service.connect().ask_one(attach()))["epoch"] == 2

    async def test_it_says_what_it_waits_for(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask_one(attach())
            wake_at = "2033-05-18T05:33:20+02:00"
            await client.ask_one(detach(wake_at=wake_at, wait_for=["approval", "stop"]))
            agent = (await client.ask_one(describe()))["agent"]
            assert agent["wake_at"] == "2033-05-18T03:33:20.000000Z"
            assert agent["wait_for"] == ["approval", "stop"]
            assert service.resumer.news[-1] == ("waiting", ALICE, A, 2_000_000_000_000_000)

    async def test_a_time_that_has_come_makes_it_due(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask_one(attach())
            await client.ask_one(detach(wake_at="2000-01-01T00:00:00Z"))
            assert service.resumer.news[-1] == ("woken", ALICE, A)

    async def test_a_repeat_is_answered_as_the_first(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(attach(), detach())
            assert await client.ask_one(detach()) == {"ok": True, "state": "waiting"}
            assert await service.events() == ["AttemptStarted", "AttemptEnded"]

    async def test_only_the_present_epoch_gives_up(self) -> None:
        async with Service() as service:
            owner, other = service.connect(), service.connect()
            await owner.ask_one(attach())
            await other.ask_one(attach(take_over=True))
            stale = await owner.ask_one(detach())
            assert code_of(stale) == "stale_epoch"
            assert stale["error"]["current"] == 2
            await service.connect().ask(append("plain"))
            assert code_of(await owner.ask_one(detach("plain", epoch=0))) == "stale_epoch"
            assert code_of(await owner.ask_one(detach("nobody"))) == "not_found"

    async def test_what_has_ended_or_is_parked_is_not_given_up(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(attach(), terminated(epoch=1))
            assert code_of(await client.ask_one(detach())) == "agent_finished"
            await client.ask(attach("b"), {"op": "park", "agent_id": "b"})
            assert code_of(await client.ask_one(detach("b"))) == "parked"

    @pytest.mark.parametrize(
        "fields",
        [
            {"epoch": -1},
            {"wake_at": "tomorrow"},
            {"wake_at": 5},
            {"wait_for": [""]},
            {"epoch": None},
        ],
        ids=str,
    )
    async def test_a_bad_detach_names_its_field(self, fields: dict[str, object]) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask_one(attach())
            refused = await client.ask_one({**detach(), **fields})
            assert code_of(refused) == "invalid"
            assert refused["error"]["field"].startswith(next(iter(fields)))


class TestTheEnd:
    async def test_terminated_ends_the_attempt_and_the_hold(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(attach(), terminated(epoch=1))
            assert len(service.context.owners) == 0
            assert service.resumer.news[-1] == ("finished", ALICE, A)
            (record,) = await service.store.store.load([(ALICE, A)])
            assert record is not None
            assert record.state is AgentState.COMPLETED
            assert record.attachment is None
            refused = await client.ask_one(attach())
            assert code_of(refused) == "agent_finished"
            assert refused["error"]["state"] == "completed"

    async def test_an_end_that_was_not_recorded_is_none(self) -> None:
        """The owner holds on, and ends the agent when there is room again."""
        async with Service() as service:
            client = service.connect()
            await client.ask_one(attach())
            service.store.fail_next_as_full()
            assert code_of(await client.ask_one(terminated(epoch=1))) == "storage_full"
            assert len(service.context.owners) == 1
            assert service.resumer.news == [("attached", ALICE, A)]
            assert (await client.ask_one(terminated(epoch=1)))["ok"]
            assert len(service.context.owners) == 0
            assert service.resumer.news == [("finished", ALICE, A)]

    async def test_a_compacted_agent_is_attached_to_anew(self) -> None:
        """Its epoch rises all the same: a writer from before stays fenced off."""
        async with Service() as service:
            client = service.connect()
            await client.ask(attach(), terminated(epoch=1), {"op": "compact", "agent_id": "a"})
            reply = await client.ask_one(attach())
            assert (reply["epoch"], reply["attempt"], reply["next_sequence"]) == (2, 1, 1)
            assert code_of(await client.ask_one(append(epoch=1))) == "stale_epoch"

    async def test_a_forced_compaction_leaves_the_hold(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask_one(attach())
            compact = {"op": "compact", "agent_id": "a"}
            assert code_of(await client.ask_one(compact)) == "agent_unfinished"
            assert (await client.ask_one({**compact, "force": True}))["removed"] == 1
            assert (await client.ask_one(append(epoch=1)))["sequence"] == 0
            agent = (await client.ask_one(describe()))["agent"]
            assert agent["owner"] == {"pid": client.pid, "alive": True}


class TestNamespaces:
    async def test_agents_of_two_uids_under_one_id_are_two(self) -> None:
        async with Service() as service:
            alice, bob = service.connect(ALICE), service.connect(BOB)
            assert (await alice.ask_one(attach()))["epoch"] == 1
            assert (await bob.ask_one(attach()))["epoch"] == 1

    async def test_only_an_administrator_acts_for_another(self) -> None:
        async with Service() as service:
            alice, bob, root = (service.connect(uid) for uid in (ALICE, BOB, ROOT))
            await alice.ask_one(attach())
            for op in ("attach", "detach", "signal", "decide", "fork", "resume", "park", "cancel"):
                request = {
                    "op": op,
                    "agent_id": "a",
                    "epoch": 1,
                    "name": "n",
                    "step": "s",
                    "rerun": True,
                    "at_sequence": 0,
                    "as": "b",
                }
                assert code_of(await bob.ask_one({**request, "uid": ALICE})) == "forbidden", op
                if op != "attach":
                    assert code_of(await bob.ask_one(request)) == "not_found", op
            assert code_of(await root.ask_one(attach(uid=ALICE))) == "agent_attached"
            assert (await root.ask_one(attach(uid=ALICE, take_over=True)))["epoch"] == 2
            assert (await root.ask_one({"op": "cancel", "agent_id": "a", "uid": ALICE}))["ok"]
