"""The daemon is killed at each of its system calls: in a whole life, in recovery, in a migration.

Before the call, behind it, or in the middle of a write.  The next start has what
was acknowledged, and a start that was killed changes nothing: the one behind it
finds the same journal.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import struct
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from agent_journal.store.integrity import SUMMED_SCHEMA
from agent_journal.store.page_sums import Flags, PageSums, sums_path
from agent_journal.store.rows import PAGE_BYTES
from agent_journal.store.wal_scan import wal_path
from agent_journal.testing.daemon import DaemonError
from crash.ledger import BrokenJournalError, Name
from crash.snapshot import Snapshot, Stored, take_snapshot
from faults.calls import Action, Call
from faults.daemons import FaultyDaemon, Starter
from faults.judge import check
from faults.scenario import CONFIG, Actor, HangError, Story

Size = Callable[[int, int], int]
Figures = Callable[..., None]

JOURNALS: Final = Path(__file__).with_name("journals")
AT_ONCE: Final = 3
KILLED: Final = -9


@dataclass(frozen=True, slots=True)
class Kill:
    """Where a daemon is killed."""

    number: int  # of the call
    how: Action
    again: int = 0  # the call of the next start at which that is killed, too

    def __str__(self) -> str:
        return f"{self.how.name} {self.number} {self.again}"


@dataclass(frozen=True, slots=True)
class Journal:
    """A journal on disk, and how to tell whether it is still what it was."""

    place: Path
    judge: Callable[[FaultyDaemon], Any]


class Killer:
    """Kills daemons, each in a directory of its own, and has what they left judged."""

    def __init__(self, starter: Starter, place: Path) -> None:
        self.kills = 0
        self._starter = starter
        self._place = place
        self._count = 0
        self._lock = threading.Lock()

    def daemon(self, journal: Journal | None = None) -> FaultyDaemon:
        """Return a daemon that was not started, on a copy of *journal*."""
        with self._lock:
            self._count += 1
            directory = self._place / str(self._count)
        directory.mkdir()
        if journal is not None:
            # Less what the keeper of an attempt, who outlives its daemon, may be moving just now.
            moving = shutil.ignore_patterns("*.new", "spec")
            shutil.copytree(journal.place, directory / "s", ignore=moving)
        return FaultyDaemon(self._starter, directory, config=CONFIG)

    def calls_of_a_life(self) -> list[Call]:
        """Return what a whole life calls."""
        with self.daemon() as daemon:
            Actor(daemon, "new").perform()
            assert daemon.stop() == 0
            return daemon.calls.made()

    def calls_of_a_start(self, journal: Journal) -> list[Call]:
        """Return what a start on *journal* calls, up to the first answer."""
        with self.daemon(journal) as daemon:
            made = daemon.calls.made()
            journal.judge(daemon)
            assert daemon.stop() == 0
            return made

    def live(self, kill: Kill) -> Story:
        """Kill a daemon in the middle of its life, and judge what is left."""
        daemon = self.daemon()
        story = self._live(daemon, kill)
        try:
            daemon.start()
            check(daemon, [story])
            self._check_it_goes_on(daemon)
        finally:
            daemon.close()
        shutil.rmtree(daemon.state.parent, ignore_errors=True)  # an attempt may still end in it
        return story

    def _live(self, daemon: FaultyDaemon, kill: Kill) -> Story:
        """Live until *kill*; the daemon is dead then, or has ended before."""
        daemon.calls.reset()
        daemon.calls.inject(kill.how, first=kill.number, last=kill.number)
        story = Actor(daemon, "new").story
        try:
            daemon.start()
        except DaemonError:
            assert daemon.exit_code == KILLED
        else:
            story = Actor(daemon, "new").perform()
            code = daemon.stop()
            assert code == (KILLED if daemon.calls.injected else 0)
        with self._lock:
            self.kills += daemon.calls.injected
        daemon.calls.reset()
        return story

    def remains(self, kill: Kill) -> Journal:
        """Return the journal that a daemon left that was killed in its life."""
        daemon = self.daemon()
        story = self._live(daemon, kill)
        daemon.close()
        (daemon.state / "journal.sock").unlink(missing_ok=True)
        return Journal(daemon.state, lambda daemon: check(daemon, [story]))

    def start_again(self, journal: Journal, kill: Kill) -> None:
        """Kill a start on *journal*, perhaps the next one as well, and judge the third."""
        daemon = self.daemon(journal)
        try:
            for number, how in ((kill.number, kill.how), (kill.again, Action.KILL_BEFORE)):
                if not number:
                    continue
                daemon.calls.reset()
                daemon.calls.inject(how, first=number, last=number)
                try:
                    daemon.start()
                    daemon.kill()  # it made fewer calls, this time
                except DaemonError:
                    assert daemon.exit_code == KILLED
                with self._lock:
                    self.kills += daemon.calls.injected
            daemon.calls.reset()
            daemon.start()
            journal.judge(daemon)
            self._check_it_goes_on(daemon)
        finally:
            daemon.close()
        shutil.rmtree(daemon.state.parent, ignore_errors=True)  # an attempt may still end in it

    def _check_it_goes_on(self, daemon: FaultyDaemon) -> None:
        reply = daemon.request({"op": "append", "agent_id": "after", "event": {"Noted": 1}})
        assert reply["ok"], reply

    def all_of(self, tries: Sequence[tuple[str, Callable[[], object]]]) -> list[str]:
        """Make all tries, a few at once; return what is wrong."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return [problem for problem in pool.map(_problem_of, tries) if problem]


