"""Signals, decisions, and the operator's hand: what is recorded and who is woken."""

from __future__ import annotations

from typing import Any

import pytest

from agent_journal.model import AgentId
from agent_journal.service import attaching
from agent_journal.store.attachment import Incident
from helpers import ALICE, Service, append, code_of, settled, terminated

A = AgentId("a")


def op(called: str, agent_id: str = "a", **fields: Any) -> dict[str, Any]:
    return {"op": called, "agent_id": agent_id, **fields}


def attach(agent_id: str = "a", **fields: Any) -> dict[str, Any]:
    return op("attach", agent_id, **fields)


def detach(**fields: Any) -> dict[str, Any]:
    return op("detach", **{"epoch": 1, **fields})


def signal(name: str = "approval", **fields: Any) -> dict[str, Any]:
    return op("signal", name=name, **fields)


async def agent_of(service: Service, agent_id: str = "a") -> dict[str, Any]:
    described: dict[str, Any] = await service.connect().ask_one(op("describe", agent_id))
    agent: dict[str, Any] = described["agent"]
    return agent


class TestSignals:
    async def test_a_signal_is_recorded_and_wakes_who_waits_for_it(self) -> None:
        async with Service() as service:
            owner, other = service.connect(), service.connect()
            await owner.ask(attach(), detach(wait_for=["approval", "stop"]))
            service.resumer.news  # noqa: B018 - forget what was told
            assert await other.ask_one(signal("other")) == {"ok": True, "sequence": 2}
            assert service.resumer.news == []
            assert "wake_at" not in await agent_of(service)
            service.clock.advance(5)
            reply = await other.ask_one(signal(payload={"by": "me", "n": 1.0}))
            assert reply == {"ok": True, "sequence": 3}
            assert service.resumer.news == [("woken", ALICE, A)]
            assert (await service.payloads())[2:] == [
                ("Signalled", {"name": "other", "payload": None}),
                ("Signalled", {"name": "approval", "payload": {"by": "me", "n": 1.0}}),
            ]
            agent = await agent_of(service)
            assert agent["state"] == "waiting"
            assert agent["wake_at"] == "2023-11-14T22:13:25.000000Z"

    async def test_that_it_is_due_is_recorded_with_the_signal(self) -> None:
        """A crash behind it does not leave an agent waiting for what it has."""
        async with Service() as service:
            owner = service.connect()
            await owner.ask(attach(), detach(wait_for=["approval"]), signal())
            batch = service.store.batches[-1]
            (change,) = batch.changes
            assert len(batch.entries) == 1
            assert change.record.attachment is not None
            assert change.record.attachment.wake_at == service.context.now

    async def test_the_payload_comes_back_as_it_was_sent(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append())
            await client.ask(
                '{"op":"signal","agent_id":"a","name":"n","payload":{"x":1.0,"y":1e400}}'
            )
            client.send('{"op":"read","agent_id":"a","from_sequence":1}')
            await settled()
            text = bytes(client.sink.written)
            assert b'{"Signalled":{"name":"n","payload":{"x":1.0,"y":1e400}}}' in text

    async def test_an_unfinished_agent_takes_signals_in_any_state(self) -> None:
        async with Service() as service:
            owner, other = service.connect(), service.connect()
            await other.ask(append())
            assert (await other.ask_one(signal()))["ok"]  # nobody ever attached
            await owner.ask(attach())
            assert (await other.ask_one(signal()))["ok"]
            owner.die()
            assert (await other.ask_one(signal()))["ok"]
            await attaching.record_launch(service.context, ALICE, A, command=None)
            assert (await other.ask_one(signal()))["ok"]
            await other.ask_one(op("park"))
            assert (await other.ask_one(signal()))["ok"]
            await other.ask_one(op("cancel"))
            assert code_of(await other.ask_one(signal())) == "agent_finished"
            assert code_of(await other.ask_one(op("signal", "b", name="n"))) == "not_found"

    async def test_a_key_makes_it_safe_to_repeat(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append())
            keyed = signal(payload={"a": 1, "b": 2}, key="k")
            assert await client.ask_one(keyed) == {"ok": True, "sequence": 1}
            again = signal(payload={"b": 2, "a": 1}, key="k")
            assert await client.ask_one(again) == {"ok": True, "sequence": 1, "duplicate": True}
            for other in (signal("stop", key="k"), signal(payload=2, key="k")):
                refused = await client.ask_one(other)
                assert code_of(refused) == "key_conflict"
                assert refused["error"]["sequence"] == 1
            assert (await client.ask_one(signal(key="l")))["sequence"] == 2
            assert await service.events() == ["Noted", "Signalled", "Signalled"]

    async def test_a_repeat_finds_a_signal_that_is_on_its_way(self) -> None:
        async with Service() as service:
            one, two = service.connect(), service.connect()
            await one.ask(append())
            service.store.hold()
            one.send(signal(key="k"))
            await settled()
            two.send(signal(key="k"))
            await settled()
            service.store.release()
            await settled()
            (first,), (second,) = one.replies, two.replies
            assert first == {"ok": True, "sequence": 1}
            assert second == {"ok": True, "sequence": 1, "duplicate": True}

    async def test_its_keys_are_none_of_the_agents_own(self) -> None:
        """And do not make rising keys of the agent's cost a look-up."""
        async with Service() as service:
            client = service.connect()
            await client.ask(append(key="k"), signal(key="k"), signal(key="zzz"))
            assert await service.events() == ["Noted", "Signalled", "Signalled"]
            asked = service.store.calls["find_key"]
            await client.ask(append(key="l"))
            assert service.store.calls["find_key"] == asked

    async def test_a_repeat_is_known_after_a_restart(self) -> None:
        async with Service() as before:
            await before.connect().ask(append(), signal(key="k"))
        async with Service(before.store.store) as service:
            reply = await service.connect().ask_one(signal(key="k"))
            assert reply == {"ok": True, "sequence": 1, "duplicate": True}

    async def test_a_repeat_after_the_end_is_still_one(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append(), signal(key="k"), terminated())
            assert (await client.ask_one(signal(key="k")))["duplicate"]
            assert code_of(await client.ask_one(signal(key="l"))) == "agent_finished"

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"name": ""}, "name"),
            ({"name": None}, "name"),
            ({"name": "x" * 257}, "name"),
            ({"key": ""}, "key"),
            ({"key": "x" * 257}, "key"),
            ({"agent_id": "/"}, "agent_id"),
        ],
        ids=str,
    )
    async def test_a_bad_signal_names_its_field(self, fields: dict[str, Any], field: str) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append())
            refused = await client.ask_one({**signal(), **fields})
            assert code_of(refused) == "invalid"
            assert refused["error"]["field"] == field


