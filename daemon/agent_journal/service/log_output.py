"""Where log lines go, without ever holding up the daemon for long.

A terminal can be stopped with Ctrl-S, a pipe's reader can hang, the systemd
journal can be busy, and a blocking write to any of them stops the event loop
and with it every agent on the host.  So before each write these writers find
out whether it would block, wait a few milliseconds at most, and then give the
line up; while it goes on they do not wait at all.  The caller counts what was
given up and says so when lines get through again.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final, TextIO

STALL_MS_MAX: Final = 10
"""How long a line may wait; only the first one of a stall does."""

CHUNK_BYTES: Final = 4096
"""What Linux takes without blocking when poll says that a pipe is writable."""

JOURNAL_SOCKET: Final = Path("/run/systemd/journal/socket")

DATAGRAM_BYTES_MAX: Final = 128 * 1024
"""Below ``net.core.wmem_default``; more would take a memfd, and no line of ours needs it."""


class StreamWriter:
    """Writes lines to a stream such as stderr."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._fd = _own_descriptor(stream)
        self._is_stalled = False
        self._is_torn = False  # the last line was given up in its middle
        self._poll = select.poll()
        if self._fd is not None:
            self._poll.register(self._fd, select.POLLOUT)

    def write(self, line: str) -> bool:
        """Write one line; return False if it was given up."""
        if self._fd is None:
            return self._write_text(line)
        begin = "\n" if self._is_torn else ""
        data = f"{begin}{line}\n".encode(errors="replace")
        written = self._write(self._fd, data)
        self._is_stalled = written < len(data)
        if written:
            self._is_torn = self._is_stalled
        return not self._is_stalled

    def close(self) -> None:
        """Give up the descriptor; the stream itself stays open."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _write(self, fd: int, data: bytes) -> int:
        written = 0
        # A slow terminal takes a few bytes at a time: it may have a few more turns.
        turns = len(data) // CHUNK_BYTES + 4
        try:
            while written < len(data) and turns:
                if not self._poll.poll(0 if self._is_stalled else STALL_MS_MAX):
                    break
                written += os.write(fd, data[written : written + CHUNK_BYTES])
                turns -= 1
        except OSError:
            return written  # it is gone, or full, or not ready after all: nowhere to say it
        return written

    def _write_text(self, line: str) -> bool:
        try:
            self._stream.write(f"{line}\n")
        except (OSError, ValueError):  # closed
            return False
        return True


def _own_descriptor(stream: TextIO) -> int | None:
    """Return a descriptor for the stream that is ours; None if it is no file of the system's."""
    try:
        fd = stream.fileno()
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return os.dup(fd)  # a second opening would write over what the first wrote
    except (OSError, ValueError):
        return None
    # Setting O_NONBLOCK on a duplicate would set it for everybody who has this
    # terminal or pipe, the shell included; only another opening is our own.
    # poll alone is not enough: it calls a terminal writable that takes one byte.
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        return os.dup(fd)  # a socket, or another user's: poll has to do


class JournalWriter:
    """Writes entries with fields to systemd's journal, in its native protocol."""

    def __init__(self, path: Path = JOURNAL_SOCKET) -> None:
        self._path = str(path)
        self._is_stalled = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        wait = struct.pack("ll", 0, STALL_MS_MAX * 1000)  # a timeval
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)

    def write(self, fields: Iterable[tuple[str, str]]) -> bool:
        """Write one entry; return False if it was given up.

        Raises:
            OSError: when systemd's journal is not there.
        """
        flags = socket.MSG_DONTWAIT if self._is_stalled else 0
        try:
            # Not connected: the systemd journal may be restarted under us.
            self._socket.sendto(datagram(fields), flags, self._path)
        except BlockingIOError:
            self._is_stalled = True
        else:
            self._is_stalled = False
        return not self._is_stalled

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()


def datagram(fields: Iterable[tuple[str, str]]) -> bytes:
    """Encode an entry; fields that do not fit are left out, the first are kept."""
    encoded = b""
    for name, value in fields:
        raw = value.encode(errors="replace")
        if b"\n" in raw:
            assignment = b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(raw)), raw)
        else:
            assignment = b"%s=%s\n" % (name.encode(), raw)
        if len(encoded) + len(assignment) <= DATAGRAM_BYTES_MAX:
            encoded += assignment
    return encoded
