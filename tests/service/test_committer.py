"""Group commit: batches as large as the disk is slow, fair between uids, and nobody forgotten."""

from __future__ import annotations

import asyncio

import pytest

from agent_journal.errors import ShuttingDownError
from agent_journal.service.committer import QUANTUM_BYTES
from helpers import ALICE, BOB, Service, append, codes_of, settled


def shares(service: Service, batch: int) -> dict[int, int]:
    """Return how many entries of a batch are whose."""
    numbers = {head.number: uid for uid in (ALICE, BOB) for head in service.heads(uid).values()}
    found: dict[int, int] = {}
    for entry in service.store.batches[batch].entries:
        uid = numbers[entry.number]
        found[uid] = found.get(uid, 0) + 1
    return found


async def test_an_idle_journal_commits_single_entries_at_once() -> None:
    async with Service() as service:
        client = service.connect()
        for _ in range(3):
            await client.ask(append("a"))
        assert [len(batch.entries) for batch in service.store.batches] == [1, 1, 1]


async def test_what_queues_during_a_commit_is_the_next_batch() -> None:
    """The disk sets the size: no timer, no waiting for more."""
    async with Service() as service:
        clients = [service.connect() for _ in range(10)]
        await clients[0].ask(append("a"))
        service.store.hold("commit")
        clients[0].send(append("a"))
        await settled()
        for client in clients:
            client.send(append("a"), append("a"))
        await settled()
        service.store.release("commit")
        await settled()
        assert [len(batch.entries) for batch in service.store.batches] == [1, 1, 20]
        assert service.context.metrics.batch_entries_max == 20


async def test_a_batch_is_bounded_by_entries_and_by_bytes() -> None:
    async with Service(batch_entries_max=10) as service:
        client = service.connect()
        await client.ask(append("a"))
        for _ in range(25):
            client.send(append("a"))
        await settled()
        assert [len(batch.entries) for batch in service.store.batches][1:] == [10, 10, 5]
    async with Service(batch_bytes_max=100_000) as service:
        client = service.connect()
        await client.ask(append("a"))
        service.store.hold("commit")
        for _ in range(8):
            client.send({**append("a"), "event": {"Blob": "x" * 40_000}})
        service.store.release("commit")
        await settled()
        sizes = [sum(len(e.event) for e in batch.entries) for batch in service.store.batches]
        assert max(sizes) < 100_000 + QUANTUM_BYTES + 40_000
        assert len(sizes) > 3
        assert codes_of(client.replies) == [None] * 8


async def test_entries_of_one_append_are_never_cut_in_two() -> None:
    """However small a batch is, they are recorded all or none."""
    async with Service(batch_entries_max=4) as service:
        client = service.connect()
        await client.ask(append("a"))
        many = {"op": "append", "agent_id": "a", "entries": [{"event": {"A": 1}}] * 9}
        for _ in range(3):
            client.send(append("a"), many)
        await settled()
        for batch in service.store.batches[1:]:
            count = sum(entry.event == b'{"A":1}' for entry in batch.entries)
            assert count % 9 == 0
        assert await service.next_sequence() == 31


async def test_a_flood_of_one_uid_leaves_room_for_another() -> None:
    """Bob's one entry is in the next batch, not behind all of Alice's."""
    async with Service(batch_entries_max=1000, batch_bytes_max=10**9) as service:
        alices, bob = [service.connect(ALICE) for _ in range(5)], service.connect(BOB)
        for client in (alices[0], bob):
            await client.ask(append("a"))
        first = len(service.store.batches)
        service.store.hold("commit")
        alices[0].send(append("a"))
        await settled()
        for alice in alices:
            for _ in range(500):
                alice.send(append("a"))
        bob.send(append("a"))
        await settled()
        service.store.release("commit")
        await settled()
        assert shares(service, first + 1)[BOB] == 1
        assert shares(service, first + 1)[ALICE] < 1000
        assert codes_of(bob.replies) == [None]


