"""An hour of everything at once, in rounds; between two of them the daemon is at rest.

At rest it must have come back to what it had: the same descriptors and threads, a
write-ahead log no longer than checkpoints leave it, and about the memory of before.  The
first quarter of the rounds is a warm-up, in which caches fill; the last quarter is
held against the most that was seen there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from agent_journal.testing.daemon import RunningDaemon
from soak.workers import WORKERS, Found, Worker

MIB = 1 << 20
ROUND_S_MAX = 60.0  # a line a minute
ROUNDS_MIN = 4
REST_S_MAX = 60.0
WORKER_END_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Rest:
    """What the daemon holds while nobody wants anything of it."""

    memory: int
    descriptors: int
    threads: int
    wal: int


# How much more of each than in the warm-up the last rounds may show.  Up to 65,536 entries
# are in memory before they are settled in the index; a thread that copies or starts
# something may not have ended; the log is as long as a checkpoint under load let it get.
GROWTH_MAX = Rest(memory=32 * MIB, descriptors=1, threads=2, wal=32 * MIB)


def at_rest(daemon: RunningDaemon) -> Rest:
    """Wait until only we are connected, and look.

    Raises:
        AssertionError: connections stay, though nobody has any.
    """
    deadline = time.monotonic() + REST_S_MAX
    with daemon.connect() as connection:
        while (stats := connection.request({"op": "stats"}))["connections"] > 1:
            assert time.monotonic() < deadline, f"connections stay open: {stats['connections']}"
            time.sleep(0.05)
        process = Path(f"/proc/{daemon.pid}")
        status = dict(
            line.split(":\t", 1) for line in (process / "status").read_text().splitlines()
        )
        wal = daemon.database.with_name(f"{daemon.database.name}-wal")
        return Rest(
            memory=int(status["VmRSS"].split()[0]) * 1024,
            descriptors=sum(1 for _ in (process / "fd").iterdir()),
            threads=int(status["Threads"]),
            wal=wal.stat().st_size if wal.exists() else 0,
        )


def growth(rests: Sequence[Rest]) -> list[str]:
    """Say what grew from the first quarter of the rounds to the last."""
    quarter = max(len(rests) // 4, 1)
    problems = []
    for name in (field.name for field in fields(Rest)):
        before = max(getattr(rest, name) for rest in rests[:quarter])
        now = statistics.median(getattr(rest, name) for rest in rests[-quarter:])
        if now > before + getattr(GROWTH_MAX, name):
            problems.append(f"{name} grew from {before:,} to {now:,.0f}")
    return problems


def soak(daemon: RunningDaemon, seconds: float, say: Callable[[str], None]) -> Found:
    """Use *daemon* for so long, and say each round how it is; what is wrong is found."""
    round_s = min(ROUND_S_MAX, seconds / ROUNDS_MIN)
    found, rests = Found(), []
    for number in range(max(round(seconds / round_s), ROUNDS_MIN)):
        before = found.counts.copy()
        run_round(daemon, found, round_s, number)
        rests.append(at_rest(daemon))
        say(line(number, round_s, found.counts - before, rests[-1]))
        if found.problems:
            break
    found.problems += growth(rests) if not found.problems else []
    return found


def run_round(daemon: RunningDaemon, found: Found, seconds: float, number: int) -> None:
    """Have everybody at work for so long, and then at rest."""
    workers = [
        Worker(turn, daemon, found, f"{turn.__name__.replace('_', '-')}-{number}-{index}")
        for turn, count in WORKERS
        for index in range(count)
    ]
    for worker in workers:
        worker.start()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and not found.problems:
        time.sleep(min(0.2, seconds / 10))
    for worker in workers:
        worker.rest.set()
    for worker in workers:
        worker.join(WORKER_END_S_MAX)
        if worker.is_alive():
            found.problem(f"{worker.name} waits for ever")


def line(number: int, seconds: float, counts: dict[str, int], rest: Rest) -> str:
    """Return a round in one line."""
    did = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return (
        f"{(number + 1) * seconds:5,.0f} s  {rest.memory / MIB:6.1f} MiB  "
        f"{rest.descriptors:3} descriptors  {rest.threads} threads  "
        f"WAL {rest.wal / MIB:5.1f} MiB  {did}"
    )
