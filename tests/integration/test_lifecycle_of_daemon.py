"""A daemon from its start to its end: its files, its signals, and what it refuses to serve."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from agent_journal.testing.daemon import DaemonError, RunningDaemon
from integration.observed import error_of, noted

PAGE_BYTES_OFFSET = 16  # in the header of an SQLite file

DATA_REQUESTS: list[dict[str, object]] = [
    noted(agent_id="a1"),
    noted(agent_id="new"),
    {"op": "append", "agent_id": "new", "entries": [{"event": {"A": 1}}]},
    {"op": "read", "agent_id": "a1"},
    {"op": "describe", "agent_id": "a1"},
    {"op": "agents"},
    {"op": "compact", "agent_id": "a1", "force": True},
    {"op": "tail", "from_position": 0, "follow": False},
    {"op": "tail", "last": 5},
]


# Damaged and foreign files


def fill(daemon: RunningDaemon) -> None:
    """Write enough for every part of the file to have pages of its own, and stop."""
    with daemon:
        with daemon.connect() as connection:
            for index in range(4000):
                connection.send_line(noted("x" * 100, agent_id=f"a{index % 40}", id=index))
                if index % 100 == 99:
                    connection.replies(100)
        assert daemon.stop() == 0


def overwrite(database: Path, page: int, data: bytes, *, at: int = 0) -> None:
    """Put *data* into a page of the file, counted from 1."""
    with database.open("r+b") as file:
        file.seek(PAGE_BYTES_OFFSET)
        size = int.from_bytes(file.read(2), "big")
        file.seek((page - 1) * size + at)
        file.write(data)


def root_pages(database: Path) -> dict[str, int]:
    connection = sqlite3.connect(database)
    try:
        return dict(connection.execute("SELECT name, rootpage FROM sqlite_master WHERE rootpage"))
    finally:
        connection.close()


@pytest.mark.parametrize("part", ["header", "log", "agents", "runs", "marks"])
def test_a_damaged_journal_is_refused_and_not_crashed_on(tmp_path: Path, part: str) -> None:
    """The daemon stays and says "damaged": one that exits is started again for ever."""
    daemon = RunningDaemon(tmp_path)
    fill(daemon)
    page = 1 if part == "header" else root_pages(daemon.database)[part]
    overwrite(daemon.database, page, b"\0" * 16)
    damaged = daemon.database.read_bytes()
    with daemon:
        refused = 0
        for request in DATA_REQUESTS:
            with daemon.connect() as connection:
                reply = connection.request(request)
                if not reply.get("ok") and "entry" not in reply:
                    error = error_of(reply)
                    assert error["code"] == "damaged", (request, error)
                    assert not error["retryable"]
                    refused += 1
                # And on this very connection:
                if request["op"] != "tail":
                    assert connection.request({"op": "ping"})["ok"]
        assert refused == len(DATA_REQUESTS), "it was known from the start that it is damaged"
        for op in ("ping", "hello", "stats"):
            assert daemon.request({"op": op})["ok"]
        assert daemon.stop() == 0
    assert daemon.database.read_bytes() == damaged, "what is damaged is evidence"


@pytest.mark.parametrize("part", ["agents_by_state", "keys", "doomed"])
def test_damage_that_is_found_while_serving_ends_nothing_but_the_service(
    tmp_path: Path, part: str
) -> None:
    """Some pages are first looked at by a commit, or by housekeeping."""
    daemon = RunningDaemon(tmp_path)
    fill(daemon)
    overwrite(daemon.database, root_pages(daemon.database)[part], b"\0" * 16)
    with daemon:
        codes = set()
        for index in range(40):
            with daemon.connect() as connection:
                agent_id = f"new{index}"
                entries = [{"event": {"A": 1}, "key": f"k{place}"} for place in range(300)]
                for request in (
                    {"op": "append", "agent_id": agent_id, "entries": entries},
                    noted(agent_id=f"a{index}", event={"Terminated": {}}),
                    {"op": "compact", "agent_id": agent_id, "force": True},
                ):
                    reply = connection.request(request)
                    codes.add("ok" if reply["ok"] else error_of(reply)["code"])
        assert codes <= {"ok", "damaged", "not_found"}
        assert "damaged" in codes
        for op in ("ping", "hello", "stats"):
            assert daemon.request({"op": op})["ok"]
        assert daemon.exit_code is None


@pytest.mark.parametrize("content", [b"not a database at all\n" * 100, b"\0" * 8192])
def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    daemon = RunningDaemon(tmp_path)
    daemon.database.write_bytes(content)
    with daemon:
        assert error_of(daemon.request(noted()))["code"] == "damaged"
        assert daemon.stop() == 0
    assert daemon.database.read_bytes() == content


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("PRAGMA user_version=1000", "newer"),
        ("CREATE TABLE bookmarks (url TEXT)", "not a journal"),
    ],
    ids=["newer", "foreign"],
)
def test_a_database_of_others_is_refused_for_good(
    tmp_path: Path, statement: str, said: str
) -> None:
    daemon = RunningDaemon(tmp_path)
    if "user_version" in statement:
        fill(daemon)
    connection = sqlite3.connect(daemon.database)
    connection.execute(statement)
    connection.commit()
    connection.close()
    before = daemon.database.read_bytes()
    with pytest.raises(DaemonError, match=said):
        daemon.start()
    assert daemon.exit_code == 78
    assert daemon.database.read_bytes() == before
    assert not daemon.socket.exists()
