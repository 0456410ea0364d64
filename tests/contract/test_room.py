"""The room that a journal's file takes: given back, written anew, and with nothing left in it."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent_journal.errors import StorageFullError
from agent_journal.store import wiping
from agent_journal.store.database import Database
from agent_journal.store.integrity import check_before_open
from agent_journal.store.page_sums import PageSums
from agent_journal.store.room import FREE_PAGES_KEPT
from agent_journal.store.rows import PAGE_BYTES
from agent_journal.store.sqlite import SqliteStore
from agent_journal.store.verification import verify
from agent_journal.store.wiping import wiped
from agent_journal.testing.plain_journal import PlainJournal

CANARY = "canary-7f3a"
BLOB = b"x" * 3000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, free_bytes_min=0, settle_entries=200)
    await store.open()
    yield store
    await store.close()


async def filled(store: SqliteStore, agents: int, entries: int = 120) -> PlainJournal:
    """Fill a journal with agents that wrote in turn."""
    journal = PlainJournal(store)
    for step in range(entries):
        for number in range(agents):
            journal.add(f"agent-{number}", b'{"Blob":"%b"}' % BLOB, key=f"{step:03}")
        await journal.commit()
    await journal.keep_house()
    return journal


async def copy_log(journal: PlainJournal) -> None:
    """Have the log be copied into the database, and be kept: a checkpoint between commits."""
    store = journal.store
    assert isinstance(store, SqliteStore)
    store.checkpoint_commits = 1
    await journal.append("last")
    await journal.keep_house()


async def remove(journal: PlainJournal, *agents: int) -> None:
    for number in agents:
        journal.remove(f"agent-{number}")
    await journal.commit()


def size_of(path: Path) -> int:
    return path.stat().st_size


def is_sound(path: Path) -> bool:
    """Tell whether a closed journal is whole, page by page and entry by entry."""
    path.with_name(path.name + ".lock").touch()  # without one it would be a backup
    check_before_open(path)
    report = verify(path)
    assert not report.problems, report.problems
    return report.is_sound


class TestGivingBack:
    async def test_what_is_free_is_given_back_in_slices(
        self, store: SqliteStore, path: Path
    ) -> None:
        """The file is cut off, but for a little; each page of it is what was written."""
        journal = await filled(store, 10)
        full = (await store.space()).file_bytes
        await remove(journal, *range(9))
        sizes = set()
        while await store.maintain():
            sizes.add((await store.space()).file_bytes)
        space = await store.space()
        assert len(sizes) > 10  # it was no great leap
        assert space.gives_back
        assert space.free_bytes <= FREE_PAGES_KEPT * PAGE_BYTES
        assert space.file_bytes < full / 2
        await journal.check()
        await store.checkpoint()
        assert size_of(path) == (await store.space()).file_bytes
        await store.close()
        assert is_sound(path)

    async def test_a_file_that_was_cut_off_grows_again(
        self, store: SqliteStore, path: Path
    ) -> None:
        """Over pages that were once something else, whose sums are of then."""
        for _ in range(3):
            journal = await filled(store, 6)
            await store.checkpoint()
            await remove(journal, *range(6))
            await journal.keep_house()
        journal = await filled(store, 6)
        await store.close()
        assert is_sound(path)
        journal.store = SqliteStore(path)
        await journal.store.open()
        await journal.check()
        await journal.store.close()

    async def test_a_little_is_not_worth_the_moving(self, store: SqliteStore) -> None:
        journal = await filled(store, 2, entries=50)
        before = await store.space()
        await remove(journal, 0, 1)
        await journal.keep_house()
        space = await store.space()
        assert 0 < space.free_bytes <= FREE_PAGES_KEPT * PAGE_BYTES
        assert space.file_bytes == before.file_bytes

    async def test_a_backup_that_is_being_taken_is_whole(
        self, store: SqliteStore, path: Path
    ) -> None:
        """Although its file has fewer pages in the end than when it was begun."""
        journal = await filled(store, 10)
        await store.checkpoint()
        copy = await store.begin_copy()
        pages: dict[int, str] = {}
        begun = copy.pages
        pages |= {run.page: run.data for run in copy.next_slice()}
        await remove(journal, *range(9))
        while await store.maintain():
            if copy.left:
                pages |= {run.page: run.data for run in copy.next_slice()}
        await store.checkpoint()
        while not copy.is_whole or copy.left:
            if copy.is_almost_done():
                await store.finish_copy(copy)
            pages |= {run.page: run.data for run in copy.next_slice()}
        assert copy.pages < begun
        await journal.check()

    async def test_the_wal_stays_small_while_much_is_swept(
        self, store: SqliteStore, path: Path
    ) -> None:
        """Housekeeping is no commit of anybody's, and is checkpointed all the same."""
        journal = await filled(store, 10)
        await remove(journal, *range(10))
        await store.checkpoint()  # which leaves it empty
        sizes = []
        while await store.maintain():
            sizes.append((await store.space()).log_bytes)
        assert max(sizes) < 4 << 20


