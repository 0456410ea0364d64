"""A page of entries: the bytes that each would have by itself, as many as there is room for."""

from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st

from agent_journal.model import ITERATION_MAX, SEQUENCE_MAX, Micros, Position, Sequence
from agent_journal.service.rendering import EntryRenderer, Page
from agent_journal.store.base import AgentNumber, Entry

A_SECOND = 1_000_000

entries_of_one_agent = st.lists(
    st.builds(
        Entry,
        number=st.just(AgentNumber(1)),
        sequence=st.integers(0, SEQUENCE_MAX).map(Sequence),
        position=st.integers(0, SEQUENCE_MAX).map(Position),
        timestamp=st.integers(-A_SECOND, 3 * A_SECOND).map(Micros),
        iteration=st.integers(0, ITERATION_MAX),
        event=st.sampled_from([b'{"E":1}', b'{"%d":"%s"}', b'{"L":"%b"}' % (b"x" * 900)]),
    ),
    max_size=12,
)


def one_by_one(entries: list[Entry]) -> list[bytes]:
    renderer = EntryRenderer()
    return [
        renderer.render(e.sequence, e.position, e.timestamp, b"a:b", e.iteration, e.event)
        for e in entries
    ]


@given(slices=st.lists(entries_of_one_agent, max_size=4))
def test_a_page_holds_what_each_entry_is_by_itself(slices: list[list[Entry]]) -> None:
    page = Page(b"a:b", 1 << 20)
    for some in slices:
        page.take(some)
    whole = [entry for some in slices for entry in some]
    assert page.rendered() == b",".join(one_by_one(whole))
    assert page.count == len(whole)
    assert len(json.loads(b"[" + page.rendered() + b"]")) == len(whole)


@given(entries=entries_of_one_agent, room=st.integers(-1, 6000), at_once=st.integers(1, 12))
@example(entries=[], room=0, at_once=1)
def test_a_page_holds_as_many_as_there_is_room_for_but_one_at_the_least(
    entries: list[Entry], room: int, at_once: int
) -> None:
    page = Page(b"a:b", room)
    for start in range(0, len(entries), at_once):
        if page.has_room:
            before = page.count
            page.take(entries[start : start + at_once])
            if page.count - before < at_once:
                break
    pieces = one_by_one(entries)
    assert page.rendered() == b",".join(pieces[: page.count])
    assert page.count >= min(1, len(entries))
    assert len(page.rendered()) <= room or page.count <= 1
    if page.count < len(entries):  # the next one has no room, but for the comma at most
        assert len(page.rendered()) + len(pieces[page.count]) >= room


def test_the_room_is_kept_to_the_byte() -> None:
    """Whether it is certain that all have room, or they are tried one by one."""
    entries = [
        Entry(AgentNumber(1), Sequence(n), Position(n), Micros(n), n, b'{"E":1}')
        for n in (0, 7, ITERATION_MAX)
    ]
    pieces = one_by_one(entries)
    for room in range(600):
        page = Page(b"a:b", room)
        page.take(entries)
        fitting = [n for n in (1, 2, 3) if len(b",".join(pieces[:n])) <= room]
        assert page.count == max(fitting, default=1)
