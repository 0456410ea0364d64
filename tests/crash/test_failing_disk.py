"""After a sync that failed, and a restart, nothing that is acknowledged is lost.

On a real ext4, over a disk that fails when it is told to.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent_journal.testing.daemon import RunningDaemon
from crash.checker import BrokenJournalError
from crash.power.device import MIB, Device, require
from crash.power.failing import Failures

if TYPE_CHECKING:
    from conftest import Figures, Size

MUTANTS = Path(__file__).parent / "mutants"
WHAT = "that a failed sync loses nothing"
# Where nothing is copied out of it, the log only grows, and what was appended to it is
# what ext4 loses; where it is copied often, it is the database that grows, and its new
# blocks are what is lost, most surely where they are what fails.
CONFIG = "[commit]\nfree_bytes_min = 0\ncheckpoint_commits = {commits}\n"
CHECKPOINT_COMMITS = (100_000, 64, 5)
PER_JOURNAL = 3  # the journal, and each look at it, grow
PER_DEVICE = 30


def fail(
    directory: Path, device: Device, seed: str, *, commits: int, mutant: str | None = None
) -> Iterator[Failures]:
    """Have the device fail under one journal."""
    directory.mkdir()
    database = device.mounted / directory.name / "journal.db"
    argv = [sys.executable, str(MUTANTS / f"{mutant}.py")] if mutant else None
    config = CONFIG.format(commits=commits)
    with RunningDaemon(directory, database=database, argv=argv, config=config) as daemon:
        failures = Failures(device, daemon, f"{seed}/{directory.name}")
        if commits == min(CHECKPOINT_COMMITS):
            failures.growing = database
        if mutant:
            failures.writes = (8,)
        while True:
            failures.run(1)
            yield failures


@pytest.mark.sized
@pytest.mark.timeout(2 * 3600)
def test_nothing_is_lost_by_a_failed_sync(
    tmp_path: Path, seed: str, size: Size, figures: Figures
) -> None:
    require(WHAT)
    wanted = size(5, 300)
    done = 0
    sums: Counter[str] = Counter()
    while done < wanted:
        with Device(tmp_path / f"device-{done}", size=256 * MIB) as device:
            for _ in range(PER_DEVICE // PER_JOURNAL):
                count = min(PER_JOURNAL, wanted - done)
                commits = CHECKPOINT_COMMITS[done // PER_JOURNAL % len(CHECKPOINT_COMMITS)]
                failing = fail(tmp_path / f"journal-{done}", device, seed, commits=commits)
                with closing(failing):
                    *_, found = islice(failing, count)
                done += count
                sums.update(found.figures())
                if done >= wanted:
                    break
    assert sums["in_doubt"] > 0  # otherwise nobody was waiting when the disk failed
    # Otherwise nothing was shown of what is looked for.
    assert sums["ext4_gave_up"] + sums["unnoticed"] < done
    figures(failed_syncs=done, **sums, lost=0, seed=seed)


@pytest.mark.timeout(300)
def test_a_start_that_believes_the_cache_is_caught(tmp_path: Path, seed: str) -> None:
    require(WHAT)

    def fail_on(device: Device) -> None:
        for number in range(20):
            directory = tmp_path / f"journal-{number}"
            failing = fail(directory, device, seed, commits=5, mutant="believes_the_cache")
            with closing(failing):
                next(failing)

    with (
        Device(tmp_path / "device", size=256 * MIB) as device,
        pytest.raises(BrokenJournalError) as caught,
    ):
        fail_on(device)
    print(caught.value)  # noqa: T201 - with -s one sees by what
