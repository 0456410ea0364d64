"""What happened between two looks at the daemon's figures, and what to worry about.

Pure.  Counters only rise, so a rate is a difference over the time between; the
first look, and the first behind a restart, is compared with the daemon's start.
Latencies are read from the difference of two histograms, so they are those of
the interval and not of a week.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..value import Value

NEARLY_FULL_SHARE: Final = 0.1  # of the disk is free, or less
NEARLY_FULL_FACTOR: Final = 4  # of what is kept free, or less
NEARLY_ALL_SHARE: Final = 0.9  # of the connections that may be open

Figures = Mapping[str, Any]


class Trouble(Value):
    """What is wrong, and what to type."""

    what: str
    hint: str


class Interval(Value):
    """Two looks, the second of them just now."""

    before: Figures
    now: Figures

    @property
    def is_first(self) -> bool:
        """Tell whether it is the daemon's whole life until now."""
        return not self.before

    @property
    def seconds(self) -> float:
        """How long it was, by the daemon's clock."""
        return max(self.figure("uptime_seconds") - _number(self.before, "uptime_seconds"), 1e-9)

    def has(self, name: str) -> bool:
        """Tell whether the daemon tells us of a figure."""
        return self.now.get(name) is not None

    def figure(self, name: str) -> float:
        """Return a figure as it is now."""
        return _number(self.now, name)

    def risen(self, name: str) -> float:
        """Return by how much a counter rose."""
        return self.figure(name) - _number(self.before, name)

    def rate(self, name: str) -> float:
        """Return by how much a counter rose in a second."""
        return self.risen(name) / self.seconds

    def risen_in(self, name: str) -> float:
        """Return how much was observed in a histogram."""
        now, before = self.now.get(name) or {}, self.before.get(name) or {}
        return float(now.get("count", 0) - before.get("count", 0))

    def risen_by(self, name: str) -> dict[str, float]:
        """Return by how much the counters of an object rose, of those that did."""
        before = self.before.get(name) or {}
        now = self.now.get(name) or {}
        risen = {one: count - before.get(one, 0) for one, count in now.items()}
        return {one: count for one, count in sorted(risen.items()) if count > 0}

    def quantile(self, name: str, fraction: float) -> float | None:
        """Return what a share of all that was observed did not exceed; none: nothing was."""
        now = self.now.get(name)
        if not isinstance(now, Mapping):
            return None
        before = self.before.get(name) or {}
        counted = now["count"] - before.get("count", 0)
        if counted <= 0:
            return None
        counts = [count for _, count in before.get("buckets", ())] or [0] * len(now["buckets"])
        for (bound, count), count_before in zip(now["buckets"], counts, strict=False):
            if count - count_before >= fraction * counted:
                return float(bound)
        return float(now["buckets"][-1][0])  # or above it

    def mean(self, name: str) -> float | None:
        """Return the mean of what was observed; none: nothing was."""
        now, before = self.now.get(name), self.before.get(name) or {}
        if not isinstance(now, Mapping):
            return None
        counted = now["count"] - before.get("count", 0)
        total = now["sum"] - before.get("sum", 0)
        return float(total / counted) if counted > 0 else None

    @property
    def free_share(self) -> float:
        """How much of the disk is free."""
        return self.figure("disk_free_bytes") / max(self.figure("disk_bytes"), 1)


def between(before: Figures | None, now: Figures) -> Interval:
    """Return the interval from a look, if it was at this same daemon, to the next."""
    if before is None or before.get("pid") != now.get("pid"):
        return Interval({}, now)
    if _number(before, "uptime_seconds") >= _number(now, "uptime_seconds"):
        return Interval({}, now)
    return Interval(before, now)


def troubles(interval: Interval) -> Iterator[Trouble]:
    """Yield what somebody should do something about, the worst first."""
    now = interval.now
    if now.get("damaged"):
        yield Trouble("the journal is damaged and not served", "agent-journal verify")
    if now.get("storage_full"):
        yield Trouble("the disk is full: entries are refused", "make room on the disk")
    elif interval.has("disk_free_bytes"):
        least = interval.figure("disk_free_bytes_min")
        free = interval.figure("disk_free_bytes")
        if interval.free_share < NEARLY_FULL_SHARE or free < NEARLY_FULL_FACTOR * least:
            yield Trouble(
                f"the disk is nearly full: {interval.free_share:.0%} free",
                "make room before entries are refused",
            )
    agents = now.get("agents") or {}
    if parked := agents.get("parked", 0):
        is_one = parked == 1
        yield Trouble(
            f"{parked:,} agent{' is' if is_one else 's are'} parked and wait"
            f"{'s' if is_one else ''} for a person",
            "agent-journal ls --state parked",
        )
    if overloaded := interval.risen_by("refused").get("overloaded", 0):
        yield Trouble(f"{overloaded:,.0f} requests were refused as overloaded", "see who floods")
    most = interval.figure("connections_max")
    if most and interval.figure("connections") >= NEARLY_ALL_SHARE * most:
        yield Trouble(
            f"{interval.figure('connections'):,.0f} of {most:,.0f} connections are open",
            "close some, or raise limits.connections_max",
        )


def told(interval: Interval) -> dict[str, object]:
    """Return an interval as ``--json`` tells it; what is not known is not there."""
    fields: dict[str, object | None] = {
        "interval_seconds": round(interval.seconds, 3),
        "since_start": interval.is_first,
        "agents": interval.now.get("agents"),
        "uids": interval.now.get("uids"),
    }
    for shown, name in RATES.items():
        fields[shown] = round(interval.rate(name), 3) if interval.has(name) else None
    for shown, (name, fraction) in QUANTILES.items():
        seconds = interval.quantile(name, fraction)
        fields[shown] = None if seconds is None else round(seconds * 1000, 3)
    mean = interval.mean("batch_entries")
    fields["batch_entries_mean"] = None if mean is None else round(mean, 2)
    fields |= {name: interval.now.get(name) for name in GAUGES}
    fields["refused"] = interval.risen_by("refused") if interval.has("refused") else None
    fields["warnings"] = [{"what": found.what, "try": found.hint} for found in troubles(interval)]
    return {name: value for name, value in fields.items() if value is not None}


RATES: Final = {
    "entries_per_second": "entries_committed",
    "bytes_per_second": "bytes_committed",
    "commits_per_second": "commits",
    "cpu_share": "cpu_seconds",
}
QUANTILES: Final = {
    "commit_ms_p50": ("commit_seconds", 0.5),
    "commit_ms_p99": ("commit_seconds", 0.99),
    "write_ms_p50": ("write_seconds", 0.5),
    "write_ms_p99": ("write_seconds", 0.99),
}
GAUGES: Final = (
    *("connections", "bytes_in_flight", "queued_entries", "queued_bytes"),
    *("database_bytes", "wal_bytes", "disk_free_bytes", "rss_bytes", "fds", "uptime_seconds"),
)


def _number(figures: Figures, name: str) -> float:
    value = figures.get(name)
    return float(value) if isinstance(value, int | float) else 0.0
