"""A journal whose files are not what was written is refused, and left as it is."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from agent_journal.errors import DamagedError, JournalError, StorageFailedError, StorageFullError
from agent_journal.model import Micros
from agent_journal.store.attached import unfinished_of
from agent_journal.store.attachment import Attachment, Command, Owner
from agent_journal.store.base import Filter
from agent_journal.store.checkpoints import Checkpoints
from agent_journal.store.integrity import APPLICATION_ID
from agent_journal.store.page_sums import Flags, PageSums, sums_path
from agent_journal.store.rebuilding import rebuild
from agent_journal.store.sql import MIGRATIONS, SCHEMA_VERSION
from agent_journal.store.sqlite import SqliteStore
from agent_journal.store.verification import verify
from agent_journal.store.wal_scan import scan, wal_path
from agent_journal.testing.plain_journal import PlainJournal

PAGE = 8192


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "journal"
    folder.mkdir()
    return folder / "journal.db"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[PlainJournal]:
    journal = PlainJournal(await opened(path))
    try:
        yield journal
    finally:
        await journal.store.close()


async def opened(path: Path) -> SqliteStore:
    store = SqliteStore(path, free_bytes_min=0, settle_entries=50)
    try:
        await store.open()
    except BaseException:
        await store.close()
        raise
    return store


async def write(journal: PlainJournal, commits: int = 10, *, size: int = 2000) -> None:
    for step in range(commits):
        for agent in ("a", "b"):
            journal.add(agent, b'{"N":"%b"}' % os.urandom(size // 2).hex().encode(), key=f"{step}")
        await journal.commit()


def copied(path: Path) -> Path:
    """Return a copy of the journal as a killed daemon would leave it now."""
    folder = path.parent.with_name(f"copy{len(list(path.parents[1].iterdir()))}")
    shutil.copytree(path.parent, folder)
    return folder / path.name


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.parent.iterdir())}


def pages_of(path: Path) -> int:
    return path.stat().st_size // PAGE


def sum_up(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    with PageSums.create(sums_path(path), PAGE) as sums:
        sums.add_whole_file(descriptor)
    os.close(descriptor)


def flip(path: Path, at: int, bit: int = 3) -> None:
    changed = bytearray(path.read_bytes())
    changed[at] ^= 1 << bit
    path.write_bytes(changed)


async def refusal(path: Path) -> DamagedError:
    """Return why the journal is refused; it must be as it was."""
    before = content(path)
    with pytest.raises(DamagedError) as refused:
        await opened(path)
    assert content(path) == before
    return refused.value


async def marked(journal: PlainJournal) -> None:
    """Have the log's end be marked, as after a quiet moment."""
    store = journal.store
    assert isinstance(store, SqliteStore)
    await store._call(store._database.checkpoints.mark_log)


