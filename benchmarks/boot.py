"""What a boot with very many unfinished agents costs: the scan, the pace, and others' p99.

Each boot is of a fresh copy of the journal.  Appends of others are measured in
three conditions: behind the start, while the ends of attempts that nobody saw
are recorded; while agents are being resumed; and quiet, with the same agents
there and nobody resuming them.  The last two take turns.
"""

import datetime as dt
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import loader
from conversation import Conversation
from large_journal import Layout
from loader import Report, Shape
from measures import say
from servers import ServerError, running
from unfinished_journal import ResumingJournal, copy, unfinished_ids

SHAPES = (Shape(50, 1), Shape(1, 1))
PER_SECOND = 10  # both are the daemon's defaults
AT_ONCE_MAX = 8
BURIAL_S_MAX = 120.0
POLL_S = 0.02
QUIET, STARTING, RESUMING = "quiet", "behind the start", "resuming"


@dataclass
class Boot:
    """What was measured of all boots."""

    unfinished: int
    scan_s: list[float] = field(default_factory=list)
    scan_cpu_s: list[float] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)
    buried_s: list[float] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    out_of_order: list[int] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)
    p50_us: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    p99_us: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def note(self, shape: Shape, condition: str, report: Report) -> None:
        """Remember the latencies of one round."""
        for found, value in ((self.p50_us, report.p50_us), (self.p99_us, report.p99_us)):
            found.setdefault(str(shape), {}).setdefault(condition, []).append(value)
        say(
            f"{shape} {condition}: {report.entries_per_second:,.0f} entries/s, "
            f"p50 {report.p50_us / 1000:.2f} ms, p99 {report.p99_us / 1000:.2f} ms"
        )


def measure(  # noqa: PLR0913 - what is measured, where, and how long
    kept: ResumingJournal,
    layout: Layout,
    directory: Path,
    *,
    boots: int,
    rounds: int,
    seconds: float,
) -> Boot:
    """Boot copies of the journal that is kept, and look on."""
    found = Boot(layout.unfinished)
    for number in range(1, boots + 1):
        say(f"boot {number} of {boots}: copying the journal")
        journal = copy(kept, directory / "booted")
        with running(journal):
            found.ready_s.append(round(journal.ready_s, 3))
            _measure_start(journal, found, SHAPES[:: 1 if number % 2 else -1], seconds)
            _note_order_and_pace(journal, unfinished_ids(layout), found)
            _take_turns(journal, found, rounds, seconds)
            found.resident_mb.append(round(journal.peak_mb(), 1))
    return found


def _measure_start(
    journal: ResumingJournal, found: Boot, shapes: Iterable[Shape], seconds: float
) -> None:
    """Append at once, and go on looking until all that is to be resumed is queued."""
    for shape in shapes:
        report = loader.run_shape(journal, shape, seconds, prefix="beside")
        if journal.facts_logged("interrupted_agents_queued"):
            say(f"{shape} {STARTING}: left out, it was over before")
        else:
            found.note(shape, STARTING, report)
    (scan,) = journal.facts_logged("scan_timed")
    found.scan_s.append(float(str(scan["seconds"])))
    found.scan_cpu_s.append(float(str(scan["cpu_seconds"])))
    (queued,) = _wait_for(lambda: journal.facts_logged("interrupted_agents_queued"))
    (started,) = journal.facts_logged("daemon_started")
    found.buried_s.append(round(_seconds(queued) - _seconds(started), 2))
    time.sleep(seconds)


def _take_turns(journal: ResumingJournal, found: Boot, rounds: int, seconds: float) -> None:
    for shape in SHAPES:
        for _ in range(rounds):
            for condition in (QUIET, RESUMING):
                _resume(journal, is_resuming=condition == RESUMING)
                found.note(
                    shape, condition, loader.run_shape(journal, shape, seconds, prefix="beside")
                )


def _resume(journal: ResumingJournal, *, is_resuming: bool) -> None:
    """Switch it, and wait until it shows: agents are being started, or all is at rest."""
    before = len(journal.facts_logged("agent_resumed"))
    changes = len(journal.facts_logged("config_reloaded"))
    journal.configure(is_resuming=is_resuming)
    _wait_for(lambda: journal.facts_logged("config_reloaded")[changes:])
    if is_resuming:
        _wait_for(lambda: journal.facts_logged("agent_resumed")[before + AT_ONCE_MAX :])
    else:
        journal.settle()


def _wait_for(what: Callable[[], list[dict[str, object]]]) -> list[dict[str, object]]:
    begun = time.monotonic()
    while not (found := what()):
        if time.monotonic() - begun > BURIAL_S_MAX:
            raise ServerError("the daemon's log does not say what it should")
        time.sleep(POLL_S)
    return found


def _seconds(fact: dict[str, object]) -> float:
    return dt.datetime.fromisoformat(str(fact["timestamp"])).timestamp()


# ---- order and pace ---------------------------------------------------------


@dataclass(frozen=True)
class _Start:
    agent: int  # its place among all that were unfinished
    position: int
    at: float
    is_finished: bool


def _note_order_and_pace(journal: ResumingJournal, agents: Iterable[str], found: Boot) -> None:
    """Read in the journal itself who was started when."""
    starts = sorted(_starts(journal, agents), key=lambda start: start.position)
    finished = sum(start.is_finished for start in starts)
    if finished < max(2, len(starts) - AT_ONCE_MAX):
        raise ServerError(f"{len(starts)} agents were started, and {finished} have finished")
    places = [start.agent for start in starts]
    # The first of all, one behind the other; what is not in its place is out of order.
    found.out_of_order.append(sum(place != index for index, place in enumerate(places)))
    found.resumed.append(len(starts))
    found.per_second.append(round((len(starts) - 1) / (starts[-1].at - starts[0].at), 2))


def _starts(journal: ResumingJournal, agents: Iterable[str]) -> Iterable[_Start]:
    with Conversation(journal) as peer:
        known = [peer.ask("describe", agent_id=agent_id)["agent"] for agent_id in agents]
        known.sort(key=lambda agent: agent["first_position"])
        for place, agent in enumerate(known):
            if agent["attempts"] < 2:
                continue
            for entry in peer.ask("read", agent_id=agent["agent_id"])["entries"]:
                if entry["event"].get("AttemptStarted", {}).get("launched"):
                    at = dt.datetime.fromisoformat(entry["timestamp"]).timestamp()
                    yield _Start(place, entry["position"], at, agent["state"] == "completed")
                    break