def _problem_of(named: tuple[str, Callable[[], object]]) -> str:
    name, work = named
    try:
        work()
    except (AssertionError, DaemonError, HangError, BrokenJournalError, OSError) as error:
        return f"{name}: {error!r:.3000}"
    return ""


def kills_of(calls: Sequence[Call]) -> list[Kill]:
    """Return every way to be killed at *calls*: in front of each, and within the writes."""
    found = [Kill(call.number, Action.KILL_BEFORE) for call in calls]
    found += [Kill(call.number, Action.KILL_WITHIN) for call in calls if call.kind == "write"]
    return [*found, Kill(calls[-1].number, Action.KILL_AFTER)]


def some(kills: Sequence[Any], count: int, random: Random) -> list[Any]:
    """Return *count* of them, spread over all."""
    if count >= len(kills):
        return list(kills)
    step = len(kills) / count
    offset = random.random() * step
    return [kills[int(offset + index * step)] for index in range(count)]


@pytest.fixture
def killer(starter: Starter, tmp_path: Path) -> Killer:
    return Killer(starter, tmp_path)


@pytest.mark.sized
@pytest.mark.timeout(3600)
def test_a_life_that_ends_at_any_call_leaves_a_sound_journal(
    killer: Killer, size: Size, seed: str, figures: Figures
) -> None:
    kills = kills_of(killer.calls_of_a_life())
    chosen = some(kills, size(24, len(kills)), Random(seed))  # noqa: S311 - repeatable, not secret
    bad = killer.all_of([(str(kill), lambda kill=kill: killer.live(kill)) for kill in chosen])
    figures(kills_known=len(kills), killed=killer.kills, bad=len(bad))
    assert not bad, "\n".join(bad)


