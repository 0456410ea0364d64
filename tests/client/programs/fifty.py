"""Fifty steps, every other one with an effect that is counted outside.

    python fifty.py AGENT-ID DIRECTORY [without-intents]

Effects are lines of the file ``effects``.  A step in doubt is told in the file ``doubts``, looked
for in ``effects``, and completed or run again.  ``without-intents`` is the mutant that does not
record them.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from typing import Any

from agent_journal.client import StepInDoubtError, connect
from agent_journal.client._steps import Steps

STEPS = 50
TOOL_SECONDS = 0.002  # long enough to be killed within

agent_id, directory = sys.argv[1], Path(sys.argv[2])
effects, doubts = directory / "effects", directory / "doubts"


def note(file: Path, line: str) -> None:
    with file.open("a") as lines:
        lines.write(f"{line}\n")


def think(before: str) -> str:
    time.sleep(TOOL_SECONDS)
    return hashlib.sha256(before.encode()).hexdigest()


def act(key: str, before: str) -> str:
    note(effects, key)
    time.sleep(TOOL_SECONDS)
    return think(before)


def forget_intents() -> None:
    def intend(_: Steps, step: Any) -> Any:
        step.is_running = True
        return
        yield

    Steps._intend = intend  # type: ignore[method-assign]


def main() -> None:
    with connect() as journal, journal.agent(agent_id, command=False) as agent:
        text = "begin"
        for number in agent.iterations(range(STEPS)):
            key = f"step-{number}"
            if number % 2 == 0:
                text = agent.step(key, think, text, effect="read_only")
                continue
            try:
                text = agent.step(key, act, key, text)
            except StepInDoubtError as error:
                note(doubts, key)
                if effects.exists() and key in effects.read_text().split():
                    text = agent.complete_step(error.step, think(text))
                else:
                    text = agent.step(key, act, key, text, in_doubt="rerun")
        agent.finish(text)


if "without-intents" in sys.argv:
    forget_intents()
main()
