"""A daemon that says nothing, and one that is gone: how long a command waits, and what it says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_journal.cli import connection
from agent_journal.client import connect
from agent_journal.testing.daemon import RunningDaemon
from cli.fake_daemon import FakeDaemon, Run

CLI = [sys.executable, "-c", "from agent_journal.cli import program; program()"]


@pytest.fixture
def stopped() -> Iterator[RunningDaemon]:
    with RunningDaemon() as daemon:
        with connect(daemon.socket) as journal:
            journal.append("a", {"Started": {}})
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            yield daemon
        finally:
            os.kill(daemon.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    "argv",
    [["ping"], ["ls"], ["read", "a"], ["tail", "--no-follow"], ["tail"], ["call", '{"op":"ping"}']],
    ids=" ".join,
)
def test_a_stopped_daemon_is_given_up_after_the_wait(
    stopped: RunningDaemon, run: Run, argv: list[str]
) -> None:
    began = time.monotonic()
    result = run("-s", str(stopped.socket), "--wait", "2", *argv)
    assert 1.9 < time.monotonic() - began < 6
    assert (result.code, result.out) == (75, "")
    assert result.what == (
        f"the daemon, pid {stopped.pid}, has not answered within 2 s; "
        "it may be stopped or hung (not_answering)"
    )
    assert f"kill -CONT {stopped.pid}" in result.hint


def test_an_append_that_nobody_answered_says_that_it_may_be_recorded(
    stopped: RunningDaemon, run: Run
) -> None:
    result = run("-s", str(stopped.socket), "--wait", "2", "append", "a", '{"Noted": 1}')
    assert result.code == 75
    assert "has not answered within 2 s" in result.what
    assert "the entry may have been recorded" in result.what
    assert "--key" in result.hint


def test_the_doctor_says_who_does_not_answer(
    stopped: RunningDaemon, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_journal.cli.doctor_daemon.ANSWER_S", 2.0)
    out = run("-s", str(stopped.socket), "doctor", "--no-fsync").out
    assert f"the daemon, pid {stopped.pid}, has not answered within 2 s" in out
    assert "may have been carried out" not in out
    assert "agent-journal ping" not in out


def test_whatever_listens_and_says_nothing_is_given_up(short_dir: Path, run: Run) -> None:
    """Also where it takes the connection, and is no daemon."""
    path = short_dir / "journal.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        for argv in (["ping"], ["ls"]):
            result = run("-s", str(path), "--wait", "0", *argv)
            assert result.code == 75
            assert "has not answered within 2 s" in result.what


def test_what_takes_long_is_waited_for(
    fake: FakeDaemon, ask: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon is heard over another connection: it is at work."""
    monkeypatch.setattr(connection, "SILENCE_S_MIN", 0.2)

    def slowly(_: object) -> dict[str, object]:
        time.sleep(1)
        return {"removed": 3}

    fake.on("compact", slowly)
    fake.on("agents", {"agents": [], "more": False})
    assert ask("compact", "a").out == "3 entries of a removed\n"
    assert fake.of("ping")


def test_a_daemon_that_is_at_work_on_its_start_is_waited_for(
    short_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It listens, takes nobody yet, and its process is busy."""
    monkeypatch.setattr(connection, "SILENCE_S_MIN", 0.4)
    path = short_dir / "journal.sock"
    busy = (
        "import json, socket, time\n"
        f"listener = socket.socket(socket.AF_UNIX); listener.bind({str(path)!r})\n"
        "listener.listen(); print(flush=True)\n"
        "while time.process_time() < 2: pass\n"
        "while True:\n"
        "    with listener.accept()[0] as taken:\n"
        "        for line in taken.makefile('rb'):\n"
        "            answer = {'id': json.loads(line).get('id'), 'ok': True}\n"
        "            answer |= {'agents': [], 'more': False}\n"
        "            taken.sendall(json.dumps(answer).encode() + b'\\n')\n"
    )
    with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as starting:
        assert starting.stdout is not None
        starting.stdout.readline()
        try:
            assert run("-s", str(path), "--wait", "0", "ls").code == 0
        finally:
            starting.kill()


@pytest.mark.parametrize("argv", [["tail"], ["log", "-f"]], ids=" ".join)
def test_who_follows_says_that_the_daemon_is_gone_and_goes_on_when_it_is_back(
    argv: list[str],
) -> None:
    with RunningDaemon() as daemon:
        with connect(daemon.socket) as journal:
            journal.append("a", {"Started": {}})
        command = subprocess.Popen(
            [*CLI, "-s", str(daemon.socket), *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert command.stdout is not None
        assert command.stderr is not None
        while b"Started" not in command.stdout.readline():
            pass
        daemon.kill()
        gone = command.stderr.readline()
        assert gone == b"agent-journal: the daemon is gone; waiting up to 10 s for it to be back\n"
        daemon.start()
        with connect(daemon.socket) as journal:
            journal.append("a", {"Noted": 1})
        assert b"Noted" in command.stdout.readline()
        command.terminate()
        command.communicate(timeout=10)


def test_who_followed_for_nothing_is_told_that_nobody_listens() -> None:
    """Nothing is in doubt: it only read."""
    with RunningDaemon() as daemon:
        with connect(daemon.socket) as journal:
            journal.append("a", {"Started": {}})
        command = subprocess.Popen(
            [*CLI, "-s", str(daemon.socket), "--wait", "1", "tail"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert command.stdout is not None
        while "Started" not in command.stdout.readline():
            pass
        daemon.kill()
        _, told = command.communicate(timeout=20)
    gone, what, hint = told.splitlines()
    assert "waiting up to 1 s" in gone
    assert what == (
        f"agent-journal: no journal daemon listens at {daemon.socket} (daemon_not_running)"
    )
    assert hint.startswith("try: ")
    assert command.returncode == 3


def test_who_follows_a_quiet_journal_bears_one_outage_after_another() -> None:
    """No entry comes in between to say that all is well."""
    with RunningDaemon() as daemon:
        command = subprocess.Popen(
            [*CLI, "-s", str(daemon.socket), "--wait", "2", "tail"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert command.stdout is not None
        assert command.stderr is not None
        time.sleep(1)
        for _ in range(2):
            daemon.kill()
            assert b"the daemon is gone" in command.stderr.readline()
            daemon.start()
            time.sleep(3.5)  # longer than the wait, and than a connection is on probation
        assert command.poll() is None
        command.terminate()
        command.communicate(timeout=10)
