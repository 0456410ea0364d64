"""Fencing: an append is its agent's only under the epoch that holds it; a repeat is known."""

from __future__ import annotations

from typing import Any

import pytest

from helpers import Service, append, code_of, codes_of, terminated


def attach(agent_id: str = "a", **fields: Any) -> dict[str, Any]:
    return {"op": "attach", "agent_id": agent_id, **fields}


def many(*events: str, agent_id: str = "a", **fields: Any) -> dict[str, Any]:
    entries = [{"event": {event: 1}} for event in events]
    return {"op": "append", "agent_id": agent_id, "entries": entries, **fields}


@pytest.mark.parametrize("epoch", [{}, {"epoch": None}, {"epoch": 0}, {"epoch": 1}, {"epoch": 3}])
@pytest.mark.parametrize("request_of", [append, many], ids=["one", "many"])
async def test_only_the_present_epoch_records(request_of: Any, epoch: dict[str, Any]) -> None:
    """None, an older one, and one that was never granted are all stale."""
    async with Service() as service:
        first, second = service.connect(), service.connect()
        await first.ask(attach())
        await second.ask(attach(take_over=True))
        before = await service.events()
        request = append(**epoch) if request_of is append else many("Noted", **epoch)
        for client in (first, second, service.connect()):
            refused = await client.ask_one(request)
            assert code_of(refused) == "stale_epoch"
            assert refused["error"]["current"] == 2
            assert refused["error"]["outcome"] == "not_recorded"
        assert await service.events() == before
        assert (await second.ask_one({**request, "epoch": 2}))["sequence"] == len(before)


async def test_an_epoch_is_a_token_of_the_agent_and_not_of_the_connection() -> None:
    """An attached process may write on as many connections as it likes."""
    async with Service() as service:
        owner = service.connect()
        await owner.ask(attach())
        assert (await service.connect(pid=owner.pid).ask_one(append(epoch=1)))["ok"]


@pytest.mark.parametrize("change", ["detach", "loss"])
async def test_nobody_records_while_nobody_holds(change: str) -> None:
    """Not even under the last epoch: its attempt is over."""
    async with Service() as service:
        owner, other = service.connect(), service.connect()
        await owner.ask(attach())
        if change == "detach":
            await owner.ask({"op": "detach", "agent_id": "a", "epoch": 1})
        else:
            owner.die()
            await other.ask()
        for request in (append(epoch=1), many("Noted", epoch=1), append()):
            refused = await other.ask_one(request)
            assert code_of(refused) == "stale_epoch"
            assert refused["error"]["current"] == 1


async def test_neighbours_of_a_stale_append_are_recorded() -> None:
    """One bad entry does not fail its neighbours."""
    async with Service() as service:
        client = service.connect()
        await client.ask(attach())
        replies = await client.ask(
            append(epoch=1), append(epoch=7), append("b"), append(), append(epoch=1)
        )
        assert codes_of(replies) == [None, "stale_epoch", None, "stale_epoch", None]
        assert [reply.get("sequence") for reply in replies] == [1, None, 0, None, 2]
        assert "carries 7: another attempt took over" in replies[1]["error"]["message"]
        assert "carries none: its owner alone writes" in replies[3]["error"]["message"]


