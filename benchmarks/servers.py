"""The two servers that are measured: the journal's daemon and Redis.

Both are started on a directory of their own, asked until they answer a ping,
and stopped with SIGTERM.  Redis gets the settings under which its promise is
ours: an fsync before every answer.  It is also spared the rewriting of its
log, which would fall into some rounds and not into others.
"""

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

READY_S_MAX = 60.0
STOP_S_MAX = 120.0
POLL_S = 0.001  # how late a server's readiness may be noticed
QUIET_WINDOW_S = 0.2
QUIET_CPU_SHARE = 0.05  # below it a server is at rest; its timers may still tick
QUIET_S_MAX = 60.0


class ServerError(Exception):
    """A server could not be started, or was gone when it was needed."""


class Server:
    """One server process, its socket, its data and what it costs."""

    name: str
    wire: str
    ping: bytes

    def __init__(self, directory: Path, sockets: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.socket = sockets / f"{directory.name}-{self.name}.sock"  # a path of at most 107 bytes
        self.log = directory / f"{self.name}.log"
        self.ready_s = 0.0  # from the last start to the first answered ping
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        """The command that starts it."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise ServerError(f"{self.name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers a ping."""
        begin = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory
            )
        while not self.is_ready():
            if self._process.poll() is not None:
                raise ServerError(f"{self.name} ended while starting:\n{self._log_end()}")
            if time.monotonic() - begin > READY_S_MAX:
                self.kill()
                raise ServerError(f"{self.name} was not ready in time:\n{self._log_end()}")
            time.sleep(POLL_S)
        self.ready_s = time.monotonic() - begin

    def is_ready(self) -> bool:
        """Return whether a ping on a new connection is answered."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(READY_S_MAX)
            peer.connect(str(self.socket))
            peer.sendall(self.ping)
            return bool(peer.recv(4096))
        return False

    def stop(self) -> None:
        """Stop the server cleanly, if it runs."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerError(f"{self.name} did not stop:\n{self._log_end()}") from None
        self._process = None

    def kill(self) -> None:
        """End the server as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def resident_mb(self) -> float:
        """Return the memory that the server has resident now."""
        return self._status_mb("VmRSS")

    def peak_mb(self) -> float:
        """Return the most memory that it ever had resident."""
        return self._status_mb("VmHWM")

    def settle(self) -> float:
        """Wait until the server has done what it left for later; return the seconds.

        What one server does behind its answers must not fall into the other's turn.
        """
        begin = time.monotonic()
        while time.monotonic() - begin < QUIET_S_MAX:
            before = self.cpu_seconds()
            time.sleep(QUIET_WINDOW_S)
            if self.cpu_seconds() - before <= QUIET_CPU_SHARE * QUIET_WINDOW_S:
                break
        return time.monotonic() - begin - QUIET_WINDOW_S

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self.kill()

    def _status_mb(self, name: str) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
        raise ServerError(f"{self.name} has ended:\n{self._log_end()}")

    def cpu_seconds(self) -> float:
        """Return the processor time that the server has taken."""
        # utime and stime, in ticks of 10 ms, behind a name that may hold blanks.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def _log_end(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


class Journal(Server):
    """The daemon of this project, at its defaults."""

    name = "journal"
    wire = "journal"
    ping = b'{"op":"ping"}\n'

    def __init__(self, directory: Path, sockets: Path) -> None:
        super().__init__(directory, sockets)
        self.database = directory / "journal.db"
        # Empty: whatever this user has configured is not measured.  And, as where the
        # daemon looks for it by default, not in the journal's directory.
        self._config = directory / "config" / "config.toml"
        self._config.parent.mkdir(exist_ok=True)
        self._config.touch()

    def copy_to(self, other: "Journal") -> None:
        """Have *other* begin with all that is in this journal, which was stopped cleanly."""
        for suffix in ("", "-sums"):
            shutil.copyfile(f"{self.database}{suffix}", f"{other.database}{suffix}")

    def configure(self, text: str) -> None:
        """Have the daemon run by the configuration *text* from now on."""
        draft = self._config.with_suffix(".new")
        draft.write_text(text)
        draft.rename(self._config)

    @property
    def command(self) -> list[str]:
        """The command that starts it."""
        files = ["--socket", self.socket, "--database", self.database, "--config", self._config]
        return [sys.executable, "-m", "agent_journal", *map(str, files)]


class Redis(Server):
    """Redis with an fsync before every answer."""

    name = "redis"
    wire = "redis"
    ping = b"*1\r\n$4\r\nPING\r\n"

    @property
    def command(self) -> list[str]:
        """The command that starts it."""
        settings = {
            "dir": str(self.directory),
            "unixsocket": str(self.socket),
            "port": "0",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "auto-aof-rewrite-percentage": "0",
        }
        return [
            "redis-server",
            *(part for name in settings for part in (f"--{name}", settings[name])),
        ]

    def clear(self) -> None:
        """Forget all streams: Redis keeps in memory what was ever written."""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(READY_S_MAX)
            peer.connect(str(self.socket))
            peer.sendall(b"*1\r\n$8\r\nFLUSHALL\r\n")
            answer = peer.recv(4096)
        if answer != b"+OK\r\n":
            raise ServerError(f"redis did not clear itself: {answer!r}")

    @staticmethod
    def why_missing() -> str | None:
        """Say why there is no Redis to compare with, if there is none."""
        if shutil.which("redis-server"):
            return None
        return "redis-server is not installed (Debian: apt-get install redis-server)"

    @staticmethod
    def version() -> str:
        """Return the version of the Redis that is measured."""
        line = subprocess.run(
            ["redis-server", "--version"], check=True, capture_output=True, text=True
        ).stdout
        return line.split("v=")[1].split()[0]


@contextlib.contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Have all *servers* running, and none of them left behind."""
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        yield
