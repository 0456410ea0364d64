"""Counters and gauges of the daemon, cheap enough to be kept for every batch."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Final

# Upper bounds in seconds: a factor of about 1.5 apart, so a quantile read from
# them is within a quarter of the truth.
BOUNDS_SECONDS: Final = tuple(round(0.00005 * 1.5**power, 7) for power in range(31))


class Histogram:
    """Durations in buckets."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_SECONDS) + 1)
        self.sum_seconds = 0.0
        self.max_seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds
        self.max_seconds = max(self.max_seconds, seconds)

    def quantile(self, fraction: float) -> float:
        """Return a duration that *fraction* of all did not exceed, in seconds."""
        wanted = fraction * sum(self.counts)
        passed = 0
        for count, bound in zip(self.counts, (*BOUNDS_SECONDS, self.max_seconds), strict=True):
            passed += count
            if count and passed >= wanted:
                return min(bound, self.max_seconds)
        return self.max_seconds


class Metrics:
    """What the daemon counts from its start on."""

    def __init__(self, started: float) -> None:
        self.started = started  # on the monotonic clock
        self.entries = 0
        self.entry_bytes = 0
        self.commits = 0
        self.batch_entries_max = 0
        self.commit_seconds = Histogram()
        self.refused: Counter[str] = Counter()
        self.connections_accepted = 0
        self.connections_refused = 0
        self.agents_removed = 0  # by retention, or a vacuum
        self.entries_removed = 0
        self.agents_archived = 0
        self.archives_failed = 0

    def committed(self, entries: int, size_bytes: int, seconds: float) -> None:
        """Count a commit."""
        self.commits += 1
        self.entries += entries
        self.entry_bytes += size_bytes
        self.batch_entries_max = max(self.batch_entries_max, entries)
        self.commit_seconds.observe(seconds)


def retention_figures(metrics: Metrics) -> dict[str, object]:
    """Return what was removed since the daemon's start, for ``stats``."""
    return {
        "agents_removed": metrics.agents_removed,
        "entries_removed": metrics.entries_removed,
        "agents_archived": metrics.agents_archived,
        "archives_failed": metrics.archives_failed,
    }
