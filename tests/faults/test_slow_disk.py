"""A disk that is slow, or does not answer: who asks for no disk is answered, and memory is bounded.

A sync hangs for as long as the test wants, which is how a disk looks that has
lost its controller, or a network file system its server.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from agent_journal.testing.daemon import RawConnection
from crash.checker import Checker
from crash.load import Scripts, Writer
from faults.calls import Action
from faults.daemons import FaultyDaemon, Starter
from integration.observed import error_of, line_of, noted, rss_bytes, wait_until

SYNC: Final = frozenset({"sync"})
DISK: Final = frozenset({"sync", "write", "read", "truncate", "statvfs"})

NARROW: Final = """
[limits]
frame_bytes_max = "16KiB"
connection_bytes_in_flight_max = "16KiB"
uid_bytes_in_flight_max = "64KiB"
bytes_in_flight_max = "128KiB"
partial_bytes_max = "64KiB"
"""
OFTEN: Final = """
[commit]
free_bytes_min = 0
checkpoint_commits = 4
"""
TEXT: Final = "x" * 1000


@contextmanager
def hanging(daemon: FaultyDaemon) -> Iterator[None]:
    """Have the disk not answer from the next sync on."""
    daemon.calls.inject_now(Action.HANG, kinds=SYNC)
    try:
        yield
    finally:
        daemon.calls.heal()


def hang_up(daemon: FaultyDaemon, connection: RawConnection) -> None:
    """Send an append whose sync does not end."""
    connection.send_line(noted("hangs"))
    wait_until(lambda: daemon.calls.waiting > 0, "a sync hangs")


def check_answered(connection: RawConnection) -> None:
    """See that who asks for nothing from the disk is answered, as far as it is not held back."""
    talk: list[dict[str, object]] = [{"op": "ping"}, {"op": "hello"}, {"op": "stats"}]
    connection.send(b"".join(map(line_of, talk)))
    assert all(reply["ok"] for reply in connection.replies(len(talk)))


def entries_of(daemon: FaultyDaemon, agent_id: str) -> list[str]:
    """Return what an agent has noted."""
    found: list[Any] = []
    more = True
    while more:
        request = {"op": "read", "agent_id": agent_id, "from_sequence": len(found)}
        page = daemon.request(request)
        found += page["entries"]
        more = page["more"]
    assert [entry["sequence"] for entry in found] == [*range(len(found))]
    return [entry["event"]["Noted"] for entry in found]


def test_while_a_sync_hangs_who_needs_no_disk_is_answered(starter: Starter, tmp_path: Path) -> None:
    with FaultyDaemon(starter, tmp_path) as daemon, ExitStack() as stack:
        writer, other = (stack.enter_context(daemon.connect()) for _ in range(2))
        assert writer.request(noted("before"))["ok"]
        with hanging(daemon):
            hang_up(daemon, writer)
            check_answered(other)
            with daemon.connect() as new:
                check_answered(new)
            other.send_line(noted("queued"))
            check_answered(new_one := stack.enter_context(daemon.connect()))
        assert writer.reply()["sequence"] == 1
        assert other.reply()["sequence"] == 2
        check_answered(new_one)
        assert entries_of(daemon, "a") == ["before", "hangs", "queued"]
        assert daemon.stop() == 0


def test_who_floods_a_hung_disk_is_held_back_then_refused_and_memory_is_bounded(
    starter: Starter, tmp_path: Path
) -> None:
    """And when the disk goes on, all are answered: recorded or not, as they were told."""
    crowd_size, lines = 40, 30
    with FaultyDaemon(starter, tmp_path, config=NARROW, hurried=0) as daemon, ExitStack() as stack:
        first = stack.enter_context(daemon.connect())
        assert first.request(noted("first"))["ok"]
        crowd = [stack.enter_context(daemon.connect()) for _ in range(crowd_size)]
        before = rss_bytes(daemon)
        with hanging(daemon):
            hang_up(daemon, first)
            for number, connection in enumerate(crowd):
                sent = [
                    line_of(noted(f"{number}.{index} {TEXT}", agent_id=f"c{number}", id=index))
                    for index in range(lines)
                ]
                # More than a socket holds is sent from a thread: it may have to wait.
                sender = threading.Thread(target=connection.send, args=(b"".join(sent),))
                stack.callback(sender.join)
                sender.start()
            wait_until(lambda: overloaded(daemon) > 0, "somebody is refused as overloaded")
            with daemon.connect() as new:
                check_answered(new)
            assert rss_bytes(daemon) - before < 32 << 20
        outcomes = Counter[str]()
        for number, connection in enumerate(crowd):
            recorded = []
            for index in range(lines):
                reply = connection.reply()
                assert reply["id"] == index
                if reply["ok"]:
                    recorded.append(f"{number}.{index} {TEXT}")
                    assert reply["sequence"] == len(recorded) - 1
                else:
                    error = error_of(reply)
                    assert (error["code"], error["outcome"]) == ("overloaded", "not_recorded")
                    assert error["retry_ms"] > 0
                outcomes["recorded" if reply["ok"] else "refused"] += 1
            if recorded:
                assert entries_of(daemon, f"c{number}") == recorded
        assert min(outcomes["recorded"], outcomes["refused"]) > 0, outcomes
        assert first.reply()["ok"]
        assert first.request(noted("after"))["ok"]
        assert daemon.stop() == 0


def overloaded(daemon: FaultyDaemon) -> int:
    """Return how many requests were refused as overloaded."""
    counts: dict[str, int] = daemon.request({"op": "stats", "uid": "*"})["refused"]
    return counts.get("overloaded", 0)


def test_a_daemon_that_is_killed_while_its_disk_hangs_has_lost_nothing(
    starter: Starter, tmp_path: Path
) -> None:
    with FaultyDaemon(starter, tmp_path) as daemon, daemon.connect() as connection:
        for index in range(5):
            assert connection.request(noted(str(index)))["ok"]
        with hanging(daemon):
            hang_up(daemon, connection)
            daemon.kill()
        daemon.start()
        found = entries_of(daemon, "a")
        assert found in ([*"01234"], [*"01234", "hangs"])


@pytest.mark.parametrize("signals", [1, 2])
def test_a_stop_waits_for_a_disk_that_hangs_and_answers_everybody(
    starter: Starter, tmp_path: Path, signals: int
) -> None:
    """What is on its way may be recorded: who asked for it is told when that is known."""
    with FaultyDaemon(starter, tmp_path) as daemon, ExitStack() as stack:
        writer, other = (stack.enter_context(daemon.connect()) for _ in range(2))
        assert writer.request(noted("before"))["ok"]
        with hanging(daemon):
            hang_up(daemon, writer)
            other.send_line(noted("queued"))
            check_answered(stack.enter_context(daemon.connect()))
            for _ in range(signals):
                behind = len(daemon.log)
                os.kill(daemon.pid, signal.SIGTERM)
                daemon.wait_for_log("stop_requested", behind=behind)
            assert daemon.exit_code is None
        assert writer.rest()[0]["sequence"] == 1
        replies = other.rest()
        assert daemon.wait() == 0
        daemon.start()
        found = entries_of(daemon, "a")
        assert found == ["before", "hangs", "queued"][: 2 + sum(one["ok"] for one in replies)]


def test_a_disk_whose_syncs_take_long_loses_and_doubles_nothing(
    starter: Starter, tmp_path: Path, seed: str
) -> None:
    """Under a load of all kinds, with a kill in it."""
    checker = Checker()
    with FaultyDaemon(starter, tmp_path, config=OFTEN) as daemon:
        for cycle in range(2):
            random = Random(f"{seed}/{cycle}")  # noqa: S311 - repeatable, not secret
            daemon.calls.delay_syncs(100)
            talks = Scripts(random, f"s{cycle}", os.geteuid(), checker).talks(20)
            writers = [Writer(talk, daemon.socket, random) for talk in talks]
            for writer in writers:
                writer.start()
            with daemon.connect() as other:
                while any(writer.is_alive() for writer in writers[cycle:]):
                    check_answered(other)
                    writers[0].join(0.05)
                    if cycle and not writers[0].is_alive():
                        break
            daemon.kill()
            for writer in writers:
                writer.join()
            daemon.calls.delay_syncs(0)
            daemon.start()
            checker.check(daemon, talks)
        assert checker.acknowledged > 0


# The watchdog


class Manager:
    """What systemd is to a daemon: it hears how it is."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))

    def close(self) -> None:
        self._socket.close()

    def hears(self, assignment: str, within_s: float) -> bool:
        """Tell whether *assignment* is said within a time."""
        self._socket.settimeout(within_s)
        try:
            while True:
                if assignment in self._socket.recv(4096).decode().splitlines():
                    return True
        except TimeoutError:
            return False


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.close()


