"""``log``: journalctl's flags, on a journal whose times are known and not all in order."""

from __future__ import annotations

import json
import subprocess
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_journal.cli.cursor import Cursor
from agent_journal.cli.entry_source import STRAGGLERS_MAX, first_place
from agent_journal.client import connect
from agent_journal.testing.daemon import RunningDaemon
from cli.fake_daemon import FakeDaemon, Result, Run, entry
from cli.test_pty import CLI, on_a_terminal

BEGIN = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
ENTRIES = 3000  # a minute apart, of three agents in turn
OLD = 1300  # imported behind these: of a year before


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    """Have one daemon: 3,000 entries in order, then old ones, then an agent with a kind."""
    with RunningDaemon() as running:
        lines = []
        for n in range(ENTRIES + OLD):
            is_old, is_late = n >= ENTRIES, n % 100 == 0
            minutes = n - 600_000 if is_old else n
            text = "Connection Timed out" if is_late else 'all "well"'
            lines.append(
                {
                    "op": "append",
                    "agent_id": "old" if is_old else f"a-{n % 3}",
                    "timestamp": (BEGIN + timedelta(minutes=minutes)).isoformat(),
                    "event": {"StepFailed" if is_late else "Noted": {"n": n, "text": text}},
                }
            )
        assert all(reply["ok"] for reply in running.exchange(lines))
        with connect(running.socket) as journal, journal.agent("zoe", kind="nightly") as agent:
            agent.step("look", str, "x")
        yield running


@pytest.fixture
def log(daemon: RunningDaemon, run: Run) -> Callable[..., Result]:
    def log(*argv: str) -> Result:
        return run("-s", str(daemon.socket), "log", *argv)

    return log


Log = Callable[..., Result]


def numbers(result: Result) -> list[int]:
    """Return which of the counted entries were shown, from their JSON."""
    assert result.code == 0, result.err
    payloads = (next(iter(shown["event"].values())) for shown in result.objects)
    return [payload["n"] for payload in payloads if "n" in payload]


def minute(n: int) -> str:
    """Return the time of entry *n*, as it is typed."""
    return (BEGIN + timedelta(minutes=n)).strftime("%Y-%m-%dT%H:%M")


# What is shown


def test_an_entry_is_a_line_as_journalctl_has_it(log: Log) -> None:
    assert (
        log("a-1", "-n", "1").out
        == 'Jan 04 04:58:00 a-1[999]: Noted n=2998 text="all \\"well\\""\n'
    )


@pytest.mark.parametrize(
    ("form", "begins"),
    [
        ("short", "Jan 02 03:00:00 a-0[0]: StepFailed n=0"),
        ("short-precise", "Jan 02 03:00:00.000000 a-0[0]: "),
        ("short-iso", "2026-01-02T03:00:00+00:00 a-0[0]: "),
        ("short-iso-precise", "2026-01-02T03:00:00.000000+00:00 a-0[0]: "),
        ("cat", '{"StepFailed": {"n": 0, "text": "Connection Timed out"}}'),
        ("json", '{"sequence":0,"position":0,"timestamp":"2026-01-02T03:00:00.000000Z"'),
    ],
)
def test_forms(log: Log, form: str, begins: str) -> None:
    [line] = log("-n", "+1", "-o", form).lines
    assert line.startswith(begins)


def test_json_is_another_word_for_its_form(log: Log) -> None:
    assert log("-n", "2", "--json").out == log("-n", "2", "-o", "json").out != ""
    assert log("--json", "-o", "cat").code == 2


def test_times_are_local_unless_it_is_said(
    log: Log, monkeypatch: pytest.MonkeyPatch, plain_environment: None
) -> None:
    import time  # noqa: PLC0415 - the zone is the process's

    monkeypatch.setenv("TZ", "EST+5")
    time.tzset()
    assert log("-n", "+1").out.startswith("Jan 01 22:00:00 ")
    assert log("-n", "+1", "-o", "short-iso").out.startswith("2026-01-01T22:00:00-05:00 ")
    assert log("-n", "+1", "--utc").out.startswith("Jan 02 03:00:00 ")


def test_a_pipe_gets_all_and_a_screen_the_newest(daemon: RunningDaemon, log: Log) -> None:
    assert len(log().lines) == ENTRIES + OLD + 4
    shown = on_a_terminal("-s", str(daemon.socket), "log")
    assert len(shown) == 51
    assert "the newest 50; -n all shows all" in shown[-1]
    assert len(on_a_terminal("-s", str(daemon.socket), "log", "-n", "60")) == 60


def test_a_line_is_cut_to_the_screen_unless_it_is_wanted_whole(fake: FakeDaemon) -> None:
    fake.on("tail", [{"entry": entry(0, {"Noted": {"text": "x" * 5000}})}, {"position": 11}])
    words = ("-s", str(fake.path), "log", "-n", "all")
    assert len(on_a_terminal(*words, NO_COLOR="1")[0]) == 80
    assert len(on_a_terminal(*words, "-l", NO_COLOR="1", COLUMNS="400")[0]) > 5000


