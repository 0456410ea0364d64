"""Records a real daemon: its files and its answers, through crashes and restarts.

The recorder is a library that is loaded before the daemon's own
(``recorder.c``).  strace could do it too, but costs each call two stops and has
to print every page as text; this costs a write, so that what is recorded has
the timing of a daemon, and a crash can be made between any two calls: the
recorder kills its process behind so many records.

That nothing went past the recorder is seen at the end of each life: the files
that the trace leads to must be those that are there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from agent_journal.testing.daemon import DaemonError, RunningDaemon
from crash.power.disk import WHOLE, Disk, Files
from crash.power.load import Load
from crash.power.trace import Trace, UnmodelledError, load, save

SOURCE = Path(__file__).with_name("recorder.c")
CONFIG = """\
[commit]
checkpoint_commits = {commits}
free_bytes_min = 0
[retention.kinds.brief]
completed_days = 0.0000001
"""
DATABASE = "journal.db"
DAEMON = (sys.executable, "-m", "agent_journal")


def compiled(directory: Path) -> Path:
    """Return the recorder, or skip the test."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: what a power cut leaves was not checked")
    recorder = directory / "recorder.so"
    flags = ["-shared", "-fPIC", "-O1", "-o", str(recorder), str(SOURCE), "-lpthread"]
    made = subprocess.run([compiler, *flags], check=False, capture_output=True, timeout=60)
    if made.returncode != 0:
        pytest.skip(f"the recorder does not compile here: {made.stderr.decode()[-300:]}")
    return recorder


@dataclass(slots=True)
class Recording:
    """A directory in which daemons are recorded, one life after the other."""

    directory: Path
    recorder: Path
    seed: str
    argv: Sequence[str] = DAEMON
    env: Mapping[str, str] = field(default_factory=dict)
    base: Files = field(default_factory=dict)
    commits: int = 5  # between two checkpoints
    state: Path | None = None  # where the database is, if not in the directory
    answered: Callable[[int], None] | None = None  # told of each answer

    def make(self, *, lives: int = 2, rounds: int = 14) -> Trace:
        """Run *lives* of a daemon under load, of which the last ends well; return the trace.

        Raises:
            UnmodelledError: the daemon did something that the model of a disk does not know.
        """
        random = Random(f"{self.seed}/lives")  # noqa: S311 - repeatable, not secret
        state = self.state or self.directory / "state"
        state.mkdir()
        for name, data in self.base.items():
            (state / name).write_bytes(data)
        load_ = Load(self.seed, os.geteuid(), self.answered)
        for life in range(lives):
            is_last = life == lives - 1
            # Few records: it dies in its recovery.  Many: under load.
            die_at = 0 if is_last else random.choice((random.randrange(5, 90), 600, 1200))
            self._live(load_, 3 * rounds if die_at > 100 else rounds, die_at, state)
        return load(self.path)

    @property
    def path(self) -> Path:
        """Where the trace is."""
        return self.directory / "trace"

    def _live(self, load_: Load, rounds: int, die_at: int, state: Path) -> None:
        raw = self.directory / "raw"
        daemon = RunningDaemon(
            self.directory,
            argv=self.argv,
            database=state / DATABASE,
            config=CONFIG.format(commits=self.commits),
            env={
                "LD_PRELOAD": str(self.recorder),
                "POWER_TRACE": str(raw),
                "POWER_ROOT": str(state),
                "POWER_DIE_AT": str(die_at),
                **self.env,
            },
        )
        try:
            daemon.start()
            if load_.run(daemon, rounds):
                daemon.stop()
        except DaemonError:
            if not die_at:
                raise
        finally:
            daemon.close()
        save(self.path, self.base, load_.requests, raw.read_bytes())
        _compare(load(self.path), state)


def _compare(trace: Trace, state: Path) -> None:
    """See that nothing went past the recorder."""
    disk = Disk(trace, "strict")
    for index, event in trace.changes():
        disk.follow(index, event)
    files = disk.left([WHOLE] * len(disk.pending))
    found = {path.name: path.read_bytes() for path in state.iterdir()}
    for name in sorted(files.keys() | found.keys()):
        if files.get(name) != found.get(name):
            sizes = [len(some[name]) if name in some else None for some in (files, found)]
            raise UnmodelledError(f"{name} is not what was recorded: sizes {sizes}")
