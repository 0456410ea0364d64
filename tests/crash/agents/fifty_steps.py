"""An agent of fifty steps, every other one with an effect on the world outside.

    python fifty_steps.py AGENT-ID DIRECTORY [take-over] [hold=PLACE,PLACE…]

Two files in the directory are the world, and survive whatever is killed: each call of a step's
function is a line of ``calls`` (key, idempotency key, epoch), and what else can be told from
outside is a line of ``story``.  A line is one write to a file that is only appended to, so a
process that is killed wrote it or did not.

A step is one of five kinds, by its number, and what happens when one is in doubt differs: it is
run again (``read_only``, ``idempotent``), the world is asked by the library (``reconcilable``) or
by this program (``unsafe``), or a person is (``parked``, which are unsafe too).

At a place to hold, the process says so and waits until somebody opens its gate.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

from agent_journal.client import FencedError, Reconciled, StepInDoubtError, connect
from agent_journal.errors import AgentAttachedError

STEPS = 50
TOOL_SECONDS = 0.002  # long enough to be killed within
EFFECTS = ["unsafe", "idempotent", "reconcilable", "parked"]

agent_id, directory = sys.argv[1], Path(sys.argv[2])
options = dict(option.partition("=")[::2] for option in sys.argv[3:])
places = options.get("hold", "").split(",")
epoch = 0


def note(file: str, *words: object) -> None:
    line = " ".join(map(str, words)) + "\n"
    descriptor = os.open(directory / file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def hold(place: str) -> None:
    if place in places:
        gate = directory / f"gate-{os.getpid()}"
        if not gate.exists():
            os.mkfifo(gate)
        note("story", "holding", os.getpid(), place)
        gate.read_bytes()


def think(before: str) -> str:
    return hashlib.sha256(before.encode()).hexdigest()


def call(key: str, before: str, *, idempotency_key: str) -> str:
    hold(f"within-{key}")
    note("calls", key, idempotency_key, epoch)
    time.sleep(TOOL_SECONDS)
    hold(f"behind-{key}")
    return think(before)


def is_done(key: str) -> bool:
    lines = (directory / "calls").read_text().splitlines()
    return any(line.split()[0] == key for line in lines)


def look(key: str, before: str, *, idempotency_key: str) -> Reconciled | None:
    note("story", "asked", key, epoch)
    return Reconciled(think(before)) if is_done(key) else None


def main() -> None:
    global epoch  # noqa: PLW0603 - a program of one agent
    note("story", "began", os.getpid())
    hold("start")
    with connect() as journal, journal.agent(agent_id, take_over="take-over" in options) as agent:
        epoch = agent.epoch
        note("story", "attached", os.getpid(), epoch)
        text = "begin"
        for number in agent.iterations(range(STEPS)):
            key = f"step-{number}"
            kind = EFFECTS[number // 2 % 4] if number % 2 else "read_only"
            hold(key)
            try:
                text = agent.step(
                    key,
                    call,
                    key,
                    text,
                    effect="unsafe" if kind == "parked" else kind,
                    reconcile=look if kind == "reconcilable" else None,
                    in_doubt="park" if kind == "parked" else None,
                    key_parameter="idempotency_key",
                )
            except StepInDoubtError as error:
                note("story", "doubted", key, epoch)
                if is_done(key):
                    text = agent.complete_step(error.step, think(text))
                else:
                    text = agent.step(
                        key,
                        call,
                        key,
                        text,
                        in_doubt="rerun",
                        key_parameter="idempotency_key",
                    )
        agent.finish(text)


if __name__ == "__main__":
    try:
        main()
    except AgentAttachedError as told:
        note("story", "refused", os.getpid(), told.details["epoch"], told.details["pid"])
        raise
    except FencedError as told:
        cause: BaseException = told
        while cause.__cause__ is not None:
            cause = cause.__cause__
        code = getattr(cause, "code", type(cause).__name__)
        note("story", "fenced", os.getpid(), epoch, code, told.details.get("current"))
        raise
