"""The parts of a benchmark run, each of which takes turns between what it compares.

Figures of one server alone mean little on a machine that others use too: they
move by a third from minute to minute.  So whatever is compared is measured in
turn within the same minute, several rounds of it, and the median of each
side's rounds is what counts.
"""

import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import loader
from loader import Report, Shape
from python_peers import PYTHON_PEERS, PeerError, PythonPeer
from servers import Journal, Redis, Server, running

WOVEN_AGENTS = 100
REPLAY_PASSES = 5  # over the agent in one round, so that a round takes more than a blink
IDLE_CONNECTIONS = 10_000
SPARE_FILES = 200  # what the daemon has open besides, and the writers' connections
PEER_SHAPES = {"plain_sqlite": "1x1", "langgraph_saver": "50x1", "dbos_steps": "50x1"}


@dataclass(frozen=True)
class Plan:
    """What is to be measured, for how long, and where."""

    directory: Path
    sockets: Path
    shapes: tuple[Shape, ...]
    peers: frozenset[str]
    rounds: int
    seconds: float
    event_bytes: int
    replay_entries: int
    files_max: int


@dataclass
class Series:
    """One contestant's rounds in one comparison."""

    shape: str
    peer: str
    rounds: list[Report] = field(default_factory=list)
    missing: str | None = None

    def median(self, name: str) -> float | None:
        """Return the median over the rounds of one of their figures."""
        if not self.rounds:
            return None
        return statistics.median(float(report.facts[name]) for report in self.rounds)


@dataclass
class Results:
    """Everything that a run has measured."""

    appends: list[Series] = field(default_factory=list)
    replays: list[Series] = field(default_factory=list)
    beside: list[Series] = field(default_factory=list)
    memory_mb: dict[str, float | None] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    peaks_mb: dict[str, float] = field(default_factory=dict)

    def find(self, shape: str, peer: str) -> Series | None:
        """Return the appends of *peer* in *shape*."""
        found = (s for s in self.appends if (s.shape, s.peer) == (shape, peer))
        return next(found, None)

    def find_beside(self, shape: str, peer: str) -> Series | None:
        """Return the appends in *shape* that were quiet, or made beside a reader."""
        return next((s for s in self.beside if (s.shape, s.peer) == (shape, peer)), None)

    def shapes_read_beside(self) -> list[str]:
        """Return the shapes whose latency was measured beside a reader."""
        return list(dict.fromkeys(series.shape for series in self.beside))


def say(text: str) -> None:
    """Tell the person who waits what is going on."""
    print(f"  {text}", file=sys.stderr, flush=True)


def take_turns(
    shape: str, contestants: Mapping[str, Callable[[], Report]], rounds: int
) -> list[Series]:
    """Measure each contestant once a round.  One that cannot run is left out from then on."""
    series = {peer: Series(shape, peer) for peer in contestants}
    for number in range(1, rounds + 1):
        for peer, measure in contestants.items():
            if series[peer].missing:
                continue
            try:
                report = measure()
            except PeerError as error:
                series[peer].missing = str(error)
                say(f"{shape} {peer}: left out: {error}")
                continue
            series[peer].rounds.append(report)
            say(
                f"{shape} round {number} of {rounds} {peer}: "
                f"{report.entries_per_second:,.0f} entries/s, "
                f"p50 {report.p50_us / 1000:.2f} ms, p99 {report.p99_us / 1000:.2f} ms"
            )
    return list(series.values())


def measure_appends(plan: Plan, results: Results) -> None:
    """Compare appends in every shape, each on fresh databases."""
    for shape in plan.shapes:
        directory = plan.directory / str(shape)
        journal, redis = (
            Journal(directory / "j", plan.sockets),
            Redis(directory / "r", plan.sockets),
        )
        servers: list[Server] = [journal]
        if "redis" in plan.peers and "redis" not in results.missing:
            servers.append(redis)
        contestants: dict[str, Callable[[], Report]] = {
            server.name: _turn(plan, server, shape) for server in servers
        }
        for peer in PYTHON_PEERS:
            if peer.name in plan.peers and PEER_SHAPES[peer.name] == str(shape):
                contestants[peer.name] = _peer_turn(plan, peer)
        with running(*servers):
            found = take_turns(str(shape), contestants, plan.rounds)
            results.peaks_mb[str(shape)] = journal.peak_mb()
        if redis not in servers:
            found.append(Series(str(shape), "redis", missing=results.missing["redis"]))
        results.appends += found
        results.missing.update({s.peer: s.missing for s in found if s.missing})
        shutil.rmtree(directory)


def _turn(plan: Plan, server: Server, shape: Shape) -> Callable[[], Report]:
    def measure() -> Report:
        report = loader.run_shape(server, shape, plan.seconds, bytes=plan.event_bytes)
        if isinstance(server, Redis):
            server.clear()  # it keeps every stream in memory
        report.facts["settled_after_seconds"] = round(server.settle(), 2)
        return report

    return measure


def _peer_turn(plan: Plan, peer: PythonPeer) -> Callable[[], Report]:
    return lambda: peer.run(plan.directory, plan.seconds, plan.event_bytes)


