"""Runs a program against a ``ReplayServer`` and says what came of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from typing import IO, Final

from .failures import CommandError
from .replay_check import Difference, ReplayCheck
from .replay_server import ReplayServer

GRACE_S: Final = 5.0  # for a program to stop when it is refused
OUTPUT_BYTES_KEPT: Final = 1 << 16
# How the client says that it found another step under a recorded key.
MISMATCH: Final = re.compile(r"^[ |]*(?:[\w.]+\.)?ReplayMismatchError: ((?:.+\n?)+)", re.MULTILINE)


class Program:
    """The program, its output, and its end."""

    def __init__(
        self, argv: list[str], server: ReplayServer, check: ReplayCheck, *, is_verbose: bool
    ) -> None:
        self._argv = argv
        self._server = server
        self._is_verbose = is_verbose
        self._environ = {
            **os.environ,
            "AGENT_JOURNAL_SOCKET": str(server.path),
            "AGENT_JOURNAL_AGENT_ID": check.agent_id,
            "AGENT_JOURNAL_ATTEMPT": str(check.attempt),
        }
        self._kept = bytearray()

    @property
    def output(self) -> str:
        """The end of what it printed."""
        return self._kept.decode(errors="replace")

    def run(self) -> int:
        """Run it until it ends, or does not although it should; return its exit code."""
        process = subprocess.Popen(  # noqa: S603 - what was asked for
            self._argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environ,
            start_new_session=True,
        )
        reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        reader.start()
        ended = threading.Event()
        threading.Thread(target=self._stop, args=(process, ended), daemon=True).start()
        try:
            return process.wait()
        finally:
            ended.set()
            self._kill_group(process.pid, signal.SIGKILL)  # whatever it left behind
            reader.join(GRACE_S)

    def _read(self, output: IO[bytes]) -> None:
        with output:
            while data := os.read(output.fileno(), 1 << 16):
                self._kept += data
                del self._kept[:-OUTPUT_BYTES_KEPT]
                if self._is_verbose:
                    sys.stderr.buffer.write(data)
                    sys.stderr.flush()

    def _stop(self, process: subprocess.Popen[bytes], ended: threading.Event) -> None:
        """End a program that goes on although there is nothing more to learn."""
        self._server.is_over.wait()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if ended.wait(GRACE_S):
                return
            self._kill_group(process.pid, number)

    @staticmethod
    def _kill_group(pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)


def verdict_on(check: ReplayCheck, exit_code: int, output: str) -> list[Difference]:
    """Return where they differ; nothing where they agree.

    Raises:
        CommandError: the program never came so far that it could be told.
    """
    if check.differences:
        return check.differences
    if mismatch := MISMATCH.search(output):
        first, *others = mismatch[1].rstrip().splitlines()
        return [Difference(what=first, recorded=None, now="\n".join(others))]
    if check.end is not None:
        return []
    if not check.has_attached:
        asked = f" (it asked for {', '.join(sorted(check.others))})" if check.others else ""
        last = (output.strip().splitlines() or ["it printed nothing"])[-1]
        raise CommandError(
            f"the program ended with {exit_code} and did not attach as {check.agent_id}{asked}: "
            f"{last}",
            "it should take its id from $AGENT_JOURNAL_AGENT_ID, the socket from "
            "$AGENT_JOURNAL_SOCKET; --verbose shows what it prints",
        )
    what = f"the program ended with {exit_code} before it came to the end of the record"
    return [Difference(what=what, recorded=None, now=None)]
