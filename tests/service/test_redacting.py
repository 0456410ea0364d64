"""No secret gets past the write boundary, by whatever request, and repeats are still known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent_journal.model import AgentId
from agent_journal.service import attaching
from agent_journal.service.attempt_output import Outcome
from agent_journal.service.config_retention import Redaction as Options
from agent_journal.service.incidents import ended
from agent_journal.service.redacting import boundary_of
from helpers import ALICE, Service, append, code_of

SECRET = "AKIA" + "IOSFODNN7EXAMPLE"
MARKER = "[redacted:aws-access-key]"
EVENT = {"Noted": {"text": f"use {SECRET}", "password": "hunter2", "n": 1.0}}


def service_with(**options: Any) -> Service:
    service = Service()
    service.context.boundary = boundary_of(Options(keys=("password",), **options))
    return service


def noted(agent_id: str = "a", **fields: Any) -> dict[str, Any]:
    return append(agent_id, **fields) | {"event": EVENT}


async def test_nothing_is_looked_at_by_default() -> None:
    assert boundary_of(Options()) is None
    async with Service() as service:
        await service.connect().ask_one(noted())
        assert await service.payloads() == [("Noted", EVENT["Noted"])]


class TestMarked:
    async def test_what_is_recorded_holds_the_marker(self) -> None:
        async with service_with(mode="mark") as service:
            client = service.connect()
            assert (await client.ask_one(noted()))["ok"]
            entries = [{"event": EVENT}, {"event": {"B": SECRET}}]
            assert (await client.ask_one(append() | {"event": None, "entries": entries}))[
                "ok"
            ] is False
            many = {"op": "append", "agent_id": "a", "entries": entries}
            assert (await client.ask_one(many))["ok"]
            marked = {"text": f"use {MARKER}", "password": "[redacted:password]", "n": 1.0}
            assert await service.payloads() == [("Noted", marked), ("Noted", marked), ("B", MARKER)]

    async def test_a_repeat_is_compared_as_it_would_be_recorded(self) -> None:
        """By its key, and under an epoch; and another event is another event still."""
        async with service_with(mode="mark") as service:
            client = service.connect()
            first = await client.ask_one(noted(key="k"))
            assert await client.ask_one(noted(key="k")) == {**first, "duplicate": True}
            other = noted(key="k") | {"event": {"Noted": {"text": "use another"}}}
            assert code_of(await client.ask_one(other)) == "key_conflict"
            epoch = (await client.ask_one({"op": "attach", "agent_id": "b"}))["epoch"]
            under = noted("b", epoch=epoch, expected_sequence=1)
            first = await client.ask_one(under)
            assert await client.ask_one(under) == {**first, "duplicate": True}

    async def test_what_others_say_to_an_agent_is_marked_as_well(self) -> None:
        async with service_with(mode="mark") as service:
            client = service.connect()
            step = {"key": "s", "name": "n", "input_hash": "", "effect": "unsafe"}
            await client.ask_one(append() | {"event": {"StepStarted": step}})
            signal = {"op": "signal", "agent_id": "a", "name": "n", "payload": [SECRET], "key": "k"}
            sent = await client.ask_one(signal)
            assert await client.ask_one(signal) == {**sent, "duplicate": True}
            decide = {"op": "decide", "agent_id": "a", "step": "s", "result": {"x": SECRET}}
            assert (await client.ask_one(decide))["ok"]
            await client.ask_one({"op": "park", "agent_id": "a", "reason": f"has {SECRET}"})
            await client.ask_one({"op": "cancel", "agent_id": "a", "reason": f"was {SECRET}"})
            payloads = await service.payloads()
            assert SECRET not in str(payloads)
            assert str(payloads).count(MARKER) == 4
            (record,) = await service.store.load([(ALICE, AgentId("a"))])
            assert record is not None
            assert record.reason == f"was {MARKER}"

    async def test_an_import_is_marked_and_its_repeat_is_known(self) -> None:
        async with service_with(mode="mark") as service:
            client = service.connect()
            page = {
                "op": "import",
                "agent": {
                    "agent_id": "a", "state": "failed", "reason": SECRET,
                    "created_at": "2026-01-01T00:00:00Z", "entries": 1,
                },
                "entries": [{"sequence": 0, "timestamp": "2026-01-01T00:00:00Z", "event": EVENT}],
            }  # fmt: skip
            assert (await client.ask_one(page))["recorded"] == 1
            assert (await client.ask_one(page))["duplicate"]
            described = await client.ask_one({"op": "describe", "agent_id": "a"})
            assert described["agent"]["reason"] == MARKER
            assert SECRET not in str(await service.payloads())

    async def test_the_end_of_stderr_is_marked(self) -> None:
        class Attempt:
            async def outcome(self) -> Outcome:
                return Outcome(how="exited", exit_code=1, stderr=f"no access with {SECRET}\n")

        async with service_with(mode="mark") as service:
            outcome = await ended(service.context, Attempt())  # type: ignore[arg-type] # no more is asked
            assert outcome.stderr == f"no access with {MARKER}\n"
            await service.connect().ask_one({"op": "attach", "agent_id": "a"})
            await attaching.record_end(
                service.context, ALICE, AgentId("a"), 1,
                how=outcome.how, stderr=outcome.stderr, pid=1000,
            )  # fmt: skip
            assert (await service.payloads())[-1][1]["stderr"] == f"no access with {MARKER}\n"


class TestRefused:
    @pytest.mark.parametrize(
        ("request_", "field"),
        [
            (noted(), "event"),
            ({"op": "append", "agent_id": "a", "entries": [{"event": {"A": 1}}, {"event": EVENT}]},
             "entries[1].event"),
            ({"op": "signal", "agent_id": "a", "name": "n", "payload": EVENT}, "payload"),
            ({"op": "decide", "agent_id": "a", "step": "s", "error": [SECRET]}, "error"),
            ({"op": "park", "agent_id": "a", "reason": SECRET}, "reason"),
        ],
        ids=str,
    )  # fmt: skip
    async def test_a_request_with_a_secret_is_invalid(
        self, request_: dict[str, Any], field: str
    ) -> None:
        """The refusal names the field and the kind, and never what it is."""
        async with service_with(mode="refuse") as service:
            client = service.connect()
            await client.ask_one(append())
            reply = await client.ask_one({**request_, "id": 7})
            assert (code_of(reply), reply["error"]["field"], reply["id"]) == ("invalid", field, 7)
            assert SECRET not in str(reply)
            assert "hunter2" not in str(reply)
            assert await service.events() == ["Noted"]
            assert (await client.ask_one(append()))["ok"]

    @pytest.mark.parametrize("mode", ["mark", "refuse"])
    @pytest.mark.parametrize(
        ("request_", "field"),
        [
            (append(key=SECRET), "key"),
            ({"op": "signal", "agent_id": "a", "name": "n", "key": SECRET}, "key"),
            ({"op": "attach", "agent_id": "a",
              "command": {"argv": ["x", f"--key={SECRET}"], "cwd": "/"}}, "command.argv[1]"),
            ({"op": "attach", "agent_id": "a",
              "command": {"argv": ["x"], "cwd": "/", "env": {"LANG": SECRET}}}, "command.env"),
        ],
        ids=str,
    )  # fmt: skip
    async def test_what_must_stay_as_it_is_is_refused_in_either_mode(
        self, mode: str, request_: dict[str, Any], field: str
    ) -> None:
        async with service_with(mode=mode) as service:
            client = service.connect()
            await client.ask_one(append())
            reply = await client.ask_one(request_)
            assert (code_of(reply), reply["error"]["field"]) == ("invalid", field)
            assert await service.events() == ["Noted"]


async def test_the_mode_changes_while_clients_are_connected() -> None:
    async with Service() as service:
        client = service.connect()
        await client.ask_one(noted())
        options = replace(Options(), mode="mark")
        service.context.boundary = boundary_of(options)
        await client.ask_one(noted())
        texts = [value["text"] for _, value in await service.payloads()]
        assert texts == [f"use {SECRET}", f"use {MARKER}"]