def measure_reads(plan: Plan, results: Results) -> None:
    """Read one large agent back, and append beside such a reader."""
    directory = plan.directory / "reads"
    journal, redis = Journal(directory / "j", plan.sockets), Redis(directory / "r", plan.sockets)
    with_redis = "redis" in plan.peers and "redis" not in results.missing
    servers: list[Server] = [journal, redis] if with_redis else [journal]
    with running(*servers):
        _write_large_agents(plan, journal, servers)
        # A replay mostly follows a restart, so it is measured after one.
        journal.stop()
        journal.start()
        results.replays += _measure_replays(plan, journal, redis if with_redis else None)
        results.beside += _measure_beside(plan, journal)
        results.peaks_mb["reads"] = journal.peak_mb()
    shutil.rmtree(directory)


def _write_large_agents(plan: Plan, journal: Journal, servers: Sequence[Server]) -> None:
    say(f"writing an agent of {plan.replay_entries:,} entries in a row")
    for server in servers:
        loader.run(
            server,
            connections=1,
            depth=100,
            agents=1,
            prefix="row",
            requests=plan.replay_entries,
            bytes=plan.event_bytes,
        )
    say(f"writing {WOVEN_AGENTS} agents of as many entries, interleaved")
    loader.run(
        journal,
        connections=1,
        depth=400,
        layout="cycle",
        agents=WOVEN_AGENTS,
        prefix="woven",
        requests=plan.replay_entries * WOVEN_AGENTS,
        bytes=plan.event_bytes,
    )
    journal.settle()


def _measure_replays(plan: Plan, journal: Journal, redis: Redis | None) -> list[Series]:
    found: list[Series] = []
    for agent, written in (("row-000", "written in a row"), ("woven-042", "written interleaved")):
        for depth, reading in ((1, "page by page"), (4, "four pages in flight")):
            contestants: dict[str, Callable[[], Report]] = {
                "journal": _replay_turn(plan, journal, agent, depth)
            }
            if redis and depth == 1 and agent == "row-000":
                contestants["redis"] = _replay_turn(plan, redis, agent, depth)
            found += take_turns(f"{written}, {reading}", contestants, plan.rounds)
    return found


def _replay_turn(plan: Plan, server: Server, agent: str, depth: int) -> Callable[[], Report]:
    # Half a page fits any server's limit of bytes, which pages asked for in advance must not meet.
    page = 1000 if depth == 1 else 500

    def measure() -> Report:
        return loader.run(
            server,
            mode="read",
            agent=agent,
            depth=depth,
            page=page,
            entries=plan.replay_entries,
            requests=REPLAY_PASSES,
        )

    return measure


def _measure_beside(plan: Plan, journal: Journal) -> list[Series]:
    """Append without and with somebody who reads a large agent all the time."""
    found = []
    for shape in (Shape(50, 1), Shape(1, 1)):
        found += take_turns(
            str(shape),
            {
                "quiet": _beside_turn(plan, journal, shape, is_read=False),
                "reading": _beside_turn(plan, journal, shape, is_read=True),
            },
            plan.rounds,
        )
    return found


def _beside_turn(
    plan: Plan, journal: Journal, shape: Shape, *, is_read: bool
) -> Callable[[], Report]:
    def measure() -> Report:
        if not is_read:
            report = loader.run_shape(journal, shape, plan.seconds, bytes=plan.event_bytes)
        else:
            reading = {"mode": "read", "agent": "woven-042", "entries": plan.replay_entries}
            # The reader reads longer than the writers write, so that they never are alone.
            with loader.Background(journal, **reading, seconds=plan.seconds + 2) as reader:
                report = loader.run_shape(journal, shape, plan.seconds, bytes=plan.event_bytes)
                read = reader.first_line()
            if read["errors"]:
                raise loader.LoadError(f"the reader beside: {read['first_error']}")
            report.facts["read_entries_per_second"] = read["entries_per_second"]
        journal.settle()
        return report

    return measure


def measure_memory(plan: Plan, results: Results) -> None:
    """Look at the daemon's resident memory: idle, loaded, and with very many connections."""
    directory = plan.directory / "memory"
    journal = Journal(directory, plan.sockets)
    crowd = f"{IDLE_CONNECTIONS:,} connections"
    with running(journal):
        journal.settle()
        results.memory_mb["idle"] = journal.resident_mb()
        if plan.files_max < IDLE_CONNECTIONS + SPARE_FILES:
            results.missing[crowd] = f"this host allows a process {plan.files_max} open files"
            results.memory_mb[f"{crowd} open"] = None
        else:
            say(f"opening {crowd}")
            with loader.Background(journal, mode="idle", connections=IDLE_CONNECTIONS) as idle:
                idle.first_line()
                results.memory_mb[f"{crowd} open"] = journal.resident_mb()
                loader.run_shape(journal, Shape(50, 16), plan.seconds, bytes=plan.event_bytes)
                results.memory_mb[f"{crowd} open, 50x16 on 50 more"] = journal.peak_mb()
        results.peaks_mb["connections"] = journal.peak_mb()
    results.memory_mb["at most, in all of the above"] = max(results.peaks_mb.values())
    shutil.rmtree(directory)
