"""A backup taken page by page, between any commits and checkpoints, is the journal at its end."""

from __future__ import annotations

import random
from binascii import a2b_base64
from pathlib import Path

import pytest

from agent_journal.store.backup import LAST_PAGES, UNASKED_MAX, PageCopy
from agent_journal.store.sqlite import SqliteStore
from agent_journal.store.verification import verify
from agent_journal.testing.plain_journal import PlainJournal


def store_in(directory: Path) -> SqliteStore:
    return SqliteStore(directory / "journal.db", settle_entries=300, free_bytes_min=0)


class Backup:
    """What a client does with the pages that it is given."""

    def __init__(self, path: Path, store: SqliteStore, copy: PageCopy) -> None:
        self._path = path
        self._store = store
        self._copy = copy
        self._pages: dict[int, bytes] = {}

    async def go_on(self) -> bool:
        """Take a slice; return whether there is more."""
        copy = self._copy
        if copy.is_almost_done():
            await self._store.finish_copy(copy)
        for page, text in copy.next_slice():
            data = a2b_base64(text)
            for place in range(0, len(data), copy.page_bytes):
                number = page + place // copy.page_bytes
                self._pages[number] = data[place : place + copy.page_bytes]
        return not (copy.is_whole and not copy.left)

    def write(self) -> None:
        assert {*self._pages} >= {*range(1, self._copy.pages + 1)}
        pages = (self._pages[page] for page in range(1, self._copy.pages + 1))
        self._path.write_bytes(b"".join(pages))


async def write_some(journal: PlainJournal, chance: random.Random, batches: int) -> None:
    for _ in range(batches):
        for _ in range(chance.randrange(1, 30)):
            event = b'{"Noted":"%b"}' % (b"x" * chance.choice([10, 300, 3000, 20_000]))
            journal.add(f"agent-{chance.randrange(12)}", event)
        await journal.commit()
        if not chance.randrange(3):
            await journal.store.maintain()


@pytest.mark.parametrize("seed", range(6))
async def test_a_copy_among_commits(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - repeatable
    (tmp_path / "live").mkdir()
    (tmp_path / "copy").mkdir()
    store = store_in(tmp_path / "live")
    store.checkpoint_commits = chance.choice([1, 4, 64])
    await store.open()
    journal = PlainJournal(store)
    try:
        await write_some(journal, chance, 60)
        journal.compact("agent-3")
        await journal.commit()
        copy = await store.begin_copy()
        backup = Backup(tmp_path / "copy" / "journal.db", store, copy)
        slices = entries = 0
        while await backup.go_on():
            if not entries and copy.is_whole:  # what is recorded from now on is not in it
                entries = sum(len(agent.entries) for agent in journal.agents.values())
            slices += 1
            if slices < 60:
                await write_some(journal, chance, chance.randrange(4))
        entries = entries or sum(len(agent.entries) for agent in journal.agents.values())
        backup.write()
        await write_some(journal, chance, 5)
        await journal.check()
    finally:
        await store.close()
    report = verify(tmp_path / "copy" / "journal.db")
    assert report.is_sound, report.problems
    assert report.entries == entries


async def test_what_a_checkpoint_writes_is_given_out_again(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    await store.open()
    journal = PlainJournal(store)
    try:
        for _ in range(40):
            await journal.append("a", *[b'{"Noted":"%b"}' % (b"x" * 5000)] * 20)
        await store.checkpoint()
        copy = await store.begin_copy()
        assert copy.left > LAST_PAGES
        while not copy.is_almost_done():
            copy.next_slice()
        while copy.left:
            copy.next_slice()
        assert copy.left == 0
        await journal.append("b")
        await store.checkpoint()
        assert copy.left > 0
        await store.finish_copy(copy)
        assert copy.is_whole
    finally:
        await store.close()


async def test_nobody_is_followed_for_ever(tmp_path: Path) -> None:
    """A client that went away is forgotten; what was begun before another copy is given up."""
    store = store_in(tmp_path)
    await store.open()
    try:
        first = await store.begin_copy()
        second = await store.begin_copy()
        assert first.is_given_up
        assert not second.is_given_up
        for _ in range(UNASKED_MAX + 1):
            second.note()
        assert second.is_given_up
    finally:
        await store.close()
