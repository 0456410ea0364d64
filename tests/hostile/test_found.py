"""What the tests of this folder found, each as small as it can be told."""

from __future__ import annotations

from typing import Any

import pytest

from helpers import Service, append, code_of, codes_of, settled, terminated

A = {"agent_id": "a"}
ATTACH = {"op": "attach", **A}
DETACH = {"op": "detach", **A, "epoch": 1}


async def test_a_client_does_not_say_what_the_framer_says() -> None:
    """A line that looked like our own word was answered as too large, or as overloaded."""
    async with Service() as service:
        client = service.connect()
        words = [b"\0too long:4", b"\0discarded", b"\0unfinished"]
        assert codes_of(await client.ask(*words)) == ["malformed"] * 3


async def test_a_member_repeated_within_an_entry_counts_as_it_was_last() -> None:
    async with Service() as service:
        client = service.connect()
        line = (
            b'{"op":"append","agent_id":"a",'
            b'"entries":[{"event":{"A":1},"timestamp":"now","timestamp":null}]}'
        )
        assert code_of(await client.ask_one(line)) is None


async def test_a_signals_key_is_looked_at_before_its_agent() -> None:
    async with Service() as service:
        client = service.connect()
        signal = {"op": "signal", **A, "name": "n", "key": "k" * 257}
        assert (await client.ask_one(signal))["error"]["field"] == "key"


@pytest.mark.parametrize(
    ("event", "step"),
    [
        ('{\t"StepStarted":{"key":"s"}}', "s"),
        ('{"Step\\u0053tarted":{"key":"s"}}', "s"),
        ('{"StepStarted":{"key":"s","step":7}}', "s"),
    ],
)
async def test_a_step_is_in_doubt_however_its_beginning_is_written(event: str, step: str) -> None:
    async with Service() as service:
        client = service.connect()
        await client.ask(f'{{"op":"append","agent_id":"a","event":{event}}}')
        decide = {"op": "decide", **A, "step": step, "rerun": True}
        assert (await client.ask_one(decide))["ok"]


async def test_of_two_who_decide_at_once_one_is_obeyed() -> None:
    async with Service() as service:
        client, other = service.connect(), service.connect()
        event = {"StepStarted": {"key": "s"}}
        await client.ask({**append(), "event": event})
        client.send({"op": "decide", **A, "step": "s", "result": 1})
        other.send({"op": "decide", **A, "step": "s", "result": 2})
        await settled()
        assert codes_of(client.replies + other.replies) == [None, "invalid"]


async def test_a_member_of_another_name_begins_no_step() -> None:
    async with Service() as service:
        client = service.connect()
        event = {"StepStarted": {"key": "s", "step": "other"}}
        await client.ask({**append(), "event": event})
        decide = {"op": "decide", **A, "step": "other", "rerun": True}
        assert (await client.ask_one(decide))["error"]["field"] == "step"


async def test_two_detaches_at_once_are_one() -> None:
    """The second was refused: the agent had become ``waiting`` while it looked for signals."""
    async with Service() as service:
        client, other = service.connect(), service.connect()
        await client.ask(ATTACH)
        request = {**DETACH, "wait_for": ["n"]}
        client.send(request)
        other.send(request)
        await settled()
        assert [one["state"] for one in client.replies + other.replies] == ["waiting"] * 2


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (DETACH, DETACH),
        ({"op": "park", **A}, {"op": "park", **A}),
        ({"op": "cancel", **A}, {"op": "cancel", **A}),
    ],
    ids=["detach", "park", "cancel"],
)
async def test_a_repeat_is_not_answered_before_the_first_is_durable(
    first: dict[str, Any], again: dict[str, Any]
) -> None:
    async with Service() as service:
        client, other = service.connect(), service.connect()
        await client.ask(ATTACH)
        service.store.hold("commit")
        client.send(first)
        await settled()
        assert await other.ask(again) == []
        service.store.release("commit")
        await settled()
        assert codes_of(client.replies + other.replies) == [None, None]


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (append(), append(expected_sequence=1), "sequence_conflict"),
    (terminated(), append(), "agent_finished"),
    (terminated(), {"op": "signal", **A, "name": "n"}, "agent_finished"),
    ({"op": "park", **A}, append(), "parked"),
    ({"op": "park", **A}, ATTACH, "parked"),
    (ATTACH, append(), "stale_epoch"),
    (ATTACH, ATTACH, "agent_attached"),
    (append("b"), {"op": "fork", **A, "at_sequence": 1, "as": "b"}, "invalid"),
]


