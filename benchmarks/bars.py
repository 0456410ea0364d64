"""What the project promises of its speed and cost, and whether a run has kept it."""

from collections.abc import Iterator
from dataclasses import dataclass

from measures import Results, Series

RATIO_BARS = {"50x1": 1.0, "50x16": 0.8, "50x100": 0.8, "1x100": 1.5}  # of Redis' entries/s
LATENCY_BAR_SHAPE = "1x1"


@dataclass(frozen=True)
class Bar:
    """One promise with what was measured of it; None where nothing was."""

    name: str
    limit: float
    at_least: bool
    measured: float | None

    @property
    def verdict(self) -> str:
        """Say whether the promise was kept."""
        if self.measured is None:
            return "not measured"
        kept = self.measured >= self.limit if self.at_least else self.measured <= self.limit
        return "kept" if kept else "MISSED"


def judge(results: Results) -> list[Bar]:
    """Hold the figures of a run against every promise."""
    return [*_speed(results), *_reads(results), *_memory(results)]


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _speed(results: Results) -> Iterator[Bar]:
    for shape, limit in RATIO_BARS.items():
        ours, redis = results.find(shape, "journal"), results.find(shape, "redis")
        ratio = _ratio(_rate(ours), _rate(redis))
        yield Bar(f"{shape} entries/s, times Redis", limit, at_least=True, measured=ratio)
    ours, redis = (results.find(LATENCY_BAR_SHAPE, peer) for peer in ("journal", "redis"))
    slower = _ratio(_p50(ours), _p50(redis))
    yield Bar(f"{LATENCY_BAR_SHAPE} p50, times Redis", 1.8, at_least=False, measured=slower)
    saver = _rate(results.find("50x1", "langgraph_saver"))
    for shape in ("50x1", "50x16"):
        faster = _ratio(_rate(results.find(shape, "journal")), saver)
        name = f"{shape} entries/s, times LangGraph's saver at 50 writers"
        yield Bar(name, 50, at_least=True, measured=faster)


def _reads(results: Results) -> Iterator[Bar]:
    for series in results.replays:
        if series.peer == "journal":
            name = f"replay, {series.shape}, entries/s"
            yield Bar(name, 200_000, at_least=True, measured=_rate(series))
    for shape in results.shapes_read_beside():
        quiet = results.find_beside(shape, "quiet")
        busy = results.find_beside(shape, "reading")
        name = f"{shape} p99 while a large agent is read, times quiet"
        yield Bar(name, 3, at_least=False, measured=_ratio(_p99(busy), _p99(quiet)))


def _memory(results: Results) -> Iterator[Bar]:
    limits = {"idle": 80, "at most, in all of the above": 150}
    for name, megabytes in results.memory_mb.items():
        limit = limits.get(name, 150)
        yield Bar(f"resident MB, {name}", limit, at_least=False, measured=megabytes)


def _rate(series: Series | None) -> float | None:
    return series.median("entries_per_second") if series else None


def _p50(series: Series | None) -> float | None:
    return series.median("p50_us") if series else None


def _p99(series: Series | None) -> float | None:
    return series.median("p99_us") if series else None