class TestRepeats:
    async def test_a_repeat_is_answered_as_the_first_was(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(attach())
            request = append(epoch=1, expected_sequence=1)
            first = await client.ask_one(request)
            await client.ask(append(epoch=1, event="Other"))
            again = service.connect(pid=client.pid)
            assert await again.ask_one(request) == {**first, "duplicate": True}
            assert await service.events() == ["AttemptStarted", "Noted", "Other"]

    async def test_a_repeat_of_many_is_known_as_a_whole(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(attach())
            request = many("A", "B", "C", epoch=1, expected_sequence=1)
            first = await client.ask_one(request)
            assert await client.ask_one(request) == {**first, "duplicate": True}
            assert (first["count"], first["sequence"]) == (3, 1)
            for other in (
                many("A", "B", epoch=1, expected_sequence=1),
                many("A", "B", "C", "D", epoch=1, expected_sequence=1),
                many("A", "X", "C", epoch=1, expected_sequence=1),
                many("A", "B", "C", epoch=1, expected_sequence=2),
            ):
                reply = await client.ask_one(other)
                if other["entries"] == request["entries"][:2]:
                    assert reply["duplicate"]  # it is what is recorded there
                else:
                    assert code_of(reply) == "sequence_conflict"
                    assert reply["error"]["actual"] == 4
            assert await service.events() == ["AttemptStarted", "A", "B", "C"]

    async def test_a_repeat_of_what_is_on_its_way_waits_for_it(self) -> None:
        async with Service() as service:
            client, again = service.connect(), service.connect()
            await client.ask(attach())
            service.store.hold()
            request = append(epoch=1, expected_sequence=1)
            client.send(request)
            assert await again.ask(request) == []
            client.lose()
            service.store.release()
            (reply,) = await again.ask()
            assert (reply["sequence"], reply["duplicate"]) == (1, True)
            assert await service.events() == ["AttemptStarted", "Noted"]

    async def test_the_repeat_of_what_was_not_recorded_is_recorded(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(attach())
            service.store.fail_next_as_full()
            request = append(epoch=1, expected_sequence=1)
            assert code_of(await client.ask_one(request)) == "storage_full"
            reply = await client.ask_one(request)
            assert reply["sequence"] == 1
            assert "duplicate" not in reply

    async def test_the_end_may_be_repeated(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(attach())
            request = terminated(epoch=1, expected_sequence=1)
            first = await client.ask_one(request)
            assert await client.ask_one(request) == {**first, "duplicate": True}
            refused = await client.ask_one(terminated(epoch=1, expected_sequence=2))
            assert code_of(refused) == "agent_finished"

    async def test_another_event_is_a_conflict(self) -> None:
        """A signal came in between: the writer is told, and reads it."""
        async with Service() as service:
            client, other = service.connect(), service.connect()
            await client.ask(attach())
            await other.ask({"op": "signal", "agent_id": "a", "name": "stop"})
            refused = await client.ask_one(append(epoch=1, expected_sequence=1))
            assert code_of(refused) == "sequence_conflict"
            assert (refused["error"]["expected"], refused["error"]["actual"]) == (1, 2)
            assert (await client.ask_one(append(epoch=1, expected_sequence=2)))["sequence"] == 2

    async def test_a_repeat_is_compared_as_json(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(attach())
            base = {"op": "append", "agent_id": "a", "epoch": 1, "expected_sequence": 1}
            await client.ask({**base, "event": {"A": {"x": 1, "y": 2}}})
            same = (
                '{"op":"append","agent_id":"a","epoch":1,"expected_sequence":1,'
                '"event":{"A": {"y":2, "x":1}}}'
            )
            assert (await client.ask_one(same))["duplicate"]
            other = same.replace('"x":1', '"x":1.0')
            assert code_of(await client.ask_one(other)) == "sequence_conflict"

    @pytest.mark.parametrize("epoch", [{"epoch": 1}, {}], ids=["older", "none"])
    async def test_the_repeat_of_one_who_was_replaced_is_stale(self, epoch: dict[str, Any]) -> None:
        """Though it was recorded: the zombie has to learn that it is one."""
        async with Service() as service:
            zombie, other = service.connect(), service.connect()
            await zombie.ask(attach(), append(epoch=1, expected_sequence=1))
            await other.ask(attach(take_over=True))
            refused = await zombie.ask_one(append(expected_sequence=1, **epoch))
            assert code_of(refused) == "stale_epoch"

    async def test_without_an_epoch_there_are_no_repeats(self) -> None:
        """Nobody is fenced off there: the same event may be another writer's."""
        async with Service() as service:
            client = service.connect()
            await client.ask(append())
            refused = await client.ask_one(append(expected_sequence=0))
            assert code_of(refused) == "sequence_conflict"

    async def test_pipelined_repeats_are_each_answered(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(attach())
            requests = [append(epoch=1, expected_sequence=n, event=f"E{n}") for n in range(1, 9)]
            first = await client.ask(*requests[:5])
            again = await client.ask(*requests)
            assert [reply["sequence"] for reply in again] == [*range(1, 9)]
            assert [reply.get("duplicate", False) for reply in again] == [True] * 5 + [False] * 3
            assert [reply["position"] for reply in again[:5]] == [r["position"] for r in first]
            assert len(await service.events()) == 9
