"""Measure the daemon on a journal of ten million entries against one that is empty.

    .venv/bin/python benchmarks/scale.py
    .venv/bin/python benchmarks/scale.py --entries 1000000 --agents 100000 --unfinished 1000

The journal is built once, through the daemon itself, and kept: a build that was
interrupted goes on where it stopped.  What is measured is a copy of it, so that
every run measures the same journal.  Whatever is compared is measured in turn
on the large journal and on an empty one.
"""

import argparse
import contextlib
import dataclasses
import datetime as dt
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import loader
import machine
from bars import Bar
from conversation import Conversation
from large_journal import PREFIX, SEED, Layout, build, check
from loader import Shape
from measures import say
from servers import Journal, ServerError, running
from tables import figure, milliseconds, render

SMALL_AGENTS = 1000  # in the journal that the large one is compared with
LOOKUPS = 1000  # of each kind, each on a random agent
APPEND_SHAPES = (Shape(50, 1), Shape(50, 16), Shape(1, 1))
LISTING_PAGE = 1000
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
NAMES = {True: "large", False: "empty"}


@dataclass
class Results:
    """Figures by what was measured, then by journal; every round of each."""

    layout: Layout
    database_mb: float = 0.0
    built_in_s: float | None = None
    ready_s: dict[str, list[float]] = field(default_factory=dict)
    resident_mb: dict[str, float] = field(default_factory=dict)
    appends: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    lookups_us: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    listing_s: float | None = None


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks/scale.py", description=__doc__.split("\n")[0])
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--agents", type=int, default=1_000_000)
    parser.add_argument("--unfinished", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of an append round")
    parser.add_argument("--dir", type=Path, default=machine.BENCHMARKS / ".data" / "scale")
    parser.add_argument("--json", type=Path, default=machine.BENCHMARKS / "results" / "scale.json")
    parser.add_argument(
        "--cold", action="store_true", help="start with empty page caches too (root; slows others)"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 where a bar was missed")
    given = parser.parse_args()
    if given.entries % given.agents or given.entries < 2 * given.agents:
        parser.error("every agent gets as many entries, at least two: --entries must divide so")
    if not 0 < given.unfinished <= given.agents or given.agents % given.unfinished:
        parser.error("--unfinished must divide --agents")
    return given


# ---- measuring --------------------------------------------------------------


def measure_readiness(
    journals: dict[bool, Journal], results: Results, rounds: int, *, is_cold: bool
) -> None:
    """Time starts until the first answered ping, and look at the memory after each."""
    for number in range(rounds):
        for is_large, journal in journals.items():
            name = NAMES[is_large]
            with _timed_start(journal, f"{name}, after a clean stop", results):
                results.resident_mb[f"{name}, ready"] = journal.resident_mb()
                if number < rounds - 1:
                    continue
                loader.run_shape(journal, Shape(50, 16), 1.0, prefix="crash")
                journal.kill()
            with _timed_start(journal, f"{name}, after kill -9 under load", results):
                pass
    if is_cold:
        for is_large, journal in journals.items():
            DROP_CACHES.write_text("3\n")
            with _timed_start(journal, f"{NAMES[is_large]}, with cold page caches", results):
                pass


@contextlib.contextmanager
def _timed_start(journal: Journal, name: str, results: Results) -> Iterator[None]:
    with running(journal):
        results.ready_s.setdefault(name, []).append(round(journal.ready_s, 3))
        journal.settle()
        yield


def measure_appends(
    journals: dict[bool, Journal], layout: Layout, results: Results, rounds: int, seconds: float
) -> None:
    """Append to new agents in turn, and to unfinished ones that no cache knows."""
    for shape in APPEND_SHAPES:
        turn = _append_turn(shape, seconds, {"prefix": "new"})
        _take_turns(f"{shape}, new agents", journals, results, rounds, turn)
    old: dict[str, Any] = {
        "prefix": PREFIX,
        "agents": layout.unfinished,
        "stride": layout.unfinished_every,
        "digits": 7,
    }
    # The small journal gets agents of the same ids, so that both know all that are written to.
    loader.run(journals[False], connections=50, depth=16, requests=layout.unfinished, **old)
    turn = _append_turn(Shape(50, 16), seconds, old)
    _take_turns(f"50x16, {layout.unfinished:,} old agents", journals, results, rounds, turn)


def _append_turn(
    shape: Shape, seconds: float, options: dict[str, Any]
) -> Callable[[Journal], loader.Report]:
    return lambda journal: loader.run_shape(journal, shape, seconds, **options)


def _take_turns(
    name: str,
    journals: dict[bool, Journal],
    results: Results,
    rounds: int,
    measure: Callable[[Journal], loader.Report],
) -> None:
    found = results.appends.setdefault(name, {NAMES[True]: [], NAMES[False]: []})
    for number in range(1, rounds + 1):
        for is_large, journal in journals.items():
            rate = measure(journal).entries_per_second
            journal.settle()
            found[NAMES[is_large]].append(rate)
            say(f"{name}, round {number} of {rounds}, {NAMES[is_large]}: {rate:,.0f} entries/s")


def measure_lookups(journals: dict[bool, Journal], layout: Layout, results: Results) -> None:
    """Time reads of one agent and looks at it, random ones, in turn on both journals."""
    chance = random.Random(SEED)  # noqa: S311 - the same agents in every run
    with contextlib.ExitStack() as stack:
        peers = {large: stack.enter_context(Conversation(j)) for large, j in journals.items()}
        for _ in range(LOOKUPS):
            for is_large, peer in peers.items():
                count = layout.agents if is_large else SMALL_AGENTS
                agent_id = layout.agent_id(chance.randrange(count))
                for op, fields in _questions(agent_id):
                    peer.ask(op, **fields)
                    found = results.lookups_us.setdefault(_question_name(op, fields), {})
                    found.setdefault(NAMES[is_large], []).append(peer.took_us)


def _questions(agent_id: str) -> Iterator[tuple[str, dict[str, object]]]:
    yield "read", {"agent_id": agent_id}
    yield "describe", {"agent_id": agent_id}
    yield "agents", {"limit": 100, "after": agent_id}
    yield "agents", {"limit": 100, "after": agent_id, "state": "running"}


def _question_name(op: str, fields: dict[str, object]) -> str:
    names = {
        "read": "read one agent",
        "describe": "describe one agent",
        "agents": "100 agents behind any one",
    }
    return names[op] + (", unfinished only" if "state" in fields else "")


def measure_listing(journal: Journal, layout: Layout, results: Results) -> None:
    """List all unfinished agents, page by page; none may be missing."""
    begin = time.monotonic()
    listed: set[str] = set()
    with Conversation(journal) as peer:
        fields: dict[str, object] = {"state": "running", "limit": LISTING_PAGE}
        while True:
            answer = peer.ask("agents", **fields)
            listed.update(agent["agent_id"] for agent in answer["agents"])
            if not answer["more"]:
                break
            fields["after"] = answer["agents"][-1]["agent_id"]
    results.listing_s = round(time.monotonic() - begin, 3)
    built = sum(agent_id.startswith(f"{PREFIX}-") for agent_id in listed)
    if built != layout.unfinished:
        raise ServerError(f"{built} unfinished agents were listed and not {layout.unfinished}")


def measure(given: argparse.Namespace) -> tuple[Results, dict[str, object]]:
    """Build what is missing and measure on both journals."""
    loader.build()
    machine.raise_file_limit()
    layout = Layout(given.agents, given.entries // given.agents, given.agents // given.unfinished)
    results = Results(layout)
    directory = machine.data_directory(given.dir)
    with tempfile.TemporaryDirectory(prefix="bench-") as sockets:
        try:
            kept = Journal(given.dir / "large", Path(sockets))
            results.built_in_s = round(build(kept, layout), 1)
            say("copying the journal")
            large = Journal(directory / "large", Path(sockets))
            kept.copy_to(large)
            results.database_mb = round(large.database.stat().st_size / 2**20, 1)
            empty = Journal(directory / "empty", Path(sockets))
            measure_readiness(
                {True: large, False: empty}, results, given.rounds, is_cold=given.cold
            )
            # Readiness after a crash has left entries in the empty journal.
            _measure_running(large, Journal(directory / "other", Path(sockets)), results, given)
        finally:
            shutil.rmtree(directory)
    return results, machine.facts(given.dir)


def _measure_running(
    large: Journal, empty: Journal, results: Results, given: argparse.Namespace
) -> None:
    journals, layout = {True: large, False: empty}, results.layout
    with running(large, empty):
        check(large, layout)
        measure_appends(journals, layout, results, given.rounds, given.seconds)
        _fill_small(empty, layout)
        measure_lookups(journals, layout, results)
        measure_listing(large, layout, results)
        for is_large, journal in journals.items():
            results.resident_mb[f"{NAMES[is_large]}, at most"] = journal.peak_mb()


def _fill_small(journal: Journal, layout: Layout) -> None:
    """Give the small journal some agents like the large one's, to have something to look up."""
    loader.run(
        journal, mode="fill", prefix=PREFIX, agents=SMALL_AGENTS, entries=layout.entries_each,
        unfinished=layout.unfinished_every, connections=10, depth=10,
    )  # fmt: skip
    journal.settle()


# ---- reporting --------------------------------------------------------------


def judge(results: Results) -> list[Bar]:
    """Hold the figures against what is promised of a large journal."""
    ready = results.ready_s["large, after a clean stop"]
    found = [
        Bar("seconds until ready, large", 1.0, at_least=False, measured=statistics.median(ready))
    ]
    for name, rates in results.appends.items():
        ratio = statistics.median(rates["large"]) / statistics.median(rates["empty"])
        found.append(Bar(f"appends, {name}, times empty", 0.9, at_least=True, measured=ratio))
    peak = results.resident_mb["large, at most"]
    found.append(Bar("resident MB, large, at most", 150, at_least=False, measured=peak))
    return found


def print_tables(results: Results) -> None:
    """Print what a person wants to know."""
    layout = results.layout
    print(
        f"\n{layout.entries:,} entries of {layout.agents:,} agents, {layout.unfinished:,} of them "
        f"unfinished: {results.database_mb:,.0f} MB, written in {results.built_in_s:,.0f} s\n"
    )
    rows = [
        [name, f"{statistics.median(s):.2f}", f"{max(s):.2f}"]
        for name, s in results.ready_s.items()
    ]
    print(render("Seconds from start to the first answer", ["", "median", "at most"], rows))
    rows = [[name, figure(megabytes)] for name, megabytes in results.resident_mb.items()]
    print(render("Resident memory", ["", "MB"], rows))
    rows = []
    for name, rates in results.appends.items():
        large, empty = (statistics.median(rates[side]) for side in ("large", "empty"))
        rows.append([name, figure(large), figure(empty), f"{large / empty:.2f}"])
    print(render("Appends", ["", "large, entries/s", "empty, entries/s", "ratio"], rows))
    rows = []
    for name, sides in results.lookups_us.items():
        cells = [name]
        for side in ("large", "empty"):
            ordered = sorted(sides[side])
            cells += [
                milliseconds(statistics.median(ordered)),
                milliseconds(ordered[len(ordered) * 99 // 100]),
            ]
        rows.append(cells)
    header = ["", "large p50 ms", "p99", "empty p50 ms", "p99"]
    print(render("Looking up", header, rows))
    print(f"all {layout.unfinished:,} unfinished agents listed in {results.listing_s} s\n")
    rows = [
        [b.name, figure(b.measured), f"{'≥' if b.at_least else '≤'} {b.limit:g}", b.verdict]
        for b in judge(results)
    ]
    print(render("Bars", ["", "measured", "bar", ""], rows))


def as_json(results: Results, facts: dict[str, object]) -> dict[str, Any]:
    """Return everything that was measured."""
    lookups = {
        name: {
            side: {"p50_us": statistics.median(took), "p99_us": sorted(took)[len(took) * 99 // 100]}
            for side, took in sides.items()
        }
        for name, sides in results.lookups_us.items()
    }
    return {
        "measured_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": facts,
        **(dataclasses.asdict(results) | {"lookups_us": lookups}),
        "bars": [dataclasses.asdict(bar) | {"verdict": bar.verdict} for bar in judge(results)],
    }


def main() -> int:
    """Build, measure, print, keep."""
    given = parse_arguments()
    try:
        results, facts = measure(given)
    except (loader.LoadError, ServerError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"\n{machine.in_words(facts)}")
    print_tables(results)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(as_json(results, facts), indent=1) + "\n")
    print(f"every round: {given.json}")
    missed = any(bar.verdict == "MISSED" for bar in judge(results))
    return 1 if given.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
