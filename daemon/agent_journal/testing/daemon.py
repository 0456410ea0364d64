"""A real daemon process for tests: started, talked to, killed, started again.

Nothing here knows how the daemon is built, only its command line and its wire,
so the same test can run the installed daemon, one under a wrapper, or a mutant
that a test wants to see caught (``argv``).  Readiness is an answered ``ping``,
not a pause: a daemon that exits instead is reported at once, with what it
printed.

    with RunningDaemon() as daemon:
        assert daemon.request({"op": "ping"})["ok"]
        daemon.kill()  # as a crash would
        daemon.start()  # on the same database and socket
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, Self

# Far longer than a loaded machine needs, shorter than a test's own limit: what
# hangs is reported by this module, which knows the daemon's last words.
START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 20.0
REPLY_TIMEOUT_S: Final = 20.0

_BACKOFF_S_MIN: Final = 0.002
_BACKOFF_S_MAX: Final = 0.05
_SOCKET_PATH_BYTES_MAX: Final = 107  # sun_path without its final NUL

# What a service manager or the user's shell may have set, and a test must not inherit.
_NOT_INHERITED: Final = frozenset(
    {
        "JOURNAL_STREAM",
        "LISTEN_FDNAMES",
        "LISTEN_FDS",
        "LISTEN_PID",
        "NOTIFY_SOCKET",
        "RUNTIME_DIRECTORY",
        "STATE_DIRECTORY",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    }
)

Message = Mapping[str, object]
"""A request before it is a line; anything that ``json.dumps`` takes will do."""


class Process(Protocol):
    """What is needed of a process, whoever started it; a ``subprocess.Popen`` is one."""

    @property
    def pid(self) -> int:
        """Its number, which is its group's, too."""
        ...

    def poll(self) -> int | None:
        """Return its exit code, ``None`` while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code when it has ended, or raise ``subprocess.TimeoutExpired``."""
        ...


class DaemonError(RuntimeError):
    """The daemon did not do what it was started for; the message holds its output."""


