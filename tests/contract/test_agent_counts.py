"""How many agents there are: counted slice by slice, while they change."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from agent_journal.model import AgentState, Uid
from agent_journal.store import census
from agent_journal.store.sqlite import SqliteStore
from agent_journal.testing.plain_journal import PlainJournal

UIDS = [Uid(1000), Uid(1001), Uid(5)]
STATES = [*AgentState]


@pytest.fixture(params=[1, 2, 7])
def slice_agents(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(census, "SLICE_AGENTS", request.param)
    monkeypatch.setattr(census, "SLICE_GROUPS", 2)
    return int(request.param)


async def opened(path: Path) -> SqliteStore:
    store = SqliteStore(path, free_bytes_min=0)
    await store.open()
    return store


async def change(journal: PlainJournal, chance: random.Random, agents: int) -> None:
    """Commit a few entries that begin agents, or move them to any state."""
    for _ in range(chance.randrange(1, 4)):
        agent = f"agent-{chance.randrange(agents)}"
        journal.add(agent, uid=chance.choice(UIDS), state=chance.choice(STATES))
        if chance.random() < 0.1:
            journal.compact(agent, uid=chance.choice([uid for uid, name in _names(journal, agent)]))
    await journal.commit()


def _names(journal: PlainJournal, agent: str) -> list[tuple[Uid, str]]:
    return [name for name in (*journal.agents, *journal._draft) if name[1] == agent]


def recounted(journal: PlainJournal) -> Counter[tuple[Uid, AgentState]]:
    return Counter((one.record.uid, one.record.state) for one in journal.agents.values())


@pytest.mark.parametrize("seed", range(4))
async def test_agents_that_change_while_they_are_counted_are_counted_once(
    tmp_path: Path, slice_agents: int, seed: int
) -> None:
    """Whatever moves from before the count to behind it, back, or begins and ends meanwhile."""
    chance = random.Random(seed)  # noqa: S311 - a seed, not a secret
    store = await opened(tmp_path / "journal.db")
    journal = PlainJournal(store)
    for _ in range(30):
        await change(journal, chance, agents=25)
    await store.close()
    journal.store = store = await opened(tmp_path / "journal.db")
    try:
        assert store.agent_counts is None, "nobody has counted"
        slices = 1
        while await store.count_agents():
            slices += 1
            await change(journal, chance, agents=40)
        assert slices > 2
        assert +Counter(store.agent_counts) == recounted(journal)
        for _ in range(10):
            await change(journal, chance, agents=60)
        assert +Counter(store.agent_counts) == recounted(journal)
        assert not await store.count_agents(), "they are counted once"
        await journal.check()
    finally:
        await store.close()


async def test_a_transaction_that_fails_moves_nobody(tmp_path: Path) -> None:
    store = await opened(tmp_path / "journal.db")
    journal = PlainJournal(store)
    try:
        await journal.append("a")
        assert not await store.count_agents()
        before = store.agent_counts
        store.free_bytes_min = 1 << 60  # the disk is full
        journal.finish("a")
        with pytest.raises(Exception, match="make room"):
            await journal.commit()
        assert store.agent_counts == before == {(1000, "running"): 1}
        store.free_bytes_min = 0
        await journal.check()
    finally:
        await store.close()
