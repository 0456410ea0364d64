"""The entries that the index on disk has not reached yet.

The index from an agent's sequences to positions is the costly part of a
journal: agents write in turn, so keeping it up to date in each commit dirties
a page per agent per commit.  So it trails behind.  What it has not reached is
in memory, one ``Generation`` at a time: the current one grows with each commit;
when it is large it is frozen and written to the index in slices, agent by
agent, while the next one grows.  A restart finds the same entries again behind
the index's high-water mark in the log.

Invariant: each committed entry is in the index on disk, or in a generation.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from ..model import Micros
from .base import AgentNumber, Entry, NewEntry
from .runs import PackedRun, Run

# A reader of a few entries reads the whole run that they are in: a page of the index.
RUN_ENTRIES_MAX: Final = 1024


class Story:
    """What one agent wrote within a generation."""

    __slots__ = ("first_sequence", "keys", "last_iteration", "positions", "updated_at")

    def __init__(self, first_sequence: int) -> None:
        self.first_sequence = first_sequence
        self.positions: list[int] = []
        self.last_iteration = 0
        self.updated_at = Micros(0)
        self.keys: dict[str, int] | None = None

    @property
    def next_sequence(self) -> int:
        """The sequence behind the last one."""
        return self.first_sequence + len(self.positions)


class Generation:
    """The stories of a stretch of the log."""

    def __init__(self, first_position: int) -> None:
        self.first_position = first_position
        self.next_position = first_position
        self.stories: dict[AgentNumber, Story] = {}
        self.rows: list[int] = []  # where the rows of the log begin
        self.entries = 0
        self.keys = 0

    def add(self, first_position: int, entries: Sequence[NewEntry], rows: Iterable[int]) -> None:
        """Take in entries that were committed as *rows* from *first_position* on."""
        stories = self.stories
        position = first_position
        for entry in entries:
            story = stories.get(entry.number)
            if story is None:
                story = stories[entry.number] = Story(entry.sequence)
            story.positions.append(position)
            if entry.iteration > story.last_iteration:  # noqa: PLR1730 - a call per entry
                story.last_iteration = entry.iteration
            story.updated_at = entry.timestamp
            if entry.key is not None:
                if story.keys is None:
                    story.keys = {}
                story.keys[entry.key] = entry.sequence
                self.keys += 1
            position += 1
        self.next_position = position
        self.entries += len(entries)
        self.rows += rows

    def run(self, story: Story, skip: int = 0, limit: int | None = None) -> Run:
        """Return where the entries of *story* lie, from the one behind *skip* on."""
        positions = story.positions[skip : None if limit is None else skip + limit]
        first_sequence = story.first_sequence + skip
        if positions[-1] - positions[0] == len(positions) - 1:
            return Run(first_sequence, positions, None)
        rows = self.rows
        return Run(
            first_sequence, positions, [rows[bisect_right(rows, at) - 1] for at in positions]
        )

    def packed_runs(self, numbers: Iterable[AgentNumber]) -> Iterator[PackedRun]:
        """Yield all of the agents' runs as they are stored.

        What ``run().packed()`` would say, for thousands of entries at once.
        """
        base = self.first_position
        place_of = self._places()
        for number in numbers:
            story = self.stories[number]
            first_sequence, whole = story.first_sequence, story.positions
            if whole[-1] - whole[0] == len(whole) - 1:
                yield number, first_sequence, len(whole), whole[0], b"", b""
                continue
            for start in range(0, len(whole), RUN_ENTRIES_MAX):
                positions = whole[start : start + RUN_ENTRIES_MAX]
                first = positions[0]
                offsets = array("I", [position - first for position in positions]).tobytes()
                places = bytes([place_of[position - base] for position in positions])
                yield number, first_sequence + start, len(positions), first, offsets, places

    def _places(self) -> bytes:
        """Return the place in its row of each entry of the generation."""
        ends = [*self.rows[1:], self.next_position]
        ascending = bytes(range(256))
        return b"".join([ascending[: end - row] for row, end in zip(self.rows, ends, strict=True)])[
            -(self.next_position - self.first_position) :
        ]

    def put_back(self, entry: Entry, key: str | None) -> None:
        """Take in an entry that was found in the log at start."""
        new = NewEntry(
            entry.number, entry.sequence, entry.timestamp, entry.iteration, entry.event, key
        )
        self.add(entry.position, [new], ())


class Slice(NamedTuple):
    """Agents of a frozen generation that are settled together."""

    generation: Generation
    numbers: list[AgentNumber]
    is_last: bool  # nothing of the generation is left behind it


class Unsettled:
    """The generation that grows, and the one that is being written to the index."""

    def __init__(self, found: Generation) -> None:
        self.current = found
        self.frozen: Generation | None = None

    @property
    def oldest(self) -> Generation:
        """The generation that begins where the index ends."""
        return self.frozen or self.current

    def freeze(self) -> Generation:
        """Begin a new generation; return the one to be settled."""
        self.frozen = self.current
        self.current = Generation(self.frozen.next_position)
        return self.frozen

    def stories(self, number: AgentNumber) -> Iterator[Story]:
        """Yield what is in memory of an agent, oldest first."""
        if self.frozen is not None and (story := self.frozen.stories.get(number)):
            yield story
        if story := self.current.stories.get(number):
            yield story

    def runs(self, number: AgentNumber, from_sequence: int, limit: int) -> list[Run]:
        """Return where up to *limit* entries of an agent lie, of those in memory."""
        runs: list[Run] = []
        for generation in (self.frozen, self.current):
            story = generation.stories.get(number) if generation is not None else None
            if generation is None or story is None or limit <= 0:
                continue
            skip = max(from_sequence - story.first_sequence, 0)
            if skip < len(story.positions):
                run = generation.run(story, skip, limit)
                limit -= len(run.positions)
                runs.append(run)
        return runs

    def find_key(self, number: AgentNumber, key: str) -> int | None:
        """Return the sequence that *key* was used for, if it is in memory."""
        for story in self.stories(number):
            if story.keys is not None and key in story.keys:
                return story.keys[key]
        return None
