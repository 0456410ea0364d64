"""A journal of an older version is brought up to date, with all that is in it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from agent_journal.errors import DamagedError
from agent_journal.model import AgentId
from agent_journal.store.attached import unfinished_of
from agent_journal.store.attachment import (
    Attachment,
    Command,
    Owner,
    attachment_text,
)
from agent_journal.store.commands_apart import SLICE_AGENTS
from agent_journal.store.integrity import APPLICATION_ID
from agent_journal.store.page_sums import PageSums, sums_path
from agent_journal.store.records import checksum_of
from agent_journal.store.sql import MIGRATIONS, QUERIES, SCHEMA_VERSION
from agent_journal.store.sqlite import SqliteStore
from agent_journal.testing.plain_journal import OWNER, PlainJournal


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
    """And not the agents that have ended, nor the rows of those that have not."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for script in MIGRATIONS:
            connection.executescript(script)
        query = f"EXPLAIN QUERY PLAN {QUERIES['agents_attached']}"
        (plan,) = connection.execute(query, (5, 9)).fetchall()
    assert plan[3] == "SEARCH agents USING COVERING INDEX agents_attached (first_position>?)"


def test_settling_writes_nothing_that_the_recovery_reads() -> None:
    """It is done for thousands of agents at once; only what changes an agent's state does."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for script in MIGRATIONS:
            connection.executescript(script)
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'agents_attached'"
        (root,) = connection.execute(query).fetchone()

        def is_written_by(name: str) -> bool:
            values = [0] * QUERIES[name].count("?")
            program = connection.execute(f"EXPLAIN {QUERIES[name]}", values).fetchall()
            return root in {line[3] for line in program if line[1] == "OpenWrite"}

        assert is_written_by("put_agent")
        assert is_written_by("update_agent")
        assert not is_written_by("settle_agents")
        assert not is_written_by("insert_rows")


async def test_commands_of_before_are_put_apart(tmp_path: Path) -> None:
    """They were within the attachments, whose checksums cover what is left of them."""
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            f"{' '.join(MIGRATIONS[:4])} PRAGMA application_id={APPLICATION_ID};"
            "PRAGMA user_version=4;"
        )
        for number in range(1, 3 * SLICE_AGENTS):
            attachment = attachment_of(number)
            whole = attachment_text(attachment)
            columns = (number, OWNER, f"a{number}", "running", "k", 3, 2, None)
            checksum = checksum_of(*columns, whole) if number % 7 else None
            if number in ROTTEN:
                whole = ROTTEN[number]
            connection.execute(
                "INSERT INTO agents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*columns, number, 5, 6, 0, 0, "", whole, checksum),
            )
        connection.execute("UPDATE marks SET value = 2000 WHERE name != 'whole_from'")
        connection.commit()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    descriptor = os.open(path, os.O_RDONLY)
    with PageSums.create(sums_path(path), page_bytes) as sums:
        sums.add_whole_file(descriptor)
    os.close(descriptor)
    store = SqliteStore(path, free_bytes_min=0)
    await store.open()
    try:
        for number in set(range(1, 3 * SLICE_AGENTS)) - ROTTEN.keys():
            (record,) = await store.load([(OWNER, AgentId(f"a{number}"))])
            assert record is not None
            assert record.attachment == attachment_of(number)
            if record.attachment is not None:
                (agent,) = await store.unfinished(after=number - 1, limit=1)
                assert agent == unfinished_of(record)
    finally:
        await store.close()
    with closing(sqlite3.connect(path)) as connection:
        texts = connection.execute(
            "SELECT number, attachment, command, command_checksum, checksum FROM agents"
        ).fetchall()
    for number, attachment, command, command_checksum, checksum in texts:
        if number in ROTTEN:
            assert attachment == ROTTEN[number], "nobody makes up a checksum for it"
            continue
        assert "NAME" not in (attachment or "")
        assert (command is not None) == (command_checksum is not None) == (number % 3 == 1)
        assert (checksum is not None) == bool(number % 7)
    again = SqliteStore(path, free_bytes_min=0)
    await again.open()
    try:
        for number in ROTTEN:
            with pytest.raises((DamagedError, msgspec.DecodeError)):
                await again.load([(OWNER, AgentId(f"a{number}"))])
    finally:
        await again.close()


def attachment_of(number: int) -> Attachment | None:
    command = Command(("run", f"{number}"), "/", {"NAME": "value"})
    return (None, Attachment(Owner(5), command=command), Attachment(Owner(number)))[number % 3]


# Of one with a checksum that is not that of this, and of one without.
ROTTEN = {4: '{"owner":{"pid":6},"command":{"argv":["run"],"cwd":"/"}}', 7: "{"}


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
