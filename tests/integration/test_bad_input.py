"""Whatever a client sends: it gets its error, the connection is still good, nobody else notices."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_journal.errors import ERRORS
from agent_journal.model import DAEMON_EVENTS
from agent_journal.testing.daemon import RawConnection, RunningDaemon
from integration.observed import (
    MIB,
    descriptors,
    error_of,
    line_of,
    noted,
    rss_bytes,
    send_until_blocked,
    wait_until_alone,
)

MEMORY_BYTES_MAX = 150 * MIB  # what the daemon may cost under load

# Where each error code is provoked from a real daemon; "-" where it can't be, and why.
TESTED_IN = {
    "malformed": "test_bad_input.py::test_a_line_that_is_no_request_is_refused",
    "invalid": "test_bad_input.py::test_a_wrong_field_is_refused_by_its_name",
    "unknown_op": "test_bad_input.py::test_an_unknown_operation_is_refused",
    "unsupported_protocol": "test_bad_input.py::test_a_request_at_the_wrong_moment_is_refused",
    "frame_too_large": "test_bad_input.py::test_a_line_that_is_too_long_is_refused",
    "forbidden": "test_access.py::test_only_an_administrator_may_name_another",
    "not_found": "test_bad_input.py::test_a_request_at_the_wrong_moment_is_refused",
    "sequence_conflict": "test_bad_input.py::test_a_request_at_the_wrong_moment_is_refused",
    "key_conflict": "test_bad_input.py::test_a_request_at_the_wrong_moment_is_refused",
    "stale_epoch": "test_bad_input.py::test_a_request_at_the_wrong_moment_is_refused",
    "agent_finished": "test_bad_input.py::test_a_request_at_the_wrong_moment_is_refused",
    "agent_unfinished": "test_bad_input.py::test_a_request_at_the_wrong_moment_is_refused",
    "overloaded": "test_limits.py::test_beyond_twice_the_bound_appends_are_refused_as_overloaded",
    "too_many_connections": "test_limits.py::test_one_connection_too_many_is_told_so",
    "shutting_down": "test_lifecycle_of_daemon.py::test_what_was_acknowledged_survives_a_stop",
    "storage_full": "test_disk_full.py::test_appends_are_refused_while_there_is_little_room",
    "storage_failed": "test_disk_full.py::test_a_failed_sync_is_an_unknown_outcome_and_the_end",
    "damaged": "test_lifecycle_of_daemon.py::test_a_damaged_journal_is_refused_and_not_crashed_on",
    "agent_attached": "test_attach.py::test_a_zombie_is_fenced_off",
    "parked": "test_bad_input.py::test_a_parked_agent_is_refused",
    "connection_lost": "- the client library's own, never on the wire",
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


@pytest.fixture
def connection(daemon: RunningDaemon) -> Iterator[RawConnection]:
    with daemon.connect() as connection:
        yield connection


def check_still_good(connection: RawConnection, request: object = "append") -> None:
    """Append on *connection*, and see that nothing stands before the answer."""
    reply = connection.request(noted(agent_id="good", id="still good"))
    assert reply["ok"], reply
    assert reply["id"] == "still good"


def check_refused(
    connection: RawConnection, line: bytes | dict[str, object], code: str
) -> dict[str, Any]:
    """Send *line*, see that it is refused with *code* and that all goes on."""
    error = error_of(connection.request(line))
    assert error["code"] == code, error
    assert error["outcome"] == "not_recorded"
    check_still_good(connection)
    missing = connection.request({"op": "describe", "agent_id": "bad"})
    assert error_of(missing)["code"] == "not_found", "what was refused left a trace"
    return error


DEEP = 100_000
BAD = b'{"op":"append","agent_id":"bad","event":'
NOT_A_REQUEST = {
    "words": b"hello there",
    "half an object": b'{"op":"ping"',
    "two objects": b'{"op":"ping"}{"op":"ping"}',
    "trailing comma": b'{"op":"ping",}',
    "single quotes": b"{'op':'ping'}",
    "comment": b'{"op":"ping"}//',
    "array": b'[{"op":"ping"}]',
    "string": b'"ping"',
    "number": b"17",
    "null": b"null",
    "empty line": b"",
    "blank line": b"  \t ",
    "carriage return only": b"\r",
    "byte order mark": b'\xef\xbb\xbf{"op":"ping"}',
    "UTF-16": '{"op":"ping"}'.encode("utf-16-le").replace(b"\n", b""),
    "UTF-16 with its mark": '{"op":"ping"}'.encode("utf-16"),
    "NUL": b"\0",
    "NUL behind": b'{"op":"ping"}\0',
    "NUL in a string": b'{"op":"ping","x":"\0"}',
    "control character in a string": b'{"op":"ping","x":"\x1f"}',
    "bad UTF-8 in the payload": BAD + b'{"A":"\xff"}}',
    "bad UTF-8 in the name": BAD + b'{"\xff":1}}',
    "bad UTF-8 in a key": BAD + b'{"A":1},"key":"\xc3"}',
    "bad UTF-8 in the envelope": b'{"op":"ping","\xfe":1}',
    "bad UTF-8 in the op": b'{"op":"p\xc0\xafing"}',
    "overlong UTF-8": BAD + b'{"A":"\xc0\x80"}}',
    "surrogate in UTF-8": BAD + b'{"A":"\xed\xa0\x80"}}',
    "beyond Unicode": BAD + b'{"A":"\xf4\x90\x80\x80"}}',
    "half a surrogate pair": BAD + b'{"A":"\\ud800"}}',
    "the other half": BAD + b'{"A":"\\udc00"}}',
    "pair the wrong way round": BAD + b'{"A":"\\udc00\\ud800"}}',
    "half a pair in a name": BAD + b'{"\\ud800":1}}',
    "half a pair in a key": BAD + b'{"A":1},"key":"\\ud800"}',
    "half a pair in the id": b'{"op":"ping","id":"\\ud800"}',
    "half a pair in what is ignored": b'{"op":"ping","x":"\\udfff"}',
    "bad escape": BAD + b'{"A":"\\x41"}}',
    "NaN": BAD + b'{"A":NaN}}',
    "Infinity": BAD + b'{"A":Infinity}}',
    "minus Infinity": BAD + b'{"A":[-Infinity]}}',
    "NaN in the envelope": b'{"op":"ping","x":NaN}',
    "leading zero": BAD + b'{"A":01}}',
    "plus sign": BAD + b'{"A":+1}}',
    "hexadecimal": BAD + b'{"A":0x10}}',
    "deep arrays in the payload": BAD + b'{"A":' + b"[" * DEEP + b"]" * DEEP + b"}}",
    "deep objects in the payload": BAD + b'{"A":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}}",
    "deep, and never closed": BAD + b'{"A":' + b"[" * DEEP,
    "deep in what is ignored": b'{"op":"ping","x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep, and nothing else": b"[" * DEEP + b"]" * DEEP,
}


@pytest.mark.parametrize("line", NOT_A_REQUEST.values(), ids=NOT_A_REQUEST.keys())
def test_a_line_that_is_no_request_is_refused(connection: RawConnection, line: bytes) -> None:
    reply = connection.request(line + b"\n")
    assert reply["id"] is None
    assert error_of(reply)["code"] == "malformed"
    check_refused(connection, line + b"\n", "malformed")


def test_many_bad_lines_at_once_get_an_error_each(connection: RawConnection) -> None:
    lines = [line + b"\n" for line in NOT_A_REQUEST.values() if len(line) < 1000]
    good = line_of({"op": "ping", "id": "between"})
    connection.send(good.join(lines))
    replies = connection.replies(2 * len(lines) - 1)
    assert [reply.get("id") for reply in replies[1::2]] == ["between"] * (len(lines) - 1)
    assert {error_of(reply)["code"] for reply in replies[::2]} == {"malformed"}
    check_still_good(connection)


ODD_BUT_GOOD = {
    "carriage return": b'{"op":"ping","id":1}\r',
    "white space": b' \t{ "op" : "ping" , "id" : 1 } ',
    "unknown members": b'{"op":"ping","id":1,"x":{"y":[1.5e300,null]},"uid2":[]}',
    "escaped op": b'{"\\u006fp":"pi\\u006eg","id":1}',
    "the last of repeated members": b'{"op":"nonsense","id":{},"op":"ping","id":1}',
    "a NUL, escaped": b'{"op":"ping","id":1,"x":"\\u0000"}',
    "a huge number that is ignored": b'{"op":"ping","id":1,"x":1e999999,"y":-' + b"9" * 9999 + b"}",
}


@pytest.mark.parametrize("line", ODD_BUT_GOOD.values(), ids=ODD_BUT_GOOD.keys())
def test_an_odd_line_is_served(connection: RawConnection, line: bytes) -> None:
    assert connection.request(line + b"\n") == {"id": 1, "ok": True}
    check_still_good(connection)


EVENTS_AS_SENT = {
    "numbers": b'{"A":[1.0,-0.0,1E+2,1e999999,123456789012345678901234567890,0.1e-999999]}',
    "a number of 10,000 digits": b'{"A":' + b"7" * 10_000 + b"}",
    "escapes": b'{"A":"\\u00e9\\ud83d\\ude00\\/\\u0000\\n"}',
    "letters": '{"é😀":"\u2028\u2029\x7f"}'.encode(),
    "repeated members": b'{"A":{"b":1,"b":2}}',
    "nested": b'{"A":' + b"[" * 500 + b"]" * 500 + b"}",
    "an empty name": b'{"":null}',
}


@pytest.mark.parametrize("event", EVENTS_AS_SENT.values(), ids=EVENTS_AS_SENT.keys())
def test_an_event_comes_back_byte_for_byte(
    connection: RawConnection, event: bytes, request: pytest.FixtureRequest
) -> None:
    name = f"kept-{len(event)}".encode()
    connection.send(b'{"op":"append","agent_id":"%b","key":"k","event":%b}\n' % (name, event))
    assert connection.reply()["ok"]
    for _ in range(2):  # again, with its key: whether two events are the same is found out
        connection.send(b'{"op":"append","agent_id":"%b","key":"k","event":%b}\n' % (name, event))
        assert connection.reply()["duplicate"]
    other = connection.request(noted(agent_id=name.decode(), key="k"))
    assert error_of(other)["code"] == "key_conflict"
    connection.send(b'{"op":"read","agent_id":"%b"}\n' % name)
    assert b'"event":%b}]' % event in connection.line()
    check_still_good(connection)


@pytest.mark.parametrize("digits", [19, 20, 30, 4299, 4300, 4301, 100_000])
@pytest.mark.parametrize(
    "op",
    [
        '"op":"ping"',
        '"op":"describe","agent_id":"none"',
        '"op":"append","agent_id":"good","event":{"A":1}',
        '"op":"append","agent_id":"good","entries":[{"event":{"A":1}},{"event":{"A":2}}]',
        '"op":"nonsense"',
    ],
    ids=["ping", "describe", "append", "entries", "unknown"],
)
def test_a_huge_id_is_echoed_or_refused(connection: RawConnection, op: str, digits: int) -> None:
    for sign in ("", "-"):
        number = sign + "9" * digits
        connection.send(f'{{"id":{number},{op}}}\n'.encode())
        line = connection.line()
        if line.startswith(f'{{"id":{number},'.encode()):
            continue
        error = error_of(json.loads(line))
        assert line.startswith(b'{"id":null,')
        assert error["code"] in ("invalid", "unknown_op"), error
        assert digits > 18, "an id of 64 bits must do"
    check_still_good(connection)


@pytest.mark.parametrize("value", ["1.5", "true", "[]", "{}"], ids=["float", "bool", "list", "map"])
def test_an_id_of_another_kind_is_refused(connection: RawConnection, value: str) -> None:
    error = check_refused(connection, f'{{"op":"ping","id":{value}}}'.encode(), "invalid")
    assert error["field"] == "id"


def test_an_unknown_operation_is_refused(connection: RawConnection) -> None:
    for op in ("", "Append", "append ", "attached", "Resume", "x" * 10_000, "\0", "é😀"):
        check_refused(connection, {"op": op, "agent_id": "bad"}, "unknown_op")


def test_a_parked_agent_is_refused(connection: RawConnection) -> None:
    connection.request({"op": "append", "agent_id": "parked", "event": {"A": 1}})
    assert connection.request({"op": "park", "agent_id": "parked"})["state"] == "parked"
    for request in (
        {"op": "append", "agent_id": "parked", "event": {"A": 1}},
        {"op": "attach", "agent_id": "parked"},
        {"op": "attach", "agent_id": "parked", "take_over": True},
    ):
        check_refused(connection, request, "parked")


# For each operation a request that is good, and what its fields can't be.
NO_STRING = [1, True, [], {}, 1.5]
NO_COUNT = ["1", -1, 1.5, True, [], {}, 2**63, 10**30]
NO_AGENT_ID = [None, *NO_STRING, "", "-a", ".a", "a b", "a/b", "a\n", "é", "a" * 129, "a\0"]
NO_UID = [-1, 2**32, 1.5, True, "", "root", [], {}]
NO_EVENT: list[object] = [None, 1, True, "Started", [], {}, {"A": 1, "B": 2}, ["Started"]]
NO_KEY = [*NO_STRING, "", "k" * 257, "é" * 129, "\0k"]
NO_TIMESTAMP = [
    1,
    True,
    [],
    "",
    "now",
    "2026-01-05",
    "2026-01-05T09:00:00",
    "2026-13-05T09:00:00Z",
    "2026-01-05T25:00:00Z",
    "2026-02-30T09:00:00Z",
    "2026-01-05T09:00:00+99:00",
    "10000-01-01T00:00:00Z",
]
NO_ITERATION = [*NO_COUNT, 2**32]

APPEND = {"op": "append", "agent_id": "bad", "event": {"A": 1}}
GROUP = {"op": "append", "agent_id": "bad", "entries": [{"event": {"A": 1}}]}
WRONG: list[tuple[dict[str, object], str, list[Any]]] = [
    (APPEND, "agent_id", NO_AGENT_ID),
    (APPEND, "event", NO_EVENT),
    (APPEND, "iteration", NO_ITERATION),
    (APPEND, "timestamp", NO_TIMESTAMP),
    (APPEND, "key", NO_KEY),
    (APPEND, "expected_sequence", NO_COUNT),
    (APPEND, "epoch", NO_COUNT),
    (APPEND, "uid", [*NO_UID, "*"]),
    (APPEND, "entries", [1, "x", {}, [], [1], [None]]),
    (GROUP, "key", ["k"]),
    (GROUP, "event", [{"A": 1}]),
    (GROUP, "timestamp", ["2026-01-05T09:00:00Z"]),
    ({"op": "read", "agent_id": "good"}, "agent_id", NO_AGENT_ID),
    ({"op": "read", "agent_id": "good"}, "from_sequence", NO_COUNT),
    ({"op": "read", "agent_id": "good"}, "limit", [0, *NO_COUNT]),
    ({"op": "read", "agent_id": "good"}, "uid", [*NO_UID, "*"]),
    ({"op": "describe", "agent_id": "good"}, "agent_id", NO_AGENT_ID),
    ({"op": "describe", "agent_id": "good"}, "uid", [*NO_UID, "*"]),
    ({"op": "agents"}, "state", [*NO_STRING, "", "Running", "done"]),
    ({"op": "agents"}, "kind", NO_STRING),
    ({"op": "agents"}, "after", [-1, 1.5, True, [], {}, 2**63]),
    ({"op": "agents"}, "limit", [0, *NO_COUNT]),
    ({"op": "agents"}, "uid", NO_UID),
    ({"op": "compact", "agent_id": "good"}, "agent_id", NO_AGENT_ID),
    ({"op": "compact", "agent_id": "good"}, "force", [0, 1, "true", [], {}]),
    ({"op": "compact", "agent_id": "good"}, "uid", [*NO_UID, "*"]),
    *[
        (dict(request), field, values)
        for request in (
            {"op": "attach"},
            {"op": "detach", "epoch": 1},
            {"op": "signal", "name": "n"},
            {"op": "decide", "step": "s", "rerun": True},
            {"op": "fork", "at_sequence": 0, "as": "forked"},
            {"op": "resume"},
            {"op": "park"},
            {"op": "cancel"},
        )
        for request in [{**request, "agent_id": "good"}]
        for field, values in (("agent_id", NO_AGENT_ID), ("uid", [*NO_UID, "*"]))
    ],
    ({"op": "attach", "agent_id": "bad"}, "kind", [*NO_STRING, "", "a b", "a" * 129]),
    ({"op": "attach", "agent_id": "bad"}, "launcher", [*NO_STRING, "", "../x", "nobody"]),
    ({"op": "attach", "agent_id": "bad"}, "command", [1, "x", [], {}, {"argv": [], "cwd": "/"}]),
    ({"op": "attach", "agent_id": "bad"}, "take_over", [0, 1, "true", [], {}]),
    ({"op": "detach", "agent_id": "good", "epoch": 1}, "epoch", NO_COUNT),
    ({"op": "detach", "agent_id": "good", "epoch": 1}, "wake_at", NO_TIMESTAMP),
    ({"op": "detach", "agent_id": "good", "epoch": 1}, "wait_for", [1, "x", {}, [1], [""]]),
    ({"op": "detach", "agent_id": "good", "epoch": 1}, "seen_sequence", NO_COUNT),
    ({"op": "signal", "agent_id": "good", "name": "n"}, "name", [*NO_STRING, "", "n" * 257]),
    ({"op": "signal", "agent_id": "good", "name": "n"}, "key", NO_KEY),
    ({"op": "decide", "agent_id": "good", "rerun": True}, "step", [*NO_STRING, "", "no such"]),
    ({"op": "decide", "agent_id": "good", "step": "s"}, "rerun", [0, 1, "true", [], {}, False]),
    ({"op": "fork", "agent_id": "good", "as": "forked"}, "at_sequence", [*NO_COUNT, 2**62]),
    ({"op": "fork", "agent_id": "good", "at_sequence": 0}, "as", [*NO_AGENT_ID, "good"]),
    ({"op": "resume", "agent_id": "good"}, "reason", [*NO_STRING, "r" * 4097]),
    ({"op": "park", "agent_id": "good"}, "reason", [*NO_STRING, "r" * 4097]),
    ({"op": "cancel", "agent_id": "good"}, "reason", [*NO_STRING, "r" * 4097]),
    ({"op": "tail", "follow": False}, "agent_id", [*NO_STRING, "", "a b", "a" * 129]),
    ({"op": "tail", "follow": False}, "from_position", NO_COUNT),
    ({"op": "tail", "follow": False}, "last", NO_COUNT),
    ({"op": "tail", "follow": False}, "uid", NO_UID),
    ({"op": "tail"}, "follow", [0, 1, "true", [], {}]),
    ({"op": "tail", "from_position": 1}, "last", [1]),
    ({"op": "stats"}, "uid", NO_UID),
    ({"op": "hello"}, "protocol", ["1", 1.5, True, [], {}]),
    ({}, "op", [None, 1, True, [], {}, ["ping"]]),
]


@pytest.mark.parametrize(
    ("request_", "field", "values"),
    WRONG,
    ids=[f"{row}-{request.get('op')}-{field}" for row, (request, field, _) in enumerate(WRONG)],
)
def test_a_wrong_field_is_refused_by_its_name(
    connection: RawConnection, request_: dict[str, object], field: str, values: list[object]
) -> None:
    # A member that both forms of an append have is ruled out by the other form.
    wanted = "entries" if request_ is GROUP else field
    for value in values:
        error = check_refused(connection, {"id": 7, **request_, field: value}, "invalid")
        assert error["field"].startswith(wanted), (value, error)
        assert wanted in error["message"], (value, error)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"id": 1}, "op"),
        ({}, "op"),
        ({"op": "append", "event": {"A": 1}}, "agent_id"),
        ({"op": "append", "agent_id": "bad"}, "event"),
        ({"op": "append", "agent_id": "bad", "entries": [{"iteration": 1}]}, "entries[0].event"),
        ({"op": "read"}, "agent_id"),
        ({"op": "describe"}, "agent_id"),
        ({"op": "compact"}, "agent_id"),
        ({"op": "attach"}, "agent_id"),
        ({"op": "detach", "agent_id": "good"}, "epoch"),
        ({"op": "signal", "agent_id": "good"}, "name"),
        ({"op": "decide", "agent_id": "good", "rerun": True}, "step"),
        ({"op": "decide", "agent_id": "good", "step": "s"}, "rerun"),
        ({"op": "fork", "agent_id": "good", "as": "forked"}, "at_sequence"),
        ({"op": "fork", "agent_id": "good", "at_sequence": 0}, "as"),
    ],
    ids=str,
)
def test_a_missing_field_is_named(
    connection: RawConnection, request_: dict[str, object], field: str
) -> None:
    error = check_refused(connection, request_, "invalid")
    assert error["field"] == field


@pytest.mark.parametrize("entry", [*NO_EVENT[3:], {"A": 1}], ids=str)
def test_one_bad_entry_of_many_records_none(connection: RawConnection, entry: object) -> None:
    good = {"event": {"A": 1}}
    bad: dict[str, object] = {"event": entry}
    if entry == {"A": 1}:
        bad |= {"iteration": -1}
    request = {"op": "append", "agent_id": "bad", "entries": [good, good, bad]}
    error = check_refused(connection, request, "invalid")
    assert error["field"].startswith("entries"), error


@pytest.mark.parametrize("name", sorted(DAEMON_EVENTS))
def test_the_daemons_own_events_cannot_be_forged(connection: RawConnection, name: str) -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in name)
    for event in (f'{{"{name}":{{}}}}', f'{{"{escaped}":1}}', f'{{"{name}":1,"{name}":2}}'):
        error = check_refused(connection, BAD + event.encode() + b"}", "invalid")
        assert error["field"] == "event"
        entries = b'[{"event":{"A":1}},{"event":%b}]' % event.encode()
        line = b'{"op":"append","agent_id":"bad","entries":%b}' % entries
        error = check_refused(connection, line, "invalid")
        assert error["field"] == "entries[1].event"


def test_nothing_can_follow_the_end_in_one_append(connection: RawConnection) -> None:
    entries = [{"event": {"Terminated": {}}}, {"event": {"A": 1}}]
    request = {"op": "append", "agent_id": "bad", "entries": entries}
    error = check_refused(connection, request, "invalid")
    assert error["field"] == "entries[0].event"


@pytest.mark.parametrize(
    "timestamp",
    ["0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "0001-01-01T00:00:00Z"],
)
def test_a_timestamp_at_the_end_of_time_can_be_read_if_it_can_be_recorded(
    connection: RawConnection, timestamp: str
) -> None:
    agent_id = f"then{timestamp}".replace("+", "_")
    reply = connection.request(noted(agent_id=agent_id, timestamp=timestamp))
    if not reply["ok"]:
        assert error_of(reply)["field"] == "timestamp"
        check_still_good(connection)
        return
    assert len(connection.request({"op": "read", "agent_id": agent_id})["entries"]) == 1
    assert connection.request({"op": "describe", "agent_id": agent_id})["ok"]
    connection.send_line({"op": "tail", "agent_id": agent_id, "from_position": 0, "follow": False})
    assert "entry" in connection.reply()
    assert connection.reply()["ok"]
    check_still_good(connection)


def test_a_request_at_the_wrong_moment_is_refused(connection: RawConnection) -> None:
    """Every other refusal that a request can meet with, in one agent's life."""
    talk: list[tuple[dict[str, object], str | None, dict[str, object]]] = [
        ({"op": "hello", "protocol": 2}, "unsupported_protocol", {"supported": [1]}),
        ({"op": "read", "agent_id": "m"}, "not_found", {}),
        ({"op": "describe", "agent_id": "m"}, "not_found", {}),
        ({"op": "compact", "agent_id": "m"}, "not_found", {}),
        ({"op": "agents", "after": "m"}, "not_found", {}),
        (noted(agent_id="m", key="k"), None, {}),
        (noted("x", agent_id="m", key="k"), "key_conflict", {"sequence": 0}),
        (
            noted(agent_id="m", expected_sequence=0),
            "sequence_conflict",
            {"expected": 0, "actual": 1},
        ),
        (noted(agent_id="m", epoch=1), "stale_epoch", {"current": 0}),
        ({"op": "compact", "agent_id": "m"}, "agent_unfinished", {"state": "running"}),
        (noted(agent_id="m", event={"Terminated": {}}), None, {}),
        (noted(agent_id="m"), "agent_finished", {"state": "failed"}),
    ]
    for request, code, details in talk:
        reply = connection.request(request)
        if code is None:
            assert reply["ok"], reply
            continue
        error = error_of(reply)
        assert error["code"] == code, error
        assert error.items() >= details.items(), error
        assert (error["outcome"], error["retryable"]) == ("not_recorded", False)
        check_still_good(connection)


