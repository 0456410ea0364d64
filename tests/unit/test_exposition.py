"""Figures as a Prometheus server reads them."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent_journal.errors import ERRORS
from agent_journal.service.daemon_events import How
from agent_journal.service.exposition import FAMILIES, HOWS, PREFIX, exposition
from agent_journal.store.figures import Histogram

LINE = re.compile(r'[a-z_]+(\{([a-z_]+="([^"\\\n]|\\["\\n])*"(,|(?=\})))+\})? [-+0-9.e]+')


def parsed(text: str) -> dict[str, Any]:
    """Return the families of *text*, held to more than the parser asks."""
    assert text.endswith("\n")
    seen = set()
    for line in text.splitlines():
        if line.startswith("# "):
            _, word, name, _ = line.split(" ", 3)
            assert (word, name) not in seen, "said twice"
            seen.add((word, name))
        else:
            assert LINE.fullmatch(line), line
            assert line not in seen
            seen.add(line)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for family in families.values():
        assert family.documentation
        assert family.samples
        assert family.type in {"counter", "gauge", "histogram"}, family.name
        if family.type == "histogram":
            check_histogram(family)
        else:
            assert all(not math.isnan(sample.value) for sample in family.samples)
    return families


def check_histogram(family: Any) -> None:
    """Hold a histogram to what a quantile is computed from."""
    by_name: dict[str, list[Any]] = {}
    for sample in family.samples:
        by_name.setdefault(sample.name, []).append(sample)
    buckets = by_name[f"{family.name}_bucket"]
    bounds = [float(bucket.labels["le"]) for bucket in buckets]
    counts = [bucket.value for bucket in buckets]
    assert bounds == sorted({*bounds})
    assert counts == sorted(counts), "buckets are cumulative"
    assert bounds[-1] == math.inf
    (total,) = by_name[f"{family.name}_count"]
    assert counts[-1] == total.value
    assert len(by_name[f"{family.name}_sum"]) == 1


def test_names_keep_the_rules() -> None:
    """Base units, ``_total`` for what only rises, and no name twice."""
    names = [family.name for family in FAMILIES]
    assert len({*names}) == len(names)
    for family in FAMILIES:
        assert re.fullmatch(r"[a-z][a-z_]*[a-z]", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert not re.search(r"_(ms|us|kb|mb|percent)(_|$)", family.name)
        assert family.about.endswith(".")


def test_a_histogram_is_cumulative_and_ends_with_all() -> None:
    histogram = Histogram((0.5, 1.0, 2.0))
    for value in (0.5, 0.6, 1.5, 9.0):
        histogram.observe(value)
    text = exposition({"commit_seconds": histogram.shown()})
    name = f"{PREFIX}commit_seconds"
    assert text.splitlines()[4:] == [
        f"# TYPE {name} histogram",
        f'{name}_bucket{{le="0.5"}} 1',
        f'{name}_bucket{{le="1"}} 2',
        f'{name}_bucket{{le="2"}} 3',
        f'{name}_bucket{{le="+Inf"}} 4',
        f"{name}_sum 11.6",
        f"{name}_count 4",
    ]
    parsed(text)


def test_what_is_not_told_is_not_there() -> None:
    families = parsed(exposition({"version": "1", "agents": None, "scrubbed_at": None}))
    assert {*families} == {f"{PREFIX}build_info"}


def test_labels_are_escaped() -> None:
    families = parsed(exposition({"version": 'a"b\\c\nd'}))
    (sample,) = families[f"{PREFIX}build_info"].samples
    assert sample.labels == {"version": 'a"b\\c\nd'}


def test_a_time_is_in_seconds_and_a_state_is_a_label() -> None:
    families = parsed(
        exposition(
            {
                "scrubbed_at": "2023-11-14T22:13:20.000000Z",
                "agents": {"running": 2, "parked": 0},
                "uids": {"5": {"connections": 3, "bytes_in_flight": 7}},
                "damaged": True,
            }
        )
    )
    value = {name: family.samples[0].value for name, family in families.items()}
    assert value[f"{PREFIX}scrub_finished_timestamp_seconds"] == 1_700_000_000
    assert value[f"{PREFIX}damaged"] == 1
    states = families[f"{PREFIX}agents"].samples
    assert {sample.labels["state"]: sample.value for sample in states} == {
        "running": 2.0,
        "parked": 0.0,
    }
    (connections,) = families[f"{PREFIX}connections"].samples
    assert (connections.labels, connections.value) == ({"uid": "5"}, 3.0)


def test_a_counter_by_label_is_there_before_it_counts() -> None:
    """The increase from nothing to one would not be seen."""
    families = parsed(exposition({"refused": {"malformed": 2}, "attempts_ended": {}}))
    refused = {s.labels["code"]: s.value for s in families[f"{PREFIX}refused"].samples}
    assert refused.pop("malformed") == 2
    assert {*refused.values()} == {0}
    assert {*refused} | {"malformed", "connection_lost"} == {*ERRORS}
    assert {*HOWS} == {*How.__args__}


@pytest.mark.parametrize("value", [0.0, 5e-05, 1 / 3, 2.0**60, 1e300])
def test_numbers_are_read_as_they_were(value: float) -> None:
    families = parsed(exposition({"uptime_seconds": value}))
    assert families[f"{PREFIX}uptime_seconds"].samples[0].value == value
