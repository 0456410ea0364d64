"""The command line, run in this process, with and without a scripted daemon."""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_journal.cli import main
from cli.fake_daemon import FakeDaemon, Result, Run


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """Make a directory whose path leaves room for a socket's name."""
    path = Path(tempfile.mkdtemp(prefix="aj-cli-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def fake(short_dir: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(short_dir / "journal.sock")
    yield daemon
    daemon.close()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take no colours, width, socket or time zone from whoever runs the tests."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "AGENT_JOURNAL_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.delenv("TZ")
    time.tzset()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process; ``stdin`` is what it reads."""

    def run(*argv: str, stdin: str | bytes = b"") -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        code = main(argv)
        captured = capsys.readouterr()
        return Result(int(code), captured.out, captured.err)

    return run


@pytest.fixture
def ask(fake: FakeDaemon, run: Run) -> Run:
    """Run the command line against the fake daemon, without patience."""

    def ask(*argv: str, stdin: str | bytes = b"") -> Result:
        return run("-s", str(fake.path), "--wait", "0", *argv, stdin=stdin)

    return ask