# Lines that are too long


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    config = '[limits]\nframe_bytes_max = "4KiB"\n'
    with RunningDaemon(tmp_path_factory.mktemp("narrow"), config=config) as running:
        yield running


def padded(size: int) -> bytes:
    """Return a ping of *size* bytes, and its newline."""
    return b'{"op":"ping","id":1,"pad":"%b"}\n' % (b"x" * (size - 29))


def test_a_line_of_the_limit_is_served_and_one_byte_more_is_not(narrow: RunningDaemon) -> None:
    assert len(padded(4096)) == 4097
    with narrow.connect() as connection:
        assert connection.request(padded(4096)) == {"id": 1, "ok": True}
        assert error_of(connection.request(padded(4097)))["frame_bytes_max"] == 4096
        check_still_good(connection)


@pytest.mark.parametrize("size", [4097, 65_536, 1_000_000])
def test_a_line_that_is_too_long_is_refused(narrow: RunningDaemon, size: int) -> None:
    """It is answered once, in its turn, however it comes."""
    between = line_of({"op": "ping", "id": 2})
    whole = between + padded(size) + between
    for piece in (len(whole), 4096, 997):
        with narrow.connect() as connection:
            for start in range(0, len(whole), piece):
                connection.send(whole[start : start + piece])
            first, refused, last = connection.replies(3)
            assert (first["id"], refused["id"], last["id"]) == (2, None, 2)
            assert error_of(refused)["code"] == "frame_too_large"
            check_still_good(connection)


