"""An idempotency key makes a retry safe: the first write wins, and a repeat finds it."""

from __future__ import annotations

from typing import Any

import pytest

from agent_journal.service import heads
from helpers import ALICE, ROOT, Service, append, code_of, codes_of, settled, terminated

HEADS = pytest.mark.parametrize("forget", [False, True], ids=["in_memory", "from_the_store"])


def entries(*members: dict[str, Any], agent_id: str = "a", **fields: Any) -> dict[str, Any]:
    return {"op": "append", "agent_id": agent_id, "entries": [*members], **fields}


@HEADS
async def test_a_repeat_is_answered_with_the_first_writes_place(*, forget: bool) -> None:
    async with Service() as service:
        client = service.connect()
        first = await client.ask_one(append(key="k", id=1))
        await client.ask(append(key="l"), append(), append("b", key="k"))
        if forget:
            service.context.heads.forget()
        assert await client.ask_one(append(key="k", id=2)) == {**first, "id": 2, "duplicate": True}
        assert await service.next_sequence() == 3


@HEADS
async def test_the_same_key_with_another_event_is_a_conflict(*, forget: bool) -> None:
    """And says where the first one is; white space and member order aside."""
    async with Service() as service:
        client = service.connect()
        await client.ask(append())
        await client.ask({**append(key="k"), "event": {"A": {"x": 1, "y": "ä"}}})
        if forget:
            service.context.heads.forget()
        replies = await client.ask(
            append(key="k"),
            b'{"op":"append","agent_id":"a","key":"k","event": {"A" :{"y":"\\u00e4", "x":1}} }',
            {**append(key="k"), "event": {"A": {"x": 1.0, "y": "ä"}}},
            {**append(key="k"), "event": {"A": {"x": True, "y": "ä"}}},
        )
        assert codes_of(replies) == ["key_conflict", None, "key_conflict", "key_conflict"]
        assert replies[0]["error"]["sequence"] == 1
        assert replies[1]["duplicate"]
        assert await service.next_sequence() == 2


async def test_a_repeat_with_numbers_that_no_machine_holds_is_answered() -> None:
    """Compared as they are written."""
    async with Service() as service:
        client = service.connect()
        for payload in (b"1e400", b"9" * 5000, b"[" * 900 + b"]" * 900):
            agent = b"agent-%d" % len(payload)
            line = b'{"op":"append","agent_id":"%b","key":"k","event":{"A":%b}}'
            replies = await client.ask(
                line % (agent, payload), line % (agent, b" " + payload), line % (agent, b"2e400")
            )
            assert codes_of(replies) == [None, None, "key_conflict"]


@pytest.mark.parametrize("is_same_connection", [False, True])
async def test_a_repeat_waits_for_a_first_write_that_is_on_its_way(
    *, is_same_connection: bool
) -> None:
    """It is no duplicate of anything until that is durable."""
    async with Service() as service:
        one, other = service.connect(), service.connect()
        if is_same_connection:
            other = one
        await one.ask(append())
        service.store.hold("commit")
        one.send(append(key="k", id="first"))
        await settled()
        other.send(append(key="k", id="repeat"), append(id="behind"))
        await settled()
        assert [*one.replies, *other.replies] == []
        service.store.release("commit")
        await settled()
        replies = {reply["id"]: reply for reply in [*one.replies, *other.replies]}
        assert replies["repeat"] == {**replies["first"], "id": "repeat", "duplicate": True}
        assert replies["behind"]["sequence"] == 2


async def test_a_repeat_of_a_write_that_fails_is_refused_as_it() -> None:
    """Neither recorded nor a duplicate: the disk was full for both."""
    async with Service() as service:
        one, other = service.connect(), service.connect()
        await one.ask(append())
        service.store.hold("commit")
        service.store.fail_next_as_full()
        one.send(append(key="k"))
        await settled()
        other.send(append(key="k"))
        await settled()
        service.store.release("commit")
        await settled()
        assert codes_of(one.replies) == codes_of(other.replies) == ["storage_full"]
        reply = await other.ask_one(append(key="k"))
        assert (reply["sequence"], "duplicate" in reply) == (1, False)


async def test_the_repeat_of_a_last_entry_is_a_duplicate_and_not_agent_finished() -> None:
    """An agent that lost the answer to its end may ask again, with keys old or new."""
    async with Service() as service:
        client = service.connect()
        await client.ask(append(key="1"), terminated(key="2"))
        for _ in range(2):
            replies = await client.ask(terminated(key="2"), append(key="1"), terminated(key="3"))
            assert [reply.get("duplicate") for reply in replies[:2]] == [True, True]
            assert code_of(replies[2]) == "agent_finished"
            service.context.heads.forget()


