"""An agent with side effects, to be killed: each step writes its number to a file.

    python worker.py AGENT-ID FILE STEPS [OPTION...]

Options: ``hang=N`` hangs in step N, behind its effect, the first time that it comes there;
``sleep=S`` sleeps before the last step; ``manual`` is not to be resumed by the daemon;
``async`` uses asyncio; ``crash=N`` raises in step N, each time.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

from agent_journal.client import StepInDoubtError, connect, connect_async

agent_id, file, count, *rest = sys.argv[1:]
options = dict(option.partition("=")[::2] for option in rest)
path = Path(file)


def act(number: int) -> dict[str, int]:
    with path.open("a") as effects:
        effects.write(f"{number}\n")
    if number == int(options.get("crash", -1)):
        raise SystemExit("crashed, as it was told to")
    hung = path.with_suffix(".hung")
    if number == int(options.get("hang", -1)) and not hung.exists():
        hung.touch()
        time.sleep(600)
    return {"number": number, "square": number * number}


def verified(number: int) -> bool:
    """Look whether the effect is there, as a person would."""
    return str(number) in path.read_text().split()


def settings() -> dict[str, Any]:
    said: dict[str, Any] = {"kind": "worker", "suspend_after_s": 0.1}
    if "manual" in options:
        said["command"] = False
    return said


def blocking() -> None:
    with connect() as journal, journal.agent(agent_id, **settings()) as agent:
        total = 0
        for number in agent.iterations(range(int(count))):
            if number == int(count) - 1 and "sleep" in options:
                agent.sleep(float(options["sleep"]))
            try:
                result = agent.step(f"act-{number}", act, number)
            except StepInDoubtError as error:
                if verified(number):
                    result = agent.complete_step(
                        error.step, {"number": number, "square": number**2}
                    )
                else:
                    result = agent.step(f"act-{number}", act, number, in_doubt="rerun")
            total += result["square"]
        agent.finish({"total": total})


async def asynchronous() -> None:
    async with connect_async() as journal, journal.agent(agent_id, **settings()) as agent:
        results = await asyncio.gather(
            *(agent.step(f"act-{n}", act, n, effect="idempotent") for n in range(int(count)))
        )
        if "sleep" in options:
            await agent.sleep(float(options["sleep"]))
        await agent.finish({"total": sum(result["square"] for result in results)})


if "async" in options:
    asyncio.run(asynchronous())
else:
    blocking()
