"""A daemon that starts in a tenth of the time, because it is forked.

Most of a start is imports.  The program that has made them is the one of the fault
tests (``faults/starter.py``), less what it does to system calls.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, Self

from agent_journal.testing.daemon import RunningDaemon
from faults.daemons import PROGRAM, ForkedProcess

HURRIED: Final = 200  # entries, behind which the index is moved forward


class Starter:
    """The program that forks daemons; they end with it."""

    def __enter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="starter-"))
        self.socket = self._directory / "socket"
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(self.socket)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self.__exit__()
            raise OSError("the starter does not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        shutil.rmtree(self._directory, ignore_errors=True)


class ForkedDaemon(RunningDaemon):
    """A running daemon whose process is forked; *hurried*: with a short index."""

    def __init__(
        self, starter: Starter, directory: Path, *, config: str | None, hurried: bool
    ) -> None:
        super().__init__(directory, config=config)
        self._starter = starter
        self._hurried = HURRIED if hurried else 0

    def _launch(self) -> ForkedProcess:
        return ForkedProcess(
            self._starter.socket,
            {
                "argv": self._command[3:],  # behind the interpreter, -m and the package
                "cwd": str(self.directory),
                "env": self._env,
                "log": str(self._output),
                "control": "",
                "hurried": self._hurried,
                "limits": {},
                "modules": [],
            },
        )
