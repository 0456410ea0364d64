"""``compact``, ``call`` and ``ping``."""

from __future__ import annotations

import json
import re

import pytest

from agent_journal.cli.raw_json import indented
from cli.fake_daemon import FakeDaemon, Run, refused


def test_compact_says_how_many_were_removed(fake: FakeDaemon, ask: Run) -> None:
    fake.on("compact", {"removed": 12345}, {"removed": 1}, {"removed": 0})
    assert ask("compact", "a").out == "12,345 entries of a removed\n"
    assert ask("compact", "a", "--force", "--uid", "3").out == "1 entry of a removed\n"
    assert ask("compact", "a", "--json").objects == [{"agent_id": "a", "removed": 0}]
    first, second, _ = fake.of("compact")
    assert "force" not in first
    assert second.items() >= {"force": True, "uid": 3}.items()


def test_compact_of_an_unfinished_agent_says_how_to(fake: FakeDaemon, ask: Run) -> None:
    fake.on("compact", refused("agent_unfinished", "a has not ended", state="running"))
    result = ask("compact", "a")
    assert result.code == 5
    assert result.out == ""
    assert result.hint == "agent-journal compact a --force, if its entries may be lost"


def test_call_prints_the_reply(fake: FakeDaemon, ask: Run) -> None:
    fake.on("describe", {"agent": {"x": [1, 2]}})
    result = ask("call", '{"op": "describe", "agent_id": "a", "id": "mine"}')
    assert result.code == 0
    assert result.objects == [{"id": "mine", "ok": True, "agent": {"x": [1, 2]}}]
    assert fake.of("describe") == [{"op": "describe", "agent_id": "a"}]


def test_call_reads_standard_input(fake: FakeDaemon, ask: Run) -> None:
    fake.on("ping", {})
    assert ask("call", "-", stdin='{"op": "ping"}\n').objects == [{"ok": True}]


def test_call_prints_the_reply_of_a_refusal_too(fake: FakeDaemon, ask: Run) -> None:
    error = {"code": "not_found", "message": "no a", "retryable": False, "outcome": "not_recorded"}
    fake.on("describe", {"ok": False, "error": {**error, "extra": 1}})
    result = ask("call", '{"op": "describe", "agent_id": "a", "id": 7}')
    assert result.code == 4
    assert result.objects == [{"id": 7, "ok": False, "error": {**error, "extra": 1}}]
    assert result.what == "no a (not_found)"


@pytest.mark.parametrize(
    ("request_text", "problem"),
    [
        ("ping", "not JSON"),
        ('["ping"]', "an array"),
        ("{}", "op"),
        ('{"op": 1}', "op"),
    ],
)
def test_call_of_what_is_no_request(
    fake: FakeDaemon, ask: Run, request_text: str, problem: str
) -> None:
    result = ask("call", request_text)
    assert result.code == 2
    assert problem in result.what
    assert result.out == ""
    assert fake.requests == []


def test_call_passes_request_and_reply_on_byte_for_byte(fake: FakeDaemon, ask: Run) -> None:
    lines: list[str] = []
    fake.received = lines.append
    fake.encode = lambda reply: json.dumps(reply).replace('"value"', r'[1.10,1e400,"\u00e9"]')
    fake.on("append", {"sequence": "value"})
    result = ask("call", '{"op":"append",\n "id":1.50,"agent_id":"a","event":{"X":[1.10,1e400]}}')
    assert result.out == r'{"id":1.50,"ok":true,"sequence":[1.10,1e400,"\u00e9"]}' + "\n"
    assert '"event":{"X":[1.10,1e400]}}' in lines[0]


def test_call_prints_all_lines_of_a_tail(fake: FakeDaemon, ask: Run) -> None:
    fake.on("tail", [{"entry": {"n": 1}}, {"position": 9}])
    result = ask("call", '{"op": "tail", "id": "t", "follow": false, "last": 2}')
    assert result.code == 0
    assert result.objects == [
        {"id": "t", "entry": {"n": 1}},
        {"id": "t", "ok": True, "position": 9},
    ]
    assert fake.of("tail") == [{"op": "tail", "follow": False, "last": 2}]


def test_call_of_a_refused_tail(fake: FakeDaemon, ask: Run) -> None:
    fake.on("tail", refused("not_found", "there is no agent a"))
    result = ask("call", '{"op": "tail", "agent_id": "a"}')
    assert result.code == 4
    assert result.objects[0]["ok"] is False


def test_call_of_close_prints_its_reply(fake: FakeDaemon, ask: Run) -> None:
    fake.on("close", {})
    assert ask("call", '{"op": "close", "id": 1}').objects == [{"id": 1, "ok": True}]


def test_a_reply_over_several_lines_keeps_its_values() -> None:
    """On a terminal a reply is laid out, and nothing else of it is changed."""
    text = r'{"a":[],"b":{},"c":[1.10,{"x":"{\",["}],"d":null}'
    laid_out = indented(text)
    assert laid_out == json.dumps(json.loads(text), indent=2).replace("1.1", "1.10")
    assert json.loads(laid_out) == json.loads(text)
    assert indented("7") == "7"


def test_call_without_a_daemon_prints_no_reply(run: Run) -> None:
    result = run("call", '{"op": "ping"}', "-s", "/nowhere/journal.sock")
    assert (result.code, result.out) == (3, "")


def test_ping_tells_the_round_trip(fake: FakeDaemon, ask: Run) -> None:
    fake.on("ping", {})
    result = ask("ping", "--count", "3")
    assert result.code == 0
    pattern = rf"{re.escape(str(fake.path))} answered in \d+\.\d\d ms"
    assert len(result.lines) == 3
    assert all(re.fullmatch(pattern, line) for line in result.lines)
    [answer] = ask("ping", "--json").objects
    assert answer["socket"] == str(fake.path)
    assert answer["round_trip_ms"] > 0
    assert json.dumps(answer)


def test_ping_says_that_nobody_answers(run: Run) -> None:
    result = run("ping", "-s", "/nowhere/journal.sock")
    assert (result.code, result.out) == (3, "")
    assert "/nowhere/journal.sock" in result.what
