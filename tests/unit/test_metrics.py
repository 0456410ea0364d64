"""Counters and durations."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_journal.service.metrics import Metrics
from agent_journal.store.figures import BOUNDS_SECONDS, Histogram

durations = st.lists(st.floats(0, 20, allow_nan=False), min_size=1, max_size=60)


@given(seconds=durations, fraction=st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_not_exceeded_by_its_share_and_not_far_above_it(
    seconds: list[float], fraction: float
) -> None:
    """Within one bucket of the truth, and never above what was seen."""
    histogram = Histogram()
    for one in seconds:
        histogram.observe(one)
    found = histogram.quantile(fraction)
    assert sum(one <= found for one in seconds) >= fraction * len(seconds)
    truth = min(
        one for one in seconds if sum(other <= one for other in seconds) >= fraction * len(seconds)
    )
    below = max((bound for bound in BOUNDS_SECONDS if bound < found), default=-1.0)
    assert truth > below or found == truth
    assert found <= histogram.highest == max(seconds)
    assert histogram.total == pytest.approx(sum(seconds))
    assert sum(histogram.counts) == len(seconds)


def test_nothing_observed_is_nothing() -> None:
    histogram = Histogram()
    assert histogram.quantile(0.99) == 0
    assert histogram.highest == 0


def test_buckets_are_close_enough_for_a_quarter() -> None:
    """Neighbouring bounds are a factor of 1.5 apart, from 50 microseconds to seconds."""
    for bound, following in pairwise(BOUNDS_SECONDS):
        assert following / bound == pytest.approx(1.5, rel=0.01)
    assert BOUNDS_SECONDS[0] <= 0.0001
    assert BOUNDS_SECONDS[-1] > 5


def test_commits_are_counted() -> None:
    metrics = Metrics(5.0)
    for entries, size in ((1, 10), (7, 70), (3, 30)):
        metrics.committed(entries, size, 0.001)
    assert (metrics.commits, metrics.entries, metrics.entry_bytes) == (3, 11, 110)
    assert metrics.batch_entries_max == 7
    assert metrics.started == 5.0
