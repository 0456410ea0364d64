"""Processes that are stopped, continued and ended, at moments that nobody chose."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Final

import pytest

from agent_journal.testing.daemon import DaemonError
from crash.checker import Checker
from crash.load import Scripts, Writer
from faults.calls import Action
from faults.daemons import FaultyDaemon, Starter
from faults.witness import ToldTail
from integration.observed import line_of, noted, wait_until

CONFIG: Final = "[commit]\ncheckpoint_commits = 5\nfree_bytes_min = 0\n"
STOPS: Final = 10


@contextmanager
def under_load(daemon: FaultyDaemon, checker: Checker, seed: str) -> Iterator[None]:
    """Have clients of all kinds send while the block runs, and check what they were told."""
    random = Random(seed)  # noqa: S311 - repeatable, not secret
    talks = Scripts(random, seed, os.geteuid(), checker).talks(150)
    tail = ToldTail(daemon.socket, checker.next_position)
    writers = [Writer(talk, daemon.socket, random) for talk in talks]
    for thread in (tail, *writers):
        thread.start()
    yield
    for writer in writers:
        writer.join()
    if daemon.exit_code is None:
        daemon.kill()
    daemon.wait()
    tail.finish()
    daemon.start()
    checker.check(daemon, talks, [tail])


def state_of(pid: int) -> str:
    """Return the kernel's letter for what a process does."""
    return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process, and let it go on."""
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: state_of(pid) == "T", "it is stopped")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_daemon_that_is_stopped_again_and_again_under_load_loses_nothing(
    starter: Starter, tmp_path: Path, seed: str
) -> None:
    checker = Checker()
    with FaultyDaemon(starter, tmp_path, config=CONFIG) as daemon:
        with under_load(daemon, checker, f"{seed}-stops"):
            reached = daemon.calls.count
            for _ in range(STOPS):
                with stopped(daemon.pid), daemon.connect() as waiting:
                    waiting.send_line({"op": "ping"})  # the kernel takes it meanwhile
                assert daemon.request({"op": "ping"})["ok"]
            assert daemon.calls.count > reached
        assert checker.acknowledged > 0
        assert daemon.stop() == 0


def test_a_client_that_is_stopped_within_a_line_holds_up_nobody(
    starter: Starter, tmp_path: Path
) -> None:
    """Its line is recorded when it ends, however late."""
    with (
        FaultyDaemon(starter, tmp_path) as daemon,
        daemon.connect() as slow,
        daemon.connect() as other,
    ):
        line = line_of(noted("in two pieces"))
        slow.send(line[:25])
        for index in range(20):
            assert other.request(noted(str(index), agent_id="b"))["sequence"] == index
        slow.send(line[25:])
        assert slow.reply()["sequence"] == 0


@pytest.mark.parametrize("phase", ["starting", "serving", "loaded", "checkpointing", "stopping"])
def test_a_stop_is_obeyed_in_every_phase(
    starter: Starter, tmp_path: Path, phase: str, seed: str
) -> None:
    """With what was acknowledged on the disk, and exit code 0."""
    checker = Checker()
    with FaultyDaemon(starter, tmp_path, config=CONFIG) as daemon:
        if phase in ("serving", "loaded"):
            with under_load(daemon, checker, f"{seed}-{phase}"):
                if phase == "loaded":
                    wait_until(lambda: daemon.calls.count > 300, "it is busy")
                assert daemon.stop() == 0
            return
        assert daemon.request(noted("before"))["ok"]
        if phase == "checkpointing":
            daemon.calls.inject_now(Action.HANG, kinds=frozenset({"sync"}))
            with daemon.connect() as connection:
                connection.send(b"".join(line_of(noted(str(index))) for index in range(20)))
                wait_until(lambda: daemon.calls.waiting > 0, "it hangs in a sync")
                os.kill(daemon.pid, signal.SIGTERM)
                daemon.wait_for_log("stop_requested")
                daemon.calls.heal()
                assert daemon.wait() == 0
        elif phase == "stopping":
            daemon.calls.inject_now(Action.HANG, kinds=frozenset({"truncate"}))
            os.kill(daemon.pid, signal.SIGTERM)
            wait_until(lambda: daemon.calls.waiting > 0, "it hangs in its last checkpoint")
            for _ in range(3):
                os.kill(daemon.pid, signal.SIGTERM)
            daemon.calls.heal()
            assert daemon.wait() == 0
        else:
            daemon.kill()
            stop_while_it_starts(daemon)
        daemon.start()
        reply = daemon.request({"op": "read", "agent_id": "a", "limit": 1})
        assert reply["entries"][0]["event"] == {"Noted": "before"}


def start_anyhow(daemon: FaultyDaemon) -> None:
    """Start, or end in the attempt."""
    with contextlib.suppress(DaemonError):
        daemon.start()


def stop_while_it_starts(daemon: FaultyDaemon) -> None:
    """Send SIGTERM before anything handles it: the process just ends, as a killed one."""
    daemon.calls.reset()
    daemon.calls.inject_now(Action.HANG, kinds=frozenset({"truncate"}))
    before = daemon.pid
    starting = threading.Thread(target=lambda: start_anyhow(daemon))
    starting.start()
    wait_until(lambda: daemon.pid != before and daemon.calls.waiting > 0, "it hangs in its start")
    os.kill(daemon.pid, signal.SIGTERM)
    daemon.calls.heal()
    starting.join()
    assert daemon.wait() in (0, -signal.SIGTERM)


def test_a_kill_amid_a_stop_is_a_kill(starter: Starter, tmp_path: Path, seed: str) -> None:
    """At whatever it was doing; every call of a stop is tried in ``test_kills``."""
    checker = Checker()
    with FaultyDaemon(starter, tmp_path, config=CONFIG) as daemon:
        for cycle in range(3):
            with under_load(daemon, checker, f"{seed}-{cycle}"):
                wait_until(lambda: daemon.calls.count > 300, "it is busy")
                os.kill(daemon.pid, signal.SIGTERM)
                daemon.wait_for_log("stop_requested")
                daemon.kill()
                daemon.wait()
            daemon.calls.reset()
