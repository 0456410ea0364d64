"""What is sent to hold, give up and steer an agent, and what may be sent twice."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from agent_journal.client import _holding as holding
from agent_journal.client._requests import Request
from agent_journal.errors import InvalidError

PAGE = holding.HISTORY_PAGE_ENTRIES


def sent(request: Request[Any]) -> dict[str, Any]:
    line = request.line(7)
    assert line.startswith(b'{"op":"' + request.op.encode() + b'","id":7')
    assert line.endswith(b"}\n")
    fields: dict[str, Any] = json.loads(line)
    del fields["op"], fields["id"]
    return fields


def test_an_attach_says_only_what_was_said() -> None:
    assert sent(holding.attach("a")) == {"agent_id": "a"}
    command = {"argv": ["x"], "cwd": "/", "env": {}}
    request = holding.attach("a", kind="k", command=command, take_over=True, uid=0)
    assert sent(request) == {
        "agent_id": "a",
        "kind": "k",
        "command": command,
        "take_over": True,
        "uid": 0,
    }


def test_a_detach_says_when_it_is_due() -> None:
    assert sent(holding.detach("a", 3)) == {"agent_id": "a", "epoch": 3}
    wake_at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    request = holding.detach("a", 3, wake_at=wake_at, wait_for=["go"], seen_sequence=0)
    assert sent(request) == {
        "agent_id": "a",
        "epoch": 3,
        "wake_at": "2026-01-02T03:04:05.000000Z",
        "wait_for": ["go"],
        "seen_sequence": 0,
    }


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ({"rerun": True}, {"rerun": True}),
        ({"result": None}, {"result": None}),
        ({"result": False}, {"result": False}),
        ({"error": {"type": "E", "message": "m"}}, {"error": {"type": "E", "message": "m"}}),
    ],
    ids=["rerun", "no result", "false", "error"],
)
def test_a_persons_word_is_sent_as_it_is(word: Any, expected: Any) -> None:
    assert sent(holding.decide("a", "pay", **word)) == {"agent_id": "a", "step": "pay", **expected}


@pytest.mark.parametrize(
    "words",
    [{}, {"rerun": True, "result": 1}, {"result": None, "error": {}}],
    ids=["none", "two", "two of nothing"],
)
def test_a_person_has_one_word(words: Any) -> None:
    with pytest.raises(InvalidError, match="one of"):
        holding.decide("a", "pay", **words)


def test_a_fork_names_the_new_agent() -> None:
    request = holding.fork("a", at_sequence=3, new_agent_id="b")
    assert sent(request) == {"agent_id": "a", "at_sequence": 3, "as": "b"}


def test_what_would_be_refused_because_of_itself_is_not_repeated() -> None:
    """When the answer was lost; the others find the same agent or know the same key."""
    steering = [
        holding.steer(op, "a", reason=None, uid=None) for op in ("resume", "park", "cancel")
    ]
    once = [
        *steering,
        holding.decide("a", "pay", rerun=True),
        holding.fork("a", at_sequence=0, new_agent_id="b"),
    ]
    assert not any(request.may_repeat for request in once)
    again = [
        holding.attach("a"),
        holding.detach("a", 1),
        holding.signal("a", "go", None, key="k"),
    ]
    assert all(request.may_repeat for request in again)


def entries(start: int, end: int) -> list[dict[str, Any]]:
    return [{"sequence": number} for number in range(start, end)]


def pass_over(_: object) -> None:
    """Take entries that nobody looks at."""


def play(
    pages: holding.HistoryPages, stored: int, ends: Sequence[int] = (), room: int = 1 << 30
) -> list[dict[str, Any]]:
    """Answer all that *pages* asks, in order, and return it.

    A page that reaches over one of *ends* stops there, and none has more entries than *room*.
    """
    asked: list[dict[str, Any]] = []
    underway: deque[Request[None]] = deque()
    while True:
        while len(underway) < holding.PAGES_AHEAD and (request := pages.next_request()):
            underway.append(request)
            asked.append(sent(request))
        if not underway:
            return asked
        request = underway.popleft()
        start = sent(request)["from_sequence"]
        end = start + min(sent(request)["limit"], room)
        end = max(start, min([end, stored, *(e for e in ends if e > start)]))
        request.parse({"entries": entries(start, end), "next_sequence": end, "more": end < stored})


@pytest.mark.parametrize("until", [0, 2500, 9000], ids=["unknown", "too few", "all"])
@pytest.mark.parametrize(
    "ends", [[], [1], [PAGE + 9], [PAGE - 1, PAGE, PAGE + 1, 4 * PAGE + 3]], ids=str
)
def test_all_entries_are_taken_once_and_in_order(until: int, ends: list[int]) -> None:
    taken: list[Any] = []
    play(holding.HistoryPages("a", 0, taken.extend, until=until), 9000, ends)
    assert taken == entries(0, 9000)


def test_an_agent_without_entries_is_read_by_one_page() -> None:
    assert len(play(holding.HistoryPages("a", 0, pass_over), 0)) == 1


def test_what_is_behind_the_expected_end_is_read_too() -> None:
    taken: list[Any] = []
    play(holding.HistoryPages("a", 2000, taken.extend, until=3000), 5500)
    assert taken == entries(2000, 5500)


def test_several_pages_are_underway_until_the_end_is_asked_for() -> None:
    pages = holding.HistoryPages("a", 0, pass_over, until=9000)
    first = [pages.next_request() for _ in range(holding.PAGES_AHEAD)]
    starts = [sent(request)["from_sequence"] for request in first if request]
    assert starts == list(range(0, PAGE * holding.PAGES_AHEAD, PAGE))
    assert len(play(holding.HistoryPages("a", 0, pass_over, until=20 * PAGE), 20 * PAGE)) == 20


def test_while_the_end_is_not_known_a_page_is_asked_for_behind_the_other() -> None:
    pages = holding.HistoryPages("a", 0, pass_over)
    assert pages.next_request() is not None
    assert pages.next_request() is None


def test_nothing_is_asked_ahead_while_a_page_is_missing() -> None:
    """One that was refused for the moment comes last; what comes before it is of no use."""
    pages = holding.HistoryPages("a", 0, pass_over, until=90_000)
    first, second = pages.next_request(), pages.next_request()
    assert first is not None
    assert second is not None
    second.parse({"entries": entries(PAGE, 2 * PAGE), "next_sequence": 2 * PAGE, "more": True})
    assert pages.next_request() is None
    first.parse({"entries": entries(0, PAGE), "next_sequence": PAGE, "more": True})
    again = pages.next_request()
    assert again is not None
    assert sent(again)["from_sequence"] == PAGE


def test_pages_become_as_small_as_there_is_room() -> None:
    """Of large entries few have room in a reply; what is asked for ahead is not in vain."""
    asked = play(holding.HistoryPages("a", 0, pass_over, until=9000), 9000, room=90)
    assert len(asked) < 2 * 9000 // 90
    assert max(request["limit"] for request in asked[holding.PAGES_AHEAD :]) < PAGE


def test_pages_become_large_again_behind_large_entries() -> None:
    end = 200 * PAGE
    asked = play(holding.HistoryPages("a", 0, pass_over, until=end), end, [1, 2, 3, 4])
    assert asked[-1]["limit"] == PAGE
    assert len(asked) < 400


def test_a_page_that_says_more_and_brings_nothing_is_an_error() -> None:
    pages = holding.HistoryPages("a", 0, pass_over)
    request = pages.next_request()
    assert request is not None
    with pytest.raises(ValueError, match="empty page"):
        request.parse({"entries": [], "next_sequence": 0, "more": True})