def test_an_endless_line_is_refused_before_its_end_and_kept_by_nobody(
    daemon: RunningDaemon, connection: RawConnection
) -> None:
    before = rss_bytes(daemon)
    connection.send(b"x" * (5 * MIB))
    assert error_of(connection.reply())["code"] == "frame_too_large"
    for _ in range(64):
        connection.send(b"x" * MIB)
    assert rss_bytes(daemon) - before < 32 * MIB
    connection.send(b"\n")
    check_still_good(connection)


def test_long_lines_of_brackets_and_quotes_are_refused_like_others(narrow: RunningDaemon) -> None:
    for letter in (b"[", b'{"a":', b'"', b"\\", b"\xff", b"\0", b"\r"):
        with narrow.connect() as connection:
            connection.send(letter * 5000 + b"\n")
            assert error_of(connection.reply())["code"] == "frame_too_large"
            check_still_good(connection)


# Connections that end, stall or never listen


def test_a_half_closed_connection_is_answered_to_its_end(daemon: RunningDaemon) -> None:
    lines = [line_of(noted(str(index), agent_id="half", id=index)) for index in range(500)]
    lines.insert(250, line_of({"op": "read", "agent_id": "half", "id": "read", "limit": 1000}))
    lines.append(line_of({"op": "describe", "agent_id": "half", "id": "describe"}))
    replies = daemon.exchange(b"".join(lines))
    assert [reply["id"] for reply in replies] == [*range(250), "read", *range(250, 500), "describe"]
    assert len(replies[250]["entries"]) == 250
    assert replies[-1]["agent"]["entries"] == 500


