"""Nothing that was acknowledged is missing, doubled, reordered or altered by ``kill -9``.

``CRASH_SEED`` repeats a run that failed.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent_journal.testing.daemon import RunningDaemon
from crash.journals import CONFIG, Journal, crash, crash_forked
from workers import side_by_side

if TYPE_CHECKING:
    from conftest import Figures, Size

PER_JOURNAL = 25  # it grows, and with it each look at it
FULL = 5_000


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, seed: str) -> None:
    """A few times with a daemon as everybody starts it; those below are forked."""
    checker = crash(RunningDaemon(tmp_path, config=CONFIG), seed, 3).checker
    # Otherwise nothing was shown: nobody was interrupted, or nothing was written.
    assert checker.acknowledged > 100
    assert checker.in_doubt > 0


@pytest.mark.sized
@pytest.mark.timeout(4 * 3600)
def test_what_was_acknowledged_survives_kill_9_many_times(  # noqa: PLR0913, PLR0917 - fixtures
    tmp_path: Path,
    seed: str,
    size: Size,
    workers: int,
    figures: Figures,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every second journal has an index that is moved forward every few entries.

    In the milliseconds that a load lasts here, one that waits for thousands hardly begins.
    """
    wanted = size(50, FULL)
    journals = [
        Journal(
            directory=tmp_path / f"journal-{first}",
            seed=f"{seed}/{first}",
            cycles=min(PER_JOURNAL, wanted - first),
            hurried=first // PER_JOURNAL % 2 == 1,
        )
        for first in range(0, wanted, PER_JOURNAL)
    ]
    sums: Counter[str] = Counter()
    with closing(side_by_side(crash_forked, journals, workers)) as crashed:
        for found in crashed:
            before = sums["cycles"]
            sums.update(found)
            if before // 500 != sums["cycles"] // 500:
                with capsys.disabled():
                    print(f"\n{dict(sums)}", end="", flush=True)  # noqa: T201 - an hour passes
    assert sums["acknowledged"] > 10 * wanted
    assert sums["in_doubt"] > 0
    figures(**sums, lost=0, seed=seed)
