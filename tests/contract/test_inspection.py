"""What looks for contradictions in a journal finds them, and no others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agent_journal.model import AgentId, Micros, Uid
from agent_journal.store.attachment import Attachment
from agent_journal.store.base import AgentChange, AgentRecord, Batch, NewEntry, Store
from agent_journal.store.base import Sequence as SequenceNumber
from agent_journal.store.memory import MemoryStore
from agent_journal.store.sqlite import SqliteStore
from agent_journal.testing.inspection import InconsistentJournalError, inspect

OWN, OTHER = (Uid(1), AgentId("a")), (Uid(2), AgentId("a"))


async def fill(store: Store) -> None:
    """Record a few entries of two agents, of which one was attached to."""
    numbers = [store.new_number() for _ in range(2)]
    records = [
        AgentRecord(uid=uid, agent_id=agent_id, number=number)
        for (uid, agent_id), number in zip((OWN, OTHER), numbers, strict=True)
    ]
    records[1].attachment = Attachment(launcher="l")
    entries = [
        NewEntry(number, SequenceNumber(at), Micros(10 + at), at, b'{"X":%d}' % at, f"k{at}")
        for at in range(3)
        for number in numbers
    ]
    changes = [AgentChange(place, record, None) for place, record in enumerate(records)]
    await store.commit(Batch(entries, changes))


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "journal.db")
    await store.open()
    await fill(store)
    yield store
    await store.close()


async def test_a_whole_journal_is_shown_whole(store: Store) -> None:
    found = await inspect(store, {OWN: ["k0", "k2", "none"]})
    assert [*found.agents] == [OWN, OTHER]
    assert [entry.event for entry in found.entries[OTHER]] == [b'{"X":0}', b'{"X":1}', b'{"X":2}']
    assert found.keys == {OWN: {"k0": 0, "k2": 2}}
    assert found.next_position == 6
    (planned,) = found.plan
    assert planned.startswith("2 a running")
    assert "Launch" in planned


async def test_two_looks_at_one_journal_are_the_same(store: Store) -> None:
    assert (await inspect(store)).digest == (await inspect(store)).digest


async def test_one_more_entry_is_another_journal(store: Store) -> None:
    before = await inspect(store)
    number = before.agents[OWN].number
    await store.commit(Batch([NewEntry(number, SequenceNumber(3), Micros(99), 9, b"{}")]))
    assert (await inspect(store)).digest != before.digest


class Liar:
    """A store that has one of its answers changed."""

    def __init__(self, store: Store, method: str, change: Any) -> None:
        self._store = store
        self._method = method
        self._change = change

    def __getattr__(self, name: str) -> Any:
        answers = getattr(self._store, name)
        if name != self._method:
            return answers

        async def changed(*args: Any, **options: Any) -> Any:
            return self._change(await answers(*args, **options))

        return changed


def twice(found: Sequence[Any]) -> Any:
    return [found[0], *found] if found and found[0].sequence == 0 else found


def one_iteration_more(answer: Any) -> Any:
    records, after = answer
    return [replace(one, last_iteration=one.last_iteration + 1) for one in records], after


@pytest.mark.parametrize(
    ("method", "change", "told"),
    [
        ("read", twice, "stands at"),
        ("agents", one_iteration_more, "last iteration"),
        ("unfinished", lambda _: [], "missing are"),
    ],
    ids=["an_entry_twice", "a_counter", "an_unfinished_agent"],
)
async def test_a_contradiction_is_found(store: Store, method: str, change: Any, told: str) -> None:
    with pytest.raises(InconsistentJournalError, match=told):
        await inspect(Liar(store, method, change))  # type: ignore[arg-type]


async def test_an_entry_of_another_uid_is_found(store: Store) -> None:
    class Leaky:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def scan(self, wanted: Any, **options: Any) -> Any:
            wanted.uid = None
            return await store.scan(wanted, **options)

    with pytest.raises(InconsistentJournalError, match="other entries than its own"):
        await inspect(Leaky())  # type: ignore[arg-type]
