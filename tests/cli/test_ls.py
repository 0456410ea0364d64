"""``ls``: which agents, in which order, and how they look."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from agent_journal.cli.agent_query import first_place, states_named
from agent_journal.client import connect
from agent_journal.testing.daemon import RunningDaemon
from cli.fake_daemon import FakeDaemon, Result, Run, agent
from cli.test_pty import PAINT, on_a_terminal

NAMES = ("report-42", "night", "report-7", "report", "nightly", "zebra")
BEGIN = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    """Have one daemon with agents an hour apart, two of them ended and one parked."""
    with RunningDaemon() as running:
        with connect(running.socket) as journal:
            for hours, name in enumerate(NAMES):
                began = BEGIN + timedelta(hours=hours)
                for number in range(hours + 1):
                    journal.append(name, {"Noted": number}, timestamp=began)
            journal.append("night", {"Terminated": {"reason": "Completed"}}, timestamp=BEGIN)
            journal.append("report-7", {"Terminated": {"reason": "no luck"}}, timestamp=BEGIN)
            journal.call({"op": "park", "agent_id": "nightly", "reason": "look at it"})
        yield running


@pytest.fixture
def ls(daemon: RunningDaemon, run: Run) -> Callable[..., Result]:
    def ls(*argv: str) -> Result:
        return run("-s", str(daemon.socket), "ls", *argv)

    return ls


def ids(result: Result) -> list[str]:
    assert result.code == 0, result.err
    return [line.split()[0] for line in result.lines[1:]]


def test_a_table_of_the_newest_first(fake: FakeDaemon, ask: Run) -> None:
    agents = [agent("report-42", entries=12345), agent("b", state="parked", reason="gave up")]
    fake.on("agents", {"agents": agents, "more": False})
    result = ask("ls")
    assert result.code == 0
    assert result.lines[0].split() == ["AGENT", "STATE", "ENTRIES", "AGE", "UPDATED", "REASON"]
    assert result.lines[1].split()[:4] == ["report-42", "●", "running", "12,345"]
    assert result.lines[1].endswith("ago")
    assert result.lines[2].endswith("gave up")
    assert fake.of("agents")[0]["order"] == "newest"


def test_its_first_name_still_works(fake: FakeDaemon, ask: Run) -> None:
    fake.on("agents", {"agents": [agent("a")], "more": False})
    assert ask("agents").out == ask("ls").out
    assert ask("agents", "--help").out == ask("ls", "--help").out


def test_json_prints_an_agent_a_line(fake: FakeDaemon, ask: Run) -> None:
    full = [agent(f"a{n}", first_position=5000 - n) for n in range(1000)]
    fake.on(
        "agents",
        {"agents": [agent("a", kind="k"), *full[1:]], "more": True},
        {"agents": [agent("b")], "more": False},
    )
    objects = ask("ls", "--json").objects
    assert objects[0] == agent("a", kind="k")
    assert objects[-1] == {n: value for n, value in agent("b").items() if value is not None}
    assert fake.of("agents")[1]["after"] == 4001


def test_everybodys_agents_have_their_uid(fake: FakeDaemon, ask: Run) -> None:
    fake.on("agents", {"agents": [agent("a", kind="k")], "more": False})
    options = ["--uid", "*", "--state", "running", "--kind", "k", "--limit", "5"]
    result = ask("ls", *options)
    assert result.lines[0].split()[:4] == ["AGENT", "UID", "STATE", "KIND"]
    expected = {"uid": "*", "state": "running", "kind": "k", "limit": 6, "order": "newest"}
    assert fake.of("agents")[0].items() >= expected.items()


def test_no_agents(fake: FakeDaemon, ask: Run) -> None:
    fake.on("agents", {"agents": [], "more": False})
    for argv, told in (((), ""), (("--state", "parked"), " like that"), (("x",), " like that")):
        result = ask("ls", *argv)
        assert (result.code, result.out, result.err) == (0, "", f"no agents{told}\n")
    assert ask("ls", "--json").out == ""


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("", "zebra nightly report report-7 night report-42"),
        ("-r", "report-42 night report-7 report nightly zebra"),
        ("-n 2", "zebra nightly"),
        ("-n 2 -r", "report-42 night"),
        ("-n 0", ""),
        ("report", "report report-42 report-7"),
        ("report -n 2", "report report-42"),
        ("report- --state unfinished", "report-42"),
        ("nobody", ""),
        ("--state completed", "night"),
        ("--state completed,failed", "report-7 night"),
        ("--state completed --state failed -r", "night report-7"),
        ("--state finished -n 1", "report-7"),
        ("--state parked", "nightly"),
        ("--state unfinished", "zebra nightly report report-42"),
        ("--sort id", "night nightly report report-42 report-7 zebra"),
        ("--sort id -r -n 2", "zebra report-7"),
        ("--sort entries -n 3", "zebra nightly report"),
        ("--sort entries -r -n 2", "report-42 night"),
        ("--sort age", "zebra nightly report report-7 night report-42"),
        ("--sort state -n 1", "night"),
        ("--since 2026-01-02T05:00Z", "zebra nightly report report-7"),
        ("--since 2026-01-02T05:00:01Z", "zebra nightly report"),
        ("--since 2026-01-02T05:00Z -r", "report-7 report nightly zebra"),
        ("--until 2026-01-02T05:00Z", "report-7 night report-42"),
        ("--until 2026-01-02T04:59Z -r", "report-42 night"),
        ("-S 2026-01-02T04:00Z -U 2026-01-02T06:00Z", "report report-7 night"),
        ("-S 2026-01-02T04:00Z -U 2026-01-02T06:00Z -r", "night report-7 report"),
        ("-S 2026-01-02T04:00Z --state finished", "report-7 night"),
        ("-S 2026-01-02T06:00Z report", "report"),
        ("-S now", ""),
        ("-U 2020-01-01", ""),
        ("-U 2020-01-01 -r", ""),
        ("-S 2020-01-01 -r -n 1", "report-42"),
        ("--kind nothing", ""),
    ],
)
def test_which_agents_in_which_order(ls: Callable[..., Result], argv: str, expected: str) -> None:
    assert ids(ls(*argv.split())) == expected.split()


def test_columns_are_chosen(ls: Callable[..., Result]) -> None:
    result = ls("-n", "1", "-o", "state,id,iteration,epoch,owner,created,next,uid")
    assert result.lines[0].split() == [
        *("STATE", "AGENT", "ITER", "EPOCH", "OWNER", "CREATED", "NEXT", "UID")
    ]
    assert result.lines[1].startswith("● running  zebra ")
    added = ls("-n", "1", "-o", "+created")
    assert added.lines[0].split()[-2:] == ["UPDATED", "CREATED"]
    bare = ls("-o", "id", "--no-header", "-n", "2")
    assert bare.lines == ["zebra", "nightly"]


@pytest.mark.parametrize(
    "argv",
    [
        ["-o", "id,shape"],
        ["--sort", "shape"],
        ["--state", "asleep"],
        ["--state", "parked,"],
        ["--since", "some day"],
        ["--uid", "*", "prefix"],
        ["-n", "-1"],
    ],
    ids=str,
)
def test_what_makes_no_sense(ls: Callable[..., Result], argv: list[str]) -> None:
    result = ls(*argv)
    assert (result.code, result.out) == (2, "")
    assert result.what
    assert result.hint


def test_stragglers_are_found_behind_a_bound(fake: FakeDaemon, ask: Run) -> None:
    """Times are what clients say: one agent that claims to be older does not end the list."""
    agents = [
        agent(f"a{n}", first_position=100 - n, created_at=f"2026-01-0{day}T00:00:00Z")
        for n, day in enumerate((4, 2, 4, 2))
    ]
    fake.on("agents", {"agents": agents, "more": False})
    assert ids(ask("ls", "--since", "2026-01-03")) == ["a0", "a2"]


def test_the_search_for_older_ones_ends(fake: FakeDaemon, ask: Run) -> None:
    pages: list[int] = []

    def old(request: dict[str, object]) -> dict[str, object]:
        pages.append(1)
        after = request.get("after", 10_000_000)
        assert isinstance(after, int)
        assert isinstance(request["limit"], int)
        found = [
            agent(f"a{after - n}", first_position=after - n - 1) for n in range(request["limit"])
        ]
        return {"agents": found, "more": True}

    fake.on("agents", old)
    assert ids(ask("ls", "--since", "2026-06-01")) == []
    assert len(pages) < 5


def test_a_terminal_shows_a_screenful_and_says_so(daemon: RunningDaemon, fake: FakeDaemon) -> None:
    agents = [agent(f"a{n}", first_position=999 - n) for n in range(51)]
    fake.on("agents", {"agents": agents, "more": False})
    lines = [PAINT.sub("", line) for line in on_a_terminal("-s", str(fake.path), "ls")]
    assert len([line for line in lines if line.startswith("a")]) == 50
    assert "50 agents, the newest; -a shows all, -n N so many" in lines
    assert fake.of("agents")[0]["limit"] == 51
    every = [PAINT.sub("", line) for line in on_a_terminal("-s", str(fake.path), "ls", "-a")]
    assert "51 agents" in every
    real = [PAINT.sub("", line) for line in on_a_terminal("-s", str(daemon.socket), "ls")]
    assert real[-2:] == ["6 agents", "‖ 1 parked: agent-journal ls --state parked"]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_lines_fit_a_terminal(fake: FakeDaemon, columns: int) -> None:
    agents = [
        agent("x" * 128, kind="k" * 40, reason="because " * 40, state="parked", attempts=1234),
        agent("b", reason="\x1b[2J"),
    ]
    fake.on("agents", {"agents": agents, "more": False})
    lines = on_a_terminal("-s", str(fake.path), "ls", "-r", columns=columns)
    plain = [PAINT.sub("", line) for line in lines]
    assert all(len(line) <= columns and "\x1b" not in line for line in plain)
    assert any("\x1b[1;31m‖ parked\x1b[0m" in line for line in lines)


def test_a_locale_without_such_signs_gets_plain_ones(
    fake: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.on("agents", {"agents": [agent("a", state="completed")], "more": False})
    lines = on_a_terminal(
        "-s", str(fake.path), "ls", PYTHONUTF8="0", PYTHONIOENCODING="ascii", NO_COLOR="1"
    )
    assert "+ completed" in lines[1]


def test_the_first_place_is_found_by_halving() -> None:
    for first in range(10):
        asked: list[int] = []

        def is_behind(place: int, first: int = first, asked: list[int] = asked) -> bool:
            asked.append(place)
            return place >= first

        assert first_place(0, 9, is_behind) == min(first, 9)
        assert len(asked) <= 4


def test_states_have_names_together() -> None:
    assert states_named("finished,parked") == ("completed", "failed", "cancelled", "parked")
    assert len(states_named("unfinished,running")) == 5


def test_json_of_a_real_journal(ls: Callable[..., Result]) -> None:
    [found] = ls("--json", "report-42").objects
    assert found["created_at"] == "2026-01-02T03:00:00.000000Z"
    assert json.dumps(found)
