"""What systemd and a service say to each other: sockets in, notifications out.

Everything here is a few environment variables and datagrams, described in
sd_listen_fds(3) and sd_notify(3).  The variables are taken out of the
environment as they are read: they are meant for this process, and an agent
started by it must not believe that it was addressed.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import MutableMapping
from typing import Final, Self

from ..clock import Clock
from ..errors import ConfigError

LISTEN_FDS_START: Final = 3

_SEND_TIMEOUT: Final = struct.pack("ll", 1, 0)
"""A ``timeval``: a state may wait a second for PID 1, and is then given up."""


class Notifier:
    """Tells systemd the daemon's state; without systemd it does nothing."""

    def __init__(self, address: str = "", *, clock: Clock) -> None:
        self._clock = clock
        self._address = _socket_address(address)
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str], *, clock: Clock) -> Self:
        """Return the notifier for whoever started us, and forget the address."""
        return cls(environ.pop("NOTIFY_SOCKET", ""), clock=clock)

    def ready(self, status: str = "") -> bool:
        """Say that clients are served, at the start or after a reload."""
        return self._send(["READY=1", *_status(status)])

    def reloading(self) -> bool:
        """Say that a reload has begun; ``ready`` ends it."""
        now_us = int(self._clock.monotonic() * 1_000_000)
        return self._send(["RELOADING=1", f"MONOTONIC_USEC={now_us}"])

    def stopping(self, status: str = "") -> bool:
        """Say that no new request is taken."""
        return self._send(["STOPPING=1", *_status(status)])

    def extend_timeout(self, duration_s: float) -> bool:
        """Ask for this much more time, from now, for a start, a reload or a stop."""
        return self._send([f"EXTEND_TIMEOUT_USEC={int(duration_s * 1_000_000)}"])

    def status(self, status: str) -> bool:
        """Say in one line how things are, for ``systemctl status``."""
        return self._send(_status(status), flags=socket.MSG_DONTWAIT)

    def watchdog(self) -> bool:
        """Say that the daemon makes progress."""
        return self._send(["WATCHDOG=1"], flags=socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Say nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, assignments: list[str], *, flags: int = 0) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.sendto(
                "\n".join(assignments).encode(errors="replace"), flags, self._address
            )
        except OSError:
            # Nobody is helped if the journal stops because systemd does not listen.
            return False
        return True


def _socket_address(address: str) -> str:
    if address.startswith("@"):
        return "\0" + address[1:]
    return address if address.startswith("/") else ""  # vsock: is for virtual machines


def _status(text: str) -> list[str]:
    return [f"STATUS={' '.join(text.split())}"] if text else []


def watchdog_interval(environ: MutableMapping[str, str], *, pid: int) -> float | None:
    """Return the seconds after which systemd is to hear from us; None if it does not ask.

    It is half of what systemd waits, as sd_watchdog_enabled(3) advises.
    """
    wanted = environ.pop("WATCHDOG_USEC", "")
    addressed = environ.pop("WATCHDOG_PID", str(pid))
    if not (wanted.isdecimal() and int(wanted) > 0 and addressed == str(pid)):
        return None
    return int(wanted) / 2 / 1_000_000


def inherited_socket(
    environ: MutableMapping[str, str], *, pid: int, first_fd: int = LISTEN_FDS_START
) -> socket.socket | None:
    """Return the listening socket that systemd opened for us; None if it did not.

    Raises:
        ConfigError: when what was handed over is not one listening stream socket.
    """
    names = environ.pop("LISTEN_FDNAMES", "")
    count = environ.pop("LISTEN_FDS", "0")
    if environ.pop("LISTEN_PID", "") != str(pid) or not count.isdecimal() or int(count) == 0:
        return None
    if int(count) > 1:
        raise ConfigError(
            f"systemd handed over {count} sockets ({names}) and one is expected; "
            "leave one ListenStream= in the .socket unit"
        )
    return _checked(first_fd)


def _checked(fd: int) -> socket.socket:
    problem = ConfigError(
        f"file descriptor {fd} is not a listening Unix stream socket; "
        "use ListenStream= with a path, and Accept=no, in the .socket unit"
    )
    try:
        inherited = socket.socket(fileno=fd)
    except OSError as error:
        raise problem from error
    if (
        inherited.family != socket.AF_UNIX
        or inherited.type != socket.SOCK_STREAM
        or not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        inherited.close()
        raise problem
    os.set_inheritable(fd, False)  # noqa: FBT003 - it takes no keywords
    inherited.settimeout(0)
    return inherited