async def test_a_repeat_is_answered_whatever_is_expected_since() -> None:
    """A pipelined retry carries the expectations of its first time."""
    async with Service() as service:
        client = service.connect()
        sent = [append(key=f"k{n}", expected_sequence=n) for n in range(3)]
        first = await client.ask(*sent)
        again = await client.ask(*sent)
        assert again == [{**reply, "duplicate": True} for reply in first]


async def test_a_conflict_of_keys_that_nobody_could_foresee_is_still_checked_for_the_fence() -> (
    None
):
    """A new key below one that was used is looked up, then checked as any other."""
    async with Service() as service:
        client = service.connect()
        await client.ask(append(key="z"))
        replies = await client.ask(
            append(key="a", expected_sequence=5),
            append(key="a", epoch=5),
            append(key="a", expected_sequence=1),
        )
        assert codes_of(replies) == ["sequence_conflict", "stale_epoch", None]


class TestEntries:
    @HEADS
    @pytest.mark.parametrize(
        "keys", [("a", "b", "c"), ("a", None, None), (None, "b", None), (None, None, "c")], ids=str
    )
    async def test_all_of_them_are_repeated_whichever_have_keys(
        self, keys: tuple[str | None, ...], *, forget: bool
    ) -> None:
        async with Service() as service:
            client = service.connect()
            message = entries(
                *[
                    {"event": {f"E{n}": n}, **({} if key is None else {"key": key})}
                    for n, key in enumerate(keys)
                ]
            )
            await client.ask(append())
            first = await client.ask_one(message)
            await client.ask(append(key="zz"))
            if forget:
                service.context.heads.forget()
            assert await client.ask_one(message) == {**first, "duplicate": True}
            assert await service.next_sequence() == 5

    @HEADS
    async def test_anything_but_the_whole_repeat_is_a_conflict(self, *, forget: bool) -> None:
        async with Service() as service:
            client = service.connect()
            one, two = {"event": {"A": 1}, "key": "a"}, {"event": {"B": 1}, "key": "b"}
            await client.ask(append(), entries(one, two), append())
            if forget:
                service.context.heads.forget()
            new = {"event": {"C": 1}, "key": "c"}
            for message in (
                entries(two, one),
                entries(one, new),
                entries(new, two),
                entries(one, two, new),
                entries(one, {**two, "event": {"B": 2}}),
                entries({"event": {"Z": 1}}, {"event": {"Z": 1}}, {"event": {"Z": 1}}, one),
                entries(one, {"event": {"B": 1}}, {"event": {"Noted": 1}}, {"event": {"Not": 1}}),
            ):
                assert code_of(await client.ask_one(message)) == "key_conflict", message
            assert await service.next_sequence() == 4

    async def test_a_part_of_them_may_be_repeated_alone(self) -> None:
        """The first write of that key is answered, wherever it stood."""
        async with Service() as service:
            client = service.connect()
            one, two = {"event": {"A": 1}, "key": "a"}, {"event": {"B": 1}, "key": "b"}
            first = await client.ask_one(entries(one, two))
            reply = await client.ask_one({"op": "append", "agent_id": "a", **two})
            assert (reply["sequence"], reply["position"]) == (1, first["position"] + 1)
            assert (reply["count"], reply["duplicate"]) == (1, True)


async def test_a_compacted_agents_keys_are_new_again() -> None:
    async with Service() as service:
        client = service.connect()
        compact = {"op": "compact", "agent_id": "a", "force": True}
        for _ in range(3):
            replies = await client.ask(append(key="k"), append(key="k"), compact)
            assert "duplicate" not in replies[0]
            assert replies[1]["duplicate"]
            assert replies[2]["removed"] == 1


@pytest.mark.parametrize("op", ["compact", "forget"])
async def test_a_repeat_whose_first_write_is_removed_meanwhile_is_a_first_write(op: str) -> None:
    """And no conflict, which nobody's order of the two requests explains."""
    async with Service() as service:
        client = service.connect()
        await client.ask(append(), append(key="k"))
        service.store.hold("read")
        client.send(append(key="k"))
        await settled()
        await service.connect().ask({"op": op, "agent_id": "a", "force": True})
        service.store.release("read")
        (recorded,) = await client.ask()
        assert (recorded["sequence"], "duplicate" in recorded) == (0, False)
        assert await service.next_sequence() == 1


