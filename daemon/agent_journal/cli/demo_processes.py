"""The processes of the demo: a daemon that can be killed, an agent, background writers.

All of them are this very interpreter running this very package, in sessions of
their own: Ctrl-C reaches only the demo, which then ends them.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final, Self

from ..client import connect
from ..clock import Clock
from ..errors import JournalError
from .failures import CommandError

START_S_MAX: Final = 20.0
STOP_S_MAX: Final = 20.0
LOOK_S: Final = 0.01  # between two looks at whether the daemon answers
LOG_LINES_SHOWN: Final = 5

# Units of systemd would outlive the demo.
CONFIGURATION: Final = '[resume]\nstart_with = "process"\n'

# What a service manager says to its own service, and our daemon must not take for itself.
NOT_INHERITED: Final = frozenset(
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


class Process:
    """A child that does not outlive the demo."""

    def __init__(self, name: str, module: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,  # its end tells a child that the demo is gone
                stdout=subprocess.PIPE if module != "agent_journal" else errors,
                stderr=errors,
                env=_environment(),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def lines(self) -> Iterator[dict[str, object]]:
        """Yield what it prints, an object a line, until it ends."""
        for line in _stream(self._process.stdout):
            yield json.loads(line)

    def end_input(self) -> None:
        """Let it see that there is nothing more to do."""
        with contextlib.suppress(BrokenPipeError):
            _stream(self._process.stdin).close()

    def exits_within(self, seconds: float) -> bool:
        """Wait so long for its end; tell whether it came."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def finish(self) -> None:
        """Wait for its end.

        Raises:
            CommandError: it failed, or did not end in time.
        """
        self.end_input()
        if not self.exits_within(STOP_S_MAX):
            raise self.failure(f"did not end within {STOP_S_MAX:g} s")
        if self._process.returncode != 0:
            raise self.failure(f"failed (exit code {self._process.returncode})")

    def failure(self, what: str) -> CommandError:
        """Return the error that says *what* it did, with its last words."""
        last = self._log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        words = " | ".join(line.strip() for line in last) or "it printed nothing"
        hint = "agent-journal demo --keep, and look at the logs in the directory it names"
        return CommandError(f"{self.name} {what}: {words}", hint)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash would; may be called twice."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Leave nothing of it; may be called twice."""
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Daemon:
    """The journal's daemon on a socket and a database in *directory*, started again at will."""

    def __init__(self, directory: Path, *, socket: Path | None = None) -> None:
        self.socket: Final = socket or directory / "journal.sock"
        self.database: Final = directory / "journal.db"
        self._log = directory / "daemon.log"
        # The user's own configuration is not the demo's.
        self._configuration = directory / "config.toml"
        self._configuration.write_text(CONFIGURATION)
        self._process: Process | None = None
        self._clock = Clock()

    @property
    def pid(self) -> int:
        """The process id of the running daemon, or of the one that was killed last."""
        return self._process.pid if self._process else 0

    def start(self) -> float:
        """Start it; return after how many seconds it answered.

        Raises:
            CommandError: it ended, or does not answer.
        """
        self.close()
        began = self._clock.monotonic()
        arguments = [
            *("--socket", os.fspath(self.socket)),
            *("--database", os.fspath(self.database)),
            *("--config", os.fspath(self._configuration)),
        ]
        self._process = Process("the daemon", "agent_journal", arguments, self._log)
        while not self.answers():
            if self._process.exits_within(LOOK_S):
                raise self._process.failure("ended instead of answering")
            if self._clock.monotonic() - began > START_S_MAX:
                raise self._process.failure(f"did not answer within {START_S_MAX:g} s")
        return self._clock.monotonic() - began

    def answers(self) -> bool:
        """Tell whether somebody answers at the socket now."""
        try:
            with connect(self.socket, retry_s=0, timeout_s=START_S_MAX) as journal:
                journal.ping()
        except JournalError:
            return False
        return True

    def kill(self) -> None:
        """Kill it, as a crash or ``kill -9`` would."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """Ask it to end and wait until it has."""
        if self._process is not None:
            self._process.signal(signal.SIGTERM)
            self._process.finish()

    def close(self) -> None:
        """Leave no process; may be called twice."""
        if self._process is not None:
            self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def end_resumed(directory: Path) -> None:
    """Leave none of the agents that the daemon of *directory* started; it must have ended."""
    for known in directory.glob("attempts/*/*/*/process.json"):
        if (known.parent / "status.json").exists():
            continue
        process = json.loads(known.read_text())
        with contextlib.suppress(ProcessLookupError, PermissionError):
            keeper = os.pidfd_open(process["keeper_pid"])
            try:
                os.kill(process["pid"], signal.SIGKILL)  # the keeper ends with it, and says so
                waiting = select.poll()
                waiting.register(keeper, select.POLLIN)
                waiting.poll(STOP_S_MAX * 1000)
            finally:
                os.close(keeper)


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name not in NOT_INHERITED and not name.startswith("AGENT_JOURNAL_")
    }


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # noqa: S101 - asked for when the process was started
    return stream
