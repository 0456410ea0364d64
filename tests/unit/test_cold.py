"""At a start, files are read as the disk has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent_journal.store import database_thread
from agent_journal.store.cold import forget_cached
from agent_journal.store.integrity import Findings
from agent_journal.store.sqlite import SqliteStore


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return what is asked of the kernel, of which file, in order."""
    asked: list[tuple[str, str]] = []
    fdatasync = os.fdatasync

    def name_of(descriptor: int) -> str:
        return Path(f"/proc/self/fd/{descriptor}").readlink().name

    def synced(descriptor: int) -> None:
        asked.append(("sync", name_of(descriptor)))
        fdatasync(descriptor)

    def advised(descriptor: int, offset: int, size: int, advice: int) -> None:
        assert (offset, size, advice) == (0, 0, os.POSIX_FADV_DONTNEED)
        asked.append(("forget", name_of(descriptor)))

    monkeypatch.setattr(os, "fdatasync", synced)
    monkeypatch.setattr(os, "posix_fadvise", advised)
    return asked


def test_every_file_is_written_first_and_then_forgotten(
    tmp_path: Path, forgotten: list[tuple[str, str]]
) -> None:
    for name in ("journal.db", "journal.db-wal", "journal.db-sums"):
        (tmp_path / name).write_bytes(b"x")
    forget_cached(tmp_path / "journal.db")
    assert forgotten == [
        (what, name)
        for name in ("journal.db", "journal.db-wal", "journal.db-sums")
        for what in ("sync", "forget")
    ]


def test_an_error_of_earlier_writes_keeps_nothing_from_being_forgotten(
    tmp_path: Path, forgotten: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fails)
    (tmp_path / "journal.db").write_bytes(b"x")
    forget_cached(tmp_path / "journal.db")
    assert forgotten == [("forget", "journal.db")]


def test_a_journal_that_is_yet_to_be_is_left_to_be_made(tmp_path: Path) -> None:
    forget_cached(tmp_path / "journal.db")
    assert not [*tmp_path.iterdir()]


async def test_a_store_forgets_before_it_looks_at_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    check = database_thread.check_before_open

    def noted(path: Path, *, bytes_max: int) -> Findings:
        order.append("looked")
        return check(path, bytes_max=bytes_max)

    monkeypatch.setattr(database_thread, "forget_cached", lambda _: order.append("forgot"))
    monkeypatch.setattr(database_thread, "check_before_open", noted)
    store = SqliteStore(tmp_path / "journal.db")
    await store.open()
    await store.close()
    assert order == ["forgot", "looked"]