async def test_a_key_is_its_agents_own_and_its_namespaces() -> None:
    async with Service() as service:
        root, alice = service.connect(ROOT), service.connect(ALICE)
        replies = await root.ask(
            append("a", key="k"), append("b", key="k"), append("a", key="k", uid=ALICE)
        )
        assert all("duplicate" not in reply for reply in replies)
        assert (await alice.ask_one(append("a", key="k")))["duplicate"]


async def test_rising_keys_cost_no_look_up() -> None:
    async with Service() as service:
        client = service.connect()
        await client.ask(append(key="000"))
        asked = service.store.calls["find_key"]
        for n in range(1, 50):
            await client.ask(append(key=f"{n:03}"))
        assert service.store.calls["find_key"] == asked
        await client.ask({"op": "compact", "agent_id": "a", "force": True}, append(key="000"))
        assert service.store.calls["find_key"] == asked  # all keys are new to a new history


async def test_keys_are_found_though_heads_are_dropped_all_the_time() -> None:
    """With room for few heads, each agent is forgotten and loaded again."""
    async with Service(heads_max=4) as service:
        client = service.connect()
        for round_ in range(3):
            sent = [
                append(f"agent-{n}", key=f"{(7 * n) % 10}-{k}") for n in range(12) for k in "ba"
            ]
            replies = await client.ask(*sent)
            assert [reply.get("duplicate", False) for reply in replies] == [round_ > 0] * 24
            assert [reply["sequence"] for reply in replies] == [0, 1] * 12


async def test_many_keys_on_their_way_are_all_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few are kept in memory, none that is not in the store yet is forgotten."""
    monkeypatch.setattr(heads, "KEYS_MAX", 3)
    async with Service() as service:
        client = service.connect()
        service.store.hold("commit")
        sent = [append(key=f"{n:02}") for n in range(20)]
        client.send(*sent)
        await settled()
        repeats = service.connect()
        repeats.send(*sent)
        await settled()
        service.store.release("commit")
        await settled()
        assert codes_of(client.replies) == [None] * 20
        assert all(reply["duplicate"] for reply in repeats.replies)
        assert await service.next_sequence() == 20


async def test_keys_that_are_durable_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that runs for months uses millions; the store knows them."""
    monkeypatch.setattr(heads, "KEYS_MAX", 10)
    async with Service() as service:
        client = service.connect()
        for n in range(60):
            await client.ask(append(key=f"{n:03}"), append("b", key=f"{n:03}"))
            await client.ask({**entries({"event": {"A": 1}, "key": f"{n:03}"}), "agent_id": "c"})
        in_memory = service.heads()
        assert {name: len(in_memory[name].keys) <= 20 for name in "abc"} == dict.fromkeys(
            "abc", True
        )
        replies = await client.ask(*[append(key=f"{n:03}") for n in range(60)])
        assert all(reply["duplicate"] for reply in replies)


@pytest.mark.parametrize("what", ["evicted", "forgotten", "keys_cleared"])
async def test_a_key_used_while_it_is_looked_up_is_not_used_twice(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store said it was new; since then it was recorded, and that is forgotten again."""
    monkeypatch.setattr(heads, "KEYS_MAX", 2)
    async with Service(heads_max=4) as service:
        slow, fast = service.connect(), service.connect()
        await fast.ask(append(key="z"))
        real = service.store.store.find_key
        is_first = True

        async def answered_late(number: Any, key: str) -> Any:
            nonlocal is_first
            found = await real(number, key)
            if is_first:  # what was true when the store looked is delivered much later
                is_first = False
                service.store.hold("late")
                await service.store._pass("late")
            return found

        monkeypatch.setattr(service.store.store, "find_key", answered_late)
        slow.send(append(key="k", id="slow"))
        await settled()
        assert (await fast.ask_one(append(key="k", id="fast")))["sequence"] == 1
        if what == "evicted":
            await fast.ask(*[append(f"other-{n}") for n in range(8)])
            await fast.ask(append("a"))
        elif what == "forgotten":
            service.context.heads.forget()
            await fast.ask(append("a"))
        else:
            await fast.ask(*[append(key=f"zz{n}") for n in range(3)])
            await fast.ask(*[append(key=f"zzz{n}") for n in range(3)])
        service.store.release("late")
        await settled()
        (reply,) = slow.replies
        assert (reply["sequence"], reply.get("duplicate")) == (1, True)