@pytest.mark.sized
@pytest.mark.timeout(3600)
def test_a_recovery_that_is_killed_at_any_call_leaves_what_it_found(
    killer: Killer, size: Size, seed: str, figures: Figures
) -> None:
    """On what lives left that were killed here and there; and some are killed twice."""
    random = Random(seed)  # noqa: S311 - repeatable, not secret
    calls = killer.calls_of_a_life()
    lives = [Kill(call.number, Action.KILL_BEFORE) for call in calls[len(calls) // 4 :]]
    journals = [killer.remains(life) for life in some(lives, size(2, 10), random)]
    tries = []
    for index, journal in enumerate(journals):
        kills = kills_of(killer.calls_of_a_start(journal))
        for kill in some(kills, size(10, len(kills)), random):
            twice = Kill(kill.number, kill.how, random.choice((0, random.randint(1, len(kills)))))
            name = f"journal {index} {twice}"
            tries.append((name, lambda j=journal, k=twice: killer.start_again(j, k)))
    bad = killer.all_of(tries)
    figures(journals=len(journals), killed=killer.kills, bad=len(bad))
    assert not bad, "\n".join(bad)


# Journals of old versions


def old_journal(version: int, place: Path) -> Path:
    """Make a journal of an older schema, as its daemon left it when it was killed.

    Half of it is in the WAL.
    """
    source, left = place / "made", place / "left"
    for directory in (source, left):
        directory.mkdir(parents=True)
    script = (JOURNALS / f"schema-{version}.sql").read_text()
    schema, _, rows = script.partition("INSERT INTO")
    with closing(sqlite3.connect(source / "journal.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA page_size=8192")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.executescript(schema + "COMMIT;")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.executescript("BEGIN; INSERT INTO" + rows)
        if version >= SUMMED_SCHEMA:
            sum_up(source / "journal.db")
        for path in source.glob("journal.db*"):
            if not path.name.endswith("-shm"):
                shutil.copy(path, left / path.name)
    return left


def sum_up(database: Path) -> None:
    """Write the page sums of a database, and a mark that names its WAL."""
    salts = struct.unpack_from(">16xII", wal_path(database).read_bytes())
    descriptor = os.open(database, os.O_RDONLY)
    try:
        with PageSums.create(sums_path(database), PAGE_BYTES) as sums:
            sums.add_whole_file(descriptor)
            sums.put_mark(sums.mark._replace(flags=Flags.IN_FORCE, salts=salts))
    finally:
        os.close(descriptor)


def content_of(version: int) -> Snapshot:
    """Return what the old daemon told of it."""
    told = json.loads((JOURNALS / f"schema-{version}.json").read_text())
    entries: dict[Name, list[Stored]] = {}
    states: dict[Name, str] = {}
    for agent in told["agents"]:
        name = agent["uid"], agent["agent_id"]
        states[name] = agent["state"]
        entries[name] = [
            Stored(sequence, position, timestamp, name[1], iteration, event.encode())
            for sequence, position, timestamp, iteration, event in agent["entries"]
        ]
    return Snapshot(entries, states, told["next_position"])


def judge_of(version: int) -> Callable[[FaultyDaemon], None]:
    """Return what sees that a journal is what it was under the old version."""
    wanted = content_of(version)

    def judge(daemon: FaultyDaemon) -> None:
        found = take_snapshot(daemon)
        assert found.states == wanted.states
        assert found.entries == wanted.entries
        assert found.next_position >= wanted.next_position

    return judge


@pytest.mark.sized
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_migration_that_is_killed_at_any_call_loses_nothing(  # noqa: PLR0913, PLR0917 - fixtures
    killer: Killer, tmp_path: Path, version: int, size: Size, seed: str, figures: Figures
) -> None:
    random = Random(seed)  # noqa: S311 - repeatable, not secret
    journal = Journal(old_journal(version, tmp_path / "old"), judge_of(version))
    kills = kills_of(killer.calls_of_a_start(journal))
    tries = []
    for kill in some(kills, size(10, len(kills)), random):
        twice = Kill(kill.number, kill.how, random.choice((0, random.randint(1, len(kills)))))
        tries.append((str(twice), lambda twice=twice: killer.start_again(journal, twice)))
    bad = killer.all_of(tries)
    figures(schema=version, kills_known=len(kills), killed=killer.kills, bad=len(bad))
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "failing"])
def test_a_migration_on_a_disk_that_fails_is_tried_again(
    killer: Killer, tmp_path: Path, version: int, error: int
) -> None:
    """It is refused or put off, and done when the disk is well again."""
    journal = Journal(old_journal(version, tmp_path / "old"), judge_of(version))
    daemon = killer.daemon(journal)
    daemon.calls.inject(Action.FAIL, error=error)
    try:
        daemon.start()
    except DaemonError:
        assert daemon.exit_code == 74
    else:
        daemon.kill()
    try:
        daemon.calls.heal()
        daemon.start()
        journal.judge(daemon)
    finally:
        daemon.close()
