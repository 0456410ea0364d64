"""Looks for a disk that loses something: records, explores, and keeps what it found.

Each trace is a fresh one, since a million disks of one story show less than a
thousand each of a thousand stories.  Every second one begins on a disk that a
power cut has left, and so has power cuts in a recovery from a power cut.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent_journal.testing.daemon import RunningDaemon
from agent_journal.testing.inspection import Inspection
from crash.power.disk import Choice, Files
from crash.power.explorer import DATABASE, Bad, Explorer, Seen
from crash.power.hurry import in_a_hurry
from crash.power.recording import DAEMON, Recording
from crash.power.trace import Trace, load
from crash.snapshot import take_snapshot

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it
STATES_PER_TRACE = 2_500
SMALL_GENERATIONS = (
    sys.executable,
    str(Path(__file__).parents[1] / "starters" / "small_generations.py"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A trace to be recorded, and how many of its disks to look at."""

    directory: Path
    recorder: Path
    seed: str
    wanted: int = STATES_PER_TRACE
    argv: Sequence[str] = DAEMON
    env: Mapping[str, str] = field(default_factory=dict)
    lives: int = 2
    rounds: int = 14
    is_nested: bool = False  # begin on a disk that another trace left
    with_daemon: bool = False  # have a real one serve one of the disks


@dataclass(slots=True)
class Found:
    """What a job, or several, came to."""

    states: int = 0
    traces: int = 0
    served: int = 0  # disks that a real daemon served
    bad: list[str] = field(default_factory=list)

    def add(self, other: Found) -> None:
        self.states += other.states
        self.traces += other.traces
        self.served += other.served
        self.bad += other.bad


def jobs_of(
    directory: Path, recorder: Path, seed: str, wanted: int, *, served_every: int
) -> Iterator[Job]:
    """Yield what is to be done to see *wanted* disks."""
    for number in range(-(-wanted // STATES_PER_TRACE)):
        left = wanted - number * STATES_PER_TRACE
        yield Job(
            directory=directory / f"trace-{number}",
            recorder=recorder,
            seed=f"{seed}/{number}",
            wanted=min(left, STATES_PER_TRACE),
            # An index that trails a few entries behind is moved forward all the time.
            argv=(DAEMON, SMALL_GENERATIONS)[number % 2],
            is_nested=number % 4 >= 2,
            with_daemon=number % served_every == 0,
        )


def run(job: Job) -> Found:
    """Record a trace, and look at disks that a power cut in it could have left."""
    job.directory.mkdir(parents=True)
    base: Files = {}
    found = Found()
    if job.is_nested:
        base = _left_by(job, found)
    recording = Recording(
        job.directory, job.recorder, job.seed, argv=job.argv, env=job.env, base=base
    )
    trace = recording.make(lives=job.lives, rounds=job.rounds)
    seen = _explored(trace, job)
    found.states += seen.states
    found.traces += 1
    found.bad += told(recording.path, seen.bad)
    if job.with_daemon and seen.sample is not None:
        found.bad += [f"{recording.path}: {one}" for one in served(job.directory, *seen.sample)]
        found.served += 1
    if not found.bad:
        shutil.rmtree(job.directory)
    return found


def _left_by(job: Job, found: Found) -> Files:
    """Return a disk that another story, of fewer requests, left."""
    directory = job.directory / "before"
    directory.mkdir()
    seed = f"{job.seed}/before"
    recording = Recording(directory, job.recorder, seed, argv=job.argv, env=job.env)
    seen = _explored(recording.make(lives=1, rounds=8), job, wanted=job.wanted // 10)
    found.states += seen.states
    found.bad += told(recording.path, seen.bad)
    return seen.sample[0] if seen.sample else {}


def _explored(trace: Trace, job: Job, wanted: int | None = None) -> Seen:
    with scratch() as directory, in_a_hurry():

        async def explore() -> Seen:
            explorer = Explorer(trace, Path(directory))
            early = await explorer.prepare(os.geteuid())
            seen = await explorer.explore(wanted or job.wanted, job.seed)
            seen.bad += [Bad(-1, Choice("strict", "all", 0), one) for one in early]
            return seen

        return asyncio.run(explore())


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a directory in memory, where there is one."""
    where = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="power-", dir=where)


def told(path: Path, bad: Sequence[Bad]) -> list[str]:
    """Return what is wrong, and how to see it again."""
    return [
        f"{one.reason}\n    to repeat it: python -m crash.power.replay {path} "
        f"{one.index} {one.choice}"
        for one in bad
    ]


def served(directory: Path, files: Files, expected: Inspection) -> Iterator[str]:
    """Have a real daemon serve a disk, in a process of its own; yield what it shows wrong.

    It may go on from there, in entries of its own: attempts whose process is gone end.
    """
    state = directory / "served"
    state.mkdir()
    for file, data in files.items():
        (state / file).write_bytes(data)
    with RunningDaemon(directory, database=state / DATABASE, config="") as daemon:
        snapshot = take_snapshot(daemon)
    for name, entries in expected.entries.items():
        wanted = [(one.sequence, one.position, one.iteration, one.event) for one in entries]
        shown = [
            (one.sequence, one.position, one.iteration, one.event)
            for one in snapshot.entries.get(name, [])
        ]
        if shown[: len(wanted)] != wanted:
            yield f"a real daemon shows {len(shown)} entries of {name}, not these {len(wanted)}"
        elif any(not one[3].startswith(_OF_THE_DAEMON) for one in shown[len(wanted) :]):
            yield f"a real daemon shows entries of {name} that nobody wrote"
    if snapshot.entries.keys() != expected.entries.keys():
        yield f"a real daemon shows the agents {sorted(snapshot.entries)}"


_OF_THE_DAEMON = (b'{"AttemptEnded"', b'{"Parked"', b'{"AttemptStarted"')


def repeated(path: Path, index: int, choice: Choice) -> tuple[str | None, Path]:
    """Judge one disk again; return what is wrong, and where its files are."""
    directory = Path(tempfile.mkdtemp(prefix="power-"))
    with in_a_hurry():

        async def repeat() -> str | None:
            explorer = Explorer(load(path), directory)
            early = await explorer.prepare(os.geteuid())
            return "; ".join(early) or None if index < 0 else await explorer.repeat(index, choice)

        return asyncio.run(repeat()), directory