class TestWritingAnew:
    @pytest.fixture
    async def old(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> PlainJournal:
        """Give a journal that was made before pointer maps, half of it free."""
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
            connection.execute("PRAGMA auto_vacuum=NONE")
            connection.execute("PRAGMA journal_mode=WAL")  # which writes the first page
        store = SqliteStore(path, free_bytes_min=0)
        await store.open()
        journal = await filled(store, 8)
        await remove(journal, *range(6))
        await journal.keep_house()
        assert not (await store.space()).gives_back
        assert (await store.space()).free_bytes > FREE_PAGES_KEPT * PAGE_BYTES
        return journal

    async def test_a_journal_of_before_gives_back_from_then_on(
        self, old: PlainJournal, path: Path
    ) -> None:
        store = old.store
        assert isinstance(store, SqliteStore)
        await store.checkpoint()
        before = size_of(path)
        await store.vacuum()
        space = await store.space()
        assert space.gives_back
        assert space.free_bytes == 0
        assert size_of(path) == space.file_bytes < before / 2
        await old.check()
        await old.append("after")
        await store.close()
        assert is_sound(path)

    async def test_a_disk_that_fills_up_meanwhile_changes_nothing(
        self, old: PlainJournal, path: Path
    ) -> None:
        store = old.store
        assert isinstance(store, SqliteStore)
        database: Database = store._database
        await store._call(lambda: database._execute("PRAGMA max_page_count=10").fetchall())
        vacuum = database.room.vacuum

        def run_out() -> None:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            database.room._execute("PRAGMA auto_vacuum=INCREMENTAL")
            raise error

        database.room.vacuum = run_out  # type: ignore[method-assign]
        with pytest.raises(StorageFullError):
            await store.vacuum()
        database.room.vacuum = vacuum  # type: ignore[method-assign]
        await old.check()
        await store.close()
        assert is_sound(path)


class TestWiping:
    @pytest.mark.parametrize("is_copied", [False, True], ids=["log", "log copied already"])
    async def test_a_crash_at_any_moment_of_it_leaves_a_journal_that_is_whole(
        self,
        is_copied: bool,  # noqa: FBT001 - a parameter of the test
        store: SqliteStore,
        path: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A page that is written is, until its sum is, one whose sum is not known."""
        journal = await keyed(store)
        monkeypatch.setattr(wiping, "LAST_PAGES", 8)  # the rest is wiped with commits in between
        if is_copied:
            await copy_log(journal)
        left: list[Path] = []

        def seen(call: Callable[..., Any]) -> Callable[..., Any]:
            def with_copy(*arguments: Any) -> Any:
                copy = tmp_path / f"left-{len(left)}"
                copy.mkdir()
                for suffix in ("", "-wal", "-sums"):
                    name = f"{path.name}{suffix}"
                    shutil.copy(path.with_name(name), copy / name)
                left.append(copy)
                return call(*arguments)

            return with_copy

        monkeypatch.setattr(os, "pwrite", seen(os.pwrite))
        monkeypatch.setattr(os, "fdatasync", seen(os.fdatasync))
        await store.erase()
        monkeypatch.undo()
        await store.close()
        assert is_sound(path)
        assert len(left) > 10
        for copy in left:
            check_before_open(copy / path.name)
            journal.store = SqliteStore(copy / path.name)
            await journal.store.open()
            while await journal.store.sum_unknown():
                pass
            await journal.check()
            await journal.store.close()
            assert is_sound(copy / path.name)

    async def test_what_was_wiped_behind_a_checkpoint_stays_summed(
        self, store: SqliteStore, path: Path
    ) -> None:
        """The log still holds such pages as they were, and is not copied once more."""
        journal = await filled(store, 4, entries=200)
        for number in range(400):
            journal.add(f"agent-{number % 7}", key=f"{number * 7919 % 1000:04}-{'key' * 20}")
            await journal.commit()
        await remove(journal, 2, 5)
        await copy_log(journal)
        assert size_of(path) > (wiping.LAST_PAGES + 10) * PAGE_BYTES
        await store.erase()
        await journal.check()
        await store.close()
        assert is_sound(path)

    async def test_a_page_whose_sum_is_still_to_be_written_is_wiped_behind_that(
        self, store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The disk is full when the sums of a checkpoint are written, and then it is not."""
        journal = await keyed(store)
        monkeypatch.setattr(wiping, "LAST_PAGES", 8)

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "no space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(PageSums, "write", full)
            with pytest.raises(StorageFullError):
                await copy_log(journal)
        await store.erase()
        await journal.check()
        await store.close()
        assert is_sound(path)

    def test_only_what_lies_between_pointers_and_rows_is_overwritten(self) -> None:
        """And nothing of a page that SQLite did not write."""
        rows = b"row one, row two"
        page = bytearray(512)
        struct.pack_into(">BHHHBHH", page, 0, 13, 0, 2, 496, 0, 504, 496)
        page[496:] = rows
        assert wiped(bytes(page)) is None  # there is nothing to be done
        page[100:107] = b"remains"
        clean = bytes(page[:100]) + bytes(7) + bytes(page[107:])
        assert wiped(bytes(page)) == clean
        page[8:10] = (90).to_bytes(2, "big")  # a pointer into the room between
        assert wiped(bytes(page)) is None
        assert wiped(b"\0\0\1\2" + b"overflow" * 63) is None


async def keyed(store: SqliteStore) -> PlainJournal:
    """Fill a journal with keys that are put between others, and remove some agents."""
    journal = PlainJournal(store)
    for step in range(120):
        for number in range(6):
            key = f"{step * 7919 % 1000:04}-{'key' * 20}"
            journal.add(f"agent-{number}-{step % 20}", key=key)
        await journal.commit()
    await journal.keep_house()
    for number in range(6):
        journal.remove(f"agent-{number}-{number}")
    await journal.commit()
    await journal.keep_house()
    return journal


class TestErasing:
    def leftovers(self, path: Path) -> dict[str, int]:
        return {
            file.name: count
            for file in path.parent.iterdir()
            if (count := file.read_bytes().count(CANARY.encode()))
        }

    async def test_nothing_of_a_removed_agent_is_left_in_any_file(
        self, store: SqliteStore, path: Path
    ) -> None:
        """Not its events, its keys or its id: not in free space, in the WAL, or in an index.

        It wrote among others, so its rows and pages were theirs as well, and were
        split, moved and written again and again.
        """
        journal = PlainJournal(store)
        for step in range(150):
            for number in range(12):
                agent = f"{CANARY}-{step // 5}" if number == 5 else f"agent-{number}-{step % 40:03}"
                key = f"{CANARY if number == 5 else 'plain'}-{step * 7919 % 1000:04}-{number}"
                size = (step * 31 + number * 17) % 900
                text = (CANARY if number == 5 else "plain") * (size // 10 + 1)
                journal.add(agent, b'{"Noted":"%b"}' % text.encode(), key=key, kind=None)
            await journal.commit()
            if step % 50 == 20:
                journal.compact(f"agent-3-{step % 40:03}")
                journal.compact(f"{CANARY}-{step // 5 - 1}")
                await journal.commit()
                await journal.keep_house()
        assert self.leftovers(path)
        for number in range(30):
            journal.remove(f"{CANARY}-{number}")
        await journal.commit()
        await journal.keep_house()
        assert await store.is_swept()
        await store.erase()
        assert self.leftovers(path) == {}
        await journal.check()
        for step in range(60):  # SQLite writes its pages anew, from what it has of them
            journal.add(f"agent-{step % 12}-{step % 40:03}", key=f"plain-{step * 31 % 1000:04}-z")
            journal.add(f"new-{step * 37 % 100}", key="k")
            await journal.commit()
        await journal.keep_house()
        await store.checkpoint()
        assert self.leftovers(path) == {}
        await store.close()
        assert self.leftovers(path) == {}
        assert is_sound(path)
        # Nothing was made beside it.
        assert {file.name for file in path.parent.iterdir()} <= {
            "journal.db", "journal.db-sums", "journal.db-wal", "journal.db.lock"
        }  # fmt: skip
