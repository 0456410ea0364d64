"""``append``: one event, a stream of events, a stream of whole requests."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_journal.cli import append_lines
from agent_journal.cli.append_lines import line_groups
from agent_journal.cli.raw_json import array_items, object_members
from agent_journal.errors import MalformedError
from cli.fake_daemon import FakeDaemon, Run, refused

STARTED = {"Started": {"goal": "write"}}
APPENDED = {"sequence": 0, "position": 9, "count": 1}


def counting() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Answer appends as a journal would, each agent with its own sequence."""
    next_sequence: dict[str, int] = {}

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        agent_id = request["agent_id"]
        count = len(request.get("entries", [0]))
        sequence = next_sequence.get(agent_id, 0)
        next_sequence[agent_id] = sequence + count
        return {"sequence": sequence, "position": 100 + sequence, "count": count}

    return answer


def sent(fake: FakeDaemon) -> list[dict[str, Any]]:
    """Return the appends, without the keys that the client made."""
    return [{k: v for k, v in r.items() if k not in {"op", "key"}} for r in fake.of("append")]


def test_one_event(fake: FakeDaemon, ask: Run) -> None:
    fake.on("append", APPENDED)
    result = ask("append", "a", json.dumps(STARTED))
    assert (result.code, result.out) == (0, "recorded as sequence 0 (position 9) of a\n")
    assert sent(fake) == [{"agent_id": "a", "event": STARTED, "iteration": 0}]
    assert ask("append", "a", json.dumps(STARTED), "--json").objects == [
        {"sequence": 0, "position": 9, "count": 1, "duplicate": False}
    ]


def test_one_event_with_all_options(fake: FakeDaemon, ask: Run) -> None:
    fake.on("append", {**APPENDED, "duplicate": True})
    options = ["--iteration", "4", "--key", "k", "--expected-sequence", "2", "--uid", "7"]
    moment = "2026-01-02T03:04:05Z"
    result = ask("append", "a", '{"X": 1}', *options, "--timestamp", moment)
    assert "was recorded before as sequence 0" in result.out
    expected = {"iteration": 4, "key": "k", "expected_sequence": 2, "uid": 7, "timestamp": moment}
    assert fake.of("append")[0].items() >= expected.items()


