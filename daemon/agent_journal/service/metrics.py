"""Counters of the daemon, cheap enough to be kept for every batch."""

from __future__ import annotations

from collections import Counter
from typing import Final

from ..store.figures import Histogram

BATCH_BOUNDS: Final = tuple(float(2**power) for power in range(13))  # entries, to 4096


class Metrics:
    """What the daemon counts from its start on."""

    def __init__(self, started: float) -> None:
        self.started = started  # on the monotonic clock
        self.entries = 0
        self.entry_bytes = 0
        self.commits = 0
        self.batch_entries_max = 0
        self.batch_entries = Histogram(BATCH_BOUNDS)
        self.commit_seconds = Histogram()
        self.refused: Counter[str] = Counter()
        self.connections_accepted = 0
        self.connections_refused = 0
        self.attempts_launched = 0
        self.attempts_ended: Counter[str] = Counter()  # by how
        self.attaches = 0
        self.attaches_resumed = 0  # of agents that had entries or attempts before
        self.parks = 0
        self.scrub_bytes = 0  # looked at, in all rounds
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
        self.batch_entries.observe(entries)
        self.commit_seconds.observe(seconds)

    def attached(self, *, is_resumed: bool) -> None:
        """Count an attach that was granted."""
        self.attaches += 1
        self.attaches_resumed += is_resumed
