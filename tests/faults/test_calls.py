"""Each system call that the daemon makes on its files fails in turn: nothing wrong is ever said.

What is tried is the daemon from its start to its end, through a little of all
that it does (``scenario``).  A first run without a fault tells which calls there
are.  Then each of them fails, in a run of its own where that ends the daemon,
and else several in one run; or it fails from there on, as on a disk that is
dead, full, or was remounted read-only.

However it ends: nobody waits for ever, the exit code is what the manual says,
somebody is told what to do, and the next start has all that was acknowledged,
and nothing that was refused.

``FAULT='existing EIO once 57 1'`` repeats one that failed.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import pytest

from agent_journal.testing.daemon import DaemonError
from crash.ledger import BrokenJournalError
from faults.calls import KINDS_OF_ERROR, Action, Call, Calls, name_of
from faults.daemons import FaultyDaemon, Starter
from faults.judge import check
from faults.scenario import CONFIG, Actor, HangError, Story

Size = Callable[[int, int], int]
Figures = Callable[..., None]

EXIT_IO: Final = 74
EXIT_CONFIG: Final = 78
AT_ONCE: Final = 3
ONCE: Final = 1 << 40  # a step that is never reached

# Of what the daemon survives, several are tried in one run, so far apart that
# each finds it recovered from the one before.
SURVIVED: Final = {errno.EINTR: 11, errno.ENOSPC: 29, errno.EDQUOT: 29, 0: 11}
FATAL: Final = (errno.EIO, errno.ENOLCK)
FOREVER: Final = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS)
SYNC_OF_SUMS: Final = ("sync", "journal.db-sums")
SYNC_OF_DATABASE: Final = ("sync", "journal.db")
ERRORS: Final = {name_of(error): error for error in (*SURVIVED, *FATAL, *FOREVER) if error}


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to the calls of a run."""

    variant: str  # what the daemon starts on
    error: int  # errno; 0: the write is short
    first: int
    step: int  # 1: from the first on, for ever

    def __str__(self) -> str:
        what = name_of(self.error) if self.error else "SHORT"
        how = "ever" if self.step == 1 else "once" if self.step == ONCE else "each"
        return f"{self.variant} {what} {how} {self.first} {self.step}"

    @classmethod
    def parsed(cls, text: str) -> Fault:
        """Return what ``str`` made a text of."""
        variant, what, _, first, step = text.split()
        return cls(variant, ERRORS.get(what, 0), int(first), int(step))

    def begin(self, calls: Calls) -> None:
        """Have it happen in the daemon's next start."""
        calls.reset()
        action = Action.FAIL if self.error else Action.SHORTEN
        calls.inject(action, error=self.error, first=self.first, step=self.step)


@dataclass(slots=True)
class Before:
    """A journal that a daemon left when it was killed, and what is in it."""

    place: Path
    stories: list[Story]

    def copy(self, directory: Path) -> None:
        """Put it where a daemon will find it."""
        shutil.copytree(self.place, directory / "s")


