"""systemd's side of the conversation is played by the test, with real sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_journal.clock import Clock
from agent_journal.errors import ConfigError
from agent_journal.service.systemd import Notifier, inherited_socket, watchdog_interval

PID = 4711


class SteppedClock(Clock):
    def monotonic(self) -> float:
        return 12.345678


class Manager:
    """Hears what a service says to systemd."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(10)
        self._socket.bind(address)

    def heard(self) -> list[str]:
        return self._socket.recv(65536).decode().split("\n")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()


@pytest.fixture
def notifier(tmp_path: Path, manager: Manager) -> Iterator[Notifier]:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "OTHER": "kept"}
    notifier = Notifier.from_environ(environ, clock=SteppedClock())
    assert environ == {"OTHER": "kept"}
    yield notifier
    notifier.close()


class TestNotifications:
    def test_each_state_is_said_as_systemd_expects_it(
        self, notifier: Notifier, manager: Manager
    ) -> None:
        assert notifier.ready("3 agents")
        assert manager.heard() == ["READY=1", "STATUS=3 agents"]
        assert notifier.ready()
        assert manager.heard() == ["READY=1"]
        assert notifier.reloading()
        assert manager.heard() == ["RELOADING=1", "MONOTONIC_USEC=12345678"]
        assert notifier.status("queue 0")
        assert manager.heard() == ["STATUS=queue 0"]
        assert notifier.watchdog()
        assert manager.heard() == ["WATCHDOG=1"]
        assert notifier.extend_timeout(1.5)
        assert manager.heard() == ["EXTEND_TIMEOUT_USEC=1500000"]
        assert notifier.stopping("draining")
        assert manager.heard() == ["STOPPING=1", "STATUS=draining"]

    def test_a_status_can_not_smuggle_in_another_assignment(
        self, notifier: Notifier, manager: Manager
    ) -> None:
        notifier.status("two\nREADY=1\r\tlines")
        assert manager.heard() == ["STATUS=two READY=1 lines"]

    def test_an_abstract_address_is_reached(self) -> None:
        name = f"agent-journal-test-{os.getpid()}"
        manager = Manager(f"\0{name}")
        notifier = Notifier(f"@{name}", clock=SteppedClock())
        assert notifier.ready()
        assert manager.heard() == ["READY=1"]
        notifier.close()
        manager.close()

    @pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative"])
    def test_without_systemd_nothing_is_said(self, address: str) -> None:
        assert not Notifier(address, clock=SteppedClock()).ready()

    def test_a_manager_that_went_away_does_no_harm(
        self, notifier: Notifier, manager: Manager, tmp_path: Path
    ) -> None:
        manager.close()
        assert not notifier.watchdog()
        (tmp_path / "notify").unlink()
        assert not notifier.ready()

    def test_a_manager_that_does_not_listen_does_not_hold_up_the_watchdog(
        self, notifier: Notifier, manager: Manager
    ) -> None:
        """The manager's queue is full: this returns, and says that it was in vain."""
        while notifier.watchdog():
            pass
        assert not notifier.status("one more")
        assert manager.heard() == ["WATCHDOG=1"]

    def test_closing_twice_is_allowed(self, notifier: Notifier) -> None:
        notifier.close()
        notifier.close()
        assert not notifier.ready()


class TestWatchdog:
    @pytest.mark.parametrize(
        ("environ", "seconds"),
        [
            ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(PID)}, 15.0),
            ({"WATCHDOG_USEC": "30000000"}, 15.0),
            ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
            ({"WATCHDOG_USEC": "0"}, None),
            ({"WATCHDOG_USEC": "soon"}, None),
            ({}, None),
        ],
        ids=str,
    )
    def test_the_interval_is_half_of_what_systemd_waits(
        self, environ: dict[str, str], seconds: float | None
    ) -> None:
        environ = dict(environ)
        assert watchdog_interval(environ, pid=PID) == seconds
        assert environ == {}


def listen_environ(fds: int = 1, pid: int = PID) -> dict[str, str]:
    return {
        "LISTEN_FDS": str(fds),
        "LISTEN_PID": str(pid),
        "LISTEN_FDNAMES": "a:b",
        "OTHER": "kept",
    }


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "journal.sock"))
        listening.listen()
        os.set_inheritable(listening.fileno(), True)  # noqa: FBT003
        yield listening


class TestInheritedSocket:
    def test_a_listening_socket_is_taken_over(
        self, listening: socket.socket, tmp_path: Path
    ) -> None:
        environ = listen_environ()
        inherited = inherited_socket(environ, pid=PID, first_fd=os.dup(listening.fileno()))
        assert environ == {"OTHER": "kept"}
        assert inherited is not None
        with inherited, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(tmp_path / "journal.sock"))
            inherited.accept()[0].close()
            assert inherited.gettimeout() == 0
            assert not inherited.get_inheritable()

    @pytest.mark.parametrize(
        "environ",
        [{"OTHER": "kept"}, listen_environ(pid=1), listen_environ(fds=0)],
        ids=["none", "another process", "no socket"],
    )
    def test_what_is_not_meant_for_us_is_left_alone(self, environ: dict[str, str]) -> None:
        environ = dict(environ)
        assert inherited_socket(environ, pid=PID) is None
        assert environ == {"OTHER": "kept"}

    def test_more_than_one_socket_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"handed over 2 sockets \(a:b\) and one is expected"):
            inherited_socket(listen_environ(fds=2), pid=PID)

    @pytest.mark.parametrize(
        ("family", "kind"),
        [
            (socket.AF_INET, socket.SOCK_STREAM),
            (socket.AF_UNIX, socket.SOCK_DGRAM),
            (socket.AF_UNIX, socket.SOCK_STREAM),  # does not listen
        ],
        ids=str,
    )
    def test_a_socket_of_another_kind_is_refused(
        self, family: socket.AddressFamily, kind: socket.SocketKind
    ) -> None:
        with socket.socket(family, kind) as other:
            fd = os.dup(other.fileno())
            with pytest.raises(ConfigError, match="not a listening Unix stream socket"):
                inherited_socket(listen_environ(), pid=PID, first_fd=fd)

    def test_a_file_that_is_no_socket_is_refused(self, tmp_path: Path) -> None:
        with (tmp_path / "file").open("w") as file:
            fd = file.fileno()
            with pytest.raises(ConfigError, match="not a listening Unix stream socket"):
                inherited_socket(listen_environ(), pid=PID, first_fd=fd)
