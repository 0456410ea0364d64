"""Measure what resuming costs: a boot with ten thousand unfinished agents, and a durable step.

    .venv/bin/python benchmarks/resume.py
    .venv/bin/python benchmarks/resume.py --parts steps
    .venv/bin/python benchmarks/resume.py --unfinished 100      # a look, on a small journal

The journal (for each unfinished agent a hundred that have finished) is built
once, through the daemon itself, and kept.  Every boot is of a copy of it.
"""

import argparse
import dataclasses
import datetime as dt
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boot
import loader
import machine
import steps
from bars import Bar
from boot import Boot
from servers import ServerError, running
from steps import Cost
from tables import figure, milliseconds, render
from unfinished_journal import ResumingJournal, layout_of, prepare

PARTS = ("boot", "steps")


@dataclasses.dataclass
class Results:
    """What was measured; None for a part that was not asked for."""

    boot: Boot | None = None
    steps: Cost | None = None


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/resume.py", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--unfinished", type=int, default=10_000)
    parser.add_argument("--boots", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of an append round")
    parser.add_argument("--dir", type=Path, default=machine.BENCHMARKS / ".data" / "resume")
    parser.add_argument("--json", type=Path, default=machine.BENCHMARKS / "results" / "resume.json")
    parser.add_argument("--check", action="store_true", help="exit 1 where a bar was missed")
    given = parser.parse_args()
    given.dir = given.dir.resolve()  # the daemon runs elsewhere
    return given


def measure(given: argparse.Namespace) -> Results:
    """Build what is missing and measure the parts that were asked for."""
    results = Results()
    directory = machine.data_directory(given.dir)
    with tempfile.TemporaryDirectory(prefix="bench-") as sockets:
        try:
            if "steps" in given.parts:
                journal = ResumingJournal(directory / "steps", Path(sockets))
                with running(journal):
                    results.steps = steps.measure(journal, rounds=given.rounds)
            if "boot" in given.parts:
                loader.build()
                layout = layout_of(given.unfinished)
                kept = ResumingJournal(given.dir / f"kept-{given.unfinished}", Path(sockets))
                prepare(kept, layout)
                results.boot = boot.measure(
                    kept,
                    layout,
                    directory,
                    boots=given.boots,
                    rounds=given.rounds,
                    seconds=given.seconds,
                )
        finally:
            shutil.rmtree(directory)
    return results


# ---- what came of it --------------------------------------------------------


def judge(results: Results) -> list[Bar]:
    """Hold the figures against what is promised."""
    found: list[Bar] = []
    if results.boot is not None:
        found += _judge_boot(results.boot)
    if results.steps is not None:
        found += _judge_steps(results.steps)
    return found


def _judge_boot(found: Boot) -> Iterator[Bar]:
    scan_ms = 1000 * statistics.median(found.scan_s)
    yield Bar("scan for unfinished agents, ms", 250, at_least=False, measured=scan_ms)
    yield Bar("resumed out of order", 0, at_least=False, measured=max(found.out_of_order))
    fastest, slowest = max(found.per_second), min(found.per_second)
    yield Bar("resumed a second, at most", 1.05 * boot.PER_SECOND, at_least=False, measured=fastest)
    yield Bar("resumed a second, at least", 0.9 * boot.PER_SECOND, at_least=True, measured=slowest)
    for shape, rounds in found.p99_us.items():
        quiet = statistics.median(rounds[boot.QUIET])
        for condition in (boot.STARTING, boot.RESUMING):
            if condition in rounds:
                ratio = statistics.median(rounds[condition]) / quiet
                name = f"{shape} p99 {condition}, times quiet"
                yield Bar(name, 3, at_least=False, measured=ratio)
    yield Bar("resident MB, at most", 150, at_least=False, measured=max(found.resident_mb))


def _judge_steps(cost: Cost) -> Iterator[Bar]:
    for name in (steps.BLOCKING, steps.ASYNCIO):
        p50_ms = cost.p50_us(name) / 1000
        yield Bar(f"{name}, p50 ms", 1.2, at_least=False, measured=p50_ms)
    for name, took in cost.replay_s.items():
        title = f"replay of {cost.replayed_steps:,} steps, {name}, s"
        yield Bar(title, 0.3, at_least=False, measured=statistics.median(took))


def print_tables(results: Results) -> None:
    """Print what a person wants to know."""
    if results.boot is not None:
        _print_boot(results.boot)
    if results.steps is not None:
        _print_steps(results.steps)
    rows = [
        [b.name, figure(b.measured), f"{'≥' if b.at_least else '≤'} {b.limit:g}", b.verdict]
        for b in judge(results)
    ]
    print(render("Bars", ["", "measured", "bar", ""], rows))


def _print_boot(found: Boot) -> None:
    rows = [
        [str(number), *map(str, row)]
        for number, row in enumerate(
            zip(
                found.ready_s,
                found.scan_s,
                found.scan_cpu_s,
                found.buried_s,
                found.resumed,
                found.per_second,
                found.out_of_order,
                found.resident_mb,
                strict=True,
            ),
            start=1,
        )
    ]
    header = [
        "",
        "ready s",
        "scan s",
        "of it CPU",
        "all queued s",
        "resumed",
        "a second",
        "misplaced",
        "MB",
    ]
    print(render(f"Boots with {found.unfinished:,} unfinished agents", header, rows))
    rows = []
    for shape, conditions in found.p99_us.items():
        for condition in (boot.QUIET, boot.STARTING, boot.RESUMING):
            if condition not in conditions:
                continue
            p50 = statistics.median(found.p50_us[shape][condition])
            p99 = statistics.median(conditions[condition])
            ratio = p99 / statistics.median(conditions[boot.QUIET])
            cells = [milliseconds(p50), milliseconds(p99), f"{ratio:.2f}"]
            rows.append([f"{shape} {condition}", *cells])
    print(render("Appends meanwhile", ["", "p50 ms", "p99 ms", "p99, times quiet"], rows))


def _print_steps(cost: Cost) -> None:
    rows = [
        [name, milliseconds(cost.p50_us(name)), milliseconds(cost.p99_us(name))]
        for name in cost.step_us
    ]
    print(render("A durable step that does nothing", ["", "p50 ms", "p99 ms"], rows))
    rows = [
        [
            name,
            f"{min(took):.2f}",
            f"{statistics.median(took):.2f}",
            f"{min(cost.replay_cpu_s[name]):.2f}",
        ]
        for name, took in cost.replay_s.items()
    ]
    title = f"Replay of {cost.replayed_steps:,} recorded steps, seconds"
    print(render(title, ["", "fastest", "median", "least CPU"], rows))


def as_json(results: Results, facts: dict[str, object]) -> dict[str, object]:
    """Return everything that was measured."""
    measured = dataclasses.asdict(results)
    cost = results.steps
    if cost is not None:  # thousands of single steps say no more than their percentiles
        measured["steps"]["step_us"] = {
            name: {"p50": cost.p50_us(name), "p99": cost.p99_us(name), "steps": len(took)}
            for name, took in cost.step_us.items()
        }
    return {
        "measured_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": facts,
        **measured,
        "bars": [dataclasses.asdict(bar) | {"verdict": bar.verdict} for bar in judge(results)],
    }


def main() -> int:
    """Build, measure, print, keep."""
    given = parse_arguments()
    try:
        results = measure(given)
    except (loader.LoadError, ServerError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    facts = machine.facts(given.dir)
    print(f"\n{machine.in_words(facts)}\n")
    print_tables(results)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(as_json(results, facts), indent=1) + "\n")
    print(f"every round: {given.json}")
    missed = any(bar.verdict == "MISSED" for bar in judge(results))
    return 1 if given.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