def test_everybodys_entries_name_their_owner(fake: FakeDaemon, ask: Run) -> None:
    fake.on("tail", [{"entry": entry(0, {"Noted": {"t": "\x1b"}}, uid=5)}, {"position": 11}])
    assert ask("log", "--uid", "*", "-n", "all").out == "Jan 02 03:04:05 5/a[0]: Noted t=\\x1b\n"
    assert fake.of("tail")[0]["uid"] == "*"


# How much, and in which order


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["-n"], range(2990, 3000)),
        (["-n3"], range(2997, 3000)),
        (["-n", "+3"], range(3)),
        (["-r", "-n", "3"], range(2999, 2996, -1)),
        (["-r", "-n", "0"], []),
        (["-n", "0"], []),
        (["-rn", "all"], range(2999, -1, -1)),
        (["-n", "all"], range(3000)),
    ],
    ids=str,
)
def test_how_many_and_from_which_end(log: Log, argv: list[str], expected: list[int]) -> None:
    shown = numbers(log("-o", "json", "-S", "2026-01-01", "-U", "2026-01-09", *argv))
    assert shown == [*expected]


def test_the_agent_is_named_by_the_beginning_of_its_id(log: Log) -> None:
    assert numbers(log("o", "-n", "2", "--json")) == [ENTRIES + OLD - 2, ENTRIES + OLD - 1]
    missing = log("nobody")
    assert (missing.code, missing.what) == (4, missing.what)
    assert "not_found" in missing.what


def test_what_contradicts_itself_is_refused(log: Log) -> None:
    for argv in (
        ["-f", "-r"],
        ["-f", "-U", "now"],
        ["-S", "1h", "--cursor-file", "f"],
        ["-c", "p=1;t=1", "--after-cursor", "p=1;t=1"],
        ["-n", "+3", "-r"],
        ["-n", "many"],
        ["-g", "("],
        ["-o", "xml"],
        ["-c", "here"],
    ):
        result = log(*argv)
        assert (result.code, result.out) == (2, ""), argv
        assert result.what


# By time


@pytest.mark.parametrize("more", [[], ["-r"], ["-n", "100000"]], ids=str)
@pytest.mark.parametrize(
    ("since", "until"), [(0, 5), (700, 1900), (2900, None), (None, 3), (1500, 1500)]
)
def test_a_span_of_time_is_shown_whole(
    log: Log, since: int | None, until: int | None, more: list[str]
) -> None:
    """Though the journal ends with entries that were imported, and are a year old."""
    argv = [*more, "--json"]
    argv += ["-S", minute(since)] if since is not None else ["-S", "2026-01-01"]
    argv += ["-U", minute(until)] if until is not None else ["-U", "2026-02-01"]
    expected = [*range(since or 0, 3000 if until is None else until + 1)]
    assert numbers(log(*argv)) == (expected[::-1] if "-r" in more else expected)


def test_a_time_that_has_not_come_shows_nothing(log: Log) -> None:
    result = log("-S", "2099-01-01")
    assert (result.code, result.out, result.err) == (0, "", "no entries like that\n")


@given(gaps=st.lists(st.integers(0, 3), max_size=40), wanted=st.integers(-1, 70))
def test_a_place_is_right_to_a_thousand_where_times_rise(gaps: list[int], wanted: int) -> None:
    each = STRAGGLERS_MAX // 3  # entries of the same moment
    times = [time for time in accumulate(gaps) for _ in range(each)]
    place = first_place(len(times), lambda places: [times[at - 1] >= wanted for at in places])
    assert 0 <= place - bisect_left(times, wanted) <= STRAGGLERS_MAX


@given(before=st.integers(3, 60), block=st.integers(1, 60), behind=st.integers(0, 60))
def test_an_import_of_old_entries_hides_nothing_that_is_large(
    before: int, block: int, behind: int
) -> None:
    """Reached, then a block of old ones, then reached again: the first place counts."""
    old, new = [0] * STRAGGLERS_MAX, [9] * STRAGGLERS_MAX
    times = [*old, *new * before, *old * min(block, before), *new * behind]
    place = first_place(len(times), lambda places: [times[at - 1] == 9 for at in places])
    assert 0 <= place - STRAGGLERS_MAX <= STRAGGLERS_MAX


def test_few_places_are_looked_at_among_very_many() -> None:
    """A bisection, not a scan: of ten million some hundred."""
    times = range(0, 10_000_000, 1)
    for wanted in (0, 1, 1234, 5_000_000, 9_999_999, 10_000_000):
        asked: list[int] = []

        def have_reached(
            places: Sequence[int], wanted: int = wanted, asked: list[int] = asked
        ) -> list[bool]:
            asked.extend(places)
            return [place > wanted for place in places]

        place = first_place(len(times), have_reached)
        assert place - STRAGGLERS_MAX <= bisect_left(times, wanted) + 1
        assert place >= min(wanted, len(times) - 1)
        assert len(asked) <= 256


# By what it is