def test_an_event_is_passed_on_as_it_was_typed(fake: FakeDaemon, ask: Run) -> None:
    raw: list[str] = []
    fake.on("append", APPENDED)
    fake.received = raw.append
    ask("append", "a", '{"X":  [1.10, 1e400, "\\u00e9"]}')
    ask("append", "a", "-", stdin='{"X": 1.10 }\n')
    ask("append", "-", stdin='{"event":{"X": 1e400}, "agent_id":"a", "key":"k", "iteration":1}\n')
    ask("append", "-", stdin='{"entries":[{"event":{"X":  2.50}}], "agent_id":"a"}')
    assert '"event":{"X":  [1.10, 1e400, "\\u00e9"]}' in raw[0]
    assert '"event":{"X": 1.10 }' in raw[1]
    assert '"event":{"X": 1e400}' in raw[2]
    assert '"event":{"X":  2.50}' in raw[3]


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["a"], "no event"),
        (["a", "{"], "not JSON"),
        (["a", "[1]"], "an array"),
        (["a", "7"], "a number"),
        (["a", '{"X": NaN}'], "NaN"),
        (["-", "{}"], "standard input"),
        (["a", "-", "--key", "k"], "--key is for a single event"),
        (["-", "--expected-sequence", "1"], "--expected-sequence is for a single event"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_said_without_a_daemon(
    run: Run, argv: list[str], problem: str
) -> None:
    result = run("append", *argv, "-s", "/nowhere/journal.sock")
    assert result.code == 2
    assert problem in result.what
    assert "agent-journal append" in result.hint or "quote it" in result.hint


def test_a_refusal_is_two_lines(fake: FakeDaemon, ask: Run) -> None:
    fake.on("append", refused("agent_finished", "the agent has ended", state="completed"))
    result = ask("append", "a", '{"X": 1}')
    assert result.code == 5
    assert "agent-journal compact a" in result.hint


def test_events_on_standard_input(fake: FakeDaemon, ask: Run) -> None:
    fake.on("append", counting())
    lines = "".join(f'{{"Noted": {n}}}\n' for n in range(1204))
    result = ask("append", "a", "-", stdin=lines)
    assert (result.code, result.out) == (0, "1,204 entries recorded for 1 agent\n")
    assert [request["event"] for request in sent(fake)] == [{"Noted": n} for n in range(1204)]
    assert len({request["key"] for request in fake.of("append")}) == 1204


def test_whole_requests_on_standard_input(fake: FakeDaemon, ask: Run) -> None:
    fake.on("append", counting())
    lines = [
        {"op": "append", "agent_id": "a", "event": STARTED, "iteration": 2, "key": "k1", "x": 0},
        {"agent_id": "b", "event": STARTED, "expected_sequence": 0, "epoch": 1},
        {"agent_id": "c", "entries": [{"event": {"X": 1}, "key": "k2"}, {"event": {"Y": 2}}]},
        {"agent_id": "a", "event": {"Z": 1}, "timestamp": "2026-01-02T03:04:05Z", "uid": 3},
    ]
    result = ask("append", "-", stdin="\r\n\n".join(map(json.dumps, lines)))
    assert (result.code, result.out) == (0, "5 entries recorded for 3 agents\n")
    requests = fake.of("append")
    assert [request["agent_id"] for request in requests] == ["a", "b", "c", "a"]
    assert requests[0].items() >= {"iteration": 2, "key": "k1"}.items()
    assert requests[1].items() >= {"expected_sequence": 0, "epoch": 1}.items()
    assert [e["event"] for e in requests[2]["entries"]] == [{"X": 1}, {"Y": 2}]
    assert requests[2]["entries"][0]["key"] == "k2"
    assert requests[3].items() >= {"uid": 3, "timestamp": "2026-01-02T03:04:05Z"}.items()


def test_the_uid_of_the_command_line_is_the_default_of_the_lines(
    fake: FakeDaemon, ask: Run
) -> None:
    fake.on("append", counting())
    ask("append", "-", "--uid", "5", stdin='{"agent_id":"a","event":{"X":1}}')
    ask("append", "a", "-", "--uid", "6", stdin='{"X":1}')
    assert [request["uid"] for request in sent(fake)] == [5, 6]


def test_json_prints_a_result_for_every_line(fake: FakeDaemon, ask: Run) -> None:
    fake.on("append", APPENDED, refused("invalid", "no such iteration"), APPENDED)
    lines = ['{"X":1}', '{"X":2}', "", "oops", '{"X":3}']
    result = ask("append", "a", "-", "--json", stdin="\n".join(lines))
    assert [(line["line"], line["ok"]) for line in result.objects] == [
        (1, True),
        (2, False),
        (4, False),
        (5, True),
    ]
    assert result.objects[1]["error"] == {"code": "invalid", "message": "no such iteration"}
    assert result.objects[2]["error"]["code"] == "malformed"


def test_a_refused_line_is_named_and_the_others_are_recorded(fake: FakeDaemon, ask: Run) -> None:
    fake.on("append", APPENDED, refused("agent_finished", "it has ended"), APPENDED)
    result = ask("append", "a", "-", stdin='{"X":1}\n{"X":2}\n{"X":3}\n')
    assert result.code == 5
    assert result.out == "2 entries recorded for 1 agent, 1 line refused\n"
    assert result.err == "agent-journal: line 2: it has ended (agent_finished)\n"
    assert len(fake.of("append")) == 3


def test_refusals_for_several_reasons_are_just_a_failure(fake: FakeDaemon, ask: Run) -> None:
    fake.on("append", refused("agent_finished", "it has ended"))
    result = ask("append", "a", "-", stdin='{"X":1}\nnonsense\n')
    assert result.code == 1
    assert result.err.count("line ") == 2


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"[1]", "not a JSON object"),
        (b"{", "not JSON"),
        (b'{"a":1,}', "not JSON"),
        (b'{"a":1}{"b":2}', "Extra data"),
        (b'{"a" 1}', "not JSON"),
        (b"{1:1}", "not JSON"),
        (b'{"a":NaN}', "NaN"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"event":{"X":1}}', '"agent_id" is missing'),
        (b'{"agent_id":"a"}', '"event" is missing'),
        (b'{"agent_id":"a","entries":[{"iteration":1}]}', '"event" is missing'),
        (b'{"agent_id":"a","entries":{}}', "not a JSON array"),
        (b'{"agent_id":"a","entries":[1]}', "not a JSON object"),
        (b'{"op":"compact","agent_id":"a"}', '"op" is not "append"'),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_line_that_cannot_be_sent(fake: FakeDaemon, ask: Run, line: bytes, problem: str) -> None:
    fake.on("append", APPENDED)
    result = ask("append", "-", stdin=line + b'\n{"agent_id":"a","event":{"X":1}}\n')
    assert result.code == 2
    assert "line 1: " in result.err
    assert problem in result.err
    assert result.out.startswith("1 entry recorded for 1 agent")
    assert len(fake.of("append")) == 1


def test_repeats_are_counted_apart(fake: FakeDaemon, ask: Run) -> None:
    fake.on("append", APPENDED, {**APPENDED, "duplicate": True})
    result = ask("append", "a", "-", stdin='{"X":1}\n{"X":2}\n{"X":3}\n')
    assert result.out == "1 entry recorded for 1 agent, 2 recorded before\n"
    assert result.code == 0