@pytest.mark.parametrize("batch_entries_max", [1, 7, 100])
async def test_uids_take_turns_from_batch_to_batch(batch_entries_max: int) -> None:
    """With both flooding, neither waits for more than a batch while the other is served."""
    async with Service(batch_entries_max=batch_entries_max) as service:
        alice, bob = service.connect(ALICE), service.connect(BOB)
        for client in (alice, bob):
            await client.ask(append("a"))
        first = len(service.store.batches)
        service.store.hold("commit")
        alice.send(append("a"))
        await settled()
        for _ in range(200):
            alice.send(append("a"))
        for _ in range(200):
            bob.send(append("a"))
        service.store.release("commit")
        await settled()
        served = [shares(service, n) for n in range(first + 1, len(service.store.batches))]
        both = served[: len(served) // 2]
        got_alice = sum(share.get(ALICE, 0) for share in both)
        got_bob = sum(share.get(BOB, 0) for share in both)
        assert abs(got_alice - got_bob) <= max(batch_entries_max, QUANTUM_BYTES // 256)
        for client, agent in ((alice, "a"), (bob, "a")):
            assert [reply["sequence"] for reply in client.replies] == sorted(
                range(await service.next_sequence(agent, client.uid)),
            )[1:]


async def test_answers_leave_while_the_next_batch_is_on_its_way() -> None:
    """The reply of a batch does not wait for the fsync of the one behind it."""
    async with Service(batch_entries_max=1) as service:
        one, other = service.connect(), service.connect()
        await one.ask(append("a"))
        service.store.hold("commit")
        one.send(append("a", id=1))
        await settled()
        other.send(append("a", id=2))
        await settled()
        service.store.release("commit")
        service.store.hold("commit")
        await settled()
        assert [reply["id"] for reply in one.replies] == [1]
        assert other.replies == []


async def test_it_keeps_house_when_there_is_nothing_else_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And stops when there is nothing more: an idle daemon does not spin."""
    async with Service() as service:
        slices = 5

        async def maintain() -> bool:
            nonlocal slices
            slices -= 1
            return slices > 0

        monkeypatch.setattr(service.store.store, "maintain", maintain)
        client = service.connect()
        await client.ask(append("a"))
        assert slices == 0
        await client.ask({"op": "ping"})
        assert slices == 0


async def test_an_entry_that_comes_during_housekeeping_is_not_overlooked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Service() as service:
        client = service.connect()
        await client.ask(append("a"))
        service.store.hold("maintain")
        client.send(append("a"))
        await settled()
        client.replies  # noqa: B018 - what was answered does not matter here
        client.send(append("a", id="late"))
        await settled()
        service.store.release("maintain")
        await settled()
        assert "late" in [reply.get("id") for reply in client.replies]


async def test_housekeeping_has_its_turn_under_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the store says it is due, a slice is done between batches however long the queue."""
    async with Service(batch_entries_max=1) as service:
        monkeypatch.setattr(type(service.store), "is_maintenance_due", True)
        client = service.connect()
        await client.ask(append("a"))
        before = service.store.calls["maintain"]
        for _ in range(30):
            client.send(append("a"))
        await settled()
        assert service.store.calls["maintain"] - before >= 30


async def test_a_closed_committer_ends_and_refuses() -> None:
    async with Service() as service:
        client = service.connect()
        await client.ask(append("a"))
        service.committer.close()
        service.committer.close()
        await settled()
        assert service._writer.done()
        with pytest.raises(ShuttingDownError):
            service.committer.next_commit()


async def test_one_that_is_closed_while_it_keeps_house_ends() -> None:
    """Nobody would wake it again."""
    async with Service() as service:
        await settled()
        service.store.hold("maintain")
        client = service.connect()
        await client.ask(append("a"))
        service.committer.close()
        await settled()
        service.store.release("maintain")
        await settled()
        assert service._writer.done()


async def test_a_cancelled_committer_answers_everybody() -> None:
    async with Service() as service:
        client, other = service.connect(), service.connect(BOB)
        await client.ask(append("a"))
        service.store.hold("commit")
        client.send(append("a"))
        await settled()
        other.send(append("a"))
        await settled()
        service._writer.cancel()
        await settled()
        assert codes_of(client.replies) == ["storage_failed"]  # it may be on the disk
        assert codes_of(other.replies) == ["shutting_down"]
        with pytest.raises(asyncio.CancelledError):
            await service._writer
        service.store.release("commit")


async def test_how_long_a_commit_has_been_on_its_way_can_be_seen() -> None:
    """The watchdog is fed from it."""
    async with Service() as service:
        client = service.connect()
        assert service.committer.busy_since is None
        service.clock.advance(3)
        service.store.hold("commit")
        client.send(append("a"))
        await settled()
        assert service.committer.busy_since == 3
        service.clock.advance(0.25)
        service.store.release("commit")
        await settled()
        assert service.committer.busy_since is None
        assert service.context.metrics.commit_seconds.highest == 0.25


async def test_how_long_it_has_kept_house_can_be_seen_too() -> None:
    """A checkpoint can hang as a commit can."""
    async with Service() as service:
        service.store.hold("maintain")
        client = service.connect()
        service.clock.advance(3)
        await client.ask(append("a"))
        assert service.committer.busy_since == 3
        service.store.release("maintain")
        await settled()
        assert service.committer.busy_since is None


async def test_how_much_is_queued_can_be_seen() -> None:
    async with Service() as service:
        client = service.connect()
        await client.ask(append("a"))
        service.store.hold("commit")
        client.send(append("a"))
        await settled()
        client.send(append("a"), append("a"))
        service.connect(BOB).send(append("a"))
        await settled()
        assert service.committer.queued_entries == 3
        assert service.committer.queued_bytes > 3 * len('{"Noted":1}')
        service.store.release("commit")
        await settled()
        assert service.committer.queued_entries == service.committer.queued_bytes == 0
