"""The disk is full, or fails: everybody is told the truth, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from agent_journal.errors import (
    DamagedError,
    OverloadedError,
    StorageFailedError,
    StorageFullError,
)
from helpers import ALICE, BOB, Service, append, codes_of, settled, terminated


class TestFull:
    async def test_nothing_is_recorded_and_the_numbers_go_on_without_a_gap(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append("a"), append("b"))
            for _ in range(3):
                service.store.fail_next_as_full()
                replies = await client.ask(append("a"), append("new"), terminated("b"))
                # One that is not known yet is looked up, and may find room again.
                assert replies[0]["error"] | {"message": ""} == {
                    "code": "storage_full",
                    "message": "",
                    "retryable": True,
                    "outcome": "not_recorded",
                }
            (reply,) = await client.ask(append("a", expected_sequence=1))
            assert reply["sequence"] == 1

    async def test_what_is_queued_meanwhile_is_refused_too(self) -> None:
        """It was numbered behind what was not recorded; then everything goes on."""
        async with Service() as service:
            alice, bob = service.connect(ALICE), service.connect(BOB)
            await alice.ask(append("a"), append("b"))
            await bob.ask(append("a"))
            service.store.hold("commit")
            service.store.fail_next_as_full()
            alice.send(append("a"), append("b"))
            await settled()
            alice.send(append("a"), {"op": "ping"}, append("b", key="k"))
            bob.send(append("a"))
            await settled()
            service.store.release("commit")
            await settled()
            full = "storage_full"
            assert codes_of(alice.replies) == [full, full, full, None, full]
            assert codes_of(bob.replies) == [full]
            replies = await alice.ask(append("a"), append("b", key="k"), append("b", key="k"))
            assert [reply["sequence"] for reply in replies] == [1, 1, 1]
            assert [reply.get("duplicate") for reply in replies] == [None, None, True]
            assert (await bob.ask_one(append("a")))["sequence"] == 1

    async def test_an_end_that_was_not_recorded_did_not_happen(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append("a"))
            service.store.fail_next_as_full()
            assert codes_of(await client.ask(terminated("a"))) == ["storage_full"]
            assert codes_of(await client.ask(append("a"), terminated("a"))) == [None, None]

    async def test_a_beginning_that_was_not_recorded_did_not_happen(self) -> None:
        async with Service() as service:
            client = service.connect()
            service.store.fail_next_as_full()
            assert codes_of(await client.ask(append("a"))) == ["storage_full"]
            assert (await client.ask_one({"op": "agents"}))["agents"] == []
            reply = await client.ask_one(append("a"))
            assert reply["sequence"] == 0
            (agent,) = (await client.ask_one({"op": "agents"}))["agents"]
            assert (agent["entries"], agent["state"]) == (1, "running")

    async def test_reads_go_on(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append("a"))
            for _ in range(3):
                service.store.fail_next_as_full()
                replies = await client.ask(
                    append("a"),
                    {"op": "read", "agent_id": "a"},
                    {"op": "describe", "agent_id": "a"},
                    {"op": "agents"},
                    {"op": "tail", "follow": False},
                    {"op": "ping"},
                )
                assert codes_of(replies)[0] == "storage_full"
                assert len(replies[1]["entries"]) == 1
                assert replies[2]["agent"]["entries"] == 1
                assert "entry" in replies[4]

    async def test_a_compaction_that_was_not_recorded_did_not_happen(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append("a", key="k"), terminated("a"))
            service.store.fail_next_as_full()
            compact = {"op": "compact", "agent_id": "a"}
            assert codes_of(await client.ask(compact)) == ["storage_full"]
            assert (await client.ask_one(append("a", key="k")))["duplicate"]
            assert codes_of(await client.ask(append("a"))) == ["agent_finished"]
            assert (await client.ask_one(compact))["removed"] == 2

    async def test_it_is_logged_once_until_there_was_room_again(self) -> None:
        async with Service() as service:
            client = service.connect()
            await client.ask(append("a"))
            for _ in range(2):
                for _ in range(3):
                    service.store.fail_next_as_full()
                    await client.ask(append("a"))
                await client.ask(append("a"))
            assert [call.args for call in service.log.calls] == [("storage_filled",)] * 2

    async def test_housekeeping_without_room_is_tried_again_later(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It neither ends the daemon nor makes it spin."""
        async with Service() as service:
            failures = 0

            async def maintain() -> bool:
                nonlocal failures
                failures += 1
                raise StorageFullError("full (this is a test)")

            monkeypatch.setattr(service.store.store, "maintain", maintain)
            client = service.connect()
            for n in range(3):
                assert codes_of(await client.ask(append("a"))) == [None]
                assert failures <= 2 * (n + 2)
            assert failures


