"""``agent-journal bench``: it counts what is durable, and leaves no journal the larger."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_journal.cli import bench_run
from agent_journal.cli.bench_load import Load, request_of, run_load
from agent_journal.cli.failures import CommandError
from agent_journal.testing.daemon import RunningDaemon
from cli.fake_daemon import FakeDaemon, Run, refused

SHORT = ["--seconds", "1", "--clients", "3"]


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as daemon:
        yield daemon


@pytest.fixture(autouse=True)
def few_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_run, "SYNCS", 8)


def test_a_daemon_of_its_own_is_measured_and_thrown_away(
    run: Run, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short_dir))
    result = run("bench", *SHORT, "--in-flight", "4", "--directory", str(short_dir))
    assert (result.code, result.err) == (0, "")
    assert result.lines[0].startswith("3 clients, 4 in flight each, events of 300 bytes, 1.")
    assert result.lines[1].endswith(" durable appends a second")
    assert result.lines[3].startswith("durable append ")
    assert result.lines[4].startswith("fsync of the disk ")
    assert "of a model call of 2 s" in result.lines[5]
    assert [*short_dir.iterdir()] == []


def test_the_running_daemon_keeps_nothing_of_it(daemon: RunningDaemon, run: Run) -> None:
    [found] = run("-s", str(daemon.socket), "bench", "--live", *SHORT, "--json").objects
    assert found["appends"] > 0
    assert found["live"] is True
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["p99_9_ms"]
    assert found["fsync_p50_ms"] > 0
    assert found["appends_per_second"] == pytest.approx(
        found["appends"] / found["seconds"], rel=0.01
    )
    assert daemon.request({"op": "agents"})["agents"] == []
    assert daemon.request({"op": "stats"})["entries_committed"] >= found["appends"]


def test_what_is_counted_was_recorded(daemon: RunningDaemon) -> None:
    """Each answer is one entry, and none is left in flight."""
    agents = ["counted-1", "counted-2"]
    load = Load(clients=2, in_flight=8, event_bytes=100, seconds=0.2)
    tally = run_load(daemon.socket, agents, load, lambda _seconds: None)
    recorded = [daemon.request({"op": "describe", "agent_id": one}) for one in agents]
    assert sum(one["agent"]["entries"] for one in recorded) == len(tally.times_ms)


@pytest.mark.parametrize("size", [12, 300, 65536])
def test_an_event_has_the_size_that_was_asked_for(size: int) -> None:
    request = request_of("a", size)
    assert len(request) == len(request_of("a", 0)) + size - len('{"Noted":""}')


def test_a_refusal_ends_it(fake: FakeDaemon) -> None:
    fake.on("append", refused("storage_full", "the disk is full"))
    fake.encode = lambda reply: json.dumps(reply, separators=(",", ":"))  # as the daemon writes
    load = Load(clients=1, in_flight=1, event_bytes=100, seconds=5.0)
    with pytest.raises(CommandError, match="the disk is full"):
        run_load(fake.path, ["a"], load, lambda _seconds: None)


def test_a_daemon_that_dies_ends_it() -> None:
    load = Load(clients=4, in_flight=4, event_bytes=100, seconds=30.0)
    with RunningDaemon() as daemon, pytest.raises(CommandError, match="closed a connection"):
        run_load(daemon.socket, [*"abcd"], load, lambda at: daemon.kill() if at > 0.1 else None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--clients", "0"],
        ["--seconds", "601"],
        ["--in-flight", "1001"],
        ["--bytes", "99999999"],
        ["--live", "--directory", "/tmp"],  # noqa: S108 - never used
    ],
    ids=str,
)
def test_what_cannot_be_measured(run: Run, arguments: list[str]) -> None:
    assert run("bench", *arguments).code == 2


def test_a_directory_that_is_not_there(run: Run) -> None:
    result = run("bench", *SHORT, "--directory", "/nowhere")
    assert result.code == 1
    assert "--directory" in result.hint


def test_no_daemon_to_be_measured(run: Run) -> None:
    assert run("-s", "/nowhere/journal.sock", "bench", "--live").code == 3
