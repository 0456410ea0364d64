"""What is read of a database without SQLite is what SQLite reads."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from agent_journal.store.btree import Trees, UnreadableError, record, varint
from agent_journal.store.page_file import PageFile


def fill(connection: sqlite3.Connection, chance: Random, rows: int) -> None:
    for _ in range(rows):
        values = (
            chance.choice([0, 1, -1, 200, -40_000, 10**7, 2**33, -(2**50), 2**63 - 1, None]),
            chance.choice([None, 1.5, -0.0, 1e300]),
            "é" * chance.choice([0, 1, 40, 300]),
            chance.randbytes(chance.choice([0, 10, 500, 8_000, 40_000])),
        )
        connection.execute("INSERT INTO t (i, r, s, b) VALUES (?, ?, ?, ?)", values)
        key = (chance.randrange(50), f"{chance.random()}" + "k" * chance.choice([0, 0, 3000]))
        connection.execute("INSERT OR IGNORE INTO k VALUES (?, ?, ?)", (*key, chance.randrange(9)))
    connection.execute("DELETE FROM t WHERE id % 5 = 0")


@pytest.fixture(params=[512, 4096, 8192, 65536], ids=str)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Make a database, half of it still in its WAL."""
    live = tmp_path / "live.db"
    chance = random.Random(request.param)  # noqa: S311 - repeatable
    with closing(sqlite3.connect(live, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={request.param}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, i INT, r REAL, s TEXT, b BLOB)")
        connection.execute(
            "CREATE TABLE k (n INT, s TEXT, v INT, PRIMARY KEY (n, s)) WITHOUT ROWID"
        )
        connection.execute("CREATE INDEX by_text ON t (s, i)")
        fill(connection, chance, 200)
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        fill(connection, chance, 60)
        for suffix in ("", "-wal"):
            shutil.copy(live.with_name(live.name + suffix), tmp_path / f"copy.db{suffix}")
        for query, name in QUERIES.items():
            EXPECTED[name] = connection.execute(query).fetchall()
    yield tmp_path / "copy.db"
    EXPECTED.clear()


QUERIES = {
    "SELECT id, i, r, s, b FROM t ORDER BY id": "t",
    "SELECT n, s, v FROM k ORDER BY n, s": "k",
    "SELECT s, i, id FROM t ORDER BY s, i, id": "by_text",
}
EXPECTED: dict[str, list[tuple[object, ...]]] = {}


def test_rows_are_those_that_sqlite_reads(database: Path) -> None:
    damage: list[object] = []
    with PageFile(database) as pages:
        assert pages.wal.frames
        trees = Trees(pages, lambda page, text: damage.append((page, text)))
        roots = {str(values[1]): values[3] for _, values in trees.rows(1)}
        assert isinstance(roots["t"], int)
        table = [(rowid, *values[1:]) for rowid, values in trees.rows(roots["t"])]
        assert table == EXPECTED["t"]
        for name in ("k", "by_text"):
            root = roots[name]
            assert isinstance(root, int)
            assert [tuple(values) for _, values in trees.rows(root)] == EXPECTED[name]
        free = pages.free_pages()
        unused = {page for page in range(1, pages.pages + 1) if not trees.used[page]}
        assert unused == free
    assert not damage


def test_a_damaged_page_costs_its_own_rows_alone(database: Path) -> None:
    """No damage ends the reading, and no row comes that is not one of the table's."""
    whole = database.read_bytes()
    database.with_name("copy.db-wal").unlink()
    chance = random.Random(1)  # noqa: S311 - repeatable
    with closing(sqlite3.connect(database)) as connection:
        total = connection.execute("SELECT count(*) FROM t").fetchone()[0]
    for _ in range(60):
        data = bytearray(whole)
        page_bytes = int.from_bytes(whole[16:18], "big")
        page_bytes = 65536 if page_bytes == 1 else page_bytes
        page = chance.randrange(1, len(data) // page_bytes)
        data[page * page_bytes : (page + 1) * page_bytes] = chance.randbytes(page_bytes)
        database.write_bytes(data)
        with PageFile(database) as pages:
            trees = Trees(pages, lambda _page, _text: None)
            roots = {str(values[1]): values[3] for _, values in trees.rows(1)}
            root = roots.get("t", 2)
            assert isinstance(root, int)
            found = sum(1 for _ in trees.rows(root))
        assert found <= total + page_bytes


@pytest.mark.parametrize("data", [b"", b"\x81", b"\xff" * 8])
def test_a_number_that_does_not_end(data: bytes) -> None:
    with pytest.raises(UnreadableError):
        varint(data, 0)


@pytest.mark.parametrize(
    "payload", [b"\x02\x01", b"\x02\x0a\x00", b"\x03\x01\x01\x00", b"\x02\x0f\xff", b"\x05\x01"]
)
def test_what_is_no_record(payload: bytes) -> None:
    with pytest.raises(UnreadableError):
        record(payload)
