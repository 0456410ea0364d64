"""How long a slice of a read is: short where somebody waits for the thread, else long."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from math import ceil
from pathlib import Path

import pytest

from agent_journal.model import AgentId, Micros, Sequence
from agent_journal.store import database
from agent_journal.store.base import AgentNumber, NewEntry
from agent_journal.store.rows import PAGE_BYTES, pack_rows
from agent_journal.store.runs import SCATTERED_ENTRIES
from agent_journal.store.sqlite import SqliteStore
from agent_journal.testing.plain_journal import OWNER, PlainJournal, read_all

ROWS = 60
ROW_SECONDS = 0.0002
PAGE_LONG = b'{"Noted":"%s"}' % (b"x" * PAGE_BYTES)  # there is no room for another beside it


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "journal.db")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def journal(store: SqliteStore) -> PlainJournal:
    """Give one with an agent whose entries were committed one by one: each is a row."""
    journal = PlainJournal(store)
    for _ in range(ROWS):
        await journal.append("a", PAGE_LONG)
    return journal


@pytest.fixture
def slow_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it seem that each row takes the same time."""
    seconds = itertools.count()
    monkeypatch.setattr(database, "perf_counter", lambda: next(seconds) * ROW_SECONDS)


async def first_slice(journal: PlainJournal) -> int:
    number = journal.agent("a").record.number
    return len(await journal.store.read(number, from_sequence=0, limit=1000, bytes_max=1 << 20))


@pytest.mark.usefixtures("slow_rows")
async def test_a_slice_that_nobody_waits_for_goes_on(journal: PlainJournal) -> None:
    assert await first_slice(journal) == database.READ_SECONDS_MAX / ROW_SECONDS + 1


@pytest.mark.usefixtures("slow_rows")
async def test_the_clock_is_looked_at_for_each_page_of_small_rows(store: SqliteStore) -> None:
    """Not for each row; but a page may be a wait for the disk."""
    journal = PlainJournal(store)
    event = b'{"Noted":"%s"}' % (b"x" * 800)
    for _ in range(300):
        await journal.append("a", event)
    entry = NewEntry(AgentNumber(1), Sequence(0), Micros(0), 0, event)
    ((_, row),) = pack_rows(0, [entry])
    pages = round(database.READ_SECONDS_MAX / ROW_SECONDS)
    assert await first_slice(journal) == 1 + pages * ceil(PAGE_BYTES / len(row))


@pytest.mark.usefixtures("slow_rows")
async def test_a_commit_stands_behind_a_short_slice(
    journal: PlainJournal, store: SqliteStore
) -> None:
    """What is handed to the thread meanwhile ends the slice, but not before it was worth a hop."""
    gate = threading.Event()
    busy = store._begin(gate.wait)
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(first_slice(journal))
        await asyncio.sleep(0)  # so that it is handed over first
        tasks.create_task(journal.append("b"))
        await asyncio.sleep(0)
        gate.set()
    assert await busy
    assert ROW_SECONDS < database.READ_SECONDS < database.READ_SECONDS_MAX
    assert reading.result() == database.READ_SECONDS // ROW_SECONDS + 1


async def test_scattered_entries_are_read_over_many_pieces_of_a_run(tmp_path: Path) -> None:
    """More than are unpacked in one go, before they are in the index and behind that."""
    store = SqliteStore(tmp_path / "journal.db", settle_entries=4 * SCATTERED_ENTRIES)
    await store.open()
    try:
        journal = PlainJournal(store)
        for _ in range(3 * SCATTERED_ENTRIES + 5):
            journal.add("a")
            journal.add("b")
            await journal.commit()
        for is_settled in (False, True):
            for limit in (1000, 3 * SCATTERED_ENTRIES, SCATTERED_ENTRIES - 1):
                (record,) = await store.load([(OWNER, AgentId("a"))])
                assert record is not None
                entries = await read_all(store, record, limit=limit)
                assert [e.sequence for e in entries] == [*range(record.next_sequence)]
                assert {e.number for e in entries} == {record.number}
            if not is_settled:
                await store.settle_all()
    finally:
        await store.close()