def test_a_pattern_in_small_letters_finds_any_case(log: Log) -> None:
    expected = [*range(0, 600, 100)]
    argv = ("--json", "-S", minute(0), "-U", minute(599), "-g")
    assert numbers(log(*argv, "timed out")) == expected
    assert numbers(log(*argv, "Timed out")) == expected
    assert numbers(log(*argv, "TIMED")) == []
    assert numbers(log(*argv, "^stepfailed n=100 ")) == [100]  # as it is shown
    assert numbers(log(*argv, '"n": 200,')) == [200]  # as it was recorded
    assert numbers(log(*argv, "timed out", "-n", "2")) == [400, 500]
    assert numbers(log(*argv, "timed out", "-rn2")) == [500, 400]


def test_events_by_name_and_agents_by_kind(log: Log) -> None:
    assert numbers(log("--json", "-t", "stepFAILED", "-n", "+2")) == [0, 100]
    names = [next(iter(o["event"])) for o in log("--json", "-u", "night*").objects]
    assert names == ["AttemptStarted", "StepStarted", "StepCompleted", "Terminated"]
    assert len(log("-u", "nightly", "-t", "step*", "-t", "Term*").lines) == 3
    assert log("-u", "daily").err == "no entries like that\n"


# Cursors


def test_a_cursor_goes_on_where_the_last_one_stopped(log: Log) -> None:
    first = log("-n", "+2", "--json", "--show-cursor").lines
    cursor = first.pop().removeprefix("-- cursor: ")
    assert len(first) == 2
    assert numbers(log("--after-cursor", cursor, "-n", "+2", "--json")) == [2, 3]
    assert numbers(log("--cursor", cursor, "-n", "+2", "--json")) == [1, 2]


def test_a_cursor_file_gives_each_entry_once(log: Log, tmp_path: Path) -> None:
    file = tmp_path / "cursor"
    read: list[int] = []
    for _ in range(4):
        read += numbers(log("--cursor-file", str(file), "-n", "+7", "--json"))
    assert read == [*range(28)]
    passed_over = log("--cursor-file", str(file), "-g", "no such text")
    assert passed_over.out == ""
    assert log("--cursor-file", str(file)).out == "", "what was looked at is not looked at again"
    assert [path.name for path in tmp_path.iterdir()] == ["cursor"]


def test_what_was_not_shown_for_its_time_is_still_to_come(log: Log, tmp_path: Path) -> None:
    file = str(tmp_path / "cursor")
    assert numbers(log("--cursor-file", file, "-U", minute(9), "--json"))[:10] == [*range(10)]
    assert numbers(log("--cursor-file", file, "-n", "+2", "--json")) == [10, 11]


def test_a_cursor_file_keeps_what_nobody_took(daemon: RunningDaemon, tmp_path: Path) -> None:
    """The reader breaks off: its cursor names nothing that did not fit into the pipe."""
    file = tmp_path / "cursor"
    argv = [*CLI, "-s", str(daemon.socket), "log", "--json", "--cursor-file", str(file)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        taken = process.stdout.readline()
        process.stdout.close()
    assert process.returncode in {141, -13}
    assert json.loads(taken)["position"] == 0
    noted = Cursor.parse(file.read_text()) if file.exists() else None
    assert noted is None or noted.position < ENTRIES


def test_the_cursor_of_another_journal_is_refused(log: Log, tmp_path: Path) -> None:
    file = tmp_path / "cursor"
    for text in ("p=5;t=77", "p=999999;t=77"):
        file.write_text(text)
        refused = log("--cursor-file", str(file))
        assert (refused.code, refused.out) == (1, "")
        assert "another journal" in refused.what
        assert file.read_text() == text
    file.write_text("hello")
    assert "holds no cursor" in log("--cursor-file", str(file)).what


# Following


def lines_of(stream: IO[str], count: int) -> list[str]:
    return [stream.readline() for _ in range(count)]


def test_it_follows_and_notes_each_entry_behind_its_output(tmp_path: Path) -> None:
    """Also over a restart of the daemon: nothing is left out and nothing comes twice."""
    file = tmp_path / "cursor"
    with RunningDaemon(tmp_path) as daemon:
        for n in range(12):
            assert daemon.request({"op": "append", "agent_id": "a", "event": {"N": n}})["ok"]
        argv = [*CLI, "-s", str(daemon.socket), "log", "-f", "-o", "cat"]
        with subprocess.Popen(
            [*argv, "--cursor-file", str(file)], stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                assert lines_of(process.stdout, 12) == [f'{{"N": {n}}}\n' for n in range(12)]
                daemon.stop()
                daemon.start()
                assert daemon.request({"op": "append", "agent_id": "a", "event": {"N": 12}})["ok"]
                assert lines_of(process.stdout, 1) == ['{"N": 12}\n']
                assert daemon.request({"op": "append", "agent_id": "a", "event": {"N": 13}})["ok"]
                assert lines_of(process.stdout, 1) == ['{"N": 13}\n']
                noted = Cursor.parse(file.read_text())
                assert noted is not None
                assert noted.position in {12, 13}  # the last may not be noted yet
            finally:
                process.terminate()
        with subprocess.Popen([*argv, "-n3"], stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert lines_of(process.stdout, 3) == [f'{{"N": {n}}}\n' for n in (11, 12, 13)]
            finally:
                process.terminate()