@pytest.mark.parametrize(
    "rest", [b"x", b'{"op":"ping"}', b'{"op":"append","agent_id":"bad"', b"\r"]
)
@pytest.mark.parametrize(
    "before", [b"", b'{"op":"read","agent_id":"good"}\n'], ids=["at once", "behind"]
)
def test_a_last_line_without_its_newline_is_refused_in_its_turn(
    daemon: RunningDaemon, connection: RawConnection, before: bytes, rest: bytes
) -> None:
    check_still_good(connection)
    replies = daemon.exchange(before + before + rest)
    assert [reply["ok"] for reply in replies] == [True] * (2 if before else 0) + [False]
    assert error_of(replies[-1])["code"] == "malformed"


def test_a_client_may_die_at_every_byte_of_a_request(daemon: RunningDaemon) -> None:
    line = line_of(noted("whole or not at all", agent_id="dies"))
    for length in range(len(line) + 1):
        with daemon.connect() as connection:
            connection.send(line[:length])
    wait_until_alone(daemon)
    described = daemon.request({"op": "describe", "agent_id": "dies"})
    assert described["agent"]["entries"] == 1, "only the whole line was a request"


def test_a_client_that_resets_is_forgotten_and_what_it_sent_is_whole(
    daemon: RunningDaemon,
) -> None:
    """Closing with replies unread is what a Unix socket has for a reset."""
    line = line_of(noted(agent_id="resets"))
    for count in (1, 10, 1000):
        with daemon.connect() as connection:
            connection.send(line * count)
            connection.line()
    wait_until_alone(daemon)
    entries = daemon.request({"op": "describe", "agent_id": "resets"})["agent"]["entries"]
    assert 3 <= entries <= 1011
    found = daemon.request({"op": "read", "agent_id": "resets", "limit": 10_000})["entries"]
    assert [entry["sequence"] for entry in found] == [*range(entries)]