def test_the_watchdog_bears_with_a_slow_disk_and_not_with_one_that_hangs(
    starter: Starter, tmp_path: Path, manager: Manager
) -> None:
    """It is fed between the syncs, however slow; not while one hangs, and again afterwards."""
    env = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "40000"}
    daemon = FaultyDaemon(starter, tmp_path, env=env, modules=("faults.impatient",))
    with daemon, daemon.connect() as connection:
        assert manager.hears("READY=1", 20)
        daemon.calls.delay_syncs(100)
        for index in range(5):
            connection.send_line(noted(str(index)))
            assert manager.hears("WATCHDOG=1", 20)
            assert connection.reply()["ok"]
        daemon.calls.delay_syncs(0)
        with hanging(daemon):
            hang_up(daemon, connection)
            wait_until(lambda: not manager.hears("WATCHDOG=1", 1), "the watchdog is not fed")
            check_answered(stack_free := daemon.connect())
            stack_free.close()
        assert manager.hears("WATCHDOG=1", 20)
        assert connection.reply()["ok"]
        assert daemon.stop() == 0


def test_a_checkpoint_that_hangs_is_seen_by_the_watchdog(
    starter: Starter, tmp_path: Path, manager: Manager
) -> None:
    """Nobody's commit is on its way then, and none will be any more."""
    env = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "40000"}
    config = "[commit]\ncheckpoint_commits = 1\nfree_bytes_min = 0\n"
    modules = ("faults.impatient",)
    daemon = FaultyDaemon(starter, tmp_path, env=env, modules=modules, config=config, hurried=0)
    with daemon, daemon.connect() as connection:
        assert connection.request(noted("before"))["ok"]
        sent = 0
        while True:
            daemon.calls.inject(Action.HANG, first=daemon.calls.count + 5 + sent, kinds=SYNC)
            connection.send_line(noted(str(sent)))
            sent += 1
            wait_until(lambda: daemon.calls.waiting > 0, "a sync hangs")
            if daemon.calls.made()[-1].path == "journal.db":
                break
            daemon.calls.heal()
            assert connection.reply()["ok"]
            assert sent < 50, "no sync of the database was caught"
        wait_until(lambda: not manager.hears("WATCHDOG=1", 1), "the watchdog is not fed")
        daemon.calls.heal()
        assert manager.hears("WATCHDOG=1", 20)
        assert connection.reply()["ok"]
        assert daemon.stop() == 0
