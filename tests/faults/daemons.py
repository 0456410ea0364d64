"""Daemons whose system calls a test has in its hands, started in hundredths of a second."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agent_journal.testing.daemon import RunningDaemon
from faults.calls import Calls, compiled

PROGRAM: Final = Path(__file__).with_name("starter.py")
PATIENCE_S: Final = 60.0


class Starter:
    """The program that forks daemons."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="aj-"))
        self._process: subprocess.Popen[str] | None = None
        try:
            library = compiled(self.directory)
            self.socket = self.directory / "starter"
            self._process = subprocess.Popen(
                [sys.executable, str(PROGRAM), str(self.socket)],
                env={**os.environ, "LD_PRELOAD": str(library)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            assert self._process.stdout is not None
            assert self._process.stdout.readline() == "ready\n", "the starter does not start"
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it, and every daemon that it started."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class ForkedProcess:
    """A daemon that a starter forked."""

    def __init__(self, starter: Path, order: Mapping[str, Any]) -> None:
        self._args = order["argv"]
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(PATIENCE_S)
        self._connection.connect(str(starter))
        self._connection.sendall(json.dumps(order).encode() + b"\n")
        self._received = b""
        self._exit_code: int | None = None
        self.pid = self._number(PATIENCE_S)

    def _number(self, timeout: float | None) -> int:
        while b"\n" not in self._received:
            self._connection.settimeout(timeout)
            try:
                data = self._connection.recv(100)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self._args, timeout or 0) from None
            assert data, "the starter is gone"
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return int(line)

    def poll(self) -> int | None:
        """Return the exit code, ``None`` while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code when it has ended."""
        if self._exit_code is None:
            self._exit_code = self._number(timeout)
            self._connection.close()
        return self._exit_code


class FaultyDaemon(RunningDaemon):
    """A daemon whose calls on its files are counted in ``calls``, and done to what it says."""

    def __init__(  # noqa: PLR0913 - as RunningDaemon's
        self,
        starter: Starter,
        directory: Path,
        *,
        config: str | None = None,
        hurried: int = 12,
        limits: Mapping[str, tuple[int, int]] | None = None,
        modules: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.state = directory / "s"
        self.state.mkdir(exist_ok=True)
        super().__init__(self.state, config=config, env=env)
        self.calls = Calls(directory)
        self._starter = starter.socket
        self._output = directory / "log"  # not among the files of which calls are counted
        self._hurried = hurried
        self._limits = dict(limits or {})
        self._modules = modules

    def _launch(self) -> ForkedProcess:
        order = {
            "argv": self._command[3:],  # behind the interpreter, -m and the package
            "cwd": str(self.directory),
            "env": self._env,
            "log": str(self._output),
            "control": str(self.calls.control),
            "under": str(self.state),
            "trace": str(self.calls.trace),
            "hurried": self._hurried,
            "limits": self._limits,
            "modules": list(self._modules),
        }
        return ForkedProcess(self._starter, order)

    def close(self) -> None:
        """Kill what is left and remove what was made; may be called twice."""
        super().close()
        self.calls.close()
