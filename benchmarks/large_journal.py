"""A journal of very many agents, built through the daemon itself and kept.

Agents are written some hundred at a time and entry by entry in turn, as agents
that run side by side would write.  Nearly all of them end with ``Terminated``;
the few that do not are what a recovery has to find among them.
"""

import dataclasses
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import loader
from conversation import Conversation
from loader import Shape
from measures import say
from servers import Journal, ServerError, running

CHUNK_AGENTS = 20_000  # written between two notes of the progress
BUILD_SHAPE = Shape(50, 40)
PREFIX = "agent"
CHECKED_AGENTS = 200
SEED = 20_26


@dataclass(frozen=True)
class Layout:
    """What the large journal holds."""

    agents: int
    entries_each: int
    unfinished_every: int

    @property
    def entries(self) -> int:
        """All entries of all agents."""
        return self.agents * self.entries_each

    @property
    def unfinished(self) -> int:
        """The agents without a ``Terminated``."""
        return -(-self.agents // self.unfinished_every)

    def agent_id(self, number: int) -> str:
        """Return the id of an agent by its number."""
        return f"{PREFIX}-{number:07}"


class Progress:
    """How far the build has come, beside the journal that it builds."""

    def __init__(self, directory: Path, layout: Layout) -> None:
        self._file = directory / "progress.json"
        self._layout = layout
        self.agents_done = 0
        self.seconds = 0.0
        if self._file.exists():
            self._load()

    def _load(self) -> None:
        noted = json.loads(self._file.read_text())
        if noted["layout"] != dataclasses.asdict(self._layout):
            raise SystemExit(
                f"{self._file.parent} holds another journal ({noted['layout']}); "
                "remove it or choose another --dir"
            )
        self.agents_done, self.seconds = noted["agents_done"], noted["seconds"]

    def note(self, agents_done: int, seconds: float) -> None:
        """Remember that so many agents are written whole."""
        self.agents_done, self.seconds = agents_done, self.seconds + seconds
        text = json.dumps(
            {
                "layout": dataclasses.asdict(self._layout),
                "agents_done": self.agents_done,
                "seconds": self.seconds,
            }
        )
        draft = self._file.with_suffix(".new")
        draft.write_text(text)
        draft.rename(self._file)


def build(journal: Journal, layout: Layout) -> float:
    """Write what is still missing of the large journal; return the seconds that all of it took.

    A chunk that was interrupted is written again from its beginning: each entry
    names the sequence that it expects, so what is there already stays single.
    """
    progress = Progress(journal.directory, layout)
    if progress.agents_done < layout.agents:
        with running(journal):
            _fill(journal, layout, progress)
    return progress.seconds


def _fill(journal: Journal, layout: Layout, progress: Progress) -> None:
    while progress.agents_done < layout.agents:
        agents = min(CHUNK_AGENTS, layout.agents - progress.agents_done)
        begin = time.monotonic()
        report = loader.run(
            journal,
            mode="fill",
            prefix=PREFIX,
            first=progress.agents_done,
            agents=agents,
            entries=layout.entries_each,
            unfinished=layout.unfinished_every,
            connections=BUILD_SHAPE.connections,
            depth=BUILD_SHAPE.depth,
        )
        progress.note(progress.agents_done + agents, time.monotonic() - begin)
        say(
            f"{progress.agents_done:,} of {layout.agents:,} agents, "
            f"{report.entries_per_second:,.0f} entries/s, {journal.resident_mb():.0f} MB resident"
        )


def check(journal: Journal, layout: Layout) -> None:
    """Look whether the journal holds what it should, at random places and at both ends."""
    chosen = random.Random(SEED).sample(range(layout.agents), min(200, layout.agents))  # noqa: S311
    with Conversation(journal) as peer:
        for number in {0, layout.agents - 1, *chosen}:
            agent = peer.ask("describe", agent_id=layout.agent_id(number))["agent"]
            is_finished = number % layout.unfinished_every != 0
            if agent["entries"] != layout.entries_each:
                raise ServerError(f"{agent['agent_id']} has {agent['entries']} entries")
            if agent["state"] != ("completed" if is_finished else "running"):
                raise ServerError(f"{agent['agent_id']} is {agent['state']}")
