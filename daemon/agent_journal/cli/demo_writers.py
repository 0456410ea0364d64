"""The demo's background load, a process of its own: agents that write as fast as they are answered.

    python -m agent_journal.cli.demo_writers --socket … --ledger … --writers 4

They are there so that a kill of the daemon hits commits on their way to the
disk.  They end when standard input does, each with its ``Terminated``.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from ..client import Client, connect
from ..clock import Clock
from .demo_ledger import Acknowledgement, Ledger

ENTRIES_MAX: Final = 20_000  # of one writer, however long the demo takes
FILLER: Final = "x" * 160  # an event of about 200 bytes


class Recorder:
    """Appends a writer's events and keeps the ledger of their acknowledgements."""

    def __init__(self, journal: Client, ledger: Ledger, agent_id: str) -> None:
        self._journal = journal
        self._ledger = ledger
        self._agent_id = agent_id
        self._clock = Clock()

    def record(self, iteration: int, event: dict[str, Any]) -> Acknowledgement:
        """Append *event*; on return it is durable, and the ledger says so."""
        asked = self._clock.monotonic()
        appended = self._journal.append(self._agent_id, event, iteration=iteration)
        acknowledgement = Acknowledgement(
            agent_id=self._agent_id,
            sequence=appended.sequence,
            position=appended.position,
            iteration=iteration,
            event=event,
            duplicate=appended.duplicate,
            asked=asked,
            answered=self._clock.monotonic(),
        )
        self._ledger.write(acknowledgement)
        return acknowledgement


def write_until(stopped: threading.Event, socket: str, ledger: Ledger, agent_id: str) -> int:
    """Append one entry after the other until *stopped*; return how many."""
    with connect(socket) as journal:
        recorder = Recorder(journal, ledger, agent_id)
        recorder.record(0, {"Started": {"goal": "keep the daemon busy"}})
        number = 0
        while number < ENTRIES_MAX and not stopped.is_set():
            number += 1
            recorder.record(number, {"Worked": {"number": number, "filler": FILLER}})
        recorder.record(number, {"Terminated": {"reason": "Completed", "entries": number}})
    return number


def main(argv: Sequence[str] | None = None) -> int:
    """Run the writers as a process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--writers", type=int, required=True)
    arguments = parser.parse_args(argv)
    stopped = threading.Event()
    with Ledger(arguments.ledger) as ledger, ThreadPoolExecutor(arguments.writers) as pool:
        writing = [
            pool.submit(write_until, stopped, arguments.socket, ledger, f"demo-writer-{number}")
            for number in range(1, arguments.writers + 1)
        ]
        sys.stdin.buffer.read()  # ends with whoever started us, however that ends
        stopped.set()
        for writer in writing:
            writer.result()  # one that failed fails the process
    return 0


if __name__ == "__main__":
    sys.exit(main())
