"""A journal of an older version is brought up to date, with all that is in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from agent_journal.store.attachment import Attachment, Owner
from agent_journal.store.integrity import APPLICATION_ID
from agent_journal.store.sql import MIGRATIONS, QUERIES, SCHEMA_VERSION
from agent_journal.store.sqlite import SqliteStore
from agent_journal.testing.plain_journal import PlainJournal


async def test_a_journal_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    """Agents of before have no attachment, and may get one."""
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            f"{MIGRATIONS[0]} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version=1;"
        )
        connection.execute(
            "INSERT INTO agents (number, uid, agent_id, state, epoch, attempts, first_position,"
            " created_at, updated_at, next_sequence, last_iteration, key_high)"
            " VALUES (1, 1000, 'old', 'running', 0, 0, 0, 5, 6, 0, 0, '')"
        )
        connection.execute("UPDATE marks SET value = 1")
        connection.commit()
    store = SqliteStore(path, free_bytes_min=0)
    await store.open()
    try:
        assert await store.unfinished(after=-1, limit=10) == []
        ((old,), _) = await store.agents(uid=None, state=None, kind=None, after=-1, limit=10)
        assert (old.agent_id, old.created_at, old.attachment) == ("old", 5, None)
        journal = PlainJournal(store)
        await journal.append("new")
        journal.attach("new", Attachment(Owner(5)))
        await journal.commit()
        assert [record.agent_id for record in await store.unfinished(after=-1, limit=10)] == ["new"]
    finally:
        await store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_the_recovery_reads_an_index() -> None:
    """And not the agents that have ended, however many they are."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for script in MIGRATIONS:
            connection.executescript(script)
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT number FROM agents INDEXED BY agents_attached"
            " WHERE attachment IS NOT NULL AND first_position > 5 ORDER BY first_position LIMIT 9"
        ).fetchall()
    assert len(plan) == 1
    assert "USING INDEX agents_attached (first_position>?)" in plan[0][3]


async def test_what_had_ended_before_is_found_by_retention(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            f"{MIGRATIONS[0]} {MIGRATIONS[1]} PRAGMA application_id={APPLICATION_ID};"
            "PRAGMA user_version=2;"
        )
        connection.executemany(
            "INSERT INTO agents (number, uid, agent_id, state, kind, epoch, attempts,"
            " first_position, created_at, updated_at, next_sequence, last_iteration, key_high)"
            " VALUES (?, 1000, ?, ?, ?, 0, 0, ?, 5, ?, 0, 0, '')",
            [
                (1, "a", "completed", None, 0, 60),
                (2, "b", "completed", "k", 1, 50),
                (3, "c", "running", None, 2, 40),
                (4, "d", "completed", None, 3, 30),
            ],
        )
        connection.execute("UPDATE marks SET value = 4")
        connection.commit()
    store = SqliteStore(path, free_bytes_min=0)
    await store.open()
    try:
        groups = await store.ended_groups()
        assert [(group.kind, group.oldest) for group in groups] == [(None, 30), ("k", 50)]
        found = await store.ended(groups[0].state, None, before=61, limit=9)
        assert [record.agent_id for record in found] == ["d", "a"]
    finally:
        await store.close()


def test_retention_reads_an_index() -> None:
    """And not the agents that are kept, however many they are."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for script in MIGRATIONS:
            connection.executescript(script)
        for name in ("ended_group", "agents_ended", "ended_times", "ended_at"):
            values = [0] * QUERIES[name].count("?")
            (plan,) = connection.execute(f"EXPLAIN QUERY PLAN {QUERIES[name]}", values).fetchall()
            assert "INDEX agents_ended (state=? AND <expr>" in plan[3], (name, plan)
