"""``metrics``: Prometheus' text format on standard output."""

from __future__ import annotations

from cli.fake_daemon import FakeDaemon, Run

OWN = {"version": "1", "uptime_seconds": 2.5, "agents": {"running": 1}, "is_admin": False}
ALL = {**OWN, "is_admin": True, "commits": 7}


def test_a_user_sees_his_own(fake: FakeDaemon, ask: Run) -> None:
    fake.on("stats", OWN)
    assert ask("metrics").lines[4:6] == [
        "# TYPE agent_journal_uptime_seconds gauge",
        "agent_journal_uptime_seconds 2.5",
    ]
    assert [request.get("uid") for request in fake.of("stats")] == [None]


def test_an_administrator_sees_all(fake: FakeDaemon, ask: Run) -> None:
    fake.on("stats", {**ALL, "commits": 3}, ALL)
    assert "agent_journal_commits_total 7" in ask("metrics").lines
    assert [request.get("uid") for request in fake.of("stats")] == [None, "*"]


def test_json_is_a_sample_a_line(fake: FakeDaemon, ask: Run) -> None:
    fake.on("stats", OWN)
    assert ask("metrics", "--json").objects[1:] == [
        {"name": "agent_journal_uptime_seconds", "type": "gauge", "labels": {}, "value": 2.5},
        {
            "name": "agent_journal_agents",
            "type": "gauge",
            "labels": {"state": "running"},
            "value": 1.0,
        },
    ]
