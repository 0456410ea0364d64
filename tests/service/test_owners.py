"""Owners that are gone: what is recorded, once, and who is told."""

from __future__ import annotations

from typing import Any

import pytest

from agent_journal.errors import StorageFailedError
from agent_journal.model import AgentId, AgentState
from agent_journal.service import attaching
from agent_journal.store.attachment import Incident
from helpers import ALICE, Service, append, code_of, settled

A = AgentId("a")
MEANS = "python"


def attach(agent_id: str = "a", **fields: Any) -> dict[str, Any]:
    return {"op": "attach", "agent_id": agent_id, **fields}


async def state_of(service: Service, agent_id: str = "a") -> str:
    (record,) = await service.store.store.load([(ALICE, AgentId(agent_id))])
    assert record is not None
    return record.state


class TestLoss:
    @pytest.mark.parametrize("order", ["connection first", "process first"])
    async def test_an_owner_that_dies_leaves_its_agent_interrupted(self, order: str) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(attach(), append(epoch=1))
            service.resumer.news  # noqa: B018 - forget what was told
            if order == "connection first":
                client.lose()
                await settled()
                assert await state_of(service) == "running"
                service.processes.end(client.pid)
            else:
                service.processes.end(client.pid)
                await settled()
                assert await state_of(service) == "running"
                client.lose()
            await settled()
            assert await state_of(service) == "interrupted"
            assert (await service.payloads())[-1] == (
                "AttemptEnded",
                {"attempt": 1, "how": "lost"},
            )
            assert service.resumer.news == [("interrupted", ALICE, A)]
            assert len(service.context.owners) == 0
            agent = (await service.connect().ask_one({"op": "describe", "agent_id": "a"}))["agent"]
            assert "owner" not in agent

    async def test_the_entry_and_the_state_are_one_transaction(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(attach())
            client.die()
            await settled()
            batch = service.store.batches[-1]
            assert len(batch.entries) == 1
            assert [change.record.state for change in batch.changes] == [AgentState.INTERRUPTED]

    async def test_what_it_had_sent_is_recorded_first(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(attach())
            service.store.hold()
            client.send(append(epoch=1))
            client.die()
            await settled()
            service.store.release()
            await settled()
            assert await service.events() == ["AttemptStarted", "Noted", "AttemptEnded"]

    async def test_a_process_that_held_many_agents_loses_them_all(self) -> None:
        """Seen through one pidfd, and recorded together."""
        async with Service() as service:
            client = service.connect()
            await client.ask(*[attach(f"agent-{n}") for n in range(50)])
            assert len(service.processes.opened) == 1
            batches = len(service.store.batches)
            client.die()
            await settled()
            assert {await state_of(service, f"agent-{n}") for n in range(50)} == {"interrupted"}
            assert len(service.store.batches) - batches <= 3
            assert service.processes.opened[0].is_closed

    async def test_the_end_of_input_counts_as_the_end_of_the_connection(self) -> None:
        """A killed client's socket is read to its end; it may never be closed by us."""
        async with Service() as service:
            client = service.connect()
            await client.ask(attach())
            client.end()
            await settled()
            assert await state_of(service) == "running"
            service.processes.end(client.pid)
            await settled()
            assert await state_of(service) == "interrupted"

    async def test_a_loss_waits_for_room_on_the_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(attaching, "RETRY_SECONDS", 0)
        async with Service() as service:
            client = service.connect()
            await client.ask(attach())
            service.store.fail_next_as_full()
            service.store.fail_next_as_full()
            client.die()
            await settled()
            assert await state_of(service) == "interrupted"
            assert await service.events() == ["AttemptStarted", "AttemptEnded"]
            assert service.resumer.news[-1] == ("interrupted", ALICE, A)

    @pytest.mark.parametrize("op", ["cancel", "detach"])
    async def test_a_loss_that_met_an_end_that_failed_is_recorded(
        self, monkeypatch: pytest.MonkeyPatch, op: str
    ) -> None:
        """What would have made it pointless never got to the disk."""
        monkeypatch.setattr(attaching, "RETRY_SECONDS", 0)
        async with Service() as service:
            client, person = service.connect(), service.connect()
            await client.ask(attach())
            service.store.fail_next_as_full()
            service.store.hold("commit")
            person.send({"op": op, "agent_id": "a", "epoch": 1})
            await settled()
            client.die()
            await settled()
            service.store.release("commit")
            await settled()
            assert code_of(person.replies[0]) == "storage_full"
            assert await state_of(service) == "interrupted"

    async def test_a_loss_on_a_failed_disk_is_left_to_the_next_start(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(attach())
            service.store.fail_next_as_failed()
            client.die()
            await settled()
            assert isinstance(service.failure, StorageFailedError)
            assert service.resumer.news == [("attached", ALICE, A)]

    async def test_a_client_that_dies_while_it_attaches_is_lost_like_any_other(self) -> None:
        async with Service() as service:
            client = service.connect()
            service.store.hold()
            client.send(attach())
            await settled()
            client.die()
            await settled()
            service.store.release()
            await settled()
            assert await service.events() == ["AttemptStarted", "AttemptEnded"]
            assert await state_of(service) == "interrupted"

    async def test_a_client_that_died_before_it_was_looked_at_is_not_left_holding(self) -> None:
        async with Service() as service:
            client = service.connect()
            client.send(attach())
            client.die()
            await settled()
            assert await service.events() in ([], ["AttemptStarted", "AttemptEnded"])
            assert len(service.context.owners) == 0

    async def test_a_parked_agent_stays_parked_when_its_owner_dies(self) -> None:
        async with Service() as service:
            client, other = service.connect(), service.connect()
            await client.ask(attach())
            await other.ask({"op": "park", "agent_id": "a"})
            client.die()
            await settled()
            assert await state_of(service) == "parked"
            assert await service.events() == ["AttemptStarted", "Parked", "AttemptEnded"]
            assert ("interrupted", ALICE, A) not in service.resumer.news

    async def test_what_the_resumer_will_report_is_left_to_it(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(attach())
            service.resumer.reports = {1}
            client.die()
            await settled()
            assert await state_of(service) == "running"
            is_recorded = await attaching.record_end(
                service.context, ALICE, A, 1, how="signalled", signal="SIGKILL", stderr="oh", pid=5
            )
            assert is_recorded
            assert (await service.payloads())[-1] == (
                "AttemptEnded",
                {"attempt": 1, "how": "signalled", "signal": "SIGKILL", "stderr": "oh"},
            )
            assert await state_of(service) == "interrupted"
            assert len(service.context.owners) == 0


class TestLaunches:
    async def interrupted(self, service: Service) -> None:
        client = service.connect()
        await client.ask(attach())
        client.die()
        await settled()
        service.resumer.news  # noqa: B018 - forget what was told

    async def launch(self, service: Service) -> int | None:
        return await attaching.record_launch(service.context, ALICE, A, command=[MEANS])

    async def test_an_attempt_is_counted_before_its_process_is_there(self) -> None:
        async with Service() as service:
            await self.interrupted(service)
            assert await self.launch(service) == 2
            assert await state_of(service) == "resuming"
            assert (await service.payloads())[-1] == (
                "AttemptStarted",
                {"attempt": 2, "epoch": 2, "launched": True, "pid": None, "command": [MEANS]},
            )

    async def test_the_attach_of_a_launched_process_takes_its_attempt_over(self) -> None:
        async with Service() as service:
            await self.interrupted(service)
            await self.launch(service)
            client = service.connect()
            reply = await client.ask_one(attach())
            assert (reply["epoch"], reply["attempt"], reply["resumed"]) == (2, 2, True)
            assert reply["next_sequence"] == 3
            assert (await service.events()).count("AttemptStarted") == 2
            agent = (await client.ask_one({"op": "describe", "agent_id": "a"}))["agent"]
            assert (agent["state"], agent["attempts"]) == ("running", 2)
            assert agent["updated_at"] == "2023-11-14T22:13:20.000000Z"

    async def test_a_change_without_an_entry_does_not_touch_the_time_of_the_last(self) -> None:
        async with Service() as service:
            await self.interrupted(service)
            await self.launch(service)
            service.clock.advance(60)
            client = service.connect()
            await client.ask(attach())
            agent = (await client.ask_one({"op": "describe", "agent_id": "a"}))["agent"]
            assert agent["updated_at"] == "2023-11-14T22:13:20.000000Z"

    async def test_only_who_waits_or_is_interrupted_is_launched(self) -> None:
        async with Service() as service:
            assert await self.launch(service) is None  # there is none
            client = service.connect()
            await client.ask(append())
            assert await self.launch(service) is None  # nobody ever attached
            await client.ask(attach())
            assert await self.launch(service) is None
            await client.ask({"op": "detach", "agent_id": "a", "epoch": 1})
            assert await self.launch(service) == 2
            assert await self.launch(service) is None
            await client.ask({"op": "park", "agent_id": "a"})
            assert await self.launch(service) is None
            await client.ask({"op": "cancel", "agent_id": "a"})
            assert await self.launch(service) is None

    async def test_the_end_of_a_launch_that_never_attached(self) -> None:
        async with Service() as service:
            await self.interrupted(service)
            await self.launch(service)
            is_recorded = await attaching.record_end(
                service.context,
                ALICE,
                A,
                2,
                how="exited",
                exit_code=1,
                stderr="x" * 10_000 + "the end",
                incident=Incident(attempts=1),
            )
            assert is_recorded
            name, ended = (await service.payloads())[-1]
            assert (name, ended["attempt"], ended["exit_code"]) == ("AttemptEnded", 2, 1)
            assert len(ended["stderr"]) == 4096
            assert ended["stderr"].endswith("the end")
            assert await state_of(service) == "interrupted"
            assert service.resumer.news == [("interrupted", ALICE, A)]
            agent = (await service.connect().ask_one({"op": "describe", "agent_id": "a"}))["agent"]
            assert agent["incident"] == {"attempts": 1, "steps": 0, "tokens": 0}

    async def test_the_end_may_park(self) -> None:
        """One transaction: it is never seen interrupted."""
        async with Service() as service:
            await self.interrupted(service)
            await self.launch(service)
            batches = len(service.store.batches)
            await attaching.record_end(
                service.context, ALICE, A, 2, how="exited", exit_code=1, park_reason="too often"
            )
            assert len(service.store.batches) == batches + 1
            assert (await service.events())[-2:] == ["AttemptEnded", "Parked"]
            agent = (await service.connect().ask_one({"op": "describe", "agent_id": "a"}))["agent"]
            assert (agent["state"], agent["reason"]) == ("parked", "too often")
            assert service.resumer.news == [("finished", ALICE, A)]

    async def test_an_end_is_recorded_once(self) -> None:
        async with Service() as service:
            await self.interrupted(service)
            await self.launch(service)
            for attempt, is_recorded in ((1, False), (3, False), (2, True), (2, False)):
                ended = await attaching.record_end(
                    service.context, ALICE, A, attempt, how="exited", exit_code=0
                )
                assert ended is is_recorded
            assert (await service.events()).count("AttemptEnded") == 2

    async def test_a_launch_that_was_parked_meanwhile_ends_and_stays_parked(self) -> None:
        async with Service() as service:
            await self.interrupted(service)
            await self.launch(service)
            client = service.connect()
            await client.ask({"op": "park", "agent_id": "a"})
            assert code_of(await client.ask_one(attach())) == "parked"
            end = attaching.record_end
            assert await end(service.context, ALICE, A, 2, how="exited", exit_code=1)
            assert not await end(service.context, ALICE, A, 2, how="exited", exit_code=1)
            assert await state_of(service) == "parked"
            assert (await service.events())[-2:] == ["Parked", "AttemptEnded"]

    async def test_the_end_of_a_launcher_is_not_the_end_of_its_living_owner(self) -> None:
        """What was launched has started the one that attached, and left it alone."""
        async with Service() as service:
            await self.interrupted(service)
            await self.launch(service)
            client = service.connect()
            await client.ask(attach())
            end = attaching.record_end
            assert not await end(service.context, ALICE, A, 2, how="exited", exit_code=0, pid=4)
            assert await state_of(service) == "running"
            pid = client.pid
            assert await end(service.context, ALICE, A, 2, how="exited", exit_code=0, pid=pid)
            assert await state_of(service) == "interrupted"

    async def test_a_loss_that_was_recorded_may_still_park(self) -> None:
        async with Service() as service:
            await self.interrupted(service)
            end = attaching.record_end
            assert not await end(service.context, ALICE, A, 1, how="exited", exit_code=1)
            assert await end(
                service.context, ALICE, A, 1, how="exited", exit_code=1, park_reason="enough"
            )
            assert await service.events() == ["AttemptStarted", "AttemptEnded", "Parked"]

    async def test_an_incident_is_kept(self) -> None:
        async with Service() as service:
            incident = Incident(attempts=2, steps=3, tokens=4, signature="s")
            update = attaching.update_attachment
            assert await update(service.context, ALICE, A, incident=incident) is None
            await self.interrupted(service)
            found = await update(service.context, ALICE, A, incident=incident)
            assert found is not None
            assert found.incident == incident
            (record,) = await service.store.store.load([(ALICE, A)])
            assert record is not None
            assert record.attachment == found
            assert await service.events() == ["AttemptStarted", "AttemptEnded"]


class TestRecovery:
    async def test_owners_that_live_are_left_alone_and_the_others_are_lost(self) -> None:
        async with Service() as before:
            for pid in (71, 72):
                await before.connect(pid=pid).ask(attach(f"agent-{pid}"))
            await before.connect().ask(append("plain"), attach("ended"))
            await before.connect().ask({"op": "cancel", "agent_id": "ended"})
        async with Service(before.store.store) as service:
            service.processes.end(72)
            context = service.context
            records = await context.store.unfinished(after=-1, limit=10)
            assert [record.agent_id for record in records] == ["agent-71", "agent-72"]
            alive = [attaching.keep_living_owner(context, record) for record in records]
            assert alive == [True, False]
            record = records[1]
            assert await attaching.record_loss(context, ALICE, record.agent_id, record.epoch)
            assert await state_of(service, "agent-71") == "running"
            assert await state_of(service, "agent-72") == "interrupted"
            service.processes.end(71)
            await settled()
            assert await state_of(service, "agent-71") == "interrupted"
            refused = await service.connect(pid=71).ask_one(append("agent-71", epoch=1))
            assert code_of(refused) == "stale_epoch"
