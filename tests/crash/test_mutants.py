"""The crash test has teeth: daemons that break a promise are caught by it.

Each mutant is the daemon with one mistake of the kind that no other test sees.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from agent_journal.testing.daemon import DaemonError, RunningDaemon
from crash.checker import BrokenJournalError, Checker
from crash.cycle import Crashes
from crash.ledger import Attempt, Item, Talk
from crash.load import converse

MUTANTS = Path(__file__).parent / "mutants"
CYCLES_MAX = 40


def argv_of(mutant: str) -> list[str]:
    return [sys.executable, str(MUTANTS / f"{mutant}.py")]


@pytest.mark.parametrize(
    "mutant", ["ack_before_commit", "forgets_unsettled", "mark_before_entries", "sequence_twice"]
)
def test_a_mutant_is_caught(mutant: str, tmp_path: Path, seed: str) -> None:
    with (
        RunningDaemon(tmp_path, argv=argv_of(mutant)) as daemon,
        pytest.raises((BrokenJournalError, DaemonError)) as caught,
    ):
        Crashes(daemon, f"{seed}/{mutant}").run(CYCLES_MAX)
    print(caught.value)  # noqa: T201 - with -s one sees by what


def _positions_after_compacting_the_newest(daemon: RunningDaemon) -> None:
    """Compact what was written last, let it be swept, crash, and write again."""
    uid = os.geteuid()
    names = [(uid, "stays"), (uid, "goes")]
    checker = Checker()
    for turn in range(2):
        attempts = [
            Attempt(agent=name, items=(Item(event=b'{"Noted":"%d %d"}' % (turn, index)),))
            for name in names
            for index in range(300)
        ]
        attempts.append(Attempt(agent=names[1], force=True))
        talk = Talk.of(f"turn {turn}", attempts)
        converse(talk, daemon.socket)
        checker.check(daemon, [talk])
        assert daemon.stop() == 0  # a clean stop sweeps
        daemon.start()
        checker.check(daemon)


@pytest.mark.parametrize("argv", [None, argv_of("position_twice")], ids=["daemon", "mutant"])
def test_a_position_is_never_given_twice(argv: list[str] | None, tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, argv=argv) as daemon:
        if argv is None:
            _positions_after_compacting_the_newest(daemon)
        else:
            with pytest.raises(BrokenJournalError, match="was given"):
                _positions_after_compacting_the_newest(daemon)
