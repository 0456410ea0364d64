"""A disk that fails once, a daemon that starts again, and what is there afterwards.

The kernel forgets that a write failed: it marks the page clean, keeps it in its
cache, and calls the next sync good.  On ext4 the block may read back as zeros
once the cache is cold, and with it everything that was appended behind it, be it
acknowledged ten times over.  So after an error the daemon must not go on, and its
next start must not build on what was written before.  That the journal is whole
while the cache is warm shows nothing; it is read from the disk.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from agent_journal.testing.daemon import DaemonError, RunningDaemon
from crash.checker import Checker
from crash.ledger import Attempt, Item, Talk
from crash.load import ANSWERED, Scripts, Writer, converse
from crash.power.device import Device

EXIT_IO = 74
REQUESTS = 100  # on each connection; and as many when the disk has healed


@dataclass(slots=True)
class Failures:
    """Failures of one disk, one after the other, under one journal."""

    device: Device
    daemon: RunningDaemon
    seed: str
    writes: tuple[int, ...] = (1, 1, 2, 8)  # that fail; of many the file system gives up
    growing: Path | None = None  # the file at whose growth they fail; None: at any moment
    checker: Checker = field(default_factory=Checker)
    count: int = 0
    in_doubt: int = 0
    unnoticed: int = 0  # writes that failed and were none of the daemon's
    gave_up: int = 0  # times that the file system did, and had to be mounted again

    def run(self, count: int) -> None:
        """Have the disk fail *count* times.

        Raises:
            BrokenJournalError: something that was acknowledged is gone, or worse.
        """
        for _ in range(count):
            try:
                # Repeatable, not secret.
                self._fail(Random(f"{self.seed}/{self.count}"))  # noqa: S311
            except Exception as error:
                error.add_note(f"in failure {self.count} of seed {self.seed!r}")
                error.add_note(f"the daemon printed:\n{self.daemon.log[-2000:]}")
                raise
            self.count += 1

    def figures(self) -> dict[str, int]:
        """Return what there is to tell of it."""
        return {
            "acknowledged": self.checker.acknowledged,
            "in_doubt": self.in_doubt,
            "ext4_gave_up": self.gave_up,
            "unnoticed": self.unnoticed,
        }

    def _fail(self, random: Random) -> None:
        before = self._talk(random, "before", fails_after_s=random.uniform(0.001, 0.1))
        self._start()
        self.checker.check(self.daemon, before)
        self.in_doubt += sum(talk.sent - len(talk.replies()) for talk in before)
        behind = self._talk(random, "behind", fails_after_s=None)
        if random.random() < 0.5:
            self.daemon.kill()
        else:
            self.daemon.stop()
        self.device.forget()
        self.daemon.start()
        self.checker.check(self.daemon, behind)

    def _talk(self, random: Random, name: str, *, fails_after_s: float | None) -> list[Talk]:
        scripts = Scripts(random, f"f{self.count}-{name}", os.geteuid(), self.checker)
        talks = scripts.talks(REQUESTS)
        writers = [Writer(talk, self.daemon.socket, random) for talk in talks]
        for writer in writers:
            writer.start()
        if fails_after_s is not None:
            time.sleep(fails_after_s)  # the one thing that is timed here: when the disk fails
            self._await_growth(writers)
            self.device.fail(random.choice(self.writes))
        for writer in writers:
            writer.join()
        if fails_after_s is not None:
            self._end(talks)
            self.device.heal()
        return talks

    def _await_growth(self, writers: list[Writer]) -> None:
        """Wait for the file to grow: its new blocks are what the next writes are of."""
        if self.growing is None:
            return
        size = self.growing.stat().st_size
        while self.growing.stat().st_size == size and any(map(Writer.is_alive, writers)):
            pass  # no longer than a sync takes, of which a sleep might miss all

    def _end(self, talks: list[Talk]) -> None:
        """See the daemon end as it must, unless the write that failed was none of its own."""
        late = self._late()
        try:
            converse(late, self.daemon.socket)
            talks.append(late)
        except OSError:
            pass  # it has ended already
        if all(talk.ended_by == ANSWERED for talk in talks):
            self.unnoticed += 1
            self.daemon.kill()
            return
        code = self.daemon.wait()
        assert code == EXIT_IO, f"the daemon exited with {code}"

    def _late(self) -> Talk:
        """Return what is appended when all else is answered: a sync tells of earlier errors."""
        name = os.geteuid(), f"late-{self.count}"
        items = [Item(event=b'{"Late":"%d %d"}' % (self.count, number)) for number in range(20)]
        return Talk.of(name[1], [Attempt(agent=name, items=(item,)) for item in items])

    def _start(self) -> None:
        """Start on a disk that is well again, though its file system may have given up."""
        if not self.device.is_read_only:
            try:
                self.daemon.start()
            except DaemonError:
                if not self.device.is_read_only:
                    raise
            else:
                return
        self.gave_up += 1
        self.device.forget()
        self.daemon.start()