class TestSignalsThatRacedWithADetach:
    async def test_one_that_the_client_had_not_read_makes_it_due(self) -> None:
        async with Service() as service:
            owner, other = service.connect(), service.connect()
            await owner.ask(attach())
            await other.ask_one(signal())
            await owner.ask_one(detach(wait_for=["approval"], seen_sequence=1))
            assert service.resumer.news[-1] == ("woken", ALICE, A)
            assert "wake_at" in await agent_of(service)

    async def test_one_that_the_client_had_read_does_not(self) -> None:
        async with Service() as service:
            owner, other = service.connect(), service.connect()
            await owner.ask(attach())
            await other.ask_one(signal())
            await owner.ask_one(detach(wait_for=["approval"], seen_sequence=2))
            assert service.resumer.news[-1] == ("waiting", ALICE, A, None)

    async def test_one_of_another_name_does_not(self) -> None:
        async with Service() as service:
            owner, other = service.connect(), service.connect()
            await owner.ask(attach(), append(epoch=1, event="Signalling"))
            await other.ask(signal("stop"))
            await owner.ask_one(detach(wait_for=["approval"], seen_sequence=1))
            assert service.resumer.news[-1] == ("waiting", ALICE, A, None)

    async def test_without_a_word_of_what_was_read_all_of_the_attempt_counts(self) -> None:
        """Woken once too often it reads, and waits again; once too seldom is for ever."""
        async with Service() as service:
            owner, other = service.connect(), service.connect()
            await owner.ask(append(), signal())
            await owner.ask(attach())
            await owner.ask_one(detach(wait_for=["approval"]))
            assert service.resumer.news[-1] == ("waiting", ALICE, A, None)
            await owner.ask(attach())
            await other.ask_one(signal())
            await owner.ask_one(detach(epoch=2, wait_for=["approval"]))
            assert service.resumer.news[-1] == ("woken", ALICE, A)

    async def test_one_that_is_on_its_way_to_the_disk_counts(self) -> None:
        async with Service() as service:
            owner, other = service.connect(), service.connect()
            await owner.ask(attach())
            service.store.hold()
            other.send(signal())
            await settled()
            owner.send(detach(wait_for=["approval"], seen_sequence=1))
            await settled()
            service.store.release()
            await settled()
            assert [reply["ok"] for reply in (*owner.replies, *other.replies)] == [True, True]
            assert service.resumer.news[-1] == ("woken", ALICE, A)

    async def test_one_that_comes_while_the_journal_is_read_counts(self) -> None:
        """It is recorded behind what was looked at, and before the detach."""
        async with Service() as service:
            owner, other = service.connect(), service.connect()
            await owner.ask(attach(), append(epoch=1))
            service.store.hold("read")
            owner.send(detach(wait_for=["approval"], seen_sequence=1))
            await settled()
            assert await other.ask_one(signal()) == {"ok": True, "sequence": 2}
            service.store.release("read")
            await settled()
            assert (await service.events())[-2:] == ["Signalled", "AttemptEnded"]
            assert service.resumer.news[-1] == ("woken", ALICE, A)

    async def test_one_that_comes_behind_the_detach_wakes(self) -> None:
        """Queued, and not yet durable: the signal finds an agent that waits."""
        async with Service() as service:
            owner, other = service.connect(), service.connect()
            await owner.ask(attach())
            service.store.hold()
            owner.send(detach(wait_for=["approval"], seen_sequence=1))
            await settled()
            other.send(signal())
            await settled()
            service.store.release()
            await settled()
            assert (await service.events())[-2:] == ["AttemptEnded", "Signalled"]
            assert service.resumer.news[-2:] == [
                ("waiting", ALICE, A, None),
                ("woken", ALICE, A),
            ]


