"""The ten tests of the journal that this project grew from, against a real daemon.

Its storage and its journal are one thing here: a connection.  Where the seed
had a fault, the test says what is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from agent_journal.testing.daemon import RawConnection, RunningDaemon

Message = dict[str, Any]


class Journal:
    """One agent's journal, as the seed's ``DurableJournal`` was."""

    def __init__(self, connection: RawConnection, agent_id: str) -> None:
        self.connection = connection
        self.agent_id = agent_id

    def append(self, iteration: int = 0, name: str = "Started") -> int:
        """Record an entry; return the sequence that the daemon gave it."""
        reply = self._ask("append", iteration=iteration, event={name: {"agent": self.agent_id}})
        sequence: int = reply["sequence"]
        return sequence

    def replay(self, from_sequence: int = 0) -> list[Message]:
        """Return the entries from a sequence on."""
        reply = self._ask("read", from_sequence=from_sequence)
        assert not reply["more"]
        entries: list[Message] = reply["entries"]
        return entries

    def compact(self) -> int:
        """Remove all entries of an unfinished agent; return how many there were."""
        removed: int = self._ask("compact", force=True)["removed"]
        return removed

    @property
    def is_known(self) -> bool:
        reply = self.connection.request({"op": "describe", "agent_id": self.agent_id})
        return bool(reply["ok"]) or reply["error"]["code"] != "not_found"

    @property
    def described(self) -> Message:
        agent: Message = self._ask("describe")["agent"]
        return agent

    def _ask(self, op: str, **fields: object) -> Message:
        reply = self.connection.request({"op": op, "agent_id": self.agent_id, **fields})
        assert reply["ok"], reply
        return reply


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture
def connection(daemon: RunningDaemon) -> Iterator[RawConnection]:
    with daemon.connect() as connected:
        yield connected


NAMES = (f"agent-{number}" for number in count())


@pytest.fixture
def journal(connection: RawConnection) -> Journal:
    """Give a journal of an agent that the daemon has never seen."""
    return Journal(connection, next(NAMES))


def sequences(entries: list[Message]) -> list[int]:
    return [entry["sequence"] for entry in entries]


class TestStorage:
    def test_store_and_read(self, journal: Journal) -> None:
        journal.append(iteration=0)
        journal.append(iteration=1)
        entries = journal.replay()
        assert sequences(entries) == [0, 1]
        assert [entry["iteration"] for entry in entries] == [0, 1]
        assert entries[0]["event"] == {"Started": {"agent": journal.agent_id}}

    def test_read_from(self, journal: Journal) -> None:
        for iteration in range(5):
            journal.append(iteration)
        assert sequences(journal.replay(3)) == [3, 4]

    def test_latest_sequence(self, journal: Journal) -> None:
        """0 for none and 0 for one entry: ``next_sequence`` tells them apart.

        The seed lets a caller store sequence 5 behind 0; here the daemon numbers,
        so there are no gaps and the latest of six is 5.
        """
        assert not journal.is_known
        journal.append()
        first = journal.described
        assert (first["latest_sequence"], first["next_sequence"]) == (0, 1)
        for _ in range(5):
            journal.append(2)
        assert journal.described["latest_sequence"] == 5
        journal.compact()
        emptied = journal.described
        assert (emptied["latest_sequence"], emptied["next_sequence"]) == (0, 0)

    def test_compact(self, journal: Journal) -> None:
        journal.append(0)
        journal.append(1)
        assert journal.compact() == 2
        assert journal.replay() == []

    def test_agent_isolation(self, connection: RawConnection) -> None:
        one, other = Journal(connection, next(NAMES)), Journal(connection, next(NAMES))
        one.append(0)
        other.append(0)
        one.append(1)
        assert (len(one.replay()), len(other.replay())) == (2, 1)
        one.compact()
        assert (len(one.replay()), len(other.replay())) == (0, 1)


class TestJournal:
    def test_append_and_replay(self, journal: Journal) -> None:
        """The sequence is given by the journal, not by the caller."""
        assert [journal.append(0), journal.append(1)] == [0, 1]
        assert journal.described["next_sequence"] == 2
        assert sequences(journal.replay()) == [0, 1]

    def test_replay_from(self, journal: Journal) -> None:
        for _ in range(5):
            journal.append()
        assert len(journal.replay(3)) == 2

    @pytest.mark.parametrize("how", ["killed", "stopped"])
    def test_initialize_resumes_the_sequence(self, tmp_path: Path, how: str) -> None:
        """After 0, 1, 2 and a restart comes 3; the seed gave 2 a second time."""
        with RunningDaemon(tmp_path) as daemon:
            with daemon.connect() as connection:
                before = Journal(connection, "a")
                assert [before.append(iteration) for iteration in range(3)] == [0, 1, 2]
                entries = before.replay()
            if how == "killed":
                daemon.kill()
            else:
                assert daemon.stop() == 0
            daemon.start()
            with daemon.connect() as connection:
                after = Journal(connection, "a")
                assert after.described["next_sequence"] == 3
                assert after.append(3) == 3
                assert after.described["next_sequence"] == 4
                assert after.replay()[:3] == entries

    def test_compact_begins_again_at_zero(self, journal: Journal) -> None:
        journal.append(0)
        journal.append(1)
        assert journal.compact() == 2
        assert journal.described["next_sequence"] == 0
        assert journal.replay() == []
        assert journal.append(0, "Restarted") == 0
        (entry,) = journal.replay()
        assert "Restarted" in entry["event"]

    def test_last_completed_iteration(self, journal: Journal) -> None:
        """0 where there is none; an unknown agent is not found rather than at 0."""
        assert not journal.is_known
        journal.append(0)
        assert journal.described["last_completed_iteration"] == 0
        journal.append(3)
        journal.append(7)
        assert journal.described["last_completed_iteration"] == 7
