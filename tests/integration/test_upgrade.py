"""The daemon is stopped and another started on the same socket, while everybody appends.

systemd holds the listening socket, as this test does here; who connects or writes
while no daemon is there waits in it.  So an upgrade is a pause, and nothing else.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent_journal.client import Client, connect
from agent_journal.testing.daemon import RawConnection
from integration.observed import noted, wait_until

ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="journal")
os.execv(sys.executable, [sys.executable, "-m", "agent_journal", *sys.argv[2:]])
"""
WRITERS = 6
UPGRADES = 3


class Manager:
    """What systemd is to the daemon: it holds the socket and starts the process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.path = directory / "journal.sock"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(4096)
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--database", str(self._directory / "journal.db"), "--config", os.devnull]
        descriptor = self._listener.fileno()
        self._daemon = subprocess.Popen(
            [sys.executable, "-c", ACTIVATED, str(descriptor), *options],
            pass_fds=[descriptor],
            stderr=subprocess.DEVNULL,
        )

    def stop(self) -> int:
        assert self._daemon is not None
        self._daemon.terminate()
        return self._daemon.wait(30)

    def close(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
        self._listener.close()


@contextmanager
def managed(directory: Path) -> Iterator[Manager]:
    manager = Manager(directory)
    try:
        yield manager
    finally:
        manager.close()


class Writer(threading.Thread):
    """Appends one entry behind the other through the client library, and counts."""

    def __init__(self, path: Path, agent_id: str, ends: threading.Event) -> None:
        super().__init__(daemon=True)
        self._path = path
        self.agent_id = agent_id
        self._ends = ends
        self.sequences: list[int] = []
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            with connect(self._path) as journal:
                while not self._ends.is_set():
                    event = {"Noted": len(self.sequences)}
                    self.sequences.append(journal.append(self.agent_id, event).sequence)
        except Exception as error:  # noqa: BLE001 - looked at by the test
            self.failure = error


def check(journal: Client, writer: Writer) -> None:
    """Find each append once, in its order, where it was acknowledged."""
    entries = list(journal.read(writer.agent_id))
    assert writer.sequences == [*range(len(writer.sequences))]
    noted_numbers = [entry.payload for entry in entries]
    assert Counter(noted_numbers) == Counter(range(len(writer.sequences))), "lost or doubled"
    assert noted_numbers == sorted(noted_numbers, key=lambda number: int(str(number)))


@pytest.mark.timeout(90)
def test_an_upgrade_refuses_loses_and_doubles_no_append(tmp_path: Path) -> None:
    ends = threading.Event()
    with managed(tmp_path) as manager:
        manager.start()
        writers = [Writer(manager.path, f"writer-{n}", ends) for n in range(WRITERS)]
        for writer in writers:
            writer.start()
        try:
            for _ in range(UPGRADES):
                before = [len(writer.sequences) for writer in writers]
                wait_until(
                    lambda before=before: all(
                        len(writer.sequences) > count + 20
                        for writer, count in zip(writers, before, strict=True)
                    ),
                    "everybody gets on",
                )
                assert manager.stop() == 0
                with RawConnection(manager.path) as early:  # nobody serves it yet
                    early.send_line(noted("early", agent_id="early"))
                    manager.start()
                    assert early.reply()["ok"], "it waited in the socket"
        finally:
            ends.set()
            for writer in writers:
                writer.join(30)
        assert [writer.failure for writer in writers] == [None] * WRITERS
        with connect(manager.path) as journal:
            for writer in writers:
                check(journal, writer)
            assert journal.describe("early").entries == UPGRADES
        assert manager.stop() == 0
