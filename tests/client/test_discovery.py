"""Where the client looks for the daemon, and what it says when it may not or cannot go there."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_journal.client import Client, connect, find_socket
from agent_journal.client import _discovery as discovery
from agent_journal.errors import (
    ConnectionLostError,
    ForbiddenError,
    InvalidError,
    TooManyConnectionsError,
)

USER = 3_999_999_999  # nobody has it, nor its directory under /tmp


@pytest.fixture
def host_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "host.sock"
    monkeypatch.setattr(discovery, "HOST_SOCKET", str(path))
    return path


@pytest.fixture
def runtime(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "run/agent-journal").mkdir(parents=True)
    return {"XDG_RUNTIME_DIR": str(tmp_path / "run")}


def own_socket(environ: dict[str, str]) -> Path:
    return Path(environ["XDG_RUNTIME_DIR"]) / "agent-journal/journal.sock"


def test_the_variable_is_obeyed_whatever_exists(host_socket: Path, runtime: Any) -> None:
    host_socket.touch()
    named = {**runtime, "AGENT_JOURNAL_SOCKET": "/nowhere/at.all"}
    assert discovery.socket_path(named, USER) == "/nowhere/at.all"


def test_the_users_own_daemon_comes_before_the_hosts(host_socket: Path, runtime: Any) -> None:
    host_socket.touch()
    assert discovery.socket_path(runtime, USER) == str(host_socket)
    own_socket(runtime).touch()
    assert discovery.socket_path(runtime, USER) == str(own_socket(runtime))


def test_with_nothing_there_it_is_where_the_users_own_would_be(
    host_socket: Path, runtime: Any
) -> None:
    assert discovery.socket_path(runtime, USER) == str(own_socket(runtime))
    assert discovery.socket_path({}, 0) == str(host_socket)
    # No directory is made by looking.
    assert discovery.socket_path({}, USER) == f"/tmp/agent-journal-{USER}/journal.sock"  # noqa: S108
    assert not Path(f"/tmp/agent-journal-{USER}").exists()  # noqa: S108


def test_an_empty_variable_is_an_unset_one(host_socket: Path) -> None:
    environ = {"AGENT_JOURNAL_SOCKET": "", "XDG_RUNTIME_DIR": ""}
    assert discovery.socket_path(environ, 0) == str(host_socket)


def test_a_directory_under_tmp_must_be_ones_own_alone(tmp_path: Path) -> None:
    directory = tmp_path / "agent-journal-1"
    directory.mkdir(mode=0o700)
    discovery._check_private(str(directory), os.geteuid())
    discovery._check_private(str(tmp_path / "absent"), os.geteuid())
    link = tmp_path / "link"
    link.symlink_to(directory)
    directory_of_all = tmp_path / "open"
    directory_of_all.mkdir()
    directory_of_all.chmod(0o770)
    for path, uid in [(directory, os.geteuid() + 1), (link, None), (directory_of_all, None)]:
        with pytest.raises(ForbiddenError, match="AGENT_JOURNAL_SOCKET"):
            discovery._check_private(str(path), os.geteuid() if uid is None else uid)


def test_find_socket_gives_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_JOURNAL_SOCKET", "/some/where.sock")
    assert find_socket() == Path("/some/where.sock")


def test_a_client_stays_where_it_was_answered(
    daemon: Any, host_socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the user's daemon restarts, the host's must not get its entries."""
    for name in ("AGENT_JOURNAL_SOCKET", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(discovery, "_candidates", lambda *_: [str(daemon.path), str(host_socket)])
    with connect(retry_s=0.2) as journal:
        journal.ping()
        daemon.stop()
        daemon.hang_up()
        with socket.socket(socket.AF_UNIX) as hosts:
            hosts.bind(str(host_socket))
            hosts.listen()
            hosts.settimeout(0)
            with pytest.raises(Exception, match=str(daemon.path)):
                journal.ping()
            with pytest.raises(BlockingIOError):
                hosts.accept()


class TestConnecting:
    @pytest.fixture
    def unconnected(self) -> Iterator[Any]:
        made: list[Client] = []

        def make(path: str | Path) -> Client:
            made.append(connect(path, retry_s=0))
            return made[-1]

        yield make
        for client in made:
            client.close()

    def test_a_path_too_long_for_a_socket_says_so(self, unconnected: Any) -> None:
        with pytest.raises(InvalidError, match="too long") as raised:
            unconnected("/tmp/" + "x" * 200).ping()  # noqa: S108
        assert raised.value.details["field"] == "socket"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may connect anywhere")
    def test_a_socket_of_another_group_says_so(self, daemon: Any, unconnected: Any) -> None:
        daemon.path.chmod(0)
        with pytest.raises(ForbiddenError, match="group"):
            unconnected(daemon.path).ping()

    def test_a_full_queue_is_a_busy_daemon(self, socket_path: Path, unconnected: Any) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(socket_path))
            listener.listen(0)
            first = unconnected(socket_path)
            first.open()
            with pytest.raises(TooManyConnectionsError, match="queue"):
                unconnected(socket_path).open()

    def test_another_kind_of_socket_says_so(self, socket_path: Path, unconnected: Any) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(socket_path))
            with pytest.raises(ConnectionLostError, match="wrong type"):
                unconnected(socket_path).ping()
