"""One crash: a daemon under load, killed at a random moment, started again, and judged.

The moment is between 1 and 80 ms after the load began; sometimes the daemon is
killed once or twice more while it starts, in the middle of its recovery.  All
of it comes from a seed, but for the scheduler's part: the same seed makes the
same load and the same pauses, and so the same crash again in a few tries.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from random import Random

from agent_journal.testing.daemon import DaemonError, RunningDaemon
from crash.checker import Checker
from crash.load import Scripts, Writer, converse, retries
from crash.witness import Reader, Tail, Witness

REQUESTS_PER_MS = 8  # more than the daemon answers, on each connection
STARTING_MS = (1, 400)


@dataclass(slots=True)
class Crashes:
    """Crashes of one journal, one after the other."""

    daemon: RunningDaemon
    seed: str
    checker: Checker = field(default_factory=Checker)
    cycles: int = 0
    startup_kills: int = 0

    def run(self, cycles: int) -> None:
        """Crash the daemon *cycles* times.

        Raises:
            BrokenJournalError: it did not keep a promise; notes tell how to repeat it.
        """
        for _ in range(cycles):
            try:
                # Repeatable, not secret.
                self._crash(Random(f"{self.seed}/{self.cycles}"))  # noqa: S311
            except Exception as error:
                error.add_note(f"in cycle {self.cycles} of seed {self.seed!r}")
                error.add_note(f"the daemon printed:\n{self.daemon.log[-2000:]}")
                raise
            self.cycles += 1

    def figures(self) -> dict[str, int]:
        """Return what there is to tell of them."""
        return {
            "cycles": self.cycles,
            "kills_at_start": self.startup_kills,
            "acknowledged": self.checker.acknowledged,
            "in_doubt": self.checker.in_doubt,
            "in_doubt_and_recorded": self.checker.recorded_in_doubt,
        }

    def _crash(self, random: Random) -> None:
        delay_ms = random.uniform(1, 80)
        scripts = Scripts(random, f"c{self.cycles}", os.geteuid(), self.checker)
        talks = scripts.talks(20 + int(delay_ms * REQUESTS_PER_MS))
        socket = self.daemon.socket
        witnesses: list[Witness] = [
            Tail(socket, self.checker.next_position),
            Reader(socket, sorted(self.checker.models)[:8]),
        ]
        writers = [Writer(talk, socket, random) for talk in talks]
        for thread in (*witnesses, *writers):
            thread.start()
        time.sleep(delay_ms / 1000)  # the one thing that is timed here: when it is killed
        self.daemon.kill()
        for thread in (*writers, *witnesses):
            thread.join()
        for witness in witnesses:
            witness.finish()
        while random.random() < 0.25:
            self._kill_while_starting(random)
        self.daemon.start()
        self.checker.check(self.daemon, talks, witnesses)
        again = retries(talks, f"c{self.cycles}/retries", random)
        converse(again, socket)
        self.checker.check(self.daemon, [again])

    def _kill_while_starting(self, random: Random) -> None:
        """Start the daemon and kill it before it serves, or just when it does."""
        daemon, before = self.daemon, self.daemon.pid
        delay_s = random.uniform(*STARTING_MS) / 1000

        def kill() -> None:
            while daemon.pid == before:
                time.sleep(0.0005)
            time.sleep(delay_s)
            with contextlib.suppress(ProcessLookupError):
                os.kill(daemon.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        try:
            daemon.start()
        except DaemonError:
            self.startup_kills += 1
        killer.join()
        daemon.wait()
