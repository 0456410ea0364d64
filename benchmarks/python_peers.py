"""The peers that are Python libraries, each run in a process of its own.

They live in a virtual environment beside this file that is made when first
needed and made again when the pins change; the project's own environment never
sees them.
"""

import functools
import hashlib
import json
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

from loader import Report
from machine import BENCHMARKS

REQUIREMENTS = BENCHMARKS / "requirements.txt"
ENVIRONMENT = BENCHMARKS / ".venv"
INSTALL_S_MAX = 600.0
GRACE_S = 120.0


class PeerError(Exception):
    """A peer cannot be measured; the message says why."""


@dataclass(frozen=True)
class PythonPeer:
    """A script below ``peers/`` and how many writers it is compared at."""

    name: str
    title: str
    writers: int
    needs_environment: bool

    def run(self, directory: Path, seconds: float, event_bytes: int) -> Report:
        """Measure it once, on a database of its own.

        Raises:
            PeerError: it could not be run, or it failed.
        """
        python = Path(sys.executable)
        if self.needs_environment:
            python = ENVIRONMENT / "bin" / "python"
            if reason := _why_no_environment():
                raise PeerError(reason)
        with tempfile.TemporaryDirectory(prefix=f"{self.name}-", dir=directory) as data:
            options = {
                "directory": data,
                "seconds": seconds,
                "writers": self.writers,
                "bytes": event_bytes,
            }
            script = BENCHMARKS / "peers" / f"{self.name}.py"
            line = [str(python), str(script), *(f"--{n}={v}" for n, v in options.items())]
            printed = _run(line, seconds + GRACE_S)
        try:
            return Report(json.loads(printed.splitlines()[-1]))
        except (IndexError, ValueError):
            raise PeerError(f"{script.name} printed no figures: {printed!r}") from None


PYTHON_PEERS = (
    PythonPeer("plain_sqlite", "sqlite3, a commit per entry", 1, needs_environment=False),
    PythonPeer("langgraph_saver", "LangGraph AsyncSqliteSaver", 50, needs_environment=True),
    PythonPeer("dbos_steps", "DBOS steps on SQLite", 50, needs_environment=True),
)


@functools.cache  # where it cannot be made once, the next peer need not wait for that again
def _why_no_environment() -> str | None:
    """Make the environment if it is not there as pinned, and say why if that fails."""
    stamp = ENVIRONMENT / "requirements.sha256"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return None
    print(f"installing the Python peers into {ENVIRONMENT} ...", file=sys.stderr, flush=True)
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    try:
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
        _run([*pip, "install", "--quiet", "--requirement", str(REQUIREMENTS)], INSTALL_S_MAX)
    except (OSError, subprocess.CalledProcessError, PeerError) as error:
        return f"its packages could not be installed: {error}"
    stamp.write_text(wanted)
    return None


def _run(line: list[str], timeout: float) -> str:
    """Run a command and return what it printed."""
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(str(error)) from error
    if done.returncode:
        complaint = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise PeerError(complaint[-1])
    return done.stdout