def test_a_request_that_comes_byte_by_byte_is_served_and_nobody_waits_for_it(
    daemon: RunningDaemon, connection: RawConnection
) -> None:
    line = line_of(noted("slow", agent_id="slow"))
    with daemon.connect() as other:
        for index in range(len(line)):
            connection.send(line[index : index + 1])
            assert other.request({"op": "ping"})["ok"]
    assert connection.reply()["ok"]


@pytest.mark.parametrize("letter", [b"\0", b"\r", b"\xff", b" "])
def test_a_byte_that_comes_alone_belongs_to_its_line(daemon: RunningDaemon, letter: bytes) -> None:
    """Whatever it is: the line is refused or served as a whole, and once."""
    with daemon.connect() as connection, daemon.connect() as other:
        for piece in (b'{"op":"ping","id":1', letter, b"}\n"):
            connection.send(piece)
            for _ in range(2):  # when it is answered, what came before was taken in
                assert other.request({"op": "ping"})["ok"]
        reply = connection.reply()
        assert (reply["id"], reply["ok"]) == ((1, True) if letter in b"\r " else (None, False))
        check_still_good(connection)


def count_lines(connection: RawConnection, count: int) -> None:
    """Read *count* lines and no more."""
    while count > 0:
        received = connection.socket.recv(MIB)
        assert received, "the daemon closed"
        count -= received.count(b"\n")
    assert count == 0
    assert received.endswith(b"\n")