class TestFiles:
    """Files that are gone, cut off, or older than the others."""

    async def test_as_it_was_left_it_is_served(self, journal: PlainJournal, path: Path) -> None:
        """At any moment, with or without a mark."""
        for _ in range(5):
            await write(journal, 3)
            for mark in (False, True):
                if mark:
                    await marked(journal)
                store = await opened(copied(path))
                other = PlainJournal(store)
                other.agents, other.next_position = journal.agents, journal.next_position
                await other.check()
                await store.close()
            await journal.keep_house()

    @pytest.mark.parametrize("suffix", ["-wal", "-sums", ""])
    async def test_a_file_is_gone(self, journal: PlainJournal, path: Path, suffix: str) -> None:
        await write(journal)
        copy = copied(path)
        copy.with_name(copy.name + suffix).unlink()
        assert copy.name + suffix in str(await refusal(copy))

    @pytest.mark.parametrize("suffix", ["-wal", "-sums", ""])
    async def test_a_file_is_empty(self, journal: PlainJournal, path: Path, suffix: str) -> None:
        await write(journal)
        copy = copied(path)
        os.truncate(copy.with_name(copy.name + suffix), 0)
        await refusal(copy)

    @pytest.mark.parametrize("suffix", ["-wal", ""])
    async def test_an_older_file_was_put_back(
        self, journal: PlainJournal, path: Path, suffix: str
    ) -> None:
        old = None
        for _ in range(3):
            await write(journal)
            await journal.store.checkpoint()  # type: ignore[attr-defined]
            await write(journal)
            old = old or copied(path)
        assert old is not None
        copy = copied(path)
        put_back = old.with_name(old.name + suffix)
        shutil.copy(put_back, copy.with_name(copy.name + suffix))
        await refusal(copy)

    async def test_the_log_ends_before_what_was_marked(
        self, journal: PlainJournal, path: Path
    ) -> None:
        """The last commit is the one that nothing but the mark tells from a torn one."""
        await write(journal)
        await marked(journal)
        whole = copied(path)
        end = wal_path(whole).read_bytes()
        salts = end[16:24]
        frames = 0
        while end[32 + frames * (PAGE + 24) + 8 : 32 + frames * (PAGE + 24) + 16] == salts:
            frames += 1
        flip(wal_path(whole), 32 + (frames - 1) * (PAGE + 24) + 500)
        assert "acknowledged" in str(await refusal(whole))

    async def test_a_database_without_its_newest_commits_is_told_by_its_sums(
        self, journal: PlainJournal, path: Path
    ) -> None:
        """One that was restored from a copy which was made behind the daemon's back."""
        await write(journal)
        await journal.store.checkpoint()  # type: ignore[attr-defined]
        old = copied(path)
        await write(journal)
        await journal.store.checkpoint()  # type: ignore[attr-defined]
        copy = copied(path)
        shutil.copy(old, copy)
        assert "page" in str(await refusal(copy))

    async def test_what_is_said_is_what_to_do(self, journal: PlainJournal, path: Path) -> None:
        await write(journal)
        copy = copied(path)
        sums_path(copy).unlink()
        refused = await refusal(copy)
        for words in (
            str(copy),
            f"agent-journal verify --offline {copy}",
            "agent-journal restore",
            "agent-journal accept-loss",
            "nothing was changed",
        ):
            assert words in str(refused)
        assert refused.details == {"part": "sums", "path": str(copy)}


