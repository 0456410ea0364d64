"""What the index has not reached: each committed entry is in it, or in a generation."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from agent_journal.model import Micros, Position, Sequence
from agent_journal.store.base import AgentNumber, Entry, NewEntry
from agent_journal.store.rows import PackedRow, pack_rows
from agent_journal.store.unsettled import Generation, Unsettled

steps = st.lists(
    st.one_of(
        st.lists(st.integers(1, 4), min_size=1, max_size=12),  # a batch: whose entries
        st.just("freeze"),
        st.just("settle"),
    ),
    max_size=20,
)


class Writer:
    """Numbers entries, and knows where each of them lies."""

    def __init__(self) -> None:
        self.unsettled = Unsettled(Generation(0))
        self.places: dict[int, list[tuple[int, int]]] = {n: [] for n in range(1, 5)}
        self.keys: dict[tuple[int, str], tuple[int, int]] = {}
        self.rows: list[tuple[int, int]] = []  # of each row: its first position and the next
        self.settled_position = 0
        self._position = 0

    def commit(self, numbers: list[int], event: bytes = b'{"Noted":1}') -> None:
        entries = []
        for place, number in enumerate(numbers):
            sequence = len(self.places[number])
            self.places[number].append((sequence, self._position + place))
            key = f"{number}-{sequence}" if place % 3 == 0 else None
            if key is not None:
                self.keys[number, key] = sequence, self._position + place
            entries.append(
                NewEntry(
                    AgentNumber(number),
                    Sequence(sequence),
                    Micros(self._position + place),
                    place,
                    event,
                    key,
                )
            )
        rows = pack_rows(self._position, entries)
        self.rows += [(first, first + PackedRow(first, data).count) for first, data in rows]
        self.unsettled.current.add(self._position, entries, [first for first, _ in rows])
        self._position += len(entries)

    def settle(self) -> None:
        if self.unsettled.frozen is not None:
            self.settled_position = self.unsettled.frozen.next_position
            self.unsettled.frozen = None

    def row_of(self, position: int) -> int:
        return next(first for first, end in self.rows if first <= position < end)


@given(steps=steps, size=st.sampled_from([1, 3000]))
def test_what_is_not_settled_is_found_in_memory(steps: list[list[int] | str], size: int) -> None:
    """From any sequence on, up to any limit: neighbours, where they lie and in which rows."""
    writer = Writer()
    for step in steps:
        if isinstance(step, list):
            writer.commit(step, b"x" * size)
        elif step == "settle":
            writer.settle()
        elif writer.unsettled.frozen is None:
            writer.unsettled.freeze()
    for number, start, limit in product(writer.places, (0, 1, 4, 9), (1, 2, 5, 100)):
        expected = [
            (sequence, position)
            for sequence, position in writer.places[number]
            if position >= writer.settled_position and sequence >= start
        ][:limit]
        found: list[tuple[int, int]] = []
        for run in writer.unsettled.runs(AgentNumber(number), start, limit):
            found += enumerate(run.positions, run.first_sequence)
            if run.rows is not None:
                assert run.rows == [writer.row_of(position) for position in run.positions]
        assert found == expected


@given(steps=steps)
def test_a_key_is_found_until_it_is_settled(steps: list[list[int] | str]) -> None:
    writer = Writer()
    for step in steps:
        if isinstance(step, list):
            writer.commit(step)
        elif step == "settle":
            writer.settle()
        elif writer.unsettled.frozen is None:
            writer.unsettled.freeze()
    for (number, key), (sequence, position) in writer.keys.items():
        is_settled = position < writer.settled_position
        found = writer.unsettled.find_key(AgentNumber(number), key)
        assert found == (None if is_settled else sequence)
    assert writer.unsettled.find_key(AgentNumber(1), "never") is None


def test_a_key_in_either_generation_is_found() -> None:
    writer = Writer()
    writer.commit([1])
    writer.unsettled.freeze()
    writer.commit([1])
    keys = ["1-0", "1-1", "1-2"]
    assert [writer.unsettled.find_key(AgentNumber(1), key) for key in keys] == [0, 1, None]


def test_a_story_tells_what_its_agent_wrote() -> None:
    generation = Generation(10)
    entries = [
        NewEntry(AgentNumber(1), Sequence(5), Micros(100), 7, b"{}", "b"),
        NewEntry(AgentNumber(2), Sequence(0), Micros(300), 1, b"{}", None),
        NewEntry(AgentNumber(1), Sequence(6), Micros(50), 3, b"{}", "a"),
    ]
    generation.add(10, entries, [10])
    story = generation.stories[AgentNumber(1)]
    assert (story.first_sequence, story.next_sequence) == (5, 7)
    assert (story.positions, story.last_iteration, story.updated_at) == ([10, 12], 7, 50)
    assert story.keys == {"a": 6, "b": 5}
    assert generation.stories[AgentNumber(2)].keys is None
    assert (generation.entries, generation.next_position) == (3, 13)


def test_the_index_ends_where_the_oldest_generation_begins() -> None:
    unsettled = Unsettled(Generation(5))
    entry = NewEntry(AgentNumber(1), Sequence(0), Micros(0), 0, b"{}", None)
    unsettled.current.add(5, [entry], [5])
    assert unsettled.oldest.first_position == 5
    frozen = unsettled.freeze()
    assert unsettled.oldest is frozen
    unsettled.frozen = None
    assert unsettled.oldest.first_position == 6
    assert [*unsettled.stories(AgentNumber(1))] == []


def test_an_entry_found_at_start_is_as_if_it_had_just_been_committed() -> None:
    written, found = Generation(0), Generation(0)
    entry = NewEntry(AgentNumber(3), Sequence(4), Micros(5), 6, b'{"A":1}', "k")
    written.add(0, [entry], [0])
    found.put_back(Entry(AgentNumber(3), Sequence(4), Position(0), Micros(5), 6, b'{"A":1}'), "k")
    for name in ("first_sequence", "positions", "last_iteration", "updated_at", "keys"):
        assert getattr(written.stories[AgentNumber(3)], name) == getattr(
            found.stories[AgentNumber(3)], name
        )
