"""The load generator as Python sees it: built when its source is newer, run, its line parsed."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any, Self

from machine import BENCHMARKS
from servers import Server

SOURCES = BENCHMARKS / "load"
BINARY = BENCHMARKS / "bin" / "load"
GRACE_S = 120.0  # how much longer than asked a run may take


class LoadError(Exception):
    """The load generator could not be built, or a server's answers were wrong."""


@dataclass(frozen=True)
class Shape:
    """How many connections, and how many requests in flight on each."""

    connections: int
    depth: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a shape as it is written: ``50x16``."""
        connections, _, depth = text.partition("x")
        try:
            return cls(int(connections), int(depth))
        except ValueError:
            raise SystemExit(
                f"a shape is CONNECTIONSxIN_FLIGHT, like 50x16, not {text!r}"
            ) from None

    def __str__(self) -> str:
        return f"{self.connections}x{self.depth}"


@dataclass(frozen=True)
class Report:
    """What one run measured."""

    facts: dict[str, Any]

    @property
    def entries_per_second(self) -> float:
        """Entries that became durable, or were read, a second."""
        return float(self.facts["entries_per_second"])

    @property
    def p50_us(self) -> float:
        """The median latency."""
        return float(self.facts["p50_us"])

    @property
    def p99_us(self) -> float:
        """The latency that one answer in a hundred exceeds."""
        return float(self.facts["p99_us"])


def build() -> None:
    """Compile the load generator unless it is there and newer than its source.

    Raises:
        LoadError: there is no C compiler, or it refused the source.
    """
    newest = max(source.stat().st_mtime for source in SOURCES.iterdir())
    if BINARY.exists() and BINARY.stat().st_mtime >= newest:
        return
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise LoadError("the load generator needs a C compiler (Debian: apt-get install gcc)")
    BINARY.parent.mkdir(exist_ok=True)
    sources = sorted(str(source) for source in SOURCES.glob("*.c"))
    line = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(BINARY), *sources]
    built = subprocess.run(line, capture_output=True, text=True, check=False)
    if built.returncode:
        raise LoadError(f"the load generator did not compile:\n{built.stderr}")


def command(server: Server, **options: object) -> list[str]:
    """Return the command line that loads *server*."""
    given = {"socket": server.socket, "wire": server.wire, **options}
    return [str(BINARY), *(f"--{name}={value}" for name, value in given.items())]


def run(server: Server, *, seconds: float | None = None, **options: object) -> Report:
    """Load *server* until the time or the work is over.

    Raises:
        LoadError: an answer was wrong or missing.  A fast wrong answer is no figure.
    """
    if seconds is not None:
        options["seconds"] = seconds
    timeout = None if seconds is None else seconds + GRACE_S
    line = command(server, **options)
    done = subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False)
    if not done.stdout:
        raise LoadError(f"{' '.join(line)}: {done.stderr.strip()}")
    facts = json.loads(done.stdout)
    if done.returncode:
        raise LoadError(
            f"{server.name}: {facts['errors']} wrong and {facts['unanswered']} missing answers; "
            f"the first: {facts['first_error']}"
        )
    return Report(facts)


def run_shape(server: Server, shape: Shape, seconds: float, **options: object) -> Report:
    """Append in *shape* for so many *seconds*."""
    return run(server, seconds=seconds, connections=shape.connections, depth=shape.depth, **options)


class Background:
    """A load that runs beside what is measured, until it is ended."""

    def __init__(self, server: Server, **options: object) -> None:
        self._process = subprocess.Popen(
            command(server, **options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def first_line(self) -> dict[str, Any]:
        """Wait for the first line that it prints."""
        assert self._process.stdout is not None  # noqa: S101 - it was opened as a pipe
        line = self._process.stdout.readline()
        if not line:
            raise LoadError("the load generator ended early; its complaint stands above")
        parsed: dict[str, Any] = json.loads(line)
        return parsed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it was opened as a pipe
        self._process.stdin.close()
        try:
            self._process.wait(GRACE_S)
        finally:
            self._process.kill()
            self._process.wait()
