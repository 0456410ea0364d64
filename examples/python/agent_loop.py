"""An agent's loop that survives its own death: started again, it goes on behind its last step.

    python agent_loop.py agent-id FILE...

The agent counts the words of each file.  A step's intent is recorded before the tool runs and its
result before the agent uses it, so what was finished is never done again.  Try it: name a file
that does not exist, see the agent die there, make the file, and run the same command again.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from agent_journal.client import Client, connect
from agent_journal.errors import JournalError, NotFoundError


class Loop:
    """One agent's steps, each done once: recorded results are given back, not computed again."""

    def __init__(self, journal: Client, agent_id: str) -> None:
        self.journal = journal
        self.agent_id = agent_id
        self.iteration = 0
        self.results: dict[str, Any] = {}
        try:
            for entry in journal.read(agent_id):
                done: Any = entry.event.get("StepCompleted")
                if done is not None:
                    self.results[done["key"]] = done["result"]
        except NotFoundError:
            pass  # it has not begun

    def record(self, name: str, key: str, **payload: object) -> None:
        """Append one event; it is durable on return, and recorded once for each key."""
        event = {name: {"key": key, **payload}}
        self.journal.append(self.agent_id, event, iteration=self.iteration, key=f"{name}:{key}")

    def step(self, key: str, work: Callable[[], object]) -> Any:  # noqa: ANN401 - what was recorded
        """Return the result of *work*, which is done only if the journal does not have it."""
        if key in self.results:
            print(f"{key}: recorded")
        else:
            self.record("StepStarted", key)  # whoever reads a start without an end knows: in doubt
            result = work()
            self.record("StepCompleted", key, result=result)
            self.results[key] = result
            print(f"{key}: done")
        return self.results[key]


def reason(files: list[str], observed: dict[str, int]) -> str | None:
    """Say which file to look at next, as a model would, or that there is none."""
    return next((file for file in files if file not in observed), None)


def count_words(file: str) -> int:
    """Use a tool; one that only reads, so that doing it again after a crash is harmless."""
    return len(Path(file).read_text(encoding="utf-8").split())


def main(agent_id: str, files: list[str]) -> None:
    """Reason, act, observe, until there is nothing left to do."""
    with connect() as journal:
        loop = Loop(journal, agent_id)
        loop.record("Started", "start", files=files)
        observed: dict[str, int] = {}
        while True:
            loop.iteration += 1
            file = loop.step(f"reason-{loop.iteration}", partial(reason, files, observed))
            if file is None:
                break
            observed[file] = loop.step(f"count-{loop.iteration}", partial(count_words, file))
        total = sum(observed.values())
        loop.record("Terminated", "end", reason="Completed", words=total)
        print(f"{total} words in {len(observed)} files")


if __name__ == "__main__":
    if len(sys.argv) < 3:  # noqa: PLR2004
        sys.exit(f"usage: {sys.argv[0]} agent-id FILE...")
    try:
        main(sys.argv[1], sys.argv[2:])
    except (JournalError, OSError) as problem:
        sys.exit(str(problem))
