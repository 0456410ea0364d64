"""What is written about figures is so: dashboard, alerts and tables, against a live daemon."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent_journal.testing.daemon import RunningDaemon
from integration.observed import noted, stats, wait_until
from integration.test_scrape import scraped

DOCS = Path(__file__).parents[2] / "docs"
NAME = re.compile(r"\bagent_journal_\w+")
NAMED = re.compile(r"`(\w+)`")


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        assert running.request(noted())["ok"]
        wait_until(
            lambda: all(stats(running)[name] is not None for name in ("agents", "scrubbed_at")),
            "agents were counted, and the file was looked at once",
        )
        yield running


@pytest.fixture(scope="module")
def series(daemon: RunningDaemon) -> dict[str, list[dict[str, str]]]:
    """Return the labels of all that is exposed, by the names of the samples."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in scraped(daemon.socket).values():
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DOCS / "alerts.yaml").read_text("utf-8"))["groups"]
    assert group["name"] == "agent-journal"
    found: list[dict[str, Any]] = group["rules"]
    return found


def expressions() -> list[str]:
    """Return what the dashboard and the alerts ask for."""
    board = json.loads((DOCS / "grafana-dashboard.json").read_text("utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    variables = [one["definition"] for one in board["templating"]["list"] if "definition" in one]
    (group,) = yaml.safe_load((DOCS / "alerts.yaml").read_text("utf-8"))["groups"]
    return asked + variables + [rule["expr"] for rule in group["rules"]]


def test_what_is_asked_for_is_there(series: dict[str, list[dict[str, str]]]) -> None:
    """The labels too: a state or a code that there is not would never alert."""
    for expression in expressions():
        names = NAME.findall(expression)
        assert names
        assert {*names} <= {*series}, expression
        assert expression.count("(") == expression.count(")")
        for name, selector in re.findall(r"(agent_journal_\w+)\{([^}]*)\}", expression):
            for label, operator, value in re.findall(r'(\w+)(=~|!~|=|!=)"([^"]*)"', selector):
                if label == "instance":  # Prometheus' own
                    continue
                wanted = value.split("|") if "~" in operator else [value]
                assert {*wanted} <= {labels[label] for labels in series[name]}, expression


def test_the_dashboard_can_be_imported() -> None:
    """Panels have ids and places of their own, and take the data source that is chosen."""
    board = json.loads((DOCS / "grafana-dashboard.json").read_text("utf-8"))
    assert board["uid"] == board["title"] == "agent-journal"
    assert board["schemaVersion"] >= 36
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 20
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        squares = {
            (place["x"] + across, place["y"] + down)
            for across in range(place["w"])
            for down in range(place["h"])
        }
        assert not squares & taken, panel["title"]
        taken |= squares
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["targets"]
    assert {one["name"] for one in board["templating"]["list"]} == {"datasource", "instance"}


def test_every_rule_says_how_bad_it_is_and_on_which_host(rules: list[dict[str, Any]]) -> None:
    names = [rule["alert"] for rule in rules]
    assert len({*names}) == len(names)
    for rule in rules:
        assert {*rule} - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))
        summary = rule["annotations"]["summary"]
        assert "$labels.instance" in summary or rule["alert"] == "AgentJournalDown"


def test_every_alert_is_explained(rules: list[dict[str, Any]]) -> None:
    text = (DOCS / "OPERATE.md").read_text("utf-8")
    explained = re.findall(r"^\| (`AgentJournal.*?) \|", text, re.MULTILINE)
    told = [name for cell in explained for name in NAMED.findall(cell)]
    assert sorted(told) == sorted(rule["alert"] for rule in rules)


def test_every_member_of_stats_is_in_the_protocol(daemon: RunningDaemon) -> None:
    text = (DOCS / "PROTOCOL.md").read_text("utf-8")
    section = text.partition("### `stats`")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    told = {name for row in rows for name in NAMED.findall(row)}
    assert told == {*stats(daemon)} - {"id", "ok"}
