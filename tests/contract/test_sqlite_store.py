"""The store on SQLite keeps the contract: as it is, with short slices, and restarted always."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agent_journal.store import one_agent
from agent_journal.store.base import Store
from agent_journal.store.sqlite import SqliteStore
from agent_journal.testing.durable_contract import DurableStoreContract
from agent_journal.testing.store_contract import StoreContract
from agent_journal.testing.stores import RestartingStore


class TestSqliteStore(DurableStoreContract):
    def make_store(self, directory: Path) -> Store:
        return SqliteStore(directory / "journal.db", free_bytes_min=0)


@pytest.mark.usefixtures("short_slices")
class TestSqliteStoreInShortSlices(DurableStoreContract):
    """The index trails, is frozen and settled in slices, within any test."""

    def make_store(self, directory: Path) -> Store:
        return SqliteStore(
            directory / "journal.db", free_bytes_min=0, settle_entries=6, checkpoint_commits=3
        )


class TestSqliteStoreByHistory(StoreContract):
    """One agent's entries are looked for in its history, however near the end they are."""

    @pytest.fixture(autouse=True)
    def near_is_far(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(one_agent, "NEAR_END", 0)

    def make_store(self, directory: Path) -> Store:
        return SqliteStore(directory / "journal.db", free_bytes_min=0, settle_entries=6)


@pytest.mark.usefixtures("short_slices")
class TestSqliteStoreRestartedBehindEachCommit(StoreContract):
    """Every other time without being closed: what a crash leaves is a copy of the files."""

    examples = 6  # each opens a store at every step

    def make_store(self, directory: Path) -> Store:
        count = 0

        def next_store(where: Path) -> SqliteStore:
            where.mkdir(exist_ok=True)
            return SqliteStore(where / "journal.db", free_bytes_min=0, settle_entries=6)

        async def restart(store: Store) -> Store:
            nonlocal count
            before, after = directory / f"run-{count}", directory / f"run-{count + 1}"
            count += 1
            if count % 2:
                await store.close()
            shutil.copytree(before, after)
            await store.close()  # the crashed one's files are not looked at again
            shutil.rmtree(before)
            following = next_store(after)
            await following.open()
            return following

        return RestartingStore(next_store(directory / "run-0"), restart)
