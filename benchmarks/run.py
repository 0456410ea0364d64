"""Measure the journal beside Redis and what a Python program would use instead.

    make bench
    .venv/bin/python benchmarks/run.py --quick

Prints tables and keeps every round as JSON.  How to read them stands in
README.md beside this file; in one sentence: only the ratios mean anything.
"""

import argparse
import dataclasses
import datetime as dt
import importlib.metadata
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import bars
import loader
import machine
import measures
from measures import Plan, Results, Series
from python_peers import PYTHON_PEERS
from servers import Redis, ServerError
from tables import figure, milliseconds, render

SHAPES = "50x1,50x16,50x100,1x100,1x1"
LATEST = machine.BENCHMARKS / "results" / "latest.json"
RESULTS_FORMAT = 1
TITLES = {"journal": "agent-journald", "redis": "Redis Streams, fsync always"} | {
    peer.name: peer.title for peer in PYTHON_PEERS
}
PARTS = {
    "appends": measures.measure_appends,
    "reads": measures.measure_reads,
    "memory": measures.measure_memory,
}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/run.py",
        description="Measure the journal beside Redis Streams and what Python programs use.",
    )
    parser.add_argument("--quick", action="store_true", help="a look in a minute or two")
    parser.add_argument("--rounds", type=int, help="turns of each contestant (5; quick: 3)")
    parser.add_argument("--seconds", type=float, help="length of a turn (3; quick: 1)")
    parser.add_argument("--shapes", default=SHAPES, help=f"connections x in flight ({SHAPES})")
    parser.add_argument("--peers", default="all", help=f"of {','.join(_peers())}; or all, or none")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--bytes", type=int, default=300, help="bytes of an event (300)")
    parser.add_argument(
        "--replay-entries", type=int, help="of the agent that is read back (100000; quick: 10000)"
    )
    parser.add_argument("--dir", type=Path, help="where the databases go; not a tmpfs")
    parser.add_argument("--json", type=Path, default=LATEST, help="where the results go")
    parser.add_argument("--check", action="store_true", help="exit 1 where a bar was missed")
    given = parser.parse_args()
    given.rounds = given.rounds or (3 if given.quick else 5)
    given.seconds = given.seconds or (1.0 if given.quick else 3.0)
    given.replay_entries = given.replay_entries or (10_000 if given.quick else 100_000)
    given.shapes = [loader.Shape.parse(shape) for shape in given.shapes.split(",")]
    given.peers = _chosen("peer", given.peers, _peers())
    given.parts = _chosen("part", given.parts, list(PARTS))
    return given


def _peers() -> list[str]:
    return ["redis", *(peer.name for peer in PYTHON_PEERS)]


def _chosen(what: str, names: str, known: list[str]) -> list[str]:
    if names in ("all", "none"):
        return known if names == "all" else []
    chosen = names.split(",")
    for name in chosen:
        if name not in known:
            raise SystemExit(f"there is no {what} {name!r}; there are {', '.join(known)}")
    return chosen


def measure(given: argparse.Namespace) -> tuple[Results, dict[str, object]]:
    """Run the chosen parts and return their results with the machine's facts."""
    loader.build()
    files_max = machine.raise_file_limit()
    directory = machine.data_directory(given.dir)
    sockets = Path(tempfile.mkdtemp(prefix="bench-"))
    plan = Plan(
        directory=directory,
        sockets=sockets,
        shapes=tuple(given.shapes),
        peers=frozenset(given.peers),
        rounds=given.rounds,
        seconds=given.seconds,
        event_bytes=given.bytes,
        replay_entries=given.replay_entries,
        files_max=files_max,
    )
    facts = machine.facts(directory) | {"versions": _versions()}
    results = Results(missing=_missing_from_the_start(given.peers))
    try:
        for name in given.parts:
            PARTS[name](plan, results)
    finally:
        shutil.rmtree(directory)
        shutil.rmtree(sockets)
    return results, facts


def _missing_from_the_start(peers: list[str]) -> dict[str, str]:
    missing = {name: "not asked for (--peers)" for name in _peers() if name not in peers}
    if "redis" in peers and (reason := Redis.why_missing()):
        missing["redis"] = reason
    return missing


