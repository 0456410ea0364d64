"""Patience with a daemon that says nothing: how long, and how it is told from one at work.

A call may take its time and all be well: a journal is verified, a tail waits for an
entry.  So that an answer does not come is no reason to give up.  That nothing at
all is heard is one: when a call was silent for half of the patience, a ping is
sent over a connection of its own, which a daemon at work answers at once, and a
daemon that is stopped or hung does not.  With the other half over, the call fails.

A daemon that starts with much to look at answers nobody yet.  It is known by what
it does: its process is at work.  It is waited for, if longer, not for ever.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from typing import Final

from ..errors import JournalError
from ._core import NotAnsweringError
from ._link import Link, Patience, Settings

# Any answer will do, also that of something that is no daemon.
PING: Final = b'{"op":"ping"}\n'

TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
WORKING_SHARE: Final = 0.03  # of a processor: more than something idle takes, less than reading
TIMES_AT: Final = (11, 12)  # user's and system's, likewise


class Watch:
    """Tells, of one connection, when somebody has waited for too long."""

    def __init__(self, patience: Patience, settings: Settings) -> None:
        self._silence_s = patience.silence_s
        self._start_s = patience.start_s
        self._address = settings.address
        self._now = settings.clock.monotonic
        self._heard_at = self._look_at = 0.0

    def begin(self) -> None:
        """Note that somebody begins to wait, or that something was heard."""
        self._heard_at = self._now()
        self._look_at = self._heard_at + self._silence_s / 2

    def wait_s(self, seconds: float | None) -> float:
        """Return for how long to wait, if without this it were *seconds*."""
        own = max(0.0, self._look_at - self._now())
        return own if seconds is None else min(own, seconds)

    def look(self, link: Link) -> None:
        """Give the connection up if the daemon has been silent for too long."""
        now = self._now()
        if now < self._look_at:
            return
        pid = link.peer_pid
        before = _processor_s(pid)
        if self._is_answering() or link.receive():
            self.begin()
            return
        worked = _processor_s(pid) - before > WORKING_SHARE * (self._now() - now)
        if worked and self._now() - self._heard_at < self._start_s:
            self._look_at = self._now() + self._silence_s / 2
            return
        link.lose(self._verdict(pid))

    def _is_answering(self) -> bool:
        """Tell whether the daemon says anything, over a connection of its own."""
        until = self._now() + self._silence_s / 2
        try:
            with self._address.connect() as connected:
                connected.settimeout(self._silence_s / 2)
                connected.send(PING, socket.MSG_NOSIGNAL)
                connected.recv(1)  # that it hangs up tells as much
                return True
        except JournalError:
            pass  # nobody listens any more; what was asked may still be answered
        except TimeoutError:
            return False
        except OSError:
            return True  # it was cut off, by somebody
        _sleep(until - self._now())
        return False

    def _verdict(self, pid: int | None) -> NotAnsweringError:
        silence = f"has not answered within {self._silence_s:g} s"
        if pid is None:
            return NotAnsweringError(f"the daemon {silence}; it may be starting, stopped or hung")
        return NotAnsweringError(
            f"the daemon, pid {pid}, {silence}; it may be stopped or hung", pid=pid
        )


def _sleep(seconds: float) -> None:
    if seconds > 0:
        import select  # noqa: PLC0415 - seldom

        select.select([], [], [], seconds)


def peer_pid(connected: socket.socket) -> int | None:
    """Return who listened for this connection; not where it is systemd, for the daemon."""
    with suppress(OSError):
        credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid = int.from_bytes(credentials[:4], sys.byteorder)
        if pid > 1 and _told_of(pid, "comm") != "systemd\n":
            return pid
    return None


def _processor_s(pid: int | None) -> float:
    """Return the time of the processor that a process has had, as far as can be seen."""
    with suppress(OSError, ValueError, IndexError):
        fields = _told_of(pid, "stat").rpartition(")")[2].split()
        return sum(int(fields[at]) for at in TIMES_AT) / TICKS_A_SECOND
    return 0.0


def _told_of(pid: int | None, name: str) -> str:
    with open(f"/proc/{pid}/{name}", encoding="ascii", errors="replace") as file:  # noqa: PTH123 - pathlib costs
        return file.read()
