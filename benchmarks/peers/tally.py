"""What the Python peers share: their options, a tally of writes and the line they end with.

The line has the fields of the load generator's, so that the tables treat all
peers alike.
"""

import argparse
import json
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path

WARMUP_S = 0.3  # as long as the load generator's


@dataclass
class Options:
    """What a peer is asked to do."""

    directory: Path
    seconds: float
    writers: int
    event_bytes: int


@dataclass
class Tally:
    """Latencies of the writes that became durable within the measured time."""

    seconds: float
    latencies_ns: list[int] = field(default_factory=list)
    begin_ns: int = field(default_factory=time.monotonic_ns)

    @property
    def is_over(self) -> bool:
        """Whether the writers are to stop."""
        return time.monotonic_ns() >= self._from_ns + int(self.seconds * 1e9)

    @property
    def _from_ns(self) -> int:
        return self.begin_ns + int(WARMUP_S * 1e9)

    def add(self, begun_ns: int) -> None:
        """Count a write that was begun at *begun_ns* and is durable now."""
        now_ns = time.monotonic_ns()
        if self._from_ns <= now_ns < self._from_ns + int(self.seconds * 1e9):
            self.latencies_ns.append(now_ns - begun_ns)

    def report(self, **facts: str) -> str:
        """Return the figures as the load generator prints its own."""
        ordered = sorted(self.latencies_ns) or [0]

        def microseconds(share: float) -> float:
            return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)] / 1000, 1)

        return json.dumps(
            {
                "seconds": self.seconds,
                "entries": len(self.latencies_ns),
                "entries_per_second": round(len(self.latencies_ns) / self.seconds),
                "p50_us": microseconds(0.5),
                "p99_us": microseconds(0.99),
                "p999_us": microseconds(0.999),
                "max_us": microseconds(1),
                "errors": 0,
                "sqlite": sqlite3.sqlite_version,
                **facts,
            }
        )


def parse_options(description: str) -> Options:
    """Read a peer's command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--writers", type=int, default=50)
    parser.add_argument("--bytes", type=int, default=300)
    given = parser.parse_args()
    return Options(given.directory, given.seconds, given.writers, given.bytes)
