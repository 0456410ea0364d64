"""The store without a disk keeps the contract."""

from __future__ import annotations

from pathlib import Path

from agent_journal.store.base import Store
from agent_journal.store.memory import MemoryStore
from agent_journal.testing.store_contract import StoreContract


class TestMemoryStore(StoreContract):
    def make_store(self, directory: Path) -> Store:
        return MemoryStore()
