"""A value that has rotted into another type is damage, and no defect of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_journal.errors import DamagedError
from agent_journal.store import database_thread
from agent_journal.store.integrity import inspect
from agent_journal.store.rows import PackedRow
from agent_journal.store.sqlite import SqliteStore
from agent_journal.testing.plain_journal import OWNER, PlainJournal


@pytest.mark.parametrize("data", [None, 7, 1.5, "text", b""])
def test_a_row_that_is_no_bytes(data: object) -> None:
    with pytest.raises(DamagedError):
        PackedRow(0, data)  # type: ignore[arg-type] # as SQLite may give it


async def test_text_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the look at its pages, as in a part of a large journal, it is told by the answer."""
    path = tmp_path / "journal.db"
    store = SqliteStore(path, free_bytes_min=0)
    await store.open()
    journal = PlainJournal(store)
    await journal.append("agent-with-a-long-name")
    await store.settle_all()
    await store.close()
    data = path.read_bytes()
    assert data.count(b"agent-with-a-long-name") > 1
    path.write_bytes(data.replace(b"with-a-long-name", b"with-a-\xff\xfeng-name"))
    monkeypatch.setattr(database_thread, "check_before_open", lambda path, **_: inspect(path))
    store = SqliteStore(path, free_bytes_min=0)
    await store.open()
    try:
        with pytest.raises(DamagedError):
            await store.agents(uid=OWNER, state=None, kind=None, after=-1, limit=5)
    finally:
        await store.close()
