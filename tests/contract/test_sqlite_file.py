"""The SQLite file itself: what is in it, what is refused, and what a failure leaves behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent_journal.errors import (
    ConfigError,
    DamagedError,
    JournalError,
    StorageFailedError,
    StorageFullError,
)
from agent_journal.model import AgentId
from agent_journal.store.base import Filter
from agent_journal.store.database import Database
from agent_journal.store.integrity import APPLICATION_ID
from agent_journal.store.opening import log_bytes
from agent_journal.store.page_sums import PageSums, sums_path
from agent_journal.store.rows import PAGE_BYTES
from agent_journal.store.sql import MIGRATIONS, QUERIES, SCHEMA_VERSION
from agent_journal.store.sqlite import SETTLE_KEYS, SqliteStore
from agent_journal.store.unsettled import RUN_ENTRIES_MAX
from agent_journal.testing.plain_journal import OWNER, PlainJournal, read_all


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


async def test_a_start_writes_nothing_before_it_has_a_base(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in a log that no mark tells of must not be copied: a cut amid it was damage."""
    logs: list[int] = []
    make_base = Database._make_base

    def looked(self: Database) -> bool:
        logs.append(log_bytes(path))
        return make_base(self)

    monkeypatch.setattr(Database, "_make_base", looked)
    for number in range(3):
        store = SqliteStore(path)
        await store.open()
        try:
            journal = PlainJournal(store)
            journal.next_position = store.next_position
            journal.add(f"agent-{number}")
            await journal.commit()
        finally:
            await store.close()
    assert logs[1:] == [0, 0]


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[PlainJournal]:
    store = SqliteStore(path, free_bytes_min=0, settle_entries=20)
    await store.open()
    journal = PlainJournal(store)
    try:
        yield journal
        await journal.check()
    finally:
        await journal.store.close()


async def reopen(journal: PlainJournal, path: Path) -> None:
    await journal.store.close()
    journal.store = SqliteStore(path, free_bytes_min=0)
    await journal.store.open()


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Return what *query* gives on a copy, so that the store's locks are not dropped."""
    copy = path.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in (path.name, f"{path.name}-wal"):
        if path.with_name(name).exists():
            shutil.copy(path.with_name(name), copy / name)
    with closing(sqlite3.connect(copy / path.name)) as connection:
        return connection.execute(query).fetchall()


def change(path: Path, *statements: str) -> None:
    """Change a closed store's file behind its back, and have the sums say that it is right."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    if sums_path(path).exists():
        resum(path)


def resum(path: Path) -> None:
    """Sum a closed store's file anew."""
    database = os.open(path, os.O_RDONLY)
    try:
        with PageSums.create(sums_path(path), PAGE_BYTES) as sums:
            sums.add_whole_file(database)
    finally:
        os.close(database)


def tables(path: Path) -> dict[str, int]:
    return {
        name: rows(path, f"SELECT count(*) FROM {name}")[0][0]  # noqa: S608 - our own names
        for name in ("log", "runs", "keys", "doomed")
    }