class TestDecisions:
    async def in_doubt(self, service: Service, *more: dict[str, Any]) -> None:
        """Leave an agent interrupted in step ``s``."""
        client = service.connect()
        await client.ask(attach())
        for event in ({"StepStarted": {"key": "s", "effect": "unsafe"}}, *more):
            reply = await client.ask_one(append(epoch=1) | {"event": event})
            assert reply["ok"]
        client.die()
        await settled()

    @pytest.mark.parametrize(
        "word",
        [{"rerun": True}, {"result": {"n": 1}}, {"result": None}, {"error": {"type": "E"}}],
        ids=str,
    )
    async def test_a_persons_word_is_recorded(self, word: dict[str, Any]) -> None:
        async with Service() as service:
            await self.in_doubt(service)
            reply = await service.connect().ask_one(op("decide", step="s", **word))
            assert reply == {"ok": True, "sequence": 3}
            assert (await service.payloads())[-1] == ("Decided", {"step": "s", **word})

    @pytest.mark.parametrize(
        "word",
        [{}, {"rerun": False}, {"rerun": True, "result": 1}, {"result": 1, "error": 1}],
        ids=str,
    )
    async def test_it_is_one_word(self, word: dict[str, Any]) -> None:
        async with Service() as service:
            await self.in_doubt(service)
            refused = await service.connect().ask_one(op("decide", step="s", **word))
            assert code_of(refused) == "invalid"

    @pytest.mark.parametrize(
        "end",
        [
            {"StepCompleted": {"key": "s", "result": 1}},
            {"StepFailed": {"key": "s", "error": {}}},
        ],
        ids=str,
    )
    async def test_there_is_nothing_to_decide_about_what_is_known(self, end: Any) -> None:
        async with Service() as service:
            await self.in_doubt(service, end, {"StepStarted": "s"}, {"StepStarted": {"key": 5}})
            client = service.connect()
            for step in ("s", "t"):
                refused = await client.ask_one(op("decide", step=step, rerun=True))
                assert code_of(refused) == "invalid"
                assert refused["error"]["field"] == "step"

    async def test_a_decision_with_a_result_is_final(self) -> None:
        """One to run the step again may be thought better of, until it runs."""
        async with Service() as service:
            await self.in_doubt(service)
            client = service.connect()
            assert (await client.ask_one(op("decide", step="s", rerun=True)))["ok"]
            assert (await client.ask_one(op("decide", step="s", result=5)))["ok"]
            refused = await client.ask_one(op("decide", step="s", result=6))
            assert code_of(refused) == "invalid"

    async def test_a_running_agent_decides_for_itself(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(attach())
            await client.ask(append(epoch=1) | {"event": {"StepStarted": {"key": "s"}}})
            refused = await service.connect().ask_one(op("decide", step="s", rerun=True))
            assert code_of(refused) == "agent_attached"
            assert refused["error"]["pid"] == client.pid
            await client.ask(op("park"))
            assert (await service.connect().ask_one(op("decide", step="s", rerun=True)))["ok"]

    async def test_what_has_ended_needs_no_decision(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append(), terminated())
            refused = await client.ask_one(op("decide", step="s", rerun=True))
            assert code_of(refused) == "agent_finished"
            refused = await client.ask_one(op("decide", "b", step="s", rerun=True))
            assert code_of(refused) == "not_found"


class TestParking:
    async def test_a_parked_agent_waits_for_a_person(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(attach(), detach())
            assert await client.ask_one(op("park", reason="look at this")) == {
                "ok": True,
                "state": "parked",
            }
            assert (await service.payloads())[-1] == ("Parked", {"reason": "look at this"})
            agent = await agent_of(service)
            assert (agent["state"], agent["reason"]) == ("parked", "look at this")
            assert service.resumer.news[-1] == ("finished", ALICE, A)
            assert code_of(await client.ask_one(attach())) == "parked"

    async def test_parking_twice_is_parking(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append(), op("park", reason="x"))
            assert (await client.ask_one(op("park", reason="y")))["state"] == "parked"
            assert await service.events() == ["Noted", "Parked"]
            assert (await agent_of(service))["reason"] == "x"

    async def test_the_owner_of_a_parked_agent_is_told_by_its_next_append(self) -> None:
        async with Service() as service:
            owner, other = service.connect(), service.connect()
            await owner.ask(attach())
            await other.ask(op("park"))
            assert code_of(await owner.ask_one(append(epoch=1))) == "parked"
            assert code_of(await owner.ask_one(append())) == "stale_epoch"
            assert code_of(await owner.ask_one(terminated(epoch=1))) == "parked"

    async def test_an_agent_that_was_let_go_on_is_interrupted(self) -> None:
        """And its count begins again."""
        async with Service() as service:
            client = service.connect()
            await client.ask(attach())
            client.die()
            await settled()
            await attaching.update_attachment(
                service.context, ALICE, A, incident=Incident(attempts=9)
            )
            other = service.connect()
            await other.ask(op("park", reason="x"))
            service.resumer.news  # noqa: B018 - forget what was told
            assert (await other.ask_one(op("resume", reason="mended")))["state"] == "interrupted"
            assert (await service.payloads())[-1] == ("Unparked", {"reason": "mended"})
            assert service.resumer.news == [("woken", ALICE, A)]
            agent = await agent_of(service)
            assert agent["attempts"] == 0
            assert "incident" not in agent
            assert "reason" not in agent
            assert (await other.ask_one(attach()))["attempt"] == 1

    async def test_an_owner_that_outlived_the_park_goes_on(self) -> None:
        """It is not started a second time beside itself."""
        async with Service() as service:
            owner, other = service.connect(), service.connect()
            await owner.ask(attach())
            await other.ask(op("park"))
            service.resumer.news  # noqa: B018 - forget what was told
            assert (await other.ask_one(op("resume")))["state"] == "running"
            assert service.resumer.news == [("attached", ALICE, A)]
            assert (await owner.ask_one(append(epoch=1)))["ok"]
            assert (await agent_of(service))["attempts"] == 1

    async def test_an_agent_that_was_only_recorded_can_be_parked_and_let_go_on(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append(), op("park"))
            assert code_of(await client.ask_one(append())) == "parked"
            assert (await client.ask_one(op("resume")))["state"] == "waiting"
            assert (await client.ask_one(append()))["ok"]
            assert (await agent_of(service))["state"] == "running"


class TestResuming:
    async def test_an_agent_that_waits_is_due(self) -> None:
        """Recorded: a crash behind it does not forget that somebody asked."""
        async with Service() as service:
            client = service.connect()
            await client.ask(attach(), detach(wake_at="2033-05-18T03:33:20Z"))
            assert (await client.ask_one(op("resume")))["state"] == "waiting"
            assert service.resumer.news[-1] == ("woken", ALICE, A)
            assert (await agent_of(service))["wake_at"] == "2023-11-14T22:13:20.000000Z"
            assert await service.events() == ["AttemptStarted", "AttemptEnded"]

    async def test_a_back_off_is_cut_short(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(attach())
            client.die()
            await settled()
            incident = Incident(attempts=2, next_attempt_at=service.context.now)
            await attaching.update_attachment(service.context, ALICE, A, incident=incident)
            assert "next_attempt_at" in await agent_of(service)
            assert (await service.connect().ask_one(op("resume")))["state"] == "interrupted"
            assert service.resumer.news[-1] == ("woken", ALICE, A)
            agent = await agent_of(service)
            assert "next_attempt_at" not in agent
            assert agent["attempts"] == 0

    async def test_what_runs_or_is_being_launched_is_left_alone(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(attach())
            assert (await client.ask_one(op("resume")))["state"] == "running"
            client.die()
            await settled()
            await attaching.record_launch(service.context, ALICE, A, command=None)
            service.resumer.news  # noqa: B018 - forget what was told
            assert (await service.connect().ask_one(op("resume")))["state"] == "resuming"
            assert service.resumer.news == []


class TestCancelling:
    async def test_a_cancelled_agent_has_ended(self) -> None:
        async with Service() as service:
            owner, other = service.connect(), service.connect()
            await owner.ask(attach())
            assert await other.ask_one(op("cancel", reason="enough")) == {
                "ok": True,
                "state": "cancelled",
            }
            assert (await service.payloads())[-1] == ("Cancelled", {"reason": "enough"})
            agent = await agent_of(service)
            assert (agent["state"], agent["reason"]) == ("cancelled", "enough")
            assert "owner" not in agent
            assert service.resumer.news[-1] == ("finished", ALICE, A)
            refused = await owner.ask_one(append(epoch=1))
            assert code_of(refused) == "agent_finished"
            assert refused["error"]["state"] == "cancelled"
            owner.die()
            await settled()
            assert (await service.events())[-1] == "Cancelled"
            assert (await other.ask_one(op("compact")))["removed"] == 2

    async def test_cancelling_twice_is_cancelling(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append(), op("cancel"))
            assert (await client.ask_one(op("cancel")))["state"] == "cancelled"
            assert await service.events() == ["Noted", "Cancelled"]

    @pytest.mark.parametrize("name", ["cancel", "park", "resume"])
    async def test_what_has_ended_otherwise_is_not_steered(self, name: str) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append(), terminated())
            refused = await client.ask_one(op(name))
            assert code_of(refused) == "agent_finished"
            assert refused["error"]["state"] == "completed"
            assert code_of(await client.ask_one(op(name, "b"))) == "not_found"
            assert code_of(await client.ask_one(op(name, "-"))) == "invalid"
