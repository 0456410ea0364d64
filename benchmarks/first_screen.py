"""Time the first screen of ``ls``, ``show`` and ``log`` on the journal of ten million entries.

    .venv/bin/python benchmarks/first_screen.py

The journal is that of ``scale.py``, which builds it.  Each command is a process of
its own, as a person starts it, on a terminal; its time is that from the start to the
end of its first screen, beside that of ``--version``, which is Python's own part.
"""

import argparse
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import loader
import machine
from conversation import Conversation
from large_journal import Layout, build
from servers import Journal, running
from tables import render

ROUNDS = 9
SCREEN_BYTES = 1500  # about as much as fills 24 lines of 80 columns
PROGRAM = [sys.executable, "-c", "from agent_journal.cli import program; program()"]


def commands(journal: Journal, layout: Layout) -> dict[str, list[str]]:
    """Return what is typed, by how it is called in the table."""
    middle = layout.agent_id(layout.agents // 2)
    with Conversation(journal) as peer:
        moment = peer.ask("read", agent_id=middle, limit=1)["entries"][0]["timestamp"]
    return {
        "--version": ["--version"],
        "ping": ["ping"],
        "ls": ["ls"],
        "ls PREFIX": ["ls", middle[:-2]],
        "ls --state running": ["ls", "--state", "running"],
        "ls --since TIME": ["ls", "--since", moment],
        "show AGENT": ["show", middle],
        "log": ["log"],
        "log -r": ["log", "-r"],
        "log AGENT": ["log", middle],
        "log -S TIME": ["log", "-S", moment],
        "log -r -U TIME": ["log", "-r", "-U", moment],
        "log -t NAME": ["log", "-t", "Terminated"],
    }


def first_screen_ms(argv: list[str], environ: dict[str, str]) -> float:
    """Run a command on a terminal and return when its first screen was there."""
    ours, theirs = pty.openpty()
    begin = time.monotonic()
    process = subprocess.Popen(
        [*PROGRAM, *argv], stdin=theirs, stdout=theirs, stderr=theirs, env=environ
    )
    os.close(theirs)
    size = 0
    while size < SCREEN_BYTES:
        try:
            size += len(os.read(ours, 65536))
        except OSError:  # all of it was less than a screen
            break
    taken = time.monotonic() - begin
    process.kill()
    process.wait()
    os.close(ours)
    return taken * 1000


def main() -> int:
    """Build what is missing, measure in turn, print."""
    parser = argparse.ArgumentParser(prog="benchmarks/first_screen.py")
    parser.add_argument("--dir", type=Path, default=machine.BENCHMARKS / ".data" / "scale")
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--agents", type=int, default=1_000_000)
    given = parser.parse_args()
    loader.build()
    machine.raise_file_limit()
    layout = Layout(given.agents, given.entries // given.agents, 100)
    with tempfile.TemporaryDirectory(prefix="bench-") as sockets:
        journal = Journal(given.dir / "large", Path(sockets))
        build(journal, layout)
        with running(journal):
            environ = {**os.environ, "AGENT_JOURNAL_SOCKET": str(journal.socket), "TERM": "xterm"}
            environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed command is compiled
            taken: dict[str, list[float]] = {}
            chosen = commands(journal, layout)
            for _ in range(ROUNDS):
                for name, argv in chosen.items():
                    taken.setdefault(name, []).append(first_screen_ms(argv, environ))
    rows = [
        [name, f"{statistics.median(times):.0f} ms", f"{min(times):.0f} to {max(times):.0f}"]
        for name, times in taken.items()
    ]
    print(f"\n{machine.in_words(machine.facts(given.dir))}")
    print(render("until the first screen", ["command", "median", f"of {ROUNDS}"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
