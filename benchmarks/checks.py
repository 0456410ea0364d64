"""Measure what the journal's own checks cost appends: with and without, in turn.

    .venv/bin/python benchmarks/checks.py

Prints entries a second, and the processor time an entry takes, which other work on
the machine moves less.  README.md beside this file says what is left out.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import loader
import machine
from loader import Shape
from servers import Journal, ServerError
from tables import render

SHAPES = "50x1,50x16,1x100,1x1"
LATEST = machine.BENCHMARKS / "results" / "checks.json"
Figures = dict[str, list[float]]


class Unchecked(Journal):
    """The daemon without its checks."""

    name = "unchecked"

    @property
    def command(self) -> list[str]:
        """The command that starts it."""
        python, _, _, *files = super().command
        return [python, str(machine.BENCHMARKS / "unchecked_daemon.py"), *files]


def measure(shape: Shape, rounds: int, seconds: float, event_bytes: int) -> Figures:
    """Load both in turn; return entries a second, and microseconds of processor an entry."""
    figures: Figures = {}
    kinds: tuple[Callable[[Path, Path], Journal], ...] = (Journal, Unchecked)
    directory, sockets = machine.data_directory(None), Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        for number in range(rounds):
            # Each goes first as often as the other.
            for kind in kinds if number % 2 else kinds[::-1]:
                place = directory / f"{shape}-{number}"
                with kind(place, sockets) as server:
                    before = server.cpu_seconds()
                    report = loader.run_shape(server, shape, seconds, bytes=event_bytes)
                    spent = server.cpu_seconds() - before
                    figures.setdefault(f"{server.name} entries/s", []).append(
                        report.entries_per_second
                    )
                    figures.setdefault(f"{server.name} us/entry", []).append(
                        1e6 * spent / report.facts["answered"]
                    )
                shutil.rmtree(place)
    finally:
        shutil.rmtree(directory)
        shutil.rmtree(sockets)
    return figures


def main() -> int:
    """Measure each shape and print a table."""
    parser = argparse.ArgumentParser(prog="benchmarks/checks.py", description=__doc__)
    parser.add_argument("--shapes", default=SHAPES, help=f"connections x in flight ({SHAPES})")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each (6)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn (2)")
    parser.add_argument("--bytes", type=int, default=300, help="bytes of an event (300)")
    given = parser.parse_args()
    loader.build()
    table = []
    kept: dict[str, Figures] = {}
    for shape in map(Shape.parse, given.shapes.split(",")):
        try:
            figures = kept[str(shape)] = measure(shape, given.rounds, given.seconds, given.bytes)
        except ServerError as error:
            print(error, file=sys.stderr)
            return 1
        median = {name: statistics.median(values) for name, values in figures.items()}
        speed = median["journal entries/s"] / median["unchecked entries/s"]
        work = median["journal us/entry"] / median["unchecked us/entry"]
        table.append(
            [
                str(shape),
                f"{median['journal entries/s']:,.0f}",
                f"{median['unchecked entries/s']:,.0f}",
                f"{speed:.3f}",
                f"{work:.3f}",
            ]
        )
    titles = ["shape", "with checks/s", "without/s", "throughput", "processor time"]
    print(render("What the checks cost", titles, table))
    LATEST.parent.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps(kept, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
