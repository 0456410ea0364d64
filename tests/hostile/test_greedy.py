"""Slow, silent and greedy clients of a real daemon: it keeps its memory, files, and the others."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from agent_journal.testing.daemon import RawConnection, RunningDaemon
from integration.observed import (
    MIB,
    PATIENCE_S,
    descriptors,
    error_of,
    line_of,
    noted,
    rss_bytes,
    stats,
    wait_until,
    wait_until_alone,
)

Size = Callable[[int, int], int]
Figures = Callable[..., None]

PASSED_MAX: Final = 253  # descriptors in one message: SCM_MAX_FD
CROWD: Final = 10_000
OWN_DESCRIPTORS: Final = 200  # what a test run has open beside its crowd


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path) as running:
        yield running


@contextmanager
def stopped(daemon: RunningDaemon) -> Iterator[None]:
    """Stop the daemon, so that what is sent meanwhile waits in its sockets."""
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


def check_served(daemon: RunningDaemon, agent_id: str = "other") -> None:
    """See that somebody else is served."""
    with daemon.connect() as other:
        assert other.request(noted(agent_id=agent_id))["ok"]
        assert other.request({"op": "read", "agent_id": agent_id})["ok"]


# Lines that come slowly, or never end


def test_lines_that_come_byte_by_byte_from_many_are_all_served(daemon: RunningDaemon) -> None:
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(daemon.connect()) for _ in range(50)]
        lines = [line_of(noted("slow", agent_id=f"slow-{n:02}")) for n in range(50)]
        for index in range(len(lines[0])):
            for connection, line in zip(crowd, lines, strict=True):
                connection.send(line[index : index + 1])
            if index % 20 == 0:
                check_served(daemon)
        for connection in crowd:
            assert connection.reply()["sequence"] == 0
    wait_until_alone(daemon)


@pytest.mark.parametrize("ending", ["close", "reset", "newline"])
def test_half_lines_and_then_silence_hold_what_they_may(tmp_path: Path, ending: str) -> None:
    """Beyond the bound they are told so; when they are gone others may begin lines again."""
    config = '[limits]\nframe_bytes_max = "64KiB"\npartial_bytes_max = "1MiB"\n'
    half = b'{"op":"ping","id":7,"x":"' + b"x" * 60_000
    with RunningDaemon(tmp_path, config=config) as daemon:
        before = rss_bytes(daemon)
        for _ in range(2):
            with contextlib.ExitStack() as stack:
                crowd = [stack.enter_context(daemon.connect()) for _ in range(60)]
                refused = 0
                for connection in crowd:
                    connection.send(half)
                    check_served(daemon)
                assert rss_bytes(daemon) - before < 16 * MIB
                if ending == "close":
                    continue
                for connection in crowd:
                    if ending == "reset":
                        connection.socket.shutdown(socket.SHUT_RD)
                        continue
                    connection.send(b'"}\n' + line_of({"op": "ping", "id": 8}))
                    first = connection.reply()
                    if not first["ok"]:
                        error = error_of(first)
                        assert error["code"] == "overloaded"
                        assert error["retry_ms"] > 0
                        refused += 1
                    assert first.get("id") in (7, None)
                    assert connection.reply()["id"] == 8, "the connection is not in step"
                if ending == "newline":
                    assert refused == 60 - MIB // len(half)
            wait_until_alone(daemon)


@pytest.mark.sized
@pytest.mark.timeout(600)
@pytest.mark.parametrize("letter", [b"x", b"\0", b"[", b'"', b"\xff"])
def test_a_line_that_never_ends_costs_nothing(
    daemon: RunningDaemon, letter: bytes, size: Size
) -> None:
    """A gibibyte of it in the full run."""
    with daemon.connect() as connection:
        connection.send(letter * (5 * MIB))
        assert error_of(connection.reply())["code"] == "frame_too_large"
        before = rss_bytes(daemon)
        piece = letter * MIB
        for _ in range(size(48, 1024)):
            connection.send(piece)
        check_served(daemon)
        assert rss_bytes(daemon) - before < 16 * MIB
        connection.send(b"\n")
        assert connection.request({"op": "ping", "id": 1}) == {"id": 1, "ok": True}


def test_who_reads_nothing_is_left_alone_until_it_does(daemon: RunningDaemon) -> None:
    """Each in another way: pings, reads, tails.  All of it comes when it is wanted."""
    with daemon.connect() as writer:
        for _ in range(100):
            assert writer.request(noted("x" * 5000, agent_id="large"))["ok"]
    asks = [
        {"op": "ping"},
        {"op": "read", "agent_id": "large"},
        {"op": "tail", "agent_id": "large", "from_position": 0, "follow": False},
        {"op": "agents"},
    ]
    before = rss_bytes(daemon)
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(daemon.connect()) for _ in range(40)]
        for number, connection in enumerate(crowd):
            connection.send(line_of(asks[number % len(asks)]) * 40)
        check_served(daemon)
        assert rss_bytes(daemon) - before < 100 * MIB
        for number, connection in enumerate(crowd):
            found = 0
            while found < 40:
                found += "entry" not in connection.reply()
            assert connection.request({"op": "ping", "id": number})["id"] == number
    wait_until_alone(daemon)


# Descriptors that are passed along


@pytest.mark.parametrize("how", ["whole lines", "half lines", "while it is stopped", "and die"])
def test_passed_descriptors_never_reach_the_daemon(daemon: RunningDaemon, how: str) -> None:
    """It reads and does not receive messages, so the kernel closes them."""
    check_served(daemon)
    before = descriptors(daemon)
    line = line_of({"op": "ping"})
    ours = [os.open("/dev/null", os.O_RDONLY) for _ in range(PASSED_MAX)]
    most = before
    try:
        for _ in range(20):
            with daemon.connect() as connection, contextlib.ExitStack() as stack:
                if how == "while it is stopped":
                    stack.enter_context(stopped(daemon))
                _pass(connection, line if how == "whole lines" else line[:5], ours)
                if how == "whole lines":
                    assert connection.reply()["ok"]
                elif how == "half lines":
                    connection.send(line[5:])
                    assert connection.reply()["ok"]
                most = max(most, descriptors(daemon))
            wait_until_alone(daemon)
    finally:
        for one in ours:
            os.close(one)
    check_served(daemon)
    wait_until_alone(daemon)
    assert most <= before + 3, "descriptors of ours were open in the daemon"
    wait_until(lambda: descriptors(daemon) <= before, "nothing stays open")


def _pass(connection: RawConnection, data: bytes, ours: list[int]) -> None:
    """Send *data*, with descriptors on every byte."""
    for index in range(len(data)):
        try:
            socket.send_fds(connection.socket, [data[index : index + 1]], ours)
        except OSError as error:  # too many of this user's are on their way
            assert error.errno == 109, error  # noqa: PT017 - ETOOMANYREFS
            connection.send(data[index : index + 1])


# Very many


@contextmanager
def room_for(count: int) -> Iterator[None]:
    """Allow this process so many descriptors, or skip."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + OWN_DESCRIPTORS
    if hard < needed:
        pytest.skip(
            f"{count} connections were not tried: the limit of open files is {hard} (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def patient(daemon: RunningDaemon) -> RawConnection:
    """Return a connection that waited for its turn in the backlog, which is soon full."""
    connection = RawConnection(daemon.socket, timeout_s=None)  # type: ignore[arg-type]
    connection.socket.settimeout(PATIENCE_S)
    return connection


@pytest.mark.timeout(300)
def test_ten_thousand_connections_are_served(tmp_path: Path, seed: str, figures: Figures) -> None:
    """All of them are open, each is answered, whatever order they speak in; then all go."""
    chance = random.Random(seed)  # noqa: S311 - a seed repeats it
    with room_for(CROWD), RunningDaemon(tmp_path) as daemon:
        before = rss_bytes(daemon), descriptors(daemon)
        with contextlib.ExitStack() as stack:
            crowd = [stack.enter_context(patient(daemon)) for _ in range(CROWD)]
            chance.shuffle(crowd)
            for connection in crowd:
                connection.send(line_of(noted(agent_id=f"crowd-{chance.randrange(50)}")))
            for connection in crowd:
                assert connection.reply()["ok"]
            with daemon.connect() as other:
                assert other.request({"op": "stats", "uid": "*"})["connections"] == CROWD + 1
            grown = rss_bytes(daemon) - before[0]
            for connection in crowd[: CROWD // 2]:
                connection.send(b'{"op":"pi')
        wait_until_alone(daemon)
        assert stats(daemon)["bytes_in_flight"] == 0
        wait_until(lambda: descriptors(daemon) <= before[1], "all descriptors are closed")
        entries = sum(
            agent["entries"] for agent in daemon.request({"op": "agents", "limit": 1000})["agents"]
        )
        assert entries == CROWD
        assert grown < 300 * MIB
    figures(connections=CROWD, MiB_each=round(grown / MIB / CROWD, 4), seed=seed)
