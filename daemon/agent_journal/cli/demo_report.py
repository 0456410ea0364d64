"""What the demo proves: the journal held against what was told, and what was done."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from ..client import connect
from .demo_agent import AGENT_ID
from .demo_ledger import Acknowledgement, held_against, read_ledger
from .demo_outside import judge, read_outside
from .output import print_json
from .show import COLUMNS, rows
from .terminal import WIDTH_DEFAULT, Row, Rule, Table, harmless, standard_output
from .timeline import begin_of, tell
from .timestamps import from_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """When nothing ran: by the wall clock, as entries have it, and by the monotonic one."""

    agent_pid: int
    killed_pid: int
    killed_us: int
    killed_at: float
    restarted_pid: int
    restarted_us: int
    restarted_at: float

    def spanned_by(self, known: Acknowledgement) -> bool:
        """Tell whether it was asked for before the kill and answered by the next daemon."""
        return known.asked < self.killed_at and known.answered > self.restarted_at


class Report:
    """The journal as it is after the play, and what the outside has seen."""

    def __init__(self, socket: Path, ledger: Path, outside: Path, outage: Outage) -> None:
        acknowledged = read_ledger(ledger)
        with connect(socket) as journal:
            agents = [agent.agent_id for agent in journal.agents()]
            told = journal.read(AGENT_ID) if AGENT_ID in agents else ()
            self._timeline = tell(told, is_owned=False)
            agents = [agent_id for agent_id in agents if agent_id != AGENT_ID]
            entries = [entry for agent_id in agents for entry in journal.read(agent_id)]
        self._terminal = standard_output()
        self._width = self._terminal.width or WIDTH_DEFAULT
        self._outage = outage
        self._writers = len(agents)
        self._in_flight = [known for known in acknowledged if outage.spanned_by(known)]
        self._verdict = held_against(acknowledged, entries)
        self._resume = judge(self._timeline, read_outside(outside))
        self.is_good: Final = self._verdict.is_good and self._resume.is_good

    def print(self) -> None:
        """Print it for people."""
        title = f"the journal of {AGENT_ID}, as agent-journal show tells it:"
        self._terminal.line()
        self._terminal.line(self._terminal.paint(title, "bold"))
        Table(self._terminal, COLUMNS).print(self._with_outage())
        self._terminal.line()
        for answer in self._answers():
            for line in textwrap.wrap(f"its answer: {harmless(answer)}", self._width):
                self._terminal.line(line)
            self._terminal.line()
        for line in (*self._resume_lines(), self._in_flight_line()):
            self._terminal.line(line)
        verdict = self._painted(str(self._verdict), is_good=self._verdict.is_good)
        self._terminal.line(f"all {self._writers} writers: {verdict}")

    def print_json(self) -> None:
        """Print it for programs."""
        repeats_found = sum(known.duplicate for known in self._in_flight)
        print_json(
            {
                **asdict(self._verdict),
                "writers": self._writers,
                "in_flight": len(self._in_flight),
                "in_flight_recorded_before": repeats_found,
                "resume": asdict(self._resume),
                "outage": asdict(self._outage),
                "is_good": self.is_good,
            }
        )

    def _resume_lines(self) -> Iterator[str]:
        found = self._resume
        yield (
            f"attempt 1 executed {_steps(found.executed_before)}; attempt 2 was handed "
            f"{found.replayed} of them back and executed {found.executed_after}"
        )
        yield (
            f"in flight at the kill: {_steps(found.in_flight)}, asked for again with the same "
            "idempotency key"
        )
        rare = {
            "run again although recorded": found.run_again,
            "done and not recorded": found.unrecorded,
        }
        counts = [
            f"{_steps(found.steps)}, {found.once:,} done exactly once",
            f"{found.doubled:,} doubled",
            f"{found.missing:,} missing",
            *(f"{count:,} {name}" for name, count in rare.items() if count),
        ]
        verdict = self._painted(", ".join(counts), is_good=found.is_good)
        yield f"effects outside the journal: {verdict}"

    def _painted(self, verdict: str, *, is_good: bool) -> str:
        return self._terminal.paint(verdict, "green" if is_good else "alarm")

    def _with_outage(self) -> Iterator[Row]:
        """Return the timeline's rows, with a line where the daemon was killed and restarted."""
        outage = self._outage
        rules = [
            (outage.killed_us, f"agent {outage.agent_pid} killed (SIGKILL)", "alarm"),
            (outage.killed_us, f"daemon {outage.killed_pid} killed (SIGKILL)", "alarm"),
            (outage.restarted_us, f"daemon {outage.restarted_pid} started", "green"),
        ]
        for item, row in zip(self._timeline.items, rows(self._timeline), strict=True):
            while rules and begin_of(item) > from_us(rules[0][0]):
                yield _rule(*rules.pop(0))
            yield row
        for rule in rules:
            yield _rule(*rule)

    def _answers(self) -> Iterator[str]:
        for moment in self._timeline.moments:
            payload = moment.payload
            if moment.name == "Terminated" and isinstance(payload, dict) and "result" in payload:
                yield str(payload["result"])

    def _in_flight_line(self) -> str:
        count = len(self._in_flight)
        recorded = sum(known.duplicate for known in self._in_flight)
        appends = "1 append was" if count == 1 else f"{count} appends were"
        return (
            f"writers: {appends} unanswered at the kill and repeated; "
            f"{recorded} had been recorded, {count - recorded} had not"
        )


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count:,} steps"


def _rule(wall_us: int, text: str, style: str) -> Rule:
    moment = from_us(wall_us).isoformat(sep=" ", timespec="milliseconds")[11:23]
    return Rule(f"{moment}  {text}", style)
