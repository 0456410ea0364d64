"""Measure what retention costs writers, on the journal of ten million entries.

    .venv/bin/python benchmarks/retention.py

The journal is that of ``scale.py``, which builds it; a copy of it is measured.  Fifty
clients append all the while; nothing is removed in one turn, and in the next, by a
rule of the configuration, whoever has ended.  At the end the rule stays until the
journal is as small as it is to become, to see the space given back.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import loader
import machine
from conversation import Conversation
from large_journal import Layout, build
from loader import Report, Shape
from measures import say
from servers import Journal, ServerError, running
from tables import figure, milliseconds, render

SHAPE = Shape(50, 1)
P99_MAX = 2.0  # times that of the quiet turns
SECOND_DAYS = 1 / 86_400
GIVEN_BACK_S_MAX = 600.0
QUIET, REMOVING = "quiet", "removing"


def measure(journal: Journal, rounds: int, seconds: float) -> dict[str, list[Any]]:
    """Append in turns, with the rule and without; return the reports and what was removed."""
    found: dict[str, list[Any]] = {QUIET: [], REMOVING: [], "removed": []}
    with Conversation(journal) as peer:
        for number in range(1, rounds + 1):
            for turn in (QUIET, REMOVING):
                journal.configure(rule() if turn == REMOVING else "")
                _wait_for_rule(peer, is_on=turn == REMOVING)
                before = peer.ask("stats")["entries_removed"]
                report = loader.run_shape(journal, SHAPE, seconds, prefix=f"new-{turn}-{number}")
                removed = peer.ask("stats")["entries_removed"] - before
                found[turn].append(report)
                if turn == REMOVING:
                    found["removed"].append(removed / seconds)
                say(
                    f"round {number} of {rounds}, {turn}: {report.entries_per_second:,.0f} "
                    f"entries/s, p99 {report.p99_us / 1000:.2f} ms, {removed:,} entries removed"
                )
    return found


def rule(**more: object) -> str:
    """Return a configuration by which all go that have ended."""
    lines = [f"completed_days = {SECOND_DAYS}", *(f"{k} = {v}" for k, v in more.items())]
    return "\n".join(["[retention]", *lines, ""])


def _wait_for_rule(peer: Conversation, *, is_on: bool) -> None:
    """Wait until removing has begun, or ended."""
    while True:
        before = peer.ask("stats")["entries_removed"]
        time.sleep(2.0)
        if (peer.ask("stats")["entries_removed"] > before) == is_on:
            return


def give_back(journal: Journal) -> tuple[float, list[dict[str, Any]]]:
    """Have a hundredth of the journal removed with no load; return the seconds, and the sizes."""
    with Conversation(journal) as peer:
        sizes = [peer.ask("disk_usage")]
        used = sizes[0]["database_bytes"] - sizes[0]["free_bytes"]
        wanted = used * 99 // 100
        journal.configure(f"[retention]\njournal_bytes_max = {wanted}\n")
        begin = time.monotonic()
        while time.monotonic() - begin < GIVEN_BACK_S_MAX:
            time.sleep(1.0)
            now = peer.ask("disk_usage")
            if now["database_bytes"] <= wanted * 1.002:
                break
        sizes.append(now)
        return time.monotonic() - begin, sizes


def main() -> int:
    """Build what is missing, measure, print; 1 where the bar was missed."""
    parser = argparse.ArgumentParser(prog="benchmarks/retention.py")
    parser.add_argument("--dir", type=Path, default=machine.BENCHMARKS / ".data" / "scale")
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--agents", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a turn (5)")
    given = parser.parse_args()
    loader.build()
    machine.raise_file_limit()
    layout = Layout(given.agents, given.entries // given.agents, 100)
    directory = machine.data_directory(given.dir)
    with tempfile.TemporaryDirectory(prefix="bench-") as sockets:
        try:
            kept = Journal(given.dir / "large", Path(sockets))
            build(kept, layout)
            say("copying the journal")
            journal = Journal(directory / "large", Path(sockets))
            kept.copy_to(journal)
            with running(journal):
                found = measure(journal, given.rounds, given.seconds)
                journal.settle()
                seconds, sizes = give_back(journal)
        except ServerError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            shutil.rmtree(directory)
    print(f"\n{machine.in_words(machine.facts(given.dir))}")
    return report(found, seconds, sizes)


def report(found: dict[str, list[Any]], seconds: float, sizes: list[dict[str, Any]]) -> int:
    """Print the tables; return 1 where the bar was missed."""
    rows = []
    for turn in (QUIET, REMOVING):
        reports: list[Report] = found[turn]
        rate = statistics.median(one.entries_per_second for one in reports)
        p99 = statistics.median(one.p99_us for one in reports)
        removed = figure(statistics.median(found["removed"])) if turn == REMOVING else "0"
        rows.append([turn, figure(rate), milliseconds(p99), removed])
    print(render(f"Appends, {SHAPE}", ["", "entries/s", "p99 ms", "removed/s"], rows))
    ratio = statistics.median(
        busy.p99_us / quiet.p99_us
        for quiet, busy in zip(found[QUIET], found[REMOVING], strict=True)
    )
    verdict = "kept" if ratio <= P99_MAX else "MISSED"
    print(f"p99 while agents are removed, times quiet: {ratio:.2f} (≤ {P99_MAX:g}: {verdict})")
    before, after = (one["database_bytes"] / 2**20 for one in sizes)
    free = sizes[-1]["free_bytes"] / 2**20
    print(
        f"without load: {before:,.0f} to {after:,.0f} MB in {seconds:,.0f} s, "
        f"of which {free:,.0f} MB are free"
    )
    return int(ratio > P99_MAX)


if __name__ == "__main__":
    sys.exit(main())