def test_when_the_daemon_fails_the_stream_stops_at_that_line(fake: FakeDaemon, ask: Run) -> None:
    fake.on("append", APPENDED, refused("storage_failed", "the disk", retryable=False))
    result = ask("append", "a", "-", stdin='{"X":1}\n{"X":2}\n{"X":3}\n')
    assert result.code == 1
    assert "line 2: the disk (storage_failed)" in result.err
    assert "then go on from line 2" in result.err
    assert result.out.startswith("1 entry recorded")


def test_a_connection_that_is_lost_for_good(fake: FakeDaemon, ask: Run) -> None:
    def hang_up(_request: object) -> object:
        raise OSError

    fake.on("append", APPENDED, hang_up)
    result = ask("append", "a", "-", stdin='{"X":1}\n{"X":2}\n{"X":3}\n')
    assert result.code == 75
    assert "line 2: " in result.err
    assert result.out.startswith("1 entry recorded")


def test_no_lines_at_all(fake: FakeDaemon, ask: Run) -> None:
    result = ask("append", "a", "-", stdin="\n\n")
    assert (result.code, result.out) == (0, "0 entries recorded for 0 agents\n")


class Pieces(io.RawIOBase):
    """An input that comes in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    def read1(self, _size: int = -1) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


def test_lines_are_given_on_as_soon_as_they_are_there() -> None:
    """A producer that writes a line a second has each recorded at once."""
    pieces = Pieces(b'{"a"', b':1}\n{"b":2}\n{', b'"c":3}\n', b'{"d":4}')
    groups = list(line_groups(pieces))
    assert groups == [[b'{"a":1}', b'{"b":2}'], [b'{"c":3}'], [b'{"d":4}']]


@given(st.binary(max_size=60), st.lists(st.integers(1, 8), max_size=60))
def test_lines_do_not_depend_on_how_they_come(data: bytes, sizes: list[int]) -> None:
    pieces = []
    rest = data
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    stream = Pieces(*[piece for piece in [*pieces, rest] if piece])
    lines = [line for group in line_groups(stream) for line in group]
    expected = data.split(b"\n")
    assert lines == (expected if expected[-1] else expected[:-1])


def test_a_line_without_an_end_is_cut_with_bounded_memory(
    fake: FakeDaemon, ask: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append_lines, "LINE_BYTES_MAX", 100)
    groups = list(line_groups(Pieces(b"x" * 90, b"x" * 90, b"x" * 90, b"x\nrest")))
    assert [[len(line) for line in group] for group in groups] == [[181], [4]]
    fake.on("append", APPENDED)
    result = ask("append", "a", "-", stdin=b'{"X":"' + b"x" * 90 + b'"}\n{"Y":1}\n' + b" " * 200)
    assert "line 1: not JSON" not in result.err
    assert fake.of("append")[-1]["event"] == {"Y": 1}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_members_keep_their_text(value: dict[str, Any]) -> None:
    for text in (json.dumps(value), json.dumps(value, indent=1, ensure_ascii=False) + " "):
        members = object_members(text)
        assert {name: json.loads(raw.text) for name, raw in members.items()} == value
        assert all(raw.text in text for raw in members.values())


def test_arrays_are_taken_apart_too() -> None:
    assert [raw.text for raw in array_items(' [1.10, {"a": []} ,"x"] ')] == [
        "1.10",
        '{"a": []}',
        '"x"',
    ]
    assert array_items("[ ]") == []
    assert object_members('{"a":1, "a":2}')["a"].text == "2"
    assert object_members('{"n":' + "9" * 6000 + "}")["n"].text == "9" * 6000
    with pytest.raises(MalformedError, match="not a JSON array"):
        array_items("{}")


@pytest.mark.parametrize("stdin", [None, '{"Noted": 1}\n'], ids=str)
def test_a_program_under_run_appends_with_its_epoch(
    fake: FakeDaemon, ask: Run, monkeypatch: pytest.MonkeyPatch, stdin: str | None
) -> None:
    """To an agent that is attached nobody else may append; what ``run`` started may."""
    fake.on("append", {"sequence": 1, "position": 2})
    monkeypatch.setenv("AGENT_JOURNAL_AGENT_ID", "mine")
    monkeypatch.setenv("AGENT_JOURNAL_EPOCH", "7")
    event = '{"Noted": 1}' if stdin is None else "-"
    for agent, options in (("mine", []), ("mine", ["--epoch", "9"]), ("other", [])):
        assert ask("append", agent, event, *options, stdin=stdin or "").code == 0
    assert [request.get("epoch") for request in fake.of("append")] == [7, 9, None]
