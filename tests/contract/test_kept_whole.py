"""Whatever housekeeping comes between which commits, a crash leaves a journal that is whole."""

from __future__ import annotations

import asyncio
import random
import shutil
from pathlib import Path

import pytest

from agent_journal.store import wiping
from agent_journal.store.integrity import check_before_open
from agent_journal.store.sqlite import SqliteStore
from agent_journal.store.verification import verify
from agent_journal.testing.plain_journal import PlainJournal

STEPS = 60
FILES = ("journal.db", "journal.db-wal", "journal.db-sums")


class Housekeeping:
    """A journal in use, with all that is done to its files beside, in any order."""

    def __init__(self, directory: Path, chance: random.Random) -> None:
        self.directory = directory
        self.chance = chance
        self.journal = PlainJournal(self._store())
        self.erasures = 0
        self._erasing: asyncio.Task[None] | None = None
        self._crashes = 0

    def _store(self) -> SqliteStore:
        path = self.directory / "live" / "journal.db"
        path.parent.mkdir(exist_ok=True)
        store = SqliteStore(path, settle_entries=300, free_bytes_min=0)
        store.checkpoint_commits = self.chance.choice([1, 4, 64])
        return store

    @property
    def store(self) -> SqliteStore:
        store = self.journal.store
        assert isinstance(store, SqliteStore)
        return store

    async def write(self) -> None:
        for _ in range(self.chance.randrange(1, 8)):
            for _ in range(self.chance.randrange(1, 30)):
                size = self.chance.choice([10, 300, 3000])
                key = f"{self.chance.randrange(10**6)}-{'key' * 20}"
                event = b'{"Noted":"%b"}' % (b"x" * size)
                self.journal.add(f"agent-{self.chance.randrange(20)}", event, key=key)
            await self.journal.commit()

    async def remove(self) -> None:
        names = [agent_id for _, agent_id in self.journal.agents]
        for name in self.chance.sample(names, min(3, len(names))):
            self.chance.choice([self.journal.remove, self.journal.compact])(name)
        await self.journal.commit()

    async def maintain(self) -> None:
        for _ in range(self.chance.randrange(1, 40)):
            await self.store.maintain()

    async def erase(self) -> None:
        """Begin to wipe; what follows comes in between."""
        await self.end_erasing()
        self._erasing = asyncio.create_task(self.store.erase())
        self.erasures += 1

    async def end_erasing(self) -> None:
        if self._erasing is not None:
            await self._erasing
            self._erasing = None

    async def scrub(self) -> None:
        await self.store.scrub(self.chance.randrange(1, 10**6))

    async def empty_the_log(self) -> None:
        await self.store.checkpoint()

    async def restart(self) -> None:
        await self.end_erasing()
        await self.store.close()
        self.journal.store = self._store()
        await self.store.open()

    async def crash(self) -> None:
        """Hold what a kill would leave here against what was committed."""
        left = self.directory / f"left-{self._crashes}"
        left.mkdir()
        self._crashes += 1

        def copy() -> None:
            for name in FILES:
                shutil.copy(self.directory / "live" / name, left / name)

        await self.store._call(copy)  # between two calls, and not amid one
        check_before_open(left / "journal.db")
        report = verify(left / "journal.db")
        assert report.is_sound, report.problems
        assert report.entries == sum(len(agent.entries) for agent in self.journal.agents.values())

    async def run(self) -> None:
        await self.store.open()
        try:
            await self._run()
        finally:
            if self._erasing is not None:
                self._erasing.cancel()
            await self.store.close()
        check_before_open(self.directory / "live" / "journal.db")

    async def _run(self) -> None:
        for _ in range(10):
            await self.write()
        steps = [self.write, self.maintain, self.maintain, self.remove, self.erase, self.crash]
        for _ in range(STEPS):
            rare = [self.scrub, self.empty_the_log, self.restart]
            await self.chance.choice([*steps, self.chance.choice(rare)])()
        await self.end_erasing()
        await self.crash()
        await self.journal.check()


@pytest.mark.parametrize("seed", range(6))
async def test_a_journal_is_whole_at_every_moment(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiping, "LAST_PAGES", 4)  # little is left to the last call
    keeping = Housekeeping(tmp_path, random.Random(seed))  # noqa: S311 - repeatable
    await keeping.run()
    assert keeping.erasures > 3
