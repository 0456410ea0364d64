"""What the demo proves: the agent's timeline, and the journal held against the ledgers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from ..client import connect
from .demo_agent import AGENT_ID
from .demo_ledger import Acknowledgement, held_against, read_ledger
from .output import print_json
from .read import COLUMNS, rows
from .terminal import WIDTH_DEFAULT, Row, Rule, Table, harmless, standard_output
from .timestamps import from_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """When there was no daemon: by the wall clock, as entries have it, and by the monotonic one."""

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
    """The journal as it is after the play."""

    def __init__(self, socket: Path, ledgers: Sequence[Path], outage: Outage) -> None:
        ledger = [known for path in ledgers for known in read_ledger(path)]
        with connect(socket) as journal:
            agents = [agent.agent_id for agent in journal.agents()]
            entries = [entry for agent_id in agents for entry in journal.read(agent_id)]
        self._terminal = standard_output()
        self._width = self._terminal.width or WIDTH_DEFAULT
        self._outage = outage
        self._timeline = [entry for entry in entries if entry.agent_id == AGENT_ID]
        self._agents = len(agents)
        self._in_flight = [known for known in ledger if outage.spanned_by(known)]
        self._verdict = held_against(ledger, entries)
        self.is_good: Final = self._verdict.is_good

    def print(self) -> None:
        """Print it for people."""
        title = f"the journal of {AGENT_ID}, read back:"
        self._terminal.line()
        self._terminal.line(self._terminal.paint(title, "bold"))
        Table(self._terminal, COLUMNS).print(self._with_outage())
        self._terminal.line()
        for answer in self._answers():
            for line in textwrap.wrap(f"its answer: {harmless(answer)}", self._width):
                self._terminal.line(line)
            self._terminal.line()
        self._terminal.line(self._in_flight_line())
        verdict = self._terminal.paint(str(self._verdict), "green" if self.is_good else "alarm")
        agents = "1 agent" if self._agents == 1 else f"all {self._agents} agents"
        self._terminal.line(f"{agents}: {verdict}")

    def print_json(self) -> None:
        """Print it for programs."""
        repeats_found = sum(known.duplicate for known in self._in_flight)
        print_json(
            {
                **asdict(self._verdict),
                "agents": self._agents,
                "in_flight": len(self._in_flight),
                "in_flight_recorded_before": repeats_found,
                "outage": asdict(self._outage),
                "is_good": self.is_good,
            }
        )

    def _with_outage(self) -> Iterator[Row]:
        """Return the timeline's rows, with a line where the daemon was killed and restarted."""
        outage = self._outage
        rules = [
            (outage.killed_us, f"daemon {outage.killed_pid} killed (SIGKILL)", "alarm"),
            (outage.restarted_us, f"daemon {outage.restarted_pid} started", "green"),
        ]
        for entry, row in zip(self._timeline, rows(iter(self._timeline)), strict=True):
            while rules and entry.timestamp > from_us(rules[0][0]):
                yield _rule(*rules.pop(0))
            yield row
        for rule in rules:
            yield _rule(*rule)

    def _answers(self) -> Iterator[str]:
        for entry in self._timeline:
            payload = entry.payload
            if entry.name == "Terminated" and isinstance(payload, dict) and "answer" in payload:
                yield str(payload["answer"])

    def _in_flight_line(self) -> str:
        count = len(self._in_flight)
        recorded = sum(known.duplicate for known in self._in_flight)
        appends = "1 append was" if count == 1 else f"{count} appends were"
        return (
            f"{appends} unanswered at the kill; repeated by the clients, "
            f"{recorded} had been recorded already, {count - recorded} had not"
        )


def _rule(wall_us: int, text: str, style: str) -> Rule:
    moment = from_us(wall_us).isoformat(sep=" ", timespec="milliseconds")[11:23]
    return Rule(f"{moment}  {text}", style)