class TestFile:
    async def test_it_says_what_it_is(self, journal: PlainJournal, path: Path) -> None:
        await journal.append("a")
        assert rows(path, "PRAGMA application_id") == [(APPLICATION_ID,)]
        assert rows(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
        assert rows(path, "PRAGMA journal_mode") == [("wal",)]
        assert rows(path, "PRAGMA integrity_check") == [("ok",)]

    async def test_it_is_opened_durable_and_alone(self, journal: PlainJournal, path: Path) -> None:
        """FULL is read back, and nobody else gets in while the daemon holds the file."""
        await journal.append("a")
        database = journal.store._database  # type: ignore[attr-defined]
        for pragma, value in (
            ("synchronous", 2),
            ("locking_mode", "exclusive"),
            ("wal_autocheckpoint", 0),
        ):
            (found,) = await journal.store._call(  # type: ignore[attr-defined]
                lambda pragma=pragma: database._execute(f"PRAGMA {pragma}").fetchone()
            )
            assert found == value

    async def test_an_acknowledged_commit_is_in_the_file(
        self, journal: PlainJournal, path: Path
    ) -> None:
        """A copy of the files, taken at any moment, holds all that was acknowledged."""
        for count in range(1, 6):
            await journal.append("a", b'{"Here":%d}' % count)
            found = rows(path, "SELECT data FROM log ORDER BY position")
            assert len(found) == count
            assert b'{"Here":%d}' % count in found[-1][0]

    async def test_a_sweep_gives_every_row_back(self, journal: PlainJournal, path: Path) -> None:
        """What was compacted leaves no row in any table, and its neighbours all of theirs."""
        for step in range(50):
            journal.add("a", key=f"{step:02}")
            journal.add("b", b'{"Kept":"%b"}' % (b"x" * 100))
            await journal.commit()
        await journal.keep_house()
        before = tables(path)
        assert before["keys"] == 50
        journal.compact("a")
        await journal.commit()
        await journal.keep_house()
        after = tables(path)
        assert (after["keys"], after["doomed"]) == (0, 0)
        assert after["log"] == before["log"]  # shared with the other agent
        journal.compact("b")
        await journal.commit()
        await journal.keep_house()
        # One cleared row stands for all of them.
        assert tables(path) == {"log": 1, "runs": 0, "keys": 0, "doomed": 0}

    async def test_space_that_was_given_back_is_used_again(
        self, journal: PlainJournal, path: Path
    ) -> None:
        sizes = []
        for _ in range(8):
            for _ in range(10):
                await journal.append("a", *[b'{"Blob":"%b"}' % (b"x" * 2000)] * 10)
            journal.compact("a")
            await journal.commit()
            await journal.keep_house()
            sizes.append(rows(path, "PRAGMA page_count")[0][0])
        assert sizes[-1] <= sizes[1]

    async def test_a_sweep_waits_for_the_index(self, journal: PlainJournal, path: Path) -> None:
        """Entries that no index names yet would be left behind for ever."""
        await journal.append("a", *[b'{"A":1}'] * 3)
        await journal.append("b", *[b'{"B":1}'] * 3)
        journal.compact("a")
        await journal.commit()
        await reopen(journal, path)
        await journal.keep_house()
        assert tables(path)["doomed"] == 0
        (data,) = next(iter(rows(path, "SELECT data FROM log")), (b"",))
        assert b'{"A":1}' not in data

    async def test_a_clean_stop_leaves_the_index_complete_and_no_wal(
        self, journal: PlainJournal, path: Path
    ) -> None:
        store = journal.store
        assert isinstance(store, SqliteStore)
        for step in range(33):
            await journal.append(f"agent-{step % 5}")
        await store.settle_all()
        await store.checkpoint()
        assert path.with_name(path.name + "-wal").stat().st_size == 0
        assert rows(path, "SELECT value FROM marks WHERE name = 'settled_position'") == [(33,)]

    async def test_the_wal_does_not_grow_with_the_journal(
        self, journal: PlainJournal, path: Path
    ) -> None:
        """The writer checkpoints every so many commits, so the WAL wraps around."""
        wal = path.with_name(path.name + "-wal")
        sizes = []
        for step in range(600):
            await journal.append(f"agent-{step % 7}", b'{"Blob":"%b"}' % (b"x" * 1000))
            sizes.append(wal.stat().st_size)
        assert max(sizes[300:]) <= max(sizes[:300])


class TestRefused:
    """Files that this daemon must not touch, or can't serve from."""

    @pytest.fixture
    def closed(self, path: Path) -> Path:
        async def make() -> None:
            store = SqliteStore(path, free_bytes_min=0)
            await store.open()
            await PlainJournal(store).append("a")
            await store.close()

        asyncio.run(make())
        return path

    async def refusal(self, path: Path) -> BaseException:
        store = SqliteStore(path, free_bytes_min=0)
        with pytest.raises((ConfigError, JournalError)) as refused:
            await store.open()
        await store.close()
        for thread in threading.enumerate():  # aiosqlite's; it ends by itself, and needs the loop
            if "_connection_worker_thread" in thread.name:
                await asyncio.to_thread(thread.join)
        return refused.value

    def test_a_newer_schema(self, closed: Path) -> None:
        change(closed, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        refused = asyncio.run(self.refusal(closed))
        assert isinstance(refused, ConfigError)
        assert "newer" in str(refused)

    @pytest.mark.parametrize("version", [0, SCHEMA_VERSION], ids=str)
    def test_another_applications_database_is_refused_and_left_as_it_is(
        self, path: Path, version: int
    ) -> None:
        """Many an application counts its schemas in user_version too."""
        change(path, "CREATE TABLE precious (thing TEXT)", f"PRAGMA user_version = {version}")
        before = path.read_bytes()
        refused = asyncio.run(self.refusal(path))
        assert isinstance(refused, ConfigError)
        assert "not a journal" in str(refused)
        assert path.read_bytes() == before

    @pytest.mark.parametrize("content", [b"not a database, but long enough" * 99], ids=["text"])
    def test_a_file_of_another_kind(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        refused = asyncio.run(self.refusal(path))
        assert isinstance(refused, DamagedError)
        assert str(path) in str(refused)
        assert path.read_bytes() == content

    def test_a_directory_that_is_not_there(self, tmp_path: Path) -> None:
        refused = asyncio.run(self.refusal(tmp_path / "nowhere" / "journal.db"))
        assert isinstance(refused, StorageFailedError)
        assert "nowhere" in str(refused)

    def test_a_file_that_another_process_holds(
        self, closed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with closing(sqlite3.connect(closed, isolation_level=None)) as holder:
            holder.execute("PRAGMA locking_mode=EXCLUSIVE")
            holder.execute("BEGIN EXCLUSIVE")
            monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0))
            refused = asyncio.run(self.refusal(closed))
        assert isinstance(refused, StorageFailedError)
        assert "locked" in str(refused)

    def test_a_log_without_a_row_that_the_index_names(self, closed: Path) -> None:
        """A hole in a history is damage, and never taken for the history's end."""

        async def read_over_the_hole() -> None:
            store = SqliteStore(closed, free_bytes_min=0)
            await store.open()
            try:
                journal = PlainJournal(store)
                for _ in range(5):
                    await journal.append("x", *[b'{"Blob":"%b"}' % (b"x" * 500)] * 10)
                    await journal.append("y")
                await store.settle_all()
                number = journal.agent("x").record.number
            finally:
                await store.close()
            change(  # the third row of x's; y's are small
                closed,
                "DELETE FROM log WHERE position = (SELECT position FROM log "
                "WHERE length(data) > 1000 ORDER BY position LIMIT 1 OFFSET 2)",
            )
            store = SqliteStore(closed, free_bytes_min=0)
            await store.open()
            try:
                found = 0
                while found < 50:
                    some = await store.read(number, from_sequence=found, limit=7, bytes_max=10**9)
                    assert some, "the history seems to end where the hole is"
                    assert [e.sequence for e in some] == [*range(found, found + len(some))]
                    found += len(some)
            finally:
                await store.close()

        with pytest.raises(DamagedError):
            asyncio.run(read_over_the_hole())

    @pytest.mark.parametrize("data", [b"", b"\x01", b"\x02\x01\x00" + b"x" * 50, b"\x01\xff\xff"])
    def test_a_row_that_cannot_be_unpacked(self, closed: Path, data: bytes) -> None:
        change(closed, f"UPDATE log SET data = x'{data.hex()}'")  # noqa: S608 - our own bytes
        refused = asyncio.run(self.refusal(closed))
        assert isinstance(refused, DamagedError)
        assert "position 0" in str(refused)


class TestFailures:
    async def test_without_room_nothing_is_recorded_and_everything_else_goes_on(
        self, journal: PlainJournal
    ) -> None:
        """Disk full: reads and compactions go on, and appends when there is room again."""
        store = journal.store
        assert isinstance(store, SqliteStore)
        for _ in range(3):
            await journal.append("a")
            store.free_bytes_min = 1 << 62
            journal.add("a")
            journal.add("b")
            with pytest.raises(StorageFullError, match="free_bytes_min"):
                await journal.commit()
            await journal.check()
            journal.compact("a")
            await journal.commit()
            store.free_bytes_min = 0
            await journal.append("a")
            await journal.check()

    async def test_a_batch_that_does_not_fit_is_rolled_back_whole(
        self, journal: PlainJournal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SQLite says FULL in the middle of a transaction: none of it is there."""
        await journal.append("a")
        database = journal.store._database  # type: ignore[attr-defined]
        limit = await journal.store._call(  # type: ignore[attr-defined]
            lambda: database._execute("PRAGMA page_count").fetchone()[0] + 2
        )
        await journal.store._call(  # type: ignore[attr-defined]
            lambda: database._execute(f"PRAGMA max_page_count={limit}").fetchone()
        )
        for size in (1, 100):  # in a statement of its own, and in a transaction
            for _ in range(size):
                journal.add("a", b'{"Blob":"%b"}' % (b"x" * 30_000))
            journal.add("new", b'{"Blob":"%b"}' % (b"x" * 30_000))
            with pytest.raises(StorageFullError):
                await journal.commit()
            await journal.check()
        await journal.store._call(  # type: ignore[attr-defined]
            lambda: database._execute("PRAGMA max_page_count=1000000").fetchone()
        )
        await journal.append("a", b'{"After":1}')

    async def test_the_index_is_tried_again_when_there_is_room(
        self, journal: PlainJournal, short_slices: None
    ) -> None:
        """A slice of housekeeping that finds the disk full loses nothing of its work."""
        store = journal.store
        assert isinstance(store, SqliteStore)
        for step in range(40):
            journal.add(f"agent-{step}")
        database = store._database
        real, calls = database.settle, 0

        def settle(*arguments: Any, **named: Any) -> None:
            nonlocal calls
            calls += 1
            if calls % 2:
                raise StorageFullError("the disk is full (this is a test)")
            real(*arguments, **named)

        database.settle = settle  # type: ignore[method-assign]
        with pytest.raises(StorageFullError):  # it is durable, and then house is kept
            await journal.commit()
        is_more = True
        while is_more:
            store._entries_since_settling = 0  # so that a slice is as small as it can be
            try:
                is_more = await store.maintain()
            except StorageFullError:
                await journal.check()
        assert calls >= 40
        await journal.check()

    async def test_a_failed_sync_is_told_and_not_tried_again(self, journal: PlainJournal) -> None:
        await journal.append("a")
        database = journal.store._database  # type: ignore[attr-defined]
        calls = 0

        def write(*_: object) -> None:
            nonlocal calls
            calls += 1
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
            raise error

        real, database.write = database.write, write
        journal.add("a")
        with pytest.raises(StorageFailedError, match="SQLITE_IOERR_FSYNC"):
            await journal.commit()
        assert calls == 1
        database.write = real

    async def test_a_commit_is_recorded_though_its_caller_is_cancelled(
        self, journal: PlainJournal, path: Path
    ) -> None:
        """Handed to the thread is as good as done; a cancelled await does not undo it."""
        await journal.append("a")
        journal.add("a", b'{"Cancelled":1}')
        commit = asyncio.ensure_future(journal.commit())
        await asyncio.sleep(0)
        commit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await commit
        await reopen(journal, path)
        number = journal.agent("a").record.number
        (record,) = await journal.store.load([(OWNER, AgentId("a"))])
        assert record is not None
        entries = await read_all(journal.store, record)
        assert [entry.event for entry in entries[1:]] == [b'{"Cancelled":1}']
        journal.agents[OWNER, AgentId("a")].entries[:] = entries
        journal.agents[OWNER, AgentId("a")].record = record
        journal.next_position += 1
        assert number == record.number


class TestTogether:
    async def test_readers_see_whole_histories_while_commits_and_housekeeping_go_on(
        self, journal: PlainJournal, short_slices: None
    ) -> None:
        """Slices of many readers in between: each sees neighbouring entries, none twice."""
        await journal.append("a", *[b'{"First":1}'] * 30)
        number = journal.agent("a").record.number
        is_done = False

        async def read() -> int:
            rounds = 0
            while not is_done:
                rounds += 1
                sequence = 0
                while some := await journal.store.read(
                    number, from_sequence=sequence, limit=9, bytes_max=1000
                ):
                    assert [e.sequence for e in some] == [*range(sequence, sequence + len(some))]
                    sequence += len(some)
                assert sequence >= 30
            return rounds

        async def follow() -> list[int]:
            seen: list[int] = []
            position = 0
            is_end = False
            while not is_done or not is_end:
                scan = await journal.store.scan(
                    Filter(), from_position=position, limit=9, bytes_max=500
                )
                seen += [entry.position for _, entry in scan.entries]
                position, is_end = scan.next_position, scan.is_end
            return seen

        async with asyncio.TaskGroup() as tasks:
            readers = [tasks.create_task(read()) for _ in range(3)]
            followers = [tasks.create_task(follow()) for _ in range(2)]
            for step in range(60):
                await journal.append(f"agent-{step % 3}")
                await journal.append("a", b'{"More":1}')
            is_done = True
        assert all(reader.result() > 0 for reader in readers)
        for follower in followers:
            assert follower.result() == [entry.position for _, entry in journal.log()]

    async def test_readers_of_what_is_compacted_meanwhile_come_to_its_end(
        self, journal: PlainJournal, short_slices: None
    ) -> None:
        """They see a beginning of the history they began with, and call nothing damaged."""
        await journal.append("a")
        is_done = False

        async def read() -> int:
            rounds = 0
            while not is_done:
                (record,) = await journal.store.load([(OWNER, AgentId("a"))])
                assert record is not None
                entries = await read_all(journal.store, record, limit=3, bytes_max=60)
                assert [entry.sequence for entry in entries] == [*range(len(entries))]
                assert {entry.number for entry in entries} <= {record.number}
                rounds += 1
            return rounds

        async with asyncio.TaskGroup() as tasks:
            readers = [tasks.create_task(read()) for _ in range(4)]
            for step in range(100):
                journal.add("b")
                await journal.append("a", *[b'{"A":%d}' % step] * 3)
                if step % 9 == 8:
                    journal.compact("a")
                    journal.add("a")
                    await journal.commit()
                for _ in range(step % 5):
                    await journal.store.maintain()
            is_done = True
        assert all(reader.result() > 0 for reader in readers)

    async def test_a_reader_of_a_compacted_history_ends_and_sees_nothing_else(
        self, journal: PlainJournal, short_slices: None
    ) -> None:
        """Whatever was swept meanwhile: a slice holds entries of the old history, or none."""
        for _ in range(4):
            for step in range(40):
                await journal.append("a", b'{"A":%d}' % step)
                await journal.append("b")
            number = journal.agent("a").record.number
            journal.compact("a")
            await journal.commit()
            sequence = 0
            for _ in range(300):
                some = await journal.store.read(
                    number, from_sequence=sequence % 40, limit=3, bytes_max=1000
                )
                assert all(entry.event.startswith(b'{"A":') for entry in some)
                sequence += 3
                if not await journal.store.maintain():
                    break
            assert await journal.store.read(number, from_sequence=0, limit=9, bytes_max=99) == []


def test_the_cost_of_an_agent_does_not_depend_on_the_journals_size() -> None:
    """Every query that is asked by agent, key or position uses an index, and scans nothing."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for script in MIGRATIONS:
            connection.executescript(script)
        for name, query in QUERIES.items():
            parameters = [0] * 20
            plan = "\n".join(
                row[3]
                for row in connection.execute(
                    f"EXPLAIN QUERY PLAN {query}", parameters[: _parameters(query)]
                )
            )
            if name not in {"rows_from", "rows_before", "last_row", "agents_of_all"}:
                assert "SCAN log" not in plan, name
                assert "SCAN agents" not in plan, name
                assert "SCAN runs" not in plan, name
            assert "USE TEMP B-TREE" not in plan, name


def _parameters(query: str) -> int:
    numbered = [int(part[0]) for part in query.split("?")[1:] if part[:1].isdigit()]
    return max(numbered, default=query.count("?"))


class TestSettlingUnderLoad:
    async def test_long_histories_that_alternate_are_indexed_in_runs_of_bounded_length(
        self, path: Path
    ) -> None:
        """A reader of one entry reads the whole run that it is in."""
        store = SqliteStore(path, free_bytes_min=0)
        await store.open()
        try:
            journal = PlainJournal(store)
            for _ in range(13):
                for _ in range(200):
                    journal.add("a")
                    journal.add("b")
                await journal.commit()
            await store.settle_all()
            await journal.check(page=997)
            assert rows(path, "SELECT max(count), count(*) FROM runs") == [(RUN_ENTRIES_MAX, 6)]
        finally:
            await store.close()

    async def test_keys_are_settled_before_they_fill_the_memory(self, path: Path) -> None:
        store = SqliteStore(path, free_bytes_min=0)
        await store.open()
        try:
            journal = PlainJournal(store)
            for number in range(SETTLE_KEYS + 1):
                journal.add("a", key=f"{number:08}")
                if number % 1000 == 0:
                    await journal.commit()
            await journal.commit()
            while await store.maintain():
                pass
            assert store._unsettled.current.keys + store._unsettled.current.entries == 0
            assert rows(path, "SELECT count(*) FROM keys") == [(SETTLE_KEYS + 1,)]
        finally:
            await store.close()

    async def test_batches_that_each_call_for_a_checkpoint_are_settled_all_the_same(
        self, path: Path
    ) -> None:
        """What the index has not reached is in memory, so it has to be reached under any load."""
        store = SqliteStore(path, free_bytes_min=1, settle_entries=20)
        await store.open()
        try:
            journal = PlainJournal(store)
            for _ in range(30):  # no batch finds the journal idle, nor the disk looked at
                await journal.append("a", *[b'{"Blob":"%b"}' % (b"x" * 60_000)] * 10)
                while store.is_maintenance_due and await store.maintain():
                    pass
            assert store._unsettled.current.entries < 60
        finally:
            await store.close()
