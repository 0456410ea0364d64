"""Journals that are crashed again and again, each from a seed of its own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent_journal.testing.daemon import RunningDaemon
from crash.cycle import Crashes
from crash.forked import ForkedDaemon, Starter

CONFIG: Final = "[commit]\ncheckpoint_commits = 5\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """One that is yet to be made, and how often its daemon is crashed."""

    directory: Path
    seed: str
    cycles: int
    hurried: bool  # with an index that is moved forward every few entries


def crash(daemon: RunningDaemon, seed: str, cycles: int) -> Crashes:
    """Crash a daemon so many times, and stop it well at the end."""
    with daemon:
        crashes = Crashes(daemon, seed)
        crashes.run(cycles)
        assert daemon.stop() == 0
        daemon.start()
        crashes.checker.check(daemon)
    return crashes


def crash_forked(journal: Journal) -> dict[str, int]:
    """Crash a daemon that is forked, and remove what it leaves; return the figures."""
    journal.directory.mkdir()
    with Starter() as starter:
        daemon = ForkedDaemon(starter, journal.directory, config=CONFIG, hurried=journal.hurried)
        found = crash(daemon, journal.seed, journal.cycles)
    shutil.rmtree(journal.directory)
    return found.figures()
