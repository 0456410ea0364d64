"""Times as people type them."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from agent_journal.cli.moments import moment_from
from agent_journal.clock import Clock

NOW = datetime(2026, 4, 2, 12, 30, tzinfo=UTC)


class At(Clock):
    """A clock that stands still."""

    def wall_us(self) -> int:
        return int(NOW.timestamp() * 1_000_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", "2026-04-02T12:30:00Z"),
        ("90s", "2026-04-02T12:28:30Z"),
        ("2h", "2026-04-02T10:30:00Z"),
        ("-2h", "2026-04-02T10:30:00Z"),
        ("2h ago", "2026-04-02T10:30:00Z"),
        ("1h30m", "2026-04-02T11:00:00Z"),
        ("1 hour 30 min ago", "2026-04-02T11:00:00Z"),
        ("3d", "2026-03-30T12:30:00Z"),
        ("1.5 days", "2026-04-01T00:30:00Z"),
        ("2 weeks", "2026-03-19T12:30:00Z"),
        ("today", "2026-04-02T00:00:00Z"),
        ("Yesterday", "2026-04-01T00:00:00Z"),
        ("9:05", "2026-04-02T09:05:00Z"),
        ("09:05:06", "2026-04-02T09:05:06Z"),
        ("2026-01-05", "2026-01-05T00:00:00Z"),
        ("2026-01-05 09:00", "2026-01-05T09:00:00Z"),
        ("2026-01-05T09:00:00+02:00", "2026-01-05T07:00:00Z"),
        ("2026-01-05T09:00:00.5Z", "2026-01-05T09:00:00.5Z"),
        ("@0", "1970-01-01T00:00:00Z"),
    ],
)
def test_a_time_is_understood(text: str, expected: str) -> None:
    assert moment_from(text, At()) == datetime.fromisoformat(expected)


@pytest.mark.parametrize(
    "text",
    ["", " ", "2", "h", "2x", "2h x", "h2", "25:00", "2026-13-01", "@x", "@1e400", "9" * 400 + "y"],
)
def test_what_is_no_time(text: str) -> None:
    assert moment_from(text, At()) is None


def test_a_day_begins_where_one_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clocks went forward on 29 March: that day's offset is taken, and not today's."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    assert moment_from("today", At()) == datetime(2026, 4, 1, 22, tzinfo=UTC)
    assert moment_from("2026-03-28", At()) == datetime(2026, 3, 27, 23, tzinfo=UTC)
