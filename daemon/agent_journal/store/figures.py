"""What the store tells those who watch it: how long things took, how large its files are.

A histogram is some integers, and to count a duration is one search among thirty
bounds, so it may be done for every batch.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .wal_scan import wal_path

# Upper bounds in seconds: a factor of about 1.5 apart, so a quantile read from
# them is within a quarter of the truth.
BOUNDS_SECONDS: Final = tuple(round(0.00005 * 1.5**power, 7) for power in range(31))


class Histogram:
    """How often what was observed fell into each bucket."""

    def __init__(self, bounds: tuple[float, ...] = BOUNDS_SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.highest = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
        self.highest = max(self.highest, value)

    def quantile(self, fraction: float) -> float:
        """Return a value that *fraction* of all did not exceed."""
        wanted = fraction * sum(self.counts)
        passed = 0
        for count, bound in zip(self.counts, (*self.bounds, self.highest), strict=True):
            passed += count
            if count and passed >= wanted:
                return min(bound, self.highest)
        return self.highest

    def shown(self) -> dict[str, object]:
        """Return it as it is told to clients: each bound, and how many did not exceed it."""
        counts = [*self.counts]  # of one moment: another thread may be counting
        passed = 0
        buckets: list[tuple[float, int]] = []
        for count, bound in zip(counts, self.bounds, strict=False):
            passed += count
            buckets.append((bound, passed))
        return {"count": passed + counts[-1], "sum": round(self.total, 6), "buckets": buckets}


@dataclass(slots=True)
class StoreFigures:
    """How long it took what the store did, on the connection's own thread."""

    write_seconds: Histogram = field(default_factory=Histogram)
    checkpoint_seconds: Histogram = field(default_factory=Histogram)


def file_figures(database: Path) -> dict[str, object]:
    """Return how large the journal's files are, and how much room there is for more.

    Of what cannot be looked at there is nothing.
    """
    figures: dict[str, object] = {}
    for name, path in (("database_bytes", database), ("wal_bytes", wal_path(database))):
        try:
            figures[name] = path.stat().st_size
        except OSError:
            continue
    try:
        disk = os.statvfs(database.parent)
    except OSError:
        return figures
    return figures | {
        "disk_bytes": disk.f_blocks * disk.f_frsize,
        "disk_free_bytes": disk.f_bavail * disk.f_frsize,
    }
