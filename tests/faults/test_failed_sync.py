"""A disk that fails under load: everybody is answered, and the next daemon starts on firm ground.

As the kernel tells it, a sync that failed once may be followed by ones that
succeed and have lost what the first one lost.  So the daemon ends, and the next
one makes a base before it acknowledges anything.  What a device really loses
is not seen here but on a real file system (``tests/crash``); here it is seen that
the daemon does end, at whichever call, whatever is in flight.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

import pytest

from agent_journal.testing.daemon import DaemonError
from crash.checker import Checker
from crash.load import Scripts, Writer, converse, retries
from faults.calls import Action
from faults.daemons import FaultyDaemon, Starter
from faults.witness import ToldTail

Size = Callable[[int, int], int]
Figures = Callable[..., None]

EXIT_IO: Final = 74
CONFIG: Final = "[commit]\ncheckpoint_commits = 5\nfree_bytes_min = 0\n"
SYNC: Final = frozenset({"sync"})
WRITE: Final = frozenset({"write"})


class Cycles:
    """One journal, through a failure after the other."""

    def __init__(self, daemon: FaultyDaemon, seed: str) -> None:
        self.daemon = daemon
        self.checker = Checker()
        self.ends: Counter[str] = Counter()
        self._seed = seed
        self._count = 0

    def run(self, inject: Callable[[Random], None]) -> None:
        """Load the daemon, have its disk fail, and check what the next one has."""
        daemon, checker = self.daemon, self.checker
        name = f"c{self._count}"
        random = Random(f"{self._seed}/{self._count}")  # noqa: S311 - repeatable, not secret
        self._count += 1
        talks = Scripts(random, name, os.geteuid(), checker).talks(60)
        tail = ToldTail(daemon.socket, checker.next_position)
        writers = [Writer(talk, daemon.socket, random) for talk in talks]
        inject(random)
        for thread in (tail, *writers):
            thread.start()
        for writer in writers:
            writer.join()
        if daemon.calls.injected and daemon.exit_code is None:
            # A sync of housekeeping may be the one; or it is not fatal.
            daemon.stop()
        elif daemon.exit_code is None:
            daemon.kill()
        code = daemon.wait()
        tail.finish()
        self.ends[str(code) if daemon.calls.injected else "not met"] += 1
        assert code in (0, EXIT_IO, -9), f"exit code {code}: {daemon.log[-2000:]}"
        daemon.calls.reset()
        daemon.start()
        checker.check(daemon, talks, [tail])
        again = retries(talks, f"{name}/retries", random)
        converse(again, daemon.socket)
        checker.check(daemon, [again])


def run_cycles(
    starter: Starter,
    directory: Path,
    seed: str,
    count: int,
    inject: Callable[[FaultyDaemon, Random], None],
) -> Cycles:
    """Run *count* cycles, on journals that grow for 25 of them."""
    total = Counter[str]()
    acknowledged = 0
    cycles: Cycles | None = None
    for start in range(0, count, 25):
        place = directory / str(start)
        place.mkdir()
        with FaultyDaemon(starter, place, config=CONFIG, hurried=100) as daemon:
            cycles = Cycles(daemon, f"{seed}/{start}")
            for _ in range(min(25, count - start)):
                cycles.run(lambda random, daemon=daemon: inject(daemon, random))
            assert daemon.stop() == 0
            daemon.start()
            cycles.checker.check(daemon)
            total += cycles.ends
            acknowledged += cycles.checker.acknowledged
    assert cycles is not None
    cycles.ends, cycles.checker.acknowledged = total, acknowledged
    return cycles


@pytest.mark.sized
@pytest.mark.timeout(3600)
def test_after_a_sync_that_failed_under_load_nothing_acknowledged_is_missing(
    starter: Starter, tmp_path: Path, size: Size, seed: str, figures: Figures
) -> None:
    def inject(daemon: FaultyDaemon, random: Random) -> None:
        first = daemon.calls.count + random.randrange(120)
        # The first sync behind that call; and those behind it succeed, or they fail, too.
        last = random.choice((first + 8, 1 << 60))
        daemon.calls.inject(Action.FAIL, error=errno.EIO, first=first, last=last, kinds=SYNC)

    cycles = run_cycles(starter, tmp_path, seed, size(5, 300), inject)
    figures(
        failures=cycles.ends["74"],
        acknowledged=cycles.checker.acknowledged,
        ends=dict(cycles.ends),
        bad=0,
    )
    assert cycles.ends["74"] > 0


@pytest.mark.sized
@pytest.mark.timeout(3600)
def test_whatever_fails_under_load_everybody_is_answered_and_told_the_truth(
    starter: Starter, tmp_path: Path, size: Size, seed: str, figures: Figures
) -> None:
    """A full disk for a while, short writes, writes that fail: in the midst of batches."""

    def inject(daemon: FaultyDaemon, random: Random) -> None:
        first = daemon.calls.count + random.randrange(200)
        kind = random.randrange(4)
        last = first + random.choice((0, 3, 40))
        if kind == 0:
            daemon.calls.inject(Action.SHORTEN, first=first, step=random.randint(1, 5))
        elif kind == 1:
            daemon.calls.inject(Action.FAIL, error=errno.EIO, first=first, last=last, kinds=WRITE)
        else:
            daemon.calls.inject(Action.FAIL, error=errno.ENOSPC, first=first, last=last)

    cycles = run_cycles(starter, tmp_path, seed, size(5, 300), inject)
    figures(acknowledged=cycles.checker.acknowledged, ends=dict(cycles.ends), bad=0)
    assert cycles.checker.acknowledged > 100


def test_a_disk_that_stays_dead_is_not_served_until_it_is_well(
    starter: Starter, tmp_path: Path
) -> None:
    """Each start ends by itself, and says which file it was."""
    with FaultyDaemon(starter, tmp_path, config=CONFIG) as daemon:
        event = {"op": "append", "agent_id": "a", "event": {"Noted": 1}}
        assert daemon.request(event)["ok"]
        daemon.kill()
        for _ in range(3):
            daemon.calls.reset()
            daemon.calls.inject(Action.FAIL, error=errno.EIO, kinds=SYNC)
            with pytest.raises(DaemonError, match=r"journal\.db"):
                daemon.start()
            assert daemon.exit_code == EXIT_IO
        daemon.calls.reset()
        daemon.start()
        assert daemon.request(event)["sequence"] == 1
        assert daemon.stop() == 0
