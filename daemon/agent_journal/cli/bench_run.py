"""A measurement of durable appends: who is measured, what comes of it, and that nothing is left."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from .bench_load import Load, Tally, run_load
from .doctor_disk import quantile, sync_times_ms
from .failures import CommandError, ExitCode, usage_error
from .output import print_json
from .progress import Progress
from .terminal import Cell, Column, Table, harmless, standard_output

CLIENTS_MAX: Final = 1000
IN_FLIGHT_MAX: Final = 1000
SECONDS_MAX: Final = 600
EVENT_BYTES_MAX: Final = 1 << 20
WORDS_OF_STEP: Final = 2  # durable appends that a step takes: its intent, and its result
MODEL_CALL_MS: Final = 2000.0
PREFIX: Final = "bench-"
SYNCS: Final = 200


def measure(arguments: argparse.Namespace) -> int:
    """Measure, and print what came of it."""
    load = _load_of(arguments)
    if arguments.live and arguments.directory is not None:
        raise usage_error("the running daemon has its own directory", "--live or --directory")
    with _live(arguments) if arguments.live else _own(arguments) as (socket, directory):
        agents = _agent_ids(load.clients)
        syncs = [] if directory is None else sync_times_ms(directory, SYNCS)
        try:
            with Progress("appending", int(load.seconds * 1000)) as progress:
                tally = run_load(socket, agents, load, lambda s: progress.at(int(s * 1000)))
        finally:
            if arguments.live:
                _forget(socket, agents)
    _print(arguments, load, tally, syncs)
    return ExitCode.OK


def _load_of(arguments: argparse.Namespace) -> Load:
    for name, value, most in (
        ("--clients", arguments.clients, CLIENTS_MAX),
        ("--in-flight", arguments.in_flight, IN_FLIGHT_MAX),
        ("--seconds", arguments.seconds, SECONDS_MAX),
        ("--bytes", arguments.bytes, EVENT_BYTES_MAX),
    ):
        if not 1 <= value <= most:
            raise usage_error(f"{name} {value} is not from 1 to {most:,}", f"{name} 1")
    return Load(
        clients=arguments.clients,
        in_flight=arguments.in_flight,
        event_bytes=arguments.bytes,
        seconds=float(arguments.seconds),
    )


def _agent_ids(count: int) -> list[str]:
    run = os.urandom(6).hex()
    return [f"{PREFIX}{run}-{number}" for number in range(count)]


@contextmanager
def _own(arguments: argparse.Namespace) -> Iterator[tuple[Path, Path]]:
    """Have a daemon on a database of its own, and nothing left of it."""
    from .demo_processes import Daemon  # noqa: PLC0415 - starts processes

    beside = arguments.directory or _beside_the_journal()
    try:
        directory = Path(tempfile.mkdtemp(prefix=".agent-journal-bench-", dir=beside))
    except OSError as error:
        raise CommandError(
            f"{beside}: {error.strerror}", "agent-journal bench --directory DIR"
        ) from None
    # A socket's path is short, and that of the directory may be long.
    runtime = Path(tempfile.mkdtemp(prefix="agent-journal-bench-"))
    try:
        with Daemon(directory, socket=runtime / "journal.sock") as daemon:
            daemon.start()
            yield daemon.socket, directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(runtime, ignore_errors=True)


def _beside_the_journal() -> Path:
    """Return the directory of the journal, or the nearest of those above it that is there."""
    from ..errors import ConfigError  # noqa: PLC0415 - only where none is named
    from ..service import config as configuration  # noqa: PLC0415 - the daemon's, and only now

    try:
        database = configuration.load(None).database
    except ConfigError:
        database = None
    database = database or configuration.default_database(os.environ, uid=os.geteuid())
    return next(path for path in database.parents if os.access(path, os.W_OK | os.X_OK))


@contextmanager
def _live(arguments: argparse.Namespace) -> Iterator[tuple[Path, Path | None]]:
    """Return the running daemon's socket, and its directory where one may measure there."""
    from ..client import connect, find_socket  # noqa: PLC0415 - there is something to ask
    from .doctor_host import database_of_process  # noqa: PLC0415 - only for this

    socket = Path(arguments.socket or find_socket())
    with connect(socket, retry_s=0) as journal:
        pid = journal.call({"op": "stats"}).get("pid")
    database = database_of_process(pid) if isinstance(pid, int) else None
    directory = database.parent if database and os.access(database.parent, os.W_OK) else None
    yield socket, directory


def _forget(socket: Path, agents: list[str]) -> None:
    """Remove what was recorded for the measurement, also where it was broken off."""
    from ..client import connect  # noqa: PLC0415 - there is something to ask
    from ..errors import JournalError  # noqa: PLC0415 - as above

    with connect(socket) as journal:
        for agent_id in agents:
            with suppress(JournalError):  # it may not have begun
                journal.forget(agent_id, force=True, wait=False)


# --- what came of it -----------------------------------------------------------------


def _print(arguments: argparse.Namespace, load: Load, tally: Tally, syncs: list[float]) -> None:
    times = sorted(tally.times_ms)
    p50, p99, p999 = (quantile(times, fraction) for fraction in (0.5, 0.99, 0.999))
    if arguments.json:
        print_json(
            {
                "clients": load.clients,
                "in_flight": load.in_flight,
                "event_bytes": load.event_bytes,
                "seconds": round(tally.seconds, 3),
                "appends": len(times),
                "appends_per_second": round(tally.per_second, 1),
                "p50_ms": round(p50, 3),
                "p99_ms": round(p99, 3),
                "p99_9_ms": round(p999, 3),
                "fsync_p50_ms": round(quantile(syncs, 0.5), 3) if syncs else None,
                "fsync_p99_ms": round(quantile(syncs, 0.99), 3) if syncs else None,
                "live": arguments.live,
            }
        )
        return
    output = standard_output()
    columns = [Column(title=""), *(Column(title=t, right=True) for t in ("P50", "P99", "P99.9"))]
    rows = [["durable append", *_shown(p50, p99, p999)]]
    if syncs:
        rows.append(["fsync of the disk", *_shown(*(quantile(syncs, f) for f in (0.5, 0.99))), ""])
    clients = "1 client" if load.clients == 1 else f"{load.clients} clients"
    told = f"{clients}, {load.in_flight} in flight each, events of {load.event_bytes} bytes"
    output.line(harmless(f"{told}, {tally.seconds:.1f} s"))
    output.line(output.paint(f"{tally.per_second:,.0f} durable appends a second", "bold"))
    Table(output, columns).print([[Cell(cell) for cell in row] for row in rows])
    step_ms = WORDS_OF_STEP * p50
    share = step_ms / MODEL_CALL_MS
    output.line(f"a step takes two appends, {step_ms:.2f} ms: {share:.2%} of a model call of 2 s")


def _shown(*times_ms: float) -> list[str]:
    return [f"{time:.2f} ms" for time in times_ms]