@pytest.mark.parametrize(
    ("line", "count"),
    [
        (b'{"id":1,"op":"ping"}\n', 400_000),
        (b'{"id":1,"op":"append","agent_id":"million","event":{"A":1}}\n', 200_000),
        (b'{"id":1,"op":"describe","agent_id":"good"}\n', 20_000),
        (b"\n", 400_000),
    ],
    ids=["ping", "append", "describe", "empty"],
)
def test_a_client_that_reads_no_reply_is_not_read_from_and_harms_nobody(
    daemon: RunningDaemon, connection: RawConnection, line: bytes, count: int
) -> None:
    """However many requests are pipelined: the memory is bounded, the others are served."""
    check_still_good(connection)
    before = rss_bytes(daemon)
    data = line * count
    sent = send_until_blocked(connection, data)
    assert sent < len(data), "the daemon took all of it"
    with daemon.connect() as other:
        check_still_good(other)
    assert rss_bytes(daemon) - before < 32 * MIB
    sender = threading.Thread(target=connection.send, args=(data[sent:],), daemon=True)
    sender.start()
    count_lines(connection, count)
    sender.join()


def fill(connected: socket.socket, data: bytes) -> None:
    """Send as much as fits in at once."""
    connected.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            connected.send(data)


@pytest.mark.parametrize(
    "line",
    [b"\n", b'{"op":"describe","agent_id":"good"}\n', padded(100_000)],
    ids=["empty", "describe", "large"],
)
def test_many_clients_that_read_no_reply_stay_within_the_memory(
    tmp_path: Path, line: bytes
) -> None:
    """What is taken in and not yet answered is bounded in all, whatever the lines are."""
    with RunningDaemon(tmp_path) as daemon:
        daemon.request(noted(agent_id="good"))
        data = line * (MIB // 4 // len(line) + 1)
        with contextlib.ExitStack() as connections:
            for _ in range(400):
                fill(connections.enter_context(daemon.connect()).socket, data)
            # Behind all that is taken in it is answered late, and the later the busier the host is.
            with RawConnection(daemon.socket, timeout_s=120) as other:
                check_still_good(other)
                assert rss_bytes(daemon) < MEMORY_BYTES_MAX
        wait_until_alone(daemon)


def test_descriptors_that_are_passed_along_are_not_kept(
    daemon: RunningDaemon, connection: RawConnection
) -> None:
    check_still_good(connection)
    before = descriptors(daemon)
    one, other = socket.socketpair()
    with one, other:
        for _ in range(50):
            socket.send_fds(connection.socket, [line_of({"op": "ping"})], [one.fileno()] * 10)
            assert connection.reply()["ok"]
    assert descriptors(daemon) <= before
    check_still_good(connection)


def test_every_error_code_has_a_test() -> None:
    assert set(TESTED_IN) == set(ERRORS)
    for code, place in TESTED_IN.items():
        if place.startswith("- "):
            continue
        file, _, name = place.partition("::")
        text = (Path(__file__).parent / file).read_text("utf-8")
        assert f"def {name}(" in text, place
        assert f'"{code}"' in text, f"{place} does not mention {code}"
