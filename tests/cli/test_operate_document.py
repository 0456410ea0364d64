"""docs/OPERATE.md: its commands are run, in order, by a person with a journal of his own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_journal.testing.daemon import RunningDaemon

DOCUMENT = Path(__file__).parents[2] / "docs" / "OPERATE.md"

CLI = f"""#!{sys.executable}
import sys
from agent_journal.cli import main
sys.exit(main())
"""

# Stops and starts the daemon of the test, as systemd would its unit.
SYSTEMCTL = """#!/bin/sh
[ "$1" = --user ] || exit 2
echo "$2" > "$CONTROL"
cat "$DONE"
"""


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="aj-home-") as name:
        yield Path(name)


def blocks() -> list[str]:
    found = re.findall(r"^```sh\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(found) > 5
    return found


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def test_the_commands_of_the_document(home: Path) -> None:
    bin_directory, state = home / "bin", home / "state" / "agent-journal"
    bin_directory.mkdir()
    state.mkdir(parents=True)
    state.chmod(0o700)
    control, done = home / "control", home / "done"
    os.mkfifo(control)
    os.mkfifo(done)
    program(bin_directory / "agent-journal", CLI)
    program(bin_directory / "systemctl", SYSTEMCTL)
    with RunningDaemon(home, database=state / "journal.db") as daemon:
        environ = {
            **os.environ,
            "PATH": f"{bin_directory}:{os.environ['PATH']}",
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "AGENT_JOURNAL_SOCKET": str(daemon.socket),
            "CONTROL": str(control),
            "DONE": str(done),
        }
        for number in range(20):
            event = {"Noted": number}
            assert daemon.request({"op": "append", "agent_id": "report-42", "event": event})["ok"]
        for block in blocks():
            run_block(block, home, environ, daemon)
        read = daemon.request({"op": "read", "agent_id": "report-42"})
        assert len(read["entries"]) == 20
    assert {path.name for path in home.iterdir()} >= {
        "journal-backup.db", "agents.ndjson", "verification.json",
        "agent_journal.prom", "report-42.jsonl",
    }  # fmt: skip
    assert [*state.glob("journal.db.replaced-*")]


def run_block(block: str, home: Path, environ: dict[str, str], daemon: RunningDaemon) -> None:
    """Run one block to its end, and do with the daemon what it asks for."""
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=home,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for _ in range(block.count("systemctl")):
        match (home / "control").read_text().strip():
            case "stop":
                daemon.stop()
            case "start":
                daemon.start()
            case other:
                pytest.fail(f"systemctl was asked to {other}")
        (home / "done").write_text("")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, f"{block}\n{out}"


def test_each_command_that_operates_is_told_of() -> None:
    text = DOCUMENT.read_text("utf-8")
    for command in (
        *("backup", "restore", "verify", "export", "import", "accept-loss"),
        *("top", "stats", "metrics", "trace"),
        *("vacuum", "disk-usage", "forget"),
    ):
        assert f"agent-journal {command}" in text