class Sweep:
    """Runs of one starter, each in a directory of its own."""

    def __init__(self, starter: Starter, place: Path) -> None:
        self.befores: dict[str, Before | None] = {"empty": None}
        self.runs = 0
        self.covered: dict[tuple[str, int], set[int]] = {}
        self._starter = starter
        self._place = place
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def directory(self) -> Path:
        """Return a new directory."""
        with self._lock:
            path = self._place / str(next(self._numbers))
        path.mkdir()
        return path

    def prepare(self) -> None:
        """Have a journal with a WAL, unsettled entries and what is to be swept in it."""
        directory = self.directory()
        with FaultyDaemon(self._starter, directory, config=CONFIG) as daemon:
            story = Actor(daemon, "old").perform()
            daemon.kill()
        for left in ("journal.sock", "journal.sock.lock"):
            (daemon.state / left).unlink()
        assert (daemon.state / "journal.db-wal").stat().st_size > 0
        self.befores["existing"] = Before(daemon.state, [story])

    def calls_of(self, variant: str) -> tuple[list[Call], int]:
        """Return the calls of a run in which nothing fails, and how many are the start's."""
        directory, stories = self._begin(variant)
        with FaultyDaemon(self._starter, directory, config=CONFIG) as daemon:
            start = daemon.calls.count
            story = Actor(daemon, "new").perform()
            assert all(deed.is_done for deed in story.deeds), story.deeds
            codes = [error["code"] for error in story.errors()]
            assert codes == ["sequence_conflict", "agent_unfinished"]
            assert daemon.stop() == 0
            made = daemon.calls.made()
            daemon.start()
            check(daemon, [*stories, story])
        return made, start

    def _begin(self, variant: str) -> tuple[Path, list[Story]]:
        directory = self.directory()
        before = self.befores[variant]
        if before is None:
            return directory, []
        before.copy(directory)
        return directory, before.stories

    @contextmanager
    def started(self, variant: str, fault: Fault) -> Iterator[FaultyDaemon]:
        """Start a daemon with *fault*, which it survives."""
        directory, _ = self._begin(variant)
        daemon = FaultyDaemon(self._starter, directory, config=CONFIG)
        fault.begin(daemon.calls)
        with daemon:
            yield daemon

    def run(self, fault: Fault) -> list[str]:
        """Go through everything with *fault*; return what is wrong."""
        directory, stories = self._begin(fault.variant)
        daemon = FaultyDaemon(self._starter, directory, config=CONFIG)
        try:
            problems = self._try(daemon, fault, stories)
            with self._lock:
                self.runs += 1
                made = {call.number for call in daemon.calls.made() if call.is_injected}
                self.covered.setdefault((fault.variant, fault.error), set()).update(made)
        finally:
            daemon.close()
        if not problems:
            shutil.rmtree(directory, ignore_errors=True)  # an attempt may still end in it
            return []
        where = f"FAULT={str(fault)!r} at {daemon.calls.injected_calls()} ({directory})"
        return [f"{where}:\n    " + "\n    ".join(problems) + f"\n{daemon.log[-1500:]}"]

    def _try(self, daemon: FaultyDaemon, fault: Fault, stories: list[Story]) -> list[str]:
        problems: list[str] = []
        fault.begin(daemon.calls)
        told = list(stories)
        try:
            daemon.start()
        except DaemonError as error:
            if daemon.calls.injected == 0:
                raise
            problems += _of_the_end(daemon, fault, str(error))
        else:
            told.append(Actor(daemon, "new").perform())
            code = daemon.stop()
            if code != 0:
                problems += _of_the_end(daemon, fault, daemon.log)
        if "Traceback" in daemon.log:
            problems.append("a trace of a defect was logged")
        daemon.calls.heal()
        daemon.start()
        check(daemon, told)
        reply = daemon.request({"op": "append", "agent_id": "after", "event": {"Noted": 1}})
        if not reply["ok"]:
            problems.append(f"behind a sound start an append is answered {reply}")
        return problems

    def try_all(self, faults: Sequence[Fault]) -> list[str]:
        """Run all of them, a few at once; return what is wrong."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return [problem for found in pool.map(self._run_safely, faults) for problem in found]

    def _run_safely(self, fault: Fault) -> list[str]:
        try:
            return self.run(fault)
        except (AssertionError, DaemonError, HangError, BrokenJournalError, OSError) as error:
            return [f"FAULT={str(fault)!r}: {error!r:.3000}"]


def _of_the_end(daemon: FaultyDaemon, fault: Fault, log: str) -> list[str]:
    """Return what is wrong with how a daemon ended that met a fault."""
    problems = []
    # A restart helps against what passes; a place that can not be written to is
    # one that was chosen wrongly.
    expected = {EXIT_IO, EXIT_CONFIG} if fault.error == errno.EROFS else {EXIT_IO}
    if daemon.exit_code not in expected:
        problems.append(f"exit code {daemon.exit_code}, not {sorted(expected)}")
    critical = [line for line in log.splitlines() if '"level": "critical"' in line]
    plain = [line for line in log.splitlines() if line.startswith("agent-journald: ")]
    shown = [*map(_error_of, critical), *plain]
    if not any(str(daemon.state) in line for line in shown):
        problems.append(f"nobody is told what failed, and where: {shown}")
    return problems


def _error_of(line: str) -> str:
    said: dict[str, str] = json.loads(line)
    return said.get("error", "")


def faults_of(variant: str, calls: Sequence[Call]) -> Iterator[Fault]:
    """Yield all that is tried of *calls*."""
    if not calls:
        return
    for error, step in SURVIVED.items():
        for first in range(1, step + 1):
            yield Fault(variant, error, first, step)
    for error in FATAL:
        for call in calls:
            if call.kind in KINDS_OF_ERROR[error]:
                yield Fault(variant, error, call.number, ONCE)
    for error in FOREVER:
        for call in _ends_of_runs(calls):
            if call.kind in KINDS_OF_ERROR[error]:
                yield Fault(variant, error, call.number, 1)


def _ends_of_runs(calls: Sequence[Call]) -> Iterator[Call]:
    """Yield the first and the last of each run of calls of a kind on a file."""
    for _, run in itertools.groupby(calls, key=lambda call: (call.kind, call.path)):
        found = list(run)
        yield found[0]
        if len(found) > 2:
            yield found[-1]


@pytest.fixture(scope="module")
def sweep(starter: Starter, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    sweep = Sweep(starter, tmp_path_factory.mktemp("f"))
    sweep.prepare()
    return sweep


def chosen_of(faults: Sequence[Fault], count: int, seed: str) -> list[Fault]:
    """Return *count* faults, spread over all; which, is the seed's to say.

    Those first of which one run sees many.
    """
    shuffled = sorted(faults, key=lambda fault: Random(str(fault)).random())  # noqa: S311 - repeatable, not secret
    several = [fault for fault in shuffled if 1 < fault.step < ONCE]
    single = [fault for fault in shuffled if not 1 < fault.step < ONCE]
    found: list[Fault] = []
    for pool, share in ((several, count // 4), (single, count - count // 4)):
        wanted = min(share, len(pool)) if count < len(faults) else len(pool)
        offset = Random(seed).random()  # noqa: S311 - repeatable, not secret
        found += [pool[int((index + offset) * len(pool) / wanted)] for index in range(wanted)]
    return found


@pytest.mark.sized
@pytest.mark.timeout(7200)
def test_whatever_call_fails_nothing_wrong_is_said(
    sweep: Sweep, size: Size, seed: str, figures: Figures
) -> None:
    """All of the calls of a whole life, and those of a start on what a kill left."""
    whole, _ = sweep.calls_of("empty")
    behind_a_kill, start = sweep.calls_of("existing")
    every = [*faults_of("empty", whole), *faults_of("existing", behind_a_kill[:start])]
    chosen = chosen_of(every, size(44, len(every)), seed)
    if only := os.environ.get("FAULT"):
        chosen = [Fault.parsed(only)]
    problems = sweep.try_all(chosen)
    failed = sum(map(len, sweep.covered.values()))
    figures(
        faults_known=len(every),
        runs=sweep.runs,
        calls_and_errors=failed,
        bad=len(problems),
    )
    assert not problems, f"{len(problems)} of {len(chosen)}:\n" + "\n".join(problems[:20])


def test_housekeeping_on_a_full_disk_is_no_damage_behind_a_crash(sweep: Sweep) -> None:
    """The start found no room for the sums; then a checkpoint is cut off in the middle."""
    made, start = sweep.calls_of("existing")
    syncs = [call.number for call in made[:start] if (call.kind, call.path) == SYNC_OF_SUMS]
    assert syncs
    for number in syncs:
        with sweep.started("existing", Fault("existing", errno.ENOSPC, number, ONCE)) as daemon:
            Actor(daemon, "new").perform()
            behind = daemon.calls.made()[number:]
        for call in [call for call in behind if (call.kind, call.path) == SYNC_OF_DATABASE][:3]:
            fault = Fault("existing", errno.ENOSPC, number, call.number - number)
            assert not sweep.run(fault), fault
