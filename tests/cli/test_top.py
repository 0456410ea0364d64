"""``top``: what happened between two looks, on a page, a line of JSON, or live."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agent_journal.cli.terminal import width_of
from agent_journal.cli.top_figures import between, told, troubles
from agent_journal.cli.top_screen import duration_text, size_text
from agent_journal.store.figures import Histogram
from cli.fake_daemon import FakeDaemon, Run, refused

CLI = [sys.executable, "-c", "from agent_journal.cli import program; program()"]
PAINT = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
GIB = 1 << 30


def histogram(*seconds: float) -> dict[str, Any]:
    found = Histogram()
    for one in seconds:
        found.observe(one)
    return json.loads(json.dumps(found.shown()))  # type: ignore[no-any-return]


def figures(uptime: float, entries: int, *commits: float, **others: Any) -> dict[str, Any]:
    """Return what an administrator is told."""
    return {
        "version": "1.2.3",
        "pid": 77,
        "is_admin": True,
        "uptime_seconds": uptime,
        "connections": 3,
        "bytes_in_flight": 2048,
        "agents": {"running": 2, "parked": 0, "completed": 1_000_000},
        "uids": {"0": {"connections": 2, "bytes_in_flight": 0}},
        "entries_committed": entries,
        "bytes_committed": entries * 100,
        "commits": len(commits),
        "commit_seconds": histogram(*commits),
        "write_seconds": histogram(*commits),
        "batch_entries": {"count": len(commits), "sum": entries, "buckets": []},
        "queued_entries": 4,
        "queued_bytes": 400,
        "refused": {},
        "wal_bytes": 1 << 20,
        "database_bytes": GIB,
        "disk_bytes": 100 * GIB,
        "disk_free_bytes": 50 * GIB,
        "disk_free_bytes_min": 64 << 20,
        "connections_max": 100,
        "cpu_seconds": uptime / 10,
        "rss_bytes": 40 << 20,
        "fds": 12,
        **others,
    }


FIRST = figures(100.0, 1000, *[0.001] * 10)
SECOND = figures(102.0, 1600, *[0.001] * 10, *[0.1] * 20, refused={"overloaded": 2, "invalid": 1})


class TestFigures:
    def test_rates_and_latencies_are_those_of_the_interval(self) -> None:
        shown = told(between(FIRST, SECOND))
        assert (shown["interval_seconds"], shown["since_start"]) == (2.0, False)
        assert shown["entries_per_second"] == 300
        assert shown["commits_per_second"] == 10
        assert shown["batch_entries_mean"] == 30
        for name in ("commit_ms_p50", "commit_ms_p99"):
            assert 100 <= float(str(shown[name])) < 150, "the ten before are not in it"
        assert shown["refused"] == {"invalid": 1, "overloaded": 2}
        assert shown["cpu_share"] == 0.1

    def test_the_first_look_is_of_all_since_the_start(self) -> None:
        shown = told(between(None, FIRST))
        assert (shown["since_start"], shown["entries_per_second"]) == (True, 10)

    @pytest.mark.parametrize("again", [{"pid": 78}, {"uptime_seconds": 1.0}])
    def test_so_is_the_first_behind_a_restart(self, again: dict[str, Any]) -> None:
        """Its counters begin at 0: no rate is below that."""
        shown = told(between(SECOND, {**FIRST, "entries_committed": 5, **again}))
        assert shown["since_start"]
        assert float(str(shown["entries_per_second"])) > 0

    def test_where_nothing_was_committed_there_is_no_latency(self) -> None:
        later = {**FIRST, "uptime_seconds": 101.0}
        shown = told(between(FIRST, later))
        assert "commit_ms_p50" not in shown
        assert shown["entries_per_second"] == 0

    def test_of_what_is_not_told_nothing_is_said(self) -> None:
        own = {"uptime_seconds": 5.0, "connections": 1, "agents": None}
        assert "entries_per_second" not in told(between(None, own))

    @pytest.mark.parametrize(
        ("others", "what"),
        [
            ({}, None),
            ({"damaged": True}, "damaged"),
            ({"storage_full": True, "disk_free_bytes": 0}, "the disk is full"),
            ({"disk_free_bytes": 9 * GIB}, "nearly full: 9% free"),
            ({"disk_bytes": GIB, "disk_free_bytes": GIB // 5}, "nearly full"),
            ({"agents": {"parked": 1}}, "1 agent is parked and waits"),
            ({"agents": {"parked": 20}}, "20 agents are parked and wait for"),
            ({"refused": {"overloaded": 3}}, "3 requests"),
            ({"connections": 90}, "90 of 100 connections"),
        ],
    )
    def test_what_to_worry_about_is_said_with_what_to_do(
        self, others: dict[str, Any], what: str | None
    ) -> None:
        found = [*troubles(between(FIRST, figures(101.0, 1000, **others)))]
        assert len(found) == (what is not None)
        assert all(trouble.hint for trouble in found)
        assert what is None or what in found[0].what


def test_a_pipe_gets_a_page_a_look(fake: FakeDaemon, ask: Run) -> None:
    fake.on("stats", FIRST, FIRST, SECOND)
    lines = ask("top", "-n", "2", "-d", "0.1").lines
    pages = [index for index, line in enumerate(lines) if line.startswith("agent-journald 1.2.3")]
    assert len(pages) == 2
    assert "since its start" in lines[0]
    second = "\n".join(lines[pages[1] :])
    for shown in ("300/s durable", "1,000,000 completed", "WAL 1.0 MiB", "2 overloaded"):
        assert shown in second
    assert "\x1b" not in second
    assert [request.get("uid") for request in fake.of("stats")] == [None, "*", "*"]


def test_json_is_a_line_a_look(fake: FakeDaemon, ask: Run) -> None:
    fake.on("stats", FIRST, FIRST, SECOND)
    first, second = ask("top", "-n", "2", "-d", "0.1", "--json").objects
    assert first["since_start"]
    assert second["entries_per_second"] == 300
    assert second["warnings"][0]["try"]


def test_a_plain_user_sees_what_is_his(fake: FakeDaemon, ask: Run) -> None:
    own = {
        "version": "1",
        "pid": 7,
        "uptime_seconds": 60.0,
        "is_admin": False,
        "connections": 1,
        "bytes_in_flight": 0,
        "agents": None,
        "commit_ms_p50": 0.4,
        "commit_ms_p99": 2.5,
        "commit_ms_max": 9.0,
        "uids": {"1000": {"connections": 1, "bytes_in_flight": 0}},
    }
    fake.on("stats", own)
    result = ask("top", "-n", "1")
    assert "being counted" in result.out
    assert "p99 2.5 ms" in result.out
    assert "UID" not in result.out
    assert not any(word in result.out for word in ("Queue", "Files", "Entries"))


@pytest.mark.parametrize("argv", [["-d", "0"], ["-d", "x"], ["-n", "-1"], ["-d", "nan"]])
def test_what_cannot_be_asked(ask: Run, argv: list[str]) -> None:
    assert ask("top", *argv).code == 2


def test_no_daemon_is_said_at_once(run: Run) -> None:
    assert run("-s", "/nowhere/j.sock", "--wait", "0", "top").code == 3


class Screen:
    """``top`` on a terminal of its own."""

    def __init__(self, fake: FakeDaemon, *argv: str, columns: int = 80, **environ: str) -> None:
        self.ours, self.theirs = pty.openpty()
        self.resize(columns)
        self.mode = termios.tcgetattr(self.theirs)
        kept = {k: v for k, v in os.environ.items() if k not in {"FORCE_COLOR", "COLUMNS"}}
        self.process = subprocess.Popen(
            [*CLI, "-s", str(fake.path), "top", "-d", "0.1", *argv],
            stdin=self.theirs, stdout=self.theirs, stderr=self.theirs,
            env={**kept, "TERM": "xterm", "PYTHONUTF8": "1", **environ},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one call
        )  # fmt: skip
        self.shown = ""

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def until(self, text: str) -> str:
        """Read until *text* is shown; return what came since the last time."""
        begin, deadline = len(self.shown), time.monotonic() + 30
        while text not in self.shown[begin:]:
            assert time.monotonic() < deadline, f"no {text!r} in {self.shown[begin:]!r}"
            if select.select([self.ours], [], [], 0.5)[0]:
                self.shown += os.read(self.ours, 65_536).decode(errors="replace")
        return self.shown[begin:]

    def press(self, key: bytes) -> None:
        os.write(self.ours, key)

    def end(self) -> int:
        """Wait for the end; return the exit code."""
        code = self.process.wait(30)
        while select.select([self.ours], [], [], 0)[0]:
            self.shown += os.read(self.ours, 65_536).decode(errors="replace")
        assert termios.tcgetattr(self.theirs) == self.mode, "the terminal is as it was"
        return code

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def screen(fake: FakeDaemon) -> Iterator[Screen]:
    fake.on("stats", FIRST, FIRST, SECOND, {**SECOND, "uptime_seconds": 103.0})
    opened = Screen(fake)
    yield opened
    opened.close()


@pytest.mark.parametrize("how", [b"q", b"\x03", signal.SIGTERM], ids=["q", "ctrl-c", "sigterm"])
def test_the_terminal_is_left_as_it_was(screen: Screen, how: bytes | signal.Signals) -> None:
    screen.until("\x1b[?1049h")
    screen.until("2 overloaded")
    if isinstance(how, bytes):
        screen.press(how)
        assert screen.end() == 0
    else:
        screen.process.send_signal(how)
        assert screen.end() == 128 + how
    assert screen.shown.endswith("\x1b[?25h\x1b[?1049l")
    assert "Traceback" not in screen.shown


def test_pages_fit_also_when_the_terminal_becomes_narrower(screen: Screen) -> None:
    screen.until("durable")
    screen.resize(50)
    screen.until("\x1b[H")
    shown = screen.until("\x1b[J") + screen.until("\x1b[J") + screen.until("\x1b[J")
    lines = PAINT.sub("", shown.split("\x1b[H")[-1]).splitlines()
    assert len(lines) > 5
    assert all(width_of(line) <= 50 for line in lines), lines
    screen.press(b"q")
    assert screen.end() == 0


def test_a_daemon_that_goes_away_is_said_and_waited_for(fake: FakeDaemon, screen: Screen) -> None:
    screen.until("2 overloaded")
    fake.on("stats", refused("damaged", "it rots"))
    screen.until("the daemon does not answer: it rots")
    fake.on("stats", {**SECOND, "version": "9.9.9", "uptime_seconds": 104.0})
    screen.until("9.9.9")
    screen.press(b"q")
    assert screen.end() == 0


def test_so_many_looks_stay_on_the_screen(fake: FakeDaemon) -> None:
    fake.on("stats", FIRST, FIRST, SECOND)
    screen = Screen(fake, "-n", "2", NO_COLOR="1")
    try:
        assert screen.end() == 0
        last = screen.shown.rpartition("\x1b[?1049l")[2]
        assert "300/s durable" in last
        assert "\x1b" not in last
        assert all(width_of(line) <= 80 for line in last.splitlines())
    finally:
        screen.close()


def test_sizes_and_times_are_said_as_people_do() -> None:
    assert [size_text(size) for size in (0, 1023, 1024, 5 << 20, 7 << 40)] == [
        "0 B", "1023 B", "1.0 KiB", "5.0 MiB", "7.0 TiB",
    ]  # fmt: skip
    assert [duration_text(one) for one in (5.9, 61, 7200, 93_600)] == [
        "5 s", "1 min 1 s", "2 h 0 min", "1 d 2 h",
    ]  # fmt: skip