class RawConnection:
    """One blocking connection that sends what it is told, right or wrong."""

    def __init__(self, path: Path, *, timeout_s: float = REPLY_TIMEOUT_S) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._buffer = bytearray()
        self._searched = 0  # bytes of the buffer known to hold no newline
        try:
            self.socket.settimeout(timeout_s)
            self.socket.connect(str(path))
        except BaseException:
            self.socket.close()
            raise

    def send(self, data: bytes) -> None:
        """Send *data* as it is."""
        self.socket.sendall(data)

    def send_line(self, line: Message | str | bytes) -> None:
        """Send one line; an object is written as JSON, a newline is added."""
        self.send(_encode(line))

    def line(self) -> bytes:
        """Return the next line as it came, without its newline.

        Raises:
            EOFError: the daemon has closed the connection.
        """
        while (end := self._buffer.find(b"\n", self._searched)) < 0:
            self._searched = len(self._buffer)
            data = self.socket.recv(1 << 18)
            if not data:
                raise EOFError(f"the daemon closed; unfinished line: {bytes(self._buffer[:200])!r}")
            self._buffer += data
        found = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return found

    def reply(self) -> dict[str, Any]:
        """Return the next line as an object."""
        reply = json.loads(self.line())
        if not isinstance(reply, dict):
            raise DaemonError(f"a reply is not an object: {reply!r}")
        return reply

    def replies(self, count: int) -> list[dict[str, Any]]:
        """Return the next *count* lines."""
        return [self.reply() for _ in range(count)]

    def rest(self) -> list[dict[str, Any]]:
        """Return every line up to the end of the stream."""
        found = []
        with contextlib.suppress(EOFError):
            while True:
                found.append(self.reply())
        if self._buffer:
            raise DaemonError(f"the stream ended within a line: {bytes(self._buffer[:200])!r}")
        return found

    def request(self, message: Message | str | bytes) -> dict[str, Any]:
        """Send one line and return the next one that comes."""
        self.send_line(message)
        return self.reply()

    def shutdown_write(self) -> None:
        """Say that nothing more will be sent; replies still come."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close; may be called twice."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RunningDaemon:
    """A daemon on a socket and a database of its own, in *directory* or a temporary one.

    *config* is the text of its configuration file, which is at ``configuration``
    and may be rewritten.  *database* may lie elsewhere, on a disk that is full, say.
    *env* is added to the environment, out of which all that would lead the daemon
    elsewhere has been taken.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        config: str | None = None,
        database: Path | None = None,
        argv: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._temporary: list[Path] = []
        self.directory = self._make_temporary() if directory is None else directory
        self.socket = self.directory / "journal.sock"
        if len(os.fsencode(self.socket)) > _SOCKET_PATH_BYTES_MAX:
            self.socket = self._make_temporary() / "journal.sock"
        self.database = database or self.directory / "journal.db"
        self.configuration = self.directory / "config.toml"
        if config is not None or not self.configuration.exists():
            self.configuration.write_text(config or "", encoding="utf-8")
        self._output = self.directory / "daemon.log"
        self._command = [
            *(argv if argv is not None else [sys.executable, "-m", "agent_journal"]),
            *("--socket", str(self.socket)),
            *("--database", str(self.database)),
            *("--config", str(self.configuration)),
        ]
        self._env = _clean_environment() | dict(env or {})
        self._process: Process | None = None
        self._pid = 0

    @property
    def pid(self) -> int:
        """The daemon's process id; below a wrapper it is not the wrapper's."""
        if self._process is None:
            raise DaemonError("the daemon was not started")
        return self._pid

    @property
    def exit_code(self) -> int | None:
        """What the daemon exited with; ``None`` while it runs or before it was started."""
        return None if self._process is None else self._process.poll()

    @property
    def log(self) -> str:
        """All that the daemon has written to stderr (and stdout), over all its starts."""
        try:
            return self._output.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def start(self) -> Self:
        """Start the daemon and return when it answers.

        Raises:
            DaemonError: it exited, or did not answer in time.
        """
        if self._process is not None and self._process.poll() is None:
            raise DaemonError(f"the daemon runs already (pid {self._pid})")
        printed_before = len(self.log)
        self._process = self._launch()
        self._pid = self._process.pid
        atexit.register(self.close)
        deadline = time.monotonic() + START_TIMEOUT_S
        delay_s = _BACKOFF_S_MIN
        while not self._answers():
            if self._exits_within(delay_s):
                what = f"exited with {self.exit_code} before it answered"
                raise DaemonError(f"the daemon {what}; it printed:\n{self.log[printed_before:]}")
            if time.monotonic() > deadline:
                self.kill()
                what = f"did not answer within {START_TIMEOUT_S:g} s"
                raise DaemonError(f"the daemon {what}; it printed:\n{self.log[printed_before:]}")
            delay_s = min(2 * delay_s, _BACKOFF_S_MAX)
        return self

    def kill(self) -> None:
        """End the daemon as a crash would, without a chance to finish anything."""
        self.stop(signal.SIGKILL)

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the daemon's end and return its exit code.

        Raises:
            DaemonError: it did not end in time; it is killed then.
        """
        self._signal(signal_number)
        return self.wait()

    def wait(self) -> int:
        """Wait until the daemon ends (by itself, say) and return its exit code."""
        if self._process is None:
            raise DaemonError("the daemon was not started")
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._kill_group()
            what = f"did not end within {STOP_TIMEOUT_S:g} s and was killed"
            raise DaemonError(f"the daemon {what}; it printed:\n{self.log}") from None

    def reload(self) -> None:
        """Ask for the configuration to be read again; ``wait_for_log`` tells when it was."""
        self._signal(signal.SIGHUP)

    def wait_for_log(self, text: str, *, behind: int = 0) -> str:
        """Return the log once *text* stands in it behind the first *behind* characters.

        Raises:
            DaemonError: the daemon ended, or did not write it in time.
        """
        deadline = time.monotonic() + REPLY_TIMEOUT_S
        while text not in (log := self.log)[behind:]:
            ended = self._exits_within(_BACKOFF_S_MIN)
            if (ended and text not in self.log[behind:]) or time.monotonic() > deadline:
                raise DaemonError(f"{text!r} was not logged; the daemon printed:\n{log}")
        return log

    def connect(self) -> RawConnection:
        """Return a new connection, on which anything may be sent."""
        return RawConnection(self.socket)

    def request(self, message: Message | str | bytes) -> dict[str, Any]:
        """Send one request on a connection of its own and return its reply."""
        with self.connect() as connection:
            return connection.request(message)

    def exchange(self, talk: bytes | Iterable[Message | str | bytes]) -> list[dict[str, Any]]:
        """Send bytes, or lines, on a connection of its own; return all that is replied."""
        data = talk if isinstance(talk, bytes) else b"".join(map(_encode, talk))
        with self.connect() as connection:
            # From a thread: a daemon whose replies nobody reads stops reading too.
            sender = threading.Thread(target=_send_and_end, args=(connection, data), daemon=True)
            sender.start()
            found = connection.rest()
            sender.join(REPLY_TIMEOUT_S)
        return found

    def close(self) -> None:
        """Kill what is left and remove what was made; may be called twice."""
        self._kill_group()
        atexit.unregister(self.close)
        for path in self._temporary:
            shutil.rmtree(path, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def _launch(self) -> Process:
        """Start the process; a subclass may do it in another way."""
        with self._output.open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - the command is the test's own
                self._command,
                cwd=self.directory,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in the test run is not the daemon's to handle
            )

    def _make_temporary(self) -> Path:
        path = Path(tempfile.mkdtemp(prefix="agent-journal-"))
        self._temporary.append(path)
        return path

    def _answers(self) -> bool:
        """Tell whether our daemon, and not another on the same socket, answers a ping."""
        try:
            with RawConnection(self.socket) as connection:
                pid = _pid_behind(connection.socket)
                if self._process is None or not _descends(pid, self._process.pid):
                    return False
                connection.request({"op": "ping"})
        except (OSError, EOFError):
            return False
        self._pid = pid
        return True

    def _exits_within(self, timeout_s: float) -> bool:
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _signal(self, signal_number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal_number)

    def _kill_group(self) -> None:
        """Kill the daemon together with a wrapper around it."""
        # Once waited for, the number may be another's.
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _encode(line: Message | str | bytes) -> bytes:
    if isinstance(line, bytes):
        data = line
    elif isinstance(line, str):
        data = line.encode()
    else:
        data = json.dumps(line, ensure_ascii=False).encode()
    return data if data.endswith(b"\n") else data + b"\n"


def _send_and_end(connection: RawConnection, data: bytes) -> None:
    # A daemon that refuses and closes is seen by the reading side, with its reason.
    with contextlib.suppress(OSError):
        connection.send(data)
        connection.shutdown_write()


def _clean_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _NOT_INHERITED and not name.startswith("AGENT_JOURNAL_")
    }


def _pid_behind(connected: socket.socket) -> int:
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def _descends(pid: int, ancestor: int) -> bool:
    """Tell whether *pid* is *ancestor* or one of its children's children."""
    while pid > 1 and pid != ancestor:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return False
        pid = int(stat.rpartition(")")[2].split()[1])
    return pid == ancestor