class TestNoMemory:
    async def test_a_batch_that_finds_no_memory_is_refused_and_the_next_is_not(self) -> None:
        """What was queued behind it was numbered behind it, and is refused, too."""
        async with Service() as service:
            client, other = service.connect(), service.connect(BOB)
            await client.ask(append("a"))
            service.store.hold("commit")
            client.send(append("a"))
            await settled()
            other.send(append("b"))
            await settled()
            service.store.fail_suddenly(OverloadedError("no memory (this is a test)", retry_ms=5))
            service.store.release("commit")
            await settled()
            assert codes_of(client.replies) == [None]
            (refused,) = other.replies
            assert refused["error"] | {"message": ""} == {
                "code": "overloaded",
                "message": "",
                "retryable": True,
                "outcome": "not_recorded",
                "retry_ms": 5,
            }
            assert codes_of(await other.ask(append("b"))) == [None]
            assert (await client.ask_one(append("a")))["sequence"] == 2


class TestFailed:
    @pytest.mark.parametrize("is_recorded", [False, True])
    async def test_everybody_is_answered_and_the_committer_ends(self, *, is_recorded: bool) -> None:
        """Those of the batch do not know; those behind it were certainly not recorded."""
        async with Service() as service:
            alice, bob = service.connect(ALICE), service.connect(BOB)
            await alice.ask(append("a"))
            await bob.ask(append("a"))
            service.store.hold("commit")
            error = service.store.fail_next_as_failed(is_recorded=is_recorded)
            alice.send(append("a", id=1), append("a", id=2), {"op": "ping", "id": 3})
            await settled()
            alice.send({"op": "read", "agent_id": "a", "id": 4})
            bob.send(append("a", id=5))
            await settled()
            service.store.release("commit")
            await settled()
            replies = alice.replies
            assert [reply["id"] for reply in replies] == [1, 2, 3, 4]
            assert codes_of(replies[:3]) == ["storage_failed", "storage_failed", None]
            assert replies[0]["error"]["outcome"] == "unknown"
            assert replies[0]["error"]["retryable"] is False
            assert codes_of(bob.replies) == ["shutting_down"]
            assert service.failure is error
            assert service.committer.failure is error
            assert (await alice.ask_one(append("a")))["ok"] is False
            assert await service.events("a", ALICE) == ["Noted"] * (3 if is_recorded else 1)
            assert await service.events("a", BOB) == ["Noted"]

    async def test_it_is_not_tried_again(self) -> None:
        """After a failed sync the kernel may call the next one good."""
        async with Service() as service:
            client = service.connect()
            await client.ask(append("a"))
            commits = len(service.store.batches)
            service.store.fail_next_as_failed()
            replies = await client.ask(append("a"))
            replies += await client.ask(append("a"), append("b"), append("a", key="k"))
            assert all(not reply["ok"] for reply in replies)
            assert len(service.store.batches) == commits + 1

    @pytest.mark.parametrize(
        "error", [RuntimeError("a defect"), MemoryError(), asyncio.CancelledError()], ids=repr
    )
    async def test_whatever_a_commit_raises_nobody_is_left_waiting(
        self, error: BaseException
    ) -> None:
        """Nor told that it did not happen: it may have."""
        service = Service()
        async with service:
            client, other = service.connect(), service.connect(BOB)
            await client.ask(append("a"))
            service.store.hold("commit")
            service.store.fail_next(error)
            client.send(append("a"), append("a"))
            await settled()
            other.send(append("a"))
            await settled()
            service.store.release("commit")
            await settled()
            assert codes_of(client.replies) == ["storage_failed"] * 2
            assert codes_of(other.replies) == ["shutting_down"]
            assert codes_of(await client.ask(append("a")))[0] in {"shutting_down", "storage_failed"}
            service.failure = None  # looked at: it is no storage failure

    async def test_nobody_is_left_waiting_by_a_commit_that_does_not_even_begin(self) -> None:
        """The store raises before there is anything to wait for."""
        service = Service()
        async with service:
            client, other = service.connect(), service.connect(BOB)
            await client.ask(append("a"))
            service.store.fail_suddenly(StorageFailedError("the store is closed (this is a test)"))
            replies = await client.ask(append("a"), append("a"))
            assert codes_of(replies) == ["storage_failed"] * 2
            assert codes_of(await other.ask(append("a")))[0] in {"shutting_down", "storage_failed"}

    async def test_a_store_that_is_found_damaged_says_so(self) -> None:
        """The error that a person has to act upon, and not that the daemon is stopping.

        The daemon stays up to say it: one that exits is started again at once.
        """
        async with Service() as service:
            client, other = service.connect(), service.connect(BOB)
            await client.ask(append("a"))
            service.store.hold("commit")
            for _ in range(3):
                service.store.fail_next(DamagedError("a page is not what it was (this is a test)"))
            client.send(append("a"))
            await settled()
            other.send(append("a"))
            client.send(append("a"))
            await settled()
            service.store.release("commit")
            await settled()
            assert codes_of(client.replies) == ["damaged", "damaged"]
            assert codes_of(other.replies) == ["damaged"]
            assert service.failure is None
            assert codes_of(await client.ask({"op": "ping"})) == [None]

    async def test_a_read_that_fails_costs_its_own_request_only(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with Service() as service:
            client, other = service.connect(), service.connect()
            await client.ask(append("a"))

            async def read(*_: object, **__: object) -> None:
                raise DamagedError("a row is not readable (this is a test)")

            with monkeypatch.context() as patch:
                patch.setattr(service.store.store, "read", read)
                replies = await client.ask({"op": "read", "agent_id": "a"}, append("a"))
                assert codes_of(replies) == ["damaged", None]
            assert codes_of(await other.ask({"op": "read", "agent_id": "a"})) == [None]

    async def test_a_defect_costs_its_own_connection_only(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is logged with its trace; the others, and the daemon, go on."""
        async with Service() as service:
            client, other = service.connect(), service.connect()
            await client.ask(append("a"))

            async def load(*_: object) -> None:
                raise ZeroDivisionError

            with monkeypatch.context() as patch:
                patch.setattr(service.store.store, "load", load)
                replies = await client.ask({"op": "describe", "agent_id": "a"}, append("a"))
            assert replies == []
            assert client.sink.is_closed
            (call,) = [call for call in service.log.calls if call.method_name == "exception"]
            assert call.kwargs == {"op": "describe"}
            service.log.calls.clear()
            assert codes_of(await other.ask(append("a"))) == [None]


async def test_cancelling_a_caller_does_not_unrecord_its_entry() -> None:
    """A connection that is lost while its entries are queued, or on their way."""
    async with Service() as service:
        client, stays = service.connect(), service.connect()
        await client.ask(append("a"))
        service.store.hold("commit")
        client.send(append("a", "OnItsWay"))
        await settled()
        client.send(append("a", "Queued"), {"op": "read", "agent_id": "a"}, append("a", "NotYet"))
        await settled()
        client.lose()
        stays.send(append("a", "Behind"))
        await settled()
        service.store.release("commit")
        await settled()
        assert await service.events() == ["Noted", "OnItsWay", "Queued", "Behind"]
        assert stays.replies[0]["sequence"] == 3


async def test_a_compaction_whose_caller_is_gone_is_whole() -> None:
    async with Service() as service:
        client, stays = service.connect(), service.connect()
        await client.ask(append("a"), terminated("a"))
        service.store.hold("commit")
        client.send({"op": "compact", "agent_id": "a"})
        await settled()
        client.lose()
        stays.send(append("a", "New"))
        await settled()
        service.store.release("commit")
        await settled()
        assert stays.replies[0]["sequence"] == 0
        assert await service.events() == ["New"]


async def test_what_is_looked_at_while_others_are_refused_is_numbered_anew() -> None:
    """Telling one connection of a full disk has it go on with what it had not looked at."""
    async with Service(connection_bytes_in_flight_max=1000) as service:
        client = service.connect()
        large = {**append("a"), "event": {"Blob": "x" * 1000}}
        service.store.fail_next_as_full()
        service.store.hold("load")
        for _ in range(4):  # each in a piece of its own, behind one that waits for the store
            client.send(large)
        service.store.hold("commit")
        service.store.release("load")
        await settled()
        service.store.release("commit")
        await settled()
        replies = client.replies
        recorded = [reply["sequence"] for reply in replies if reply["ok"]]
        assert codes_of(replies)[0] == "storage_full"
        assert recorded == [*range(len(recorded))]
        assert await service.next_sequence("a") == len(recorded)
