"""An agent is named by so much of its id as no other begins with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from agent_journal.client import connect
from agent_journal.testing.daemon import RunningDaemon
from cli.fake_daemon import FakeDaemon, Result, Run, agent, entry, refused


@pytest.fixture
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        with connect(running.socket) as journal:
            for name in (
                "report",
                "report-42",
                "report-7",
                "night-1",
                *(f"x{n}" for n in range(12)),
            ):
                journal.append(name, {"Noted": name})
        yield running


@pytest.fixture
def ask(daemon: RunningDaemon, run: Run) -> Callable[..., Result]:
    def ask(*argv: str) -> Result:
        return run("-s", str(daemon.socket), *argv)

    return ask


@pytest.mark.parametrize(
    "argv",
    [
        ["read", "nig"],
        ["show", "n"],
        ["why", "night-"],
        ["describe", "night-1"],
        ["tail", "nig", "--no-follow"],
        ["export", "nig"],
        ["signal", "nig", "go"],
        ["park", "nig"],
        ["resume", "nig"],
        ["fork", "nig", "--at", "1", "--as", "copy"],
    ],
    ids=str,
)
def test_a_beginning_is_enough(ask: Callable[..., Result], argv: list[str]) -> None:
    result = ask(*argv)
    assert (result.code, result.err) == (0, "")
    assert "night-1" in result.out


@pytest.mark.parametrize(
    "argv",
    [["cancel", "nig"], ["compact", "nig", "--force"], ["forget", "nig", "--force", "--yes"]],
    ids=str,
)
def test_what_ends_or_removes_an_agent_is_told_its_whole_id(
    ask: Callable[..., Result], argv: list[str]
) -> None:
    """Invariant: what ends or removes an agent is told its whole id."""
    command, _, *options = argv
    result = ask(*argv)
    assert (result.code, result.out) == (4, "")
    assert result.what == (
        f"there is no agent 'nig', and {command} wants the whole id: night-1 begins so"
    )
    assert result.hint == f"agent-journal {command} night-1, if that one is meant"
    described = ask("describe", "night-1", "--json").objects[0]
    assert (described["state"], described["entries"]) == ("running", 1)
    assert ask(command, "night-1", *options).code == 0
    assert ask(command, "report", *options).code == 0  # whole, though others begin so
    again = ask(command, "nobody", *options)
    assert (again.code, "nobody" in again.what) == (4, True)


def test_a_whole_id_wins_over_longer_ones(ask: Callable[..., Result]) -> None:
    assert '"agent_id":"report"' in ask("describe", "report", "--json").out
    assert [entry["agent_id"] for entry in ask("read", "report", "--json").objects] == ["report"]


def test_several_that_begin_so_are_named(ask: Callable[..., Result]) -> None:
    result = ask("compact", "report-", "--force")
    assert (result.code, result.out) == (2, "")
    assert result.what == "'report-' could be 2 agents: report-42, report-7"
    assert result.hint == "more of the id; agent-journal ls report- lists them"
    assert [line.split()[0] for line in ask("ls", "report-").lines[1:]] == ["report-42", "report-7"]


def test_of_many_that_begin_so_some_are_named(ask: Callable[..., Result]) -> None:
    result = ask("why", "x")
    assert result.what == ("'x' could be more than 8 agents: x0, x1, x10, x11, x2, x3, x4, x5, …")


def test_nobody_begins_so(ask: Callable[..., Result]) -> None:
    for name in ("nobody", "a b", "é"):
        result = ask("read", name)
        assert result.code in {2, 4}
        assert name in result.what


def test_what_begins_an_agent_takes_its_name_as_it_is(ask: Callable[..., Result]) -> None:
    assert ask("append", "nig", '{"Started": {}}').code == 0
    assert ask("describe", "nig", "--json").objects[0]["agent_id"] == "nig"


def test_an_older_daemon_is_asked_for_what_was_typed(fake: FakeDaemon, run: Run) -> None:
    """It does not know ``prefix`` and gives all agents, or does not know the operation."""
    page = {"entries": [entry(0, {"A": 1})], "next_sequence": 1, "more": False}
    fake.on("read", page)
    for reply in ({"agents": [agent("zebra")], "more": False}, refused("unknown_op")):
        fake.on("agents", reply)
        assert run("-s", str(fake.path), "--wait", "0", "read", "a").code == 0
        assert fake.of("read")[-1]["agent_id"] == "a"


def test_another_users_agents_are_looked_for_there(fake: FakeDaemon, run: Run) -> None:
    fake.on("agents", {"agents": [agent("abc", uid=7)], "more": False})
    fake.on("describe", {"agent": agent("abc", uid=7)})
    assert run("-s", str(fake.path), "describe", "a", "--uid", "7").code == 0
    assert fake.of("agents") == [{"op": "agents", "prefix": "a", "limit": 9, "uid": 7}]
    assert fake.of("describe") == [{"op": "describe", "agent_id": "abc", "uid": 7}]