@pytest.mark.parametrize(("first", "refused", "code"), REFUSED)
@pytest.mark.parametrize("is_full", [False, True], ids=["recorded", "full"])
async def test_nobody_is_refused_for_what_is_not_durable(
    first: dict[str, Any], refused: dict[str, Any], code: str, *, is_full: bool
) -> None:
    """Who was told of it found nothing there, and it may never have been recorded."""
    async with Service() as service:
        client, other = service.connect(), service.connect()
        await client.ask(append(), append("c"))
        await other.ask({"op": "describe", **A})
        if is_full:
            service.store.fail_next_as_full()
        service.store.hold("commit")
        client.send(first)
        await settled()
        assert await other.ask(refused, {"op": "ping"}) == []
        service.store.release("commit")
        await settled()
        assert codes_of(client.replies) == ["storage_full" if is_full else None]
        assert codes_of(other.replies) == ["storage_full" if is_full else code, None]


async def test_an_agent_that_begins_anew_has_no_attempts() -> None:
    async with Service() as service:
        client = service.connect()
        await client.ask(ATTACH, terminated(epoch=1), {"op": "compact", **A}, append(epoch=1))
        described = await client.ask_one({"op": "describe", **A})
        assert described["agent"]["attempts"] == 0


async def test_a_signal_behind_a_compaction_wakes_who_waits_for_it() -> None:
    """It was looked for where the attempt began before the compaction, and not found."""
    async with Service() as service:
        client = service.connect()
        compact = {"op": "compact", **A, "force": True}
        await client.ask(*[append()] * 5, ATTACH, compact, {"op": "signal", **A, "name": "n"})
        await client.ask({**DETACH, "wait_for": ["n"]})
        described = await client.ask_one({"op": "describe", **A})
        assert "wake_at" in described["agent"], "it waits for ever"


async def test_a_clients_key_is_never_a_signals() -> None:
    """They were one where the client's began as we begin ours."""
    async with Service() as service:
        client = service.connect()
        await client.ask(append(), {"op": "signal", **A, "name": "n", "key": "k"})
        reply = await client.ask_one(append(key="\0signal:k"))
        assert reply["error"]["code"] == "invalid"


async def test_a_reply_is_no_longer_than_it_may_be() -> None:
    """The commas and what stands around the entries were not counted."""
    async with Service(reply_bytes_max=4096) as service:
        client = service.connect()
        await client.ask(*[append(event="N" * length) for length in range(1, 60)])
        for start in range(58):
            client.send({"op": "read", **A, "from_sequence": start, "id": "x" * start})
            await settled()
            *_, line, _ = bytes(client.sink.written).split(b"\n")
            assert len(line) <= 4096
            assert line.count(b'"sequence"') > 1


@pytest.mark.parametrize("is_noticed", [False, True])
async def test_a_park_that_is_lifted_as_its_owner_dies_is_no_defect(*, is_noticed: bool) -> None:
    """The loss was recorded of an agent that was ``interrupted`` already, which can't be."""
    async with Service() as service:
        owner, other = service.connect(), service.connect()
        await owner.ask(ATTACH, {"op": "park", **A})
        service.store.hold("load")
        other.send({"op": "resume", **A})
        await settled()
        owner.die()
        if is_noticed:
            await settled()
        service.store.release("load")
        await settled()
        (reply,) = other.replies
        assert reply["state"] == "interrupted"
        events = await service.events()
        assert events.count("AttemptEnded") == 1
        assert not [call for call in service.log.calls if call.method_name == "exception"]
        assert (await other.ask_one({**ATTACH, "id": 2}))["attempt"] == 1


@pytest.mark.parametrize("begins", [{"last": 2}, {"from_position": 1}, {}])
async def test_a_tail_that_does_not_follow_ends_with_what_was_there(begins: dict[str, int]) -> None:
    """What was recorded while it looked came as well: the last two were three."""
    async with Service() as service:
        client, other = service.connect(), service.connect()
        await other.ask(append(), append(), append())
        service.store.hold("scan")
        client.send({"op": "tail", **begins, "follow": False})
        await settled()
        await other.ask(append())
        service.store.release("scan")
        await settled()
        *entries, end = client.replies
        assert [line["entry"]["position"] for line in entries] == [*range(3)][-2 if begins else 0 :]
        assert end["position"] == 3
