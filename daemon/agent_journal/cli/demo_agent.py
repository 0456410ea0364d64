"""The demo's agent, a process of its own: reason, check policy, call tools, observe.

    python -m agent_journal.cli.demo_agent --socket … --outside … --directory …

It is written as if nothing ever went wrong.  Each call of the model and of a
tool is a step: recorded before and behind, and handed back instead of made
again when the agent is resumed.  That the process may be killed anywhere, and
started again by the daemon with this same command line, is not in the code.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..client import StepError, connect
from .demo_model import GOAL, Action, Decision, Observation, decide
from .demo_outside import Outside
from .demo_tools import ToolError, Workspace
from .output import json_text

if TYPE_CHECKING:
    from ..client import DurableAgent

AGENT_ID: Final = "demo-agent"
ITERATIONS_MAX: Final = 12


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


class Tools:
    """The agent's tools, and the model, with their effects on the world outside."""

    def __init__(
        self, workspace: Workspace, outside: Outside, *, slow: Callable[[str], None]
    ) -> None:
        self._workspace = workspace
        self._outside = outside
        self._slow = slow  # takes as long as the answer is on its way

    def call(
        self, call_id: str, tool: str, arguments: Mapping[str, object], idempotency_key: str
    ) -> dict[str, Any]:
        """Call a tool and return what it found.

        Raises:
            ToolError: it could not do what it was asked.
        """
        outcome, is_new = self._outside.do(
            call_id, idempotency_key, lambda: self._outcome(tool, arguments)
        )
        if is_new:
            self._slow(tool)
        if "error" in outcome:
            raise ToolError(outcome["error"])
        result: dict[str, Any] = outcome["result"]
        return result

    def think(
        self, call_id: str, observations: list[dict[str, Any]], idempotency_key: str
    ) -> dict[str, Any]:
        """Ask the model what to do after *observations*."""
        observed = [Observation(**observation) for observation in observations]

        def decided() -> dict[str, Any]:
            self._slow("model")
            return asdict(decide(observed))

        decision: dict[str, Any] = self._outside.do(call_id, idempotency_key, decided)[0]
        return decision

    def _outcome(self, tool: str, arguments: Mapping[str, object]) -> dict[str, object]:
        try:
            return {"result": self._workspace.call(tool, arguments)}
        except ToolError as failed:
            return {"error": str(failed)}


class Loop:
    """The agent's loop, in durable steps."""

    def __init__(self, agent: DurableAgent, tools: Tools, allowed: Sequence[str]) -> None:
        self._agent = agent
        self._tools = tools
        self._policy = Policy(allowed)
        self._allowed = allowed
        self._observations: list[dict[str, Any]] = []

    def run(self, directory: Path) -> None:
        """Go round until the model has an answer."""
        self._note("Started", goal=GOAL, tools=sorted(self._allowed), directory=str(directory))
        for iteration in self._agent.iterations(range(1, ITERATIONS_MAX + 1)):
            decision = self._think(iteration)
            if decision.answer is not None:
                self._agent.finish(decision.answer)
                return
            self._act(iteration, decision.actions)
        self._agent.fail(f"no answer after {ITERATIONS_MAX} iterations", reason="MaxIterations")

    def _think(self, iteration: int) -> Decision:
        key = f"think:{iteration}"
        decided = self._agent.step(
            key,
            self._tools.think,
            key,
            self._observations,
            name="model",
            effect="idempotent",
            key_parameter="idempotency_key",
            usage=_usage(self._observations),
        )
        actions = [Action(**action) for action in decided["actions"]]
        return Decision(decided["thought"], actions, decided["answer"])

    def _act(self, iteration: int, actions: Sequence[Action]) -> None:
        """Take one iteration's actions through policy, tools and observation."""
        calls = {f"call:{iteration}{letter}": a for letter, a in zip("abcdefgh", actions)}  # noqa: B905 - no more than these
        denials = {call_id: self._policy.denial(action) for call_id, action in calls.items()}
        self._note(
            "PolicyEvaluated",
            allowed=[call_id for call_id, denial in denials.items() if denial is None],
            denied=[
                {"call_id": call_id, "tool": calls[call_id].tool, "reason": denial}
                for call_id, denial in denials.items()
                if denial is not None
            ],
        )
        self._observations += [
            self._observed(call_id, action, denials[call_id]) for call_id, action in calls.items()
        ]

    def _observed(self, call_id: str, action: Action, denial: str | None) -> dict[str, Any]:
        if denial is not None:
            return {"tool": action.tool, "result": None, "error": denial}
        try:
            result = self._agent.step(
                call_id,
                self._tools.call,
                call_id,
                action.tool,
                dict(action.arguments),
                name=action.tool,
                effect="idempotent",
                key_parameter="idempotency_key",
            )
        except StepError as failed:  # the same on replay as when it happened
            return {"tool": action.tool, "result": None, "error": failed.message}
        return {"tool": action.tool, "result": result, "error": None}

    def _note(self, name: str, **payload: object) -> None:
        """Record an event once, however often the program comes here."""
        self._agent.append({name: payload}, key=f"{name}:{self._agent.iteration}")


def _usage(observations: list[dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, int]]:
    """Return what counts the tokens of a call; those of a scripted model are words."""
    taken = len(json_text(observations).split(",")) + len(GOAL.split())
    return lambda decided: {
        "input_tokens": taken,
        "output_tokens": len(str(decided["thought"]).split()),
    }


def _end_with(path: Path) -> None:
    """End this process when whoever holds the lock on *path* is gone: the demo leaves nothing."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def wait() -> None:
        fcntl.flock(fd, fcntl.LOCK_SH)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _slowness(think_s: float, slow_tool: str, slow_s: float) -> Callable[[str], None]:
    numbers = count(1)

    def slow(what: str) -> None:
        if what != "model":
            # For whoever watches: the effect is there, and nobody has recorded it yet.
            sys.stdout.write(json_text({"done": what, "number": next(numbers)}) + "\n")
            sys.stdout.flush()
        seconds = {"model": think_s, slow_tool: slow_s}.get(what, 0.0)
        threading.Event().wait(seconds)

    return slow


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent as a process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    parser.add_argument("--outside", type=Path, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--alive", type=Path)
    parser.add_argument("--think-s", type=float, default=0.0)
    parser.add_argument("--slow-tool", default="")
    parser.add_argument("--slow-s", type=float, default=0.0)
    arguments = parser.parse_args(argv)
    if arguments.alive is not None:
        _end_with(arguments.alive)
    workspace = Workspace(arguments.directory)
    with (
        connect(arguments.socket) as journal,
        journal.agent(AGENT_ID, kind="demo") as agent,
        Outside(arguments.outside, attempt=agent.attempt) as outside,
    ):
        slow_s = arguments.slow_s if agent.attempt == 1 else 0.0  # it is slow by accident
        slow = _slowness(arguments.think_s, arguments.slow_tool, slow_s)
        tools = Tools(workspace, outside, slow=slow)
        Loop(agent, tools, list(workspace.tools)).run(arguments.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
