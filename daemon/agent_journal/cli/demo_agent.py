"""The demo's agent, a process of its own: reason, check policy, call tools, observe.

    python -m agent_journal.cli.demo_agent --socket … --ledger … --directory …

Each phase is journaled, with what it found, before the next one begins.  There
is not a word here about a daemon that goes away: that an append is repeated
until it is acknowledged, and recorded once, is the client's business.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ..client import Client, connect
from ..clock import Clock
from .demo_ledger import Acknowledgement, Ledger
from .demo_model import GOAL, Action, Observation, decide
from .demo_tools import ToolError, Workspace
from .output import json_text

AGENT_ID: Final = "demo-agent"
ITERATIONS_MAX: Final = 12


class Recorder:
    """Appends an agent's events and keeps the ledger of their acknowledgements."""

    def __init__(self, journal: Client, ledger: Ledger, agent_id: str) -> None:
        self._journal = journal
        self._ledger = ledger
        self._agent_id = agent_id
        self._clock = Clock()

    def record(self, iteration: int, event: dict[str, Any]) -> Acknowledgement:
        """Append *event*; on return it is durable, and the ledger says so."""
        asked = self._clock.monotonic()
        appended = self._journal.append(self._agent_id, event, iteration=iteration)
        acknowledgement = Acknowledgement(
            agent_id=self._agent_id,
            sequence=appended.sequence,
            position=appended.position,
            iteration=iteration,
            event=event,
            duplicate=appended.duplicate,
            asked=asked,
            answered=self._clock.monotonic(),
        )
        self._ledger.write(acknowledgement)
        return acknowledgement


class Policy:
    """What the agent may do: tools that only read."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = frozenset(allowed)

    def denial(self, action: Action) -> str | None:
        """Return why *action* is denied, ``None`` if it is allowed."""
        if action.tool not in self._allowed:
            return "the policy allows only tools that read"
        if any(".." in str(value).split("/") for value in action.arguments.values()):
            return "the path leads out of the directory"
        return None


class Agent:
    """The loop."""

    def __init__(self, recorder: Recorder, workspace: Workspace, *, think_s: float) -> None:
        self._recorder = recorder
        self._workspace = workspace
        self._policy = Policy(list(workspace.tools))
        self._think_s = think_s
        self._clock = Clock()
        self._observations: list[Observation] = []

    def run(self, directory: Path) -> None:
        """Go round until the model has an answer."""
        tools = sorted(self._workspace.tools)
        self._record(
            0, "Started", goal=GOAL, model="scripted", tools=tools, directory=str(directory)
        )
        for iteration in range(1, ITERATIONS_MAX + 1):
            threading.Event().wait(self._think_s)  # as long as a very quick model would take
            decision = decide(self._observations)
            calls = list(zip(_call_ids(iteration), decision.actions, strict=False))
            actions = [
                {"call_id": call_id, "tool": action.tool, "arguments": dict(action.arguments)}
                for call_id, action in calls
            ]
            self._record(iteration, "ReasoningComplete", thought=decision.thought, actions=actions)
            if decision.answer is not None:
                self._record(iteration, "Terminated", reason="Completed", answer=decision.answer)
                return
            self._act(iteration, calls)
        self._record(ITERATIONS_MAX, "Terminated", reason="MaxIterations")

    def _act(self, iteration: int, calls: Sequence[tuple[str, Action]]) -> None:
        """Take one iteration's actions through policy, tools and observation."""
        denials = {call_id: self._policy.denial(action) for call_id, action in calls}
        self._record(
            iteration,
            "PolicyEvaluated",
            allowed=[call_id for call_id, _ in calls if denials[call_id] is None],
            denied=[
                {"call_id": call_id, "tool": action.tool, "reason": denials[call_id]}
                for call_id, action in calls
                if denials[call_id] is not None
            ],
        )
        dispatched = [(call_id, action) for call_id, action in calls if denials[call_id] is None]
        # Before the tools run: after a crash it is known that they may have.
        names = [{"call_id": call_id, "tool": action.tool} for call_id, action in dispatched]
        self._record(iteration, "ToolsDispatched", calls=names)
        found = [self._observed(call_id, action, denials[call_id]) for call_id, action in calls]
        self._record(iteration, "ObservationsCollected", observations=found)

    def _observed(self, call_id: str, action: Action, denial: str | None) -> dict[str, Any]:
        began = self._clock.monotonic()
        result, error = None, denial
        if denial is None:
            try:
                result = self._workspace.call(action.tool, action.arguments)
            except ToolError as failed:
                error = str(failed)
        self._observations.append(Observation(action.tool, result, error))
        outcome = {"result": result} if error is None else {"error": error}
        duration_ms = round((self._clock.monotonic() - began) * 1000, 3)
        return {"call_id": call_id, "tool": action.tool, **outcome, "duration_ms": duration_ms}

    def _record(self, iteration: int, name: str, **payload: object) -> None:
        known = self._recorder.record(iteration, {name: payload})
        # For whoever watches; a line is an acknowledged entry.
        progress = {"iteration": iteration, "event": name, "sequence": known.sequence}
        sys.stdout.write(json_text(progress) + "\n")
        sys.stdout.flush()


def _call_ids(iteration: int) -> list[str]:
    return [f"call-{iteration}{letter}" for letter in "abcdefgh"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent as a process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--think-s", type=float, default=0.0)
    arguments = parser.parse_args(argv)
    with Ledger(arguments.ledger) as ledger, connect(arguments.socket) as journal:
        recorder = Recorder(journal, ledger, AGENT_ID)
        agent = Agent(recorder, Workspace(arguments.directory), think_s=arguments.think_s)
        agent.run(arguments.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