class TestPages:
    async def test_any_flipped_bit_of_the_database_is_refused_or_is_in_the_log(
        self, journal: PlainJournal, path: Path
    ) -> None:
        await write(journal, 30)
        await journal.keep_house()
        await journal.store.checkpoint()  # type: ignore[attr-defined]
        copy = copied(path)
        size = len(content(copy)[copy.name])
        for at in range(7, size, size // 40):
            flip(copy, at)
            refused = await refusal(copy)
            assert refused.details["page"] == at // PAGE + 1
            flip(copy, at)
        store = await opened(copy)
        await store.close()

    async def test_the_scrub_finds_a_bit_that_flips_while_it_is_open(
        self, journal: PlainJournal, path: Path
    ) -> None:
        store = journal.store
        assert isinstance(store, SqliteStore)
        await write(journal, 30)
        await store.checkpoint()
        assert await store.scrub(Micros(5)) > 1
        while await store.scrub(Micros(6)):
            pass
        assert store.mark is not None
        assert (store.mark.scrub_page, store.mark.scrubbed_at) == (1, 6)
        await write(journal, 1)
        page = min({*range(2, 9)} - {*pages_in_log(path)})
        _flip_in_place(path, (page - 1) * PAGE + 9)
        with pytest.raises(DamagedError, match=f"page {page} is not what was written"):
            await store.scrub(Micros(7))
        before = content(path)
        for attempt in (
            store.read(journal.agent("a").record.number, from_sequence=0, limit=1, bytes_max=1),
            store.scan(Filter(), from_position=0, limit=1, bytes_max=1),
        ):
            with pytest.raises(DamagedError, match=f"page {page}"):
                await attempt
        with pytest.raises(DamagedError):
            await write(journal, 1)
        await store.close()
        assert content(path) == before

    async def test_a_page_that_a_checkpoint_writes_anew_is_no_damage(
        self, journal: PlainJournal, path: Path
    ) -> None:
        store = journal.store
        assert isinstance(store, SqliteStore)
        await write(journal)
        await store.checkpoint()
        await write(journal, 1)  # page 1 is in the log again
        in_log = pages_in_log(path)
        assert in_log
        _flip_in_place(path, (in_log[0] - 1) * PAGE + 100)
        while await store.scrub(Micros(7)):
            pass
        await journal.check()

    async def test_on_a_full_disk_pages_count_as_the_log_has_them(
        self, journal: PlainJournal, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A checkpoint that finds no room has written some pages, of which no sum tells."""
        store = journal.store
        assert isinstance(store, SqliteStore)
        await write(journal, 30)
        await store.checkpoint()
        await write(journal, 1)

        def full(_: Checkpoints) -> None:
            raise StorageFullError("no room")

        monkeypatch.setattr(Checkpoints, "passive", full)
        for page in {*pages_in_log(path)} & {*range(1, pages_of(path) + 1)}:
            _flip_in_place(path, (page - 1) * PAGE + 100)
        first = 1
        while (looked_at := await store.check_pages(first))[0]:
            first += looked_at[0]
        assert first > 8
        page = min({*range(2, 9)} - {*pages_in_log(path)})
        _flip_in_place(path, (page - 1) * PAGE + 9)
        with pytest.raises(DamagedError, match=f"page {page} is not what was written"):
            await store.check_pages(1)


def pages_in_log(path: Path) -> list[int]:
    return sorted(scan(wal_path(path), page_bytes=PAGE).latest)


def _flip_in_place(path: Path, at: int) -> None:
    """Flip a bit in another process: closing the file in this one would drop SQLite's locks."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            descriptor = os.open(path, os.O_RDWR)
            (byte,) = os.pread(descriptor, 1, at)
            os.pwrite(descriptor, bytes([byte ^ 8]), at)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


class TestCrashes:
    """A kill between any two steps of a checkpoint leaves a journal that is served."""

    @pytest.mark.parametrize("step", range(1, 12))
    @pytest.mark.parametrize("mode", ["PASSIVE", "TRUNCATE"])
    async def test_a_kill_amid_a_checkpoint(
        self,
        journal: PlainJournal,
        path: Path,
        monkeypatch: pytest.MonkeyPatch,
        step: int,
        mode: str,
    ) -> None:
        await write(journal, 20)
        await journal.keep_house()
        await write(journal, 4)
        copies: list[Path] = []
        calls = 0

        def copying(name: str) -> None:
            function = getattr(PageSums, name)

            def before_and_after(*arguments: object) -> object:
                nonlocal calls
                calls += 1
                if calls == step:
                    copies.append(copied(path))
                return function(*arguments)

            monkeypatch.setattr(PageSums, name, before_and_after)

        for name in ("write", "_put_block", "put_mark", "sync"):
            copying(name)
        store = journal.store
        assert isinstance(store, SqliteStore)
        await store._call(lambda: store._database.checkpoint(mode))
        monkeypatch.undo()
        for copy in copies or [copied(path)]:
            again = PlainJournal(await opened(copy))
            again.agents, again.next_position = journal.agents, journal.next_position
            await again.check()
            await write_other(again)
            await again.store.close()
            store = await opened(copy)
            await store.close()

    @pytest.mark.parametrize("name", ["write", "put_mark", "sync"])
    async def test_sums_that_find_no_room_hold_up_commits_until_there_is(
        self, journal: PlainJournal, path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """Otherwise the log would be begun anew over pages whose sums are old."""
        await write(journal, 5)
        store = journal.store
        assert isinstance(store, SqliteStore)

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(PageSums, name, full)
        with pytest.raises(StorageFullError, match="-sums is full"):
            await store._call(lambda: store._database.checkpoint("PASSIVE"))
        with pytest.raises(StorageFullError):
            await write(journal, 1)
        await journal.check()  # reads go on
        monkeypatch.undo()
        await write(journal, 1)
        again = await opened(copied(path))
        await again.close()

    async def test_sums_that_cannot_be_written_end_the_store(
        self, journal: PlainJournal, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And closing it changes nothing: the next start has the log, and sums it."""
        await write(journal, 5)
        store = journal.store
        assert isinstance(store, SqliteStore)

        def broken(*_: object) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(PageSums, "sync", broken)
        with pytest.raises(StorageFailedError):
            await store._call(lambda: store._database.checkpoint("PASSIVE"))
        before = content(path)
        await store.close()
        assert content(path) == before
        monkeypatch.undo()
        copy = copied(path)
        again = PlainJournal(await opened(copy))
        again.agents, again.next_position = journal.agents, journal.next_position
        await again.check()
        await again.store.close()

    async def test_a_log_that_somebody_deletes_ends_the_store_and_loses_nothing(
        self, journal: PlainJournal, path: Path
    ) -> None:
        await write(journal, 5)
        await journal.keep_house()
        store = journal.store
        assert isinstance(store, SqliteStore)
        await write(journal, 2)
        await store._call(lambda: store._database.checkpoint("PASSIVE"))
        await write(journal, 2)
        wal_path(path).unlink()
        with pytest.raises(StorageFailedError, match="deleted"):
            await store._call(lambda: store._database.checkpoint("PASSIVE"))
        copy = copied(path)
        again = PlainJournal(await opened(copy))
        again.agents, again.next_position = journal.agents, journal.next_position
        await again.check()
        await again.store.close()


async def write_other(journal: PlainJournal) -> None:
    await write(journal, 2)
    await journal.keep_house()
    await journal.check()


class TestGrowth:
    async def test_a_database_that_shrinks_and_grows_again_is_right(
        self, journal: PlainJournal, path: Path
    ) -> None:
        store = journal.store
        assert isinstance(store, SqliteStore)
        database = store._database
        for _ in range(3):
            await write(journal, 20)
            await journal.keep_house()
            journal.compact("a")
            await journal.commit()
            await journal.keep_house()
            await store.checkpoint()
            pages = pages_of(path)
            await store._call(lambda: database._execute("VACUUM"))
            await store.checkpoint()
            assert pages_of(path) < pages
            assert store.mark is not None
            assert store.mark.pages == pages_of(path)
            again = await opened(copied(path))
            await again.close()


class TestUpgrade:
    """A journal of the schema before sums is brought up to date, and nothing is lost."""

    ENTRIES = 1500

    @pytest.fixture
    def old(self, path: Path) -> Path:
        """Make a journal as the version before left it, with rows of format 1."""
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(f"PRAGMA page_size={PAGE}")
            connection.execute("PRAGMA journal_mode=WAL")
            for script in MIGRATIONS[:2]:
                connection.executescript(script)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute("PRAGMA user_version=2")
            connection.execute(
                "INSERT INTO agents VALUES (1, 1000, 'old', 'running', NULL, 0, 0, NULL, 0,"
                " 5, 6, 0, 0, '', NULL)"
            )
            for sequence in range(self.ENTRIES):
                event = b'{"Old":"%b"}' % (b"%d" % sequence * 300)
                header = struct.pack("<QQqIIIH", 1, sequence, 100 + sequence, 0, 0, len(event), 0)
                row = struct.pack("<BH", 1, 1) + header + event
                connection.execute("INSERT INTO log VALUES (?, ?)", (sequence, row))
            # A gap that a sweep of that version left behind.
            connection.execute("DELETE FROM log WHERE position BETWEEN 100 AND 140")
        return path

    async def everything(self, path: Path) -> list[tuple[int, bytes]]:
        store = await opened(path)
        try:
            found: list[tuple[int, bytes]] = []
            position = 0
            while True:
                some = await store.scan(
                    Filter(), from_position=position, limit=100, bytes_max=10**6
                )
                found += [(entry.position, entry.event) for _, entry in some.entries]
                position = some.next_position
                if some.is_end:
                    return found
        finally:
            await store.close()

    async def test_all_of_it_is_there_and_summed(self, old: Path) -> None:
        found = await self.everything(old)
        assert [position for position, _ in found] == [
            position for position in range(self.ENTRIES) if not 100 <= position <= 140
        ]
        with PageSums.open(sums_path(old)) as sums:
            assert Flags.IN_FORCE in sums.mark.flags
            assert sums.mark.unknown_first > sums.mark.unknown_last
            assert sums.mark.pages == pages_of(old)
        with closing(sqlite3.connect(old)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert await self.everything(old) == found

    async def test_new_entries_are_chained_behind_the_old(self, old: Path) -> None:
        store = await opened(old)
        journal = PlainJournal(store)
        journal.next_position = self.ENTRIES
        await journal.append("new")
        await store.close()
        assert len(await self.everything(old)) == self.ENTRIES - 41 + 1

    async def test_a_large_one_is_summed_while_it_is_served(
        self, old: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And a start in the middle goes on where it was."""
        monkeypatch.setattr("agent_journal.store.database.START_BYTES_MAX", 1)
        store = await opened(old)
        assert store.mark is not None
        assert store.mark.unknown_first <= store.mark.unknown_last
        await store.sum_unknown()
        reached = store.mark.unknown_first
        assert store.mark.unknown_first <= store.mark.unknown_last
        await store.close()
        store = await opened(old)
        assert store.mark.unknown_first == reached
        journal = PlainJournal(store)
        journal.next_position = self.ENTRIES
        await write(journal, 3)
        while await store.sum_unknown():
            await write(journal, 1)
        await store.close()
        with PageSums.open(sums_path(old)) as sums:
            descriptor = os.open(old, os.O_RDONLY)
            assert list(sums.all_mismatches(descriptor)) == []
            assert all(sums.is_known(page) for page in range(1, sums.mark.pages + 1))
            os.close(descriptor)

    async def test_a_crash_before_the_new_schema_begins_again(
        self, old: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def crash(*_: object) -> None:
            raise StorageFailedError("killed")

        monkeypatch.setattr("agent_journal.store.database.migrate", crash)
        with suppress(JournalError):
            await opened(old)
        monkeypatch.undo()
        assert sums_path(old).exists()
        assert len(await self.everything(old)) == self.ENTRIES - 41

    async def test_an_old_journal_put_in_place_of_a_summed_one_is_refused(self, old: Path) -> None:
        before = copied(old)
        await self.everything(old)
        shutil.copy(before, old)
        assert "older" in str(await refusal(old))


class TestLog:
    """Rows that are missing or are not those that were written, below whole pages."""

    async def damaged(self, path: Path, change: str) -> DamagedError:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(change)
            connection.commit()
        return await self.refused(path)

    async def refused(self, path: Path) -> DamagedError:
        """Have the sums of the pages be right, and everything be read."""
        sum_up(path)
        with pytest.raises(DamagedError) as found:
            await self.read_all(path)
        return found.value

    async def read_all(self, path: Path) -> None:
        store = await opened(path)
        try:
            position = 0
            while True:
                some = await store.scan(Filter(), from_position=position, limit=50, bytes_max=10**6)
                position = some.next_position
                if some.is_end:
                    break
            await store.position_of_last(Filter(), 10**6)
            (agents, _) = await store.agents(uid=None, state=None, kind=None, after=-1, limit=9)
            for record in agents:
                sequence = 0
                while some_entries := await store.read(
                    record.number, from_sequence=sequence, limit=50, bytes_max=10**6
                ):
                    sequence += len(some_entries)
                assert sequence == record.next_sequence
            assert len(await store.unfinished(after=-1, limit=9)) == 1
        finally:
            await store.close()

    @pytest.fixture
    async def closed(self, journal: PlainJournal, path: Path) -> Path:
        await write(journal, 40, size=400)
        journal.attach("a", Attachment(Owner(4711), command=Command(("run",), "/")))
        await journal.commit()
        store = journal.store
        assert isinstance(store, SqliteStore)
        await store.settle_all()
        await store.close()
        await self.read_all(path)
        return path

    @pytest.mark.parametrize(
        "change",
        [
            "DELETE FROM log WHERE position = (SELECT position FROM log LIMIT 1 OFFSET 9)",
            "DELETE FROM log WHERE position = (SELECT max(position) FROM log)",
            "DELETE FROM log WHERE position = 0",
            "UPDATE log SET position = position + 1000 WHERE position > 50",
            "UPDATE log SET data = (SELECT data FROM log WHERE position = 0) WHERE position = 8",
            "UPDATE log SET data = CAST(substr(data, 1, 99) || x'7a' || substr(data, 101) AS BLOB)",
            "UPDATE runs SET first_position = first_position + 1",
            "UPDATE runs SET count = count - 1 WHERE number = 1",
            "DELETE FROM runs WHERE number = 1",
            "UPDATE agents SET uid = 1001",
            "UPDATE agents SET epoch = 3",
            "UPDATE agents SET state = 'completed'",
            "UPDATE agents SET attachment = replace(attachment, '4711', '4712')",
            "UPDATE agents SET command = replace(command, 'run', 'rum')",
            "UPDATE agents SET command = NULL",
        ],
    )
    async def test_it_is_not_served(self, closed: Path, change: str) -> None:
        await self.damaged(closed, change)

    async def test_nor_what_only_the_index_of_the_recovery_tells(self, closed: Path) -> None:
        """It starts nobody, and buries nobody, by what was not written."""
        flip(closed, self.in_the_index_of_the_recovery(closed, b"4711"))
        assert "the row of agent number 1" in str(await self.refused(closed))
        (problem,) = verify(closed).problems
        assert problem.text == "the index agents_attached names other agents than there are"

    def in_the_index_of_the_recovery(self, path: Path, text: bytes) -> int:
        """Return where *text* ends in the one page that it has."""
        with closing(sqlite3.connect(path)) as connection:
            query = "SELECT rootpage FROM sqlite_master WHERE name = 'agents_attached'"
            (root,) = connection.execute(query).fetchone()
        return path.read_bytes().index(text, (root - 1) * PAGE, root * PAGE) + len(text) - 1

    async def test_what_is_left_of_a_damaged_one_has_its_commands(self, closed: Path) -> None:
        """And its agents, whose owners of before are not believed in any more."""
        flip(closed, self.in_the_index_of_the_recovery(closed, b"4711"))
        new = closed.with_name("new.db")
        rebuild(verify(closed), new, lambda _entry, _key: None)
        sum_up(new)
        assert verify(new).is_sound
        again = await opened(new)
        try:
            (record, _), _ = await again.agents(uid=None, state=None, kind=None, after=-1, limit=9)
            assert record.attachment == Attachment(command=Command(("run",), "/"))
            assert await again.unfinished(after=-1, limit=9) == [unfinished_of(record)]
        finally:
            await again.close()

    async def test_rows_that_were_swept_are_not_missing(
        self, journal: PlainJournal, path: Path
    ) -> None:
        for round_ in range(4):
            await write(journal, 10)
            await journal.keep_house()
            journal.compact("ab"[round_ % 2])
            await journal.commit()
            await journal.keep_house()
        journal.attach("a", Attachment(Owner(1)))
        await journal.commit()
        await journal.check()
        store = journal.store
        assert isinstance(store, SqliteStore)
        await store.settle_all()
        await store.close()
        await self.read_all(path)