def _versions() -> dict[str, str]:
    versions = {"agent-journal": importlib.metadata.version("agent-journal")}
    if not Redis.why_missing():
        versions["redis"] = Redis.version()
    return versions


def print_tables(results: Results, given: argparse.Namespace) -> None:
    """Print what a person wants to know."""
    if results.appends:
        header = [
            "connections x in flight",
            "entries/s",
            "of Redis'",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
        ]
        rows = [_append_row(series, results) for series in results.appends]
        title = (
            f"Durable appends of {given.bytes}-byte events, "
            f"median of {given.rounds} rounds of {given.seconds:g} s in turn"
        )
        print(render(title, header, rows))
    if results.replays:
        rows = [
            [f"{s.shape}  {_title(s.peer)}", figure(s.median("entries_per_second"))]
            for s in results.replays
        ]
        title = f"Reading one agent of {given.replay_entries:,} entries"
        print(render(title, ["", "entries/s"], rows))
    if results.beside:
        names = {"quiet": "nobody reads", "reading": "a large agent is read all the time"}
        rows = [
            [f"{s.shape}  {names[s.peer]}", *_latencies(s), figure(s.median("entries_per_second"))]
            for s in results.beside
        ]
        header = ["", "p50 ms", "p99 ms", "p99.9 ms", "entries/s"]
        print(render("Appends beside a reader", header, rows))
    if results.memory_mb:
        rows = [[name, figure(megabytes)] for name, megabytes in results.memory_mb.items()]
        print(render("The daemon's resident memory", ["", "MB"], rows))
    rows = [
        [bar.name, figure(bar.measured), f"{'≥' if bar.at_least else '≤'} {figure(bar.limit)}",
         bar.verdict]
        for bar in bars.judge(results)
    ]  # fmt: skip
    print(render("Bars", ["", "measured", "bar", ""], rows))
    for name, reason in results.missing.items():
        print(f"missing: {TITLES.get(name, name)}: {reason}")


def _append_row(series: Series, results: Results) -> list[str]:
    name = f"{series.shape:7} {_title(series.peer)}"
    if series.missing:
        return [name, "missing", "-", "-", "-", "-"]
    rate, redis = series.median("entries_per_second"), results.find(series.shape, "redis")
    redis_rate = redis.median("entries_per_second") if redis else None
    ratio = f"{rate / redis_rate:.2f}" if rate and redis_rate else "-"
    return [name, figure(rate), ratio, *_latencies(series)]


def _latencies(series: Series) -> list[str]:
    return [milliseconds(series.median(name)) for name in ("p50_us", "p99_us", "p999_us")]


def _title(peer: str) -> str:
    return TITLES.get(peer, peer)


def as_json(
    results: Results, facts: dict[str, object], given: argparse.Namespace
) -> dict[str, Any]:
    """Return everything that was measured, every round of it."""

    def rounds(series: list[Series]) -> list[dict[str, Any]]:
        return [
            {
                "shape": s.shape,
                "peer": s.peer,
                "missing": s.missing,
                "median_entries_per_second": s.median("entries_per_second"),
                "median_p50_us": s.median("p50_us"),
                "median_p99_us": s.median("p99_us"),
                "rounds": [report.facts for report in s.rounds],
            }
            for s in series
        ]

    return {
        "format": RESULTS_FORMAT,
        "measured_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "options": {
            "rounds": given.rounds,
            "seconds": given.seconds,
            "event_bytes": given.bytes,
            "replay_entries": given.replay_entries,
        },
        "appends": rounds(results.appends),
        "replays": rounds(results.replays),
        "beside_a_reader": rounds(results.beside),
        "resident_mb": results.memory_mb,
        "peak_mb_by_part": results.peaks_mb,
        "bars": [dataclasses.asdict(bar) | {"verdict": bar.verdict} for bar in bars.judge(results)],
        "missing": results.missing,
    }


def main() -> int:
    """Measure, print, keep."""
    given = parse_arguments()
    try:
        results, facts = measure(given)
    except (loader.LoadError, ServerError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"\n{machine.in_words(facts)}\n")
    print_tables(results, given)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(as_json(results, facts, given), indent=1) + "\n")
    print(f"every round: {given.json}")
    missed = any(bar.verdict == "MISSED" for bar in bars.judge(results))
    return 1 if given.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
