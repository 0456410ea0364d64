"""An agent that may be killed at any moment: it sums up files, asks for leave, and publishes once.

    python durable_agent.py [--ask] OUTBOX FILE...

A loop as agents have it: the model says what to do next, a tool does it, the model sees what came
of it.  The model here is a few rules, so that the example runs anywhere; put your own call into
``ask_model``.  Try it: kill it (``kill -9``) while it works, and see the daemon start it again.
With ``--ask`` it waits for a person before it publishes, in no process at all:

    agent-journal signal AGENT leave true
"""

import argparse
import asyncio
import json
import os
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent_journal.client import AsyncDurableAgent, Reconciled, connect_async, current_step
from agent_journal.errors import JournalError

TOOL_SECONDS = float(os.environ.get("TOOL_SECONDS", "0"))  # slower tools are easier to kill


@dataclass
class Action:
    """What the model wants done."""

    tool: str
    arguments: dict[str, Any] = field(default_factory=dict)


async def ask_model(task: list[str], seen: list[dict[str, Any]]) -> Action:
    """Say what to do next; stands for a call to a model, which is dear and never the same twice."""
    done = {observation["file"] for observation in seen}
    for file in task:
        if file not in done:
            return Action("count_words", {"file": file})
    lines = [f"{observation['words']:>6} {observation['file']}" for observation in seen]
    return Action("publish", {"text": "\n".join(lines)})


async def count_words(file: str) -> dict[str, Any]:
    """Read a file; doing it again does no harm."""
    await asyncio.sleep(TOOL_SECONDS)
    text = await asyncio.to_thread(Path(file).read_text, encoding="utf-8")
    return {"file": file, "words": len(text.split())}


async def publish(outbox: str, text: str) -> dict[str, Any]:
    """Send the text to the world, which must not get it twice."""
    message = json.dumps({"id": current_step().idempotency_key, "text": text})
    await asyncio.to_thread(append_line, outbox, message)
    await asyncio.sleep(TOOL_SECONDS)
    return {"published": len(text)}


async def was_published(outbox: str, text: str) -> Reconciled | None:
    """Look whether the world has it already: asked after a crash in the midst of publishing."""
    for line in await asyncio.to_thread(lines_of, outbox):
        if json.loads(line)["id"] == current_step().idempotency_key:
            return Reconciled({"published": len(text)})
    return None


def append_line(file: str, line: str) -> None:
    """Stand for the world's end of a message."""
    with Path(file).open("a", encoding="utf-8") as out:
        out.write(f"{line}\n")


def lines_of(file: str) -> list[str]:
    """Return what the world has got."""
    path = Path(file)
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


async def work(agent: AsyncDurableAgent, files: list[str], outbox: str, *, ask: bool) -> Any:  # noqa: ANN401 - what the tool said
    """Reason, act, observe, until the text is out."""
    seen: list[dict[str, Any]] = []
    for turn in agent.iterations():
        action = await agent.step(f"reason:{turn}", ask_model, files, seen)
        print(f"turn {turn}: {action.tool}", flush=True)
        if action.tool == "publish":
            if ask and not await agent.wait_for("leave", timeout=24 * 3600):
                return {"published": 0}
            return await agent.step(
                f"act:{turn}",
                publish,
                outbox,
                action.arguments["text"],
                effect="reconcilable",
                reconcile=was_published,
            )
        seen.append(
            await agent.step(f"act:{turn}", count_words, **action.arguments, effect="read_only")
        )
    return None


async def main() -> None:
    """Run the agent of these files to its end, or on from where it was."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ask", action="store_true", help="wait for leave before publishing")
    parser.add_argument("outbox")
    parser.add_argument("files", nargs="+", metavar="FILE")
    given = parser.parse_args()
    # The same files are the same agent: started twice, it is one.
    agent_id = f"sum-up-{zlib.crc32(json.dumps([given.outbox, given.files]).encode()):08x}"
    print(f"agent {agent_id}", flush=True)
    async with connect_async() as journal:
        agent = journal.agent(agent_id, kind="sum-up", environment=["TOOL_SECONDS"])
        await agent.run(lambda agent: work(agent, given.files, given.outbox, ask=given.ask))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except JournalError as problem:
        sys.exit(str(problem))
