"""Bytes to requests: any line is one or is refused with what is wrong with it, never else."""

from __future__ import annotations

import contextlib
import gc
import json
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_journal.errors import (
    ERRORS,
    InvalidError,
    MalformedError,
    UnknownOpError,
)
from agent_journal.model import AGENT_ID_BYTES_MAX, DAEMON_EVENTS, ITERATION_MAX, SEQUENCE_MAX
from agent_journal.wire import (
    Append,
    Ping,
    Read,
    RefusedLineError,
    check_agent_id,
    check_key,
    decode_request,
    error_reply,
    event_name,
    is_same_event,
    ok_reply,
    terminated_reason,
)

UNSTARTED = Append(agent_id="a")

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def refusal(raw: bytes) -> RefusedLineError:
    with pytest.raises(RefusedLineError) as refused:
        decode_request(raw)
    return refused.value


def refused_or_none(raw: bytes) -> RefusedLineError | None:
    """Return why *raw* is refused, if it is; anything else raised is a defect."""
    try:
        request = decode_request(raw)
    except RefusedLineError as refused:
        return refused
    assert json.loads(ok_reply(request.id, {}))["ok"]
    return None


class TestDecoding:
    def test_every_field_of_an_append_arrives(self) -> None:
        request = decode_request(
            line(
                op="append",
                id="x",
                agent_id="a",
                iteration=3,
                event={"Noted": 1},
                timestamp="2026-01-02T03:04:05.678901+02:00",
                expected_sequence=4,
                epoch=5,
                key="k",
                uid=6,
                unknown={"is": "ignored"},
            )
        )
        assert isinstance(request, Append)
        assert (request.id, request.agent_id, request.iteration) == ("x", "a", 3)
        assert (request.expected_sequence, request.epoch) == (4, 5)
        assert (request.key, request.uid) == ("k", 6)
        assert request.timestamp == datetime(2026, 1, 2, 1, 4, 5, 678901, tzinfo=UTC)

    @pytest.mark.parametrize(
        "event",
        [
            b'{"A":1.0}',
            b'{"A":1e400}',
            b'{"A":123456789012345678901234567890}',
            b'{"A":"\\u00e4\\/ \\ud83d\\ude00"}',
            '{"Ä":"\u2028💾"}'.encode(),
            b'{ "A" : [ 1 , {"b":  null} ] }',
            b'{"A":{"x":1,"x":2}}',
            b'{"\\u0041":-0}',
            b'{"":""}',
            b'{"A":' + b"9" * 5000 + b"}",
        ],
        ids=lambda event: event.decode()[:30],
    )
    def test_an_event_is_kept_byte_for_byte(self, event: bytes) -> None:
        request = decode_request(b'{"op":"append","agent_id":"a","event":' + event + b"}")
        assert isinstance(request, Append)
        assert bytes(request.event) == event  # type: ignore[arg-type]
        assert event_name(request.event) is not None

    @given(payload=json_values)
    def test_any_event_is_kept_byte_for_byte(self, payload: object) -> None:
        event = json.dumps({"Noted": payload}).encode()
        request = decode_request(b'{"event":%b,"agent_id":"a","op":"append"}' % event)
        assert isinstance(request, Append)
        assert bytes(request.event) == event  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("raw", "kind"),
        [
            (b'{"op":"append","op":"ping"}', Ping),
            (b'{"op":"ping","agent_id":"x","op":"read"}', Read),
            (b'{"op":"nothing","op":"ping"}', Ping),
            (b'{"op":"ping"}\r', Ping),
            (b' \t{ "op" :\t"ping" } ', Ping),
            (b'{"o\\u0070":"ping"}', Ping),
        ],
    )
    def test_the_last_of_a_repeated_member_counts_and_white_space_does_not(
        self, raw: bytes, kind: type
    ) -> None:
        assert type(decode_request(raw)) is kind

    @pytest.mark.parametrize(
        "members",
        [
            b'"op":"append","entries":[{"event":{"A":1},"iteration":-1,"iteration":7}]',
            b'"op":"append","entries":[{"timestamp":"now","event":{"A":1},"timestamp":null}]',
            b'"op":"attach","command":{"argv":1,"cwd":"/","argv":["x"]}',
        ],
    )
    def test_the_last_of_a_repeated_member_counts_within_another(self, members: bytes) -> None:
        assert decode_request(b'{"agent_id":"a",%b}' % members)

    @pytest.mark.parametrize(
        ("raw", "says"),
        [
            (b"", "empty"),
            (b"hello", "JSON"),
            (b"{", "ends too early"),
            (b'{"op":"ping"', "ends too early"),
            (b'{"op":"ping"} x', "trailing"),
            (b'[{"op":"ping"}]', "not an object"),
            (b'"ping"', "not an object"),
            (b"17", "not an object"),
            (b"null", "not an object"),
            (b'{"op":"ping","id":NaN}', "invalid"),
            (b'{"op":"ping","x":[Infinity]}', "invalid"),
            (b'{"op":"ping","x":-Infinity}', "invalid"),
            (b'{"op":"ping","x":01}', "number"),
            (b'{"op":"ping","x":1.}', "number"),
            (b"{'op':'ping'}", "JSON"),
            (b'{"op":"ping",}', "JSON"),
            (b'{"op":"ping","x":"\t"}', "invalid"),
            (b'{"op":"ping","x":"\\ud800"}', "surrogate"),
            (b'{"op":"ping","x":"\xff"}', "not UTF-8"),
            (b'{"op":"ping","x":"\xed\xa0\x80"}', "not UTF-8"),
            (b'{"op":"ping","x":"\xc0\x80"}', "not UTF-8"),
            (b"\xef\xbb\xbf" + b'{"op":"ping"}', "JSON"),
            (b"\x00", "JSON"),
            (b'{"op":"ping","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
            (b'{"op":' * 100_000 + b"}" * 100_000, "nested too deeply"),
            (
                b'{"op":"append","agent_id":"a","event":{"A":' + b"[" * 9999 + b"]" * 9999 + b"}}",
                "nested too deeply",
            ),
        ],
        ids=lambda value: ascii(value)[:30] if isinstance(value, bytes) else "",
    )
    def test_what_is_no_json_object_is_malformed(self, raw: bytes, says: str) -> None:
        refused = refusal(raw)
        assert isinstance(refused.error, MalformedError)
        assert says in refused.error.message
        assert refused.request_id is None

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({}, "op"),
            ({"op": 7}, "op"),
            ({"op": None}, "op"),
            ({"op": ["ping"]}, "op"),
            ({"op": "ping", "id": 1.5}, "id"),
            ({"op": "ping", "id": True}, "id"),
            ({"op": "ping", "id": ["x"]}, "id"),
            ({"op": "append", "event": {"A": 1}}, "agent_id"),
            ({"op": "append", "agent_id": 5, "event": {"A": 1}}, "agent_id"),
            ({"op": "append", "agent_id": None, "event": {"A": 1}}, "agent_id"),
            ({"op": "append", "agent_id": "a", "iteration": -1}, "iteration"),
            ({"op": "append", "agent_id": "a", "iteration": ITERATION_MAX + 1}, "iteration"),
            ({"op": "append", "agent_id": "a", "iteration": 1.5}, "iteration"),
            ({"op": "append", "agent_id": "a", "iteration": 10**400}, "iteration"),
            ({"op": "append", "agent_id": "a", "timestamp": 17}, "timestamp"),
            ({"op": "append", "agent_id": "a", "timestamp": "yesterday"}, "timestamp"),
            ({"op": "append", "agent_id": "a", "timestamp": "2026-01-01"}, "timestamp"),
            ({"op": "append", "agent_id": "a", "timestamp": "2026-01-01T00:00:00"}, "timestamp"),
            ({"op": "append", "agent_id": "a", "timestamp": "2026-13-01T00:00:00Z"}, "timestamp"),
            ({"op": "append", "agent_id": "a", "expected_sequence": -1}, "expected_sequence"),
            (
                {"op": "append", "agent_id": "a", "expected_sequence": SEQUENCE_MAX + 1},
                "expected_sequence",
            ),
            ({"op": "append", "agent_id": "a", "epoch": "1"}, "epoch"),
            ({"op": "append", "agent_id": "a", "key": 5}, "key"),
            ({"op": "append", "agent_id": "a", "uid": -1}, "uid"),
            ({"op": "append", "agent_id": "a", "uid": "*"}, "uid"),
            ({"op": "append", "agent_id": "a", "entries": {"A": 1}}, "entries"),
            ({"op": "append", "agent_id": "a", "entries": [5]}, "entries[0]"),
            (
                {"op": "append", "agent_id": "a", "entries": [{"event": {"A": 1}, "key": 5}]},
                "entries[0].key",
            ),
            ({"op": "append", "agent_id": "a", "entries": [{"iteration": -1}]}, "entries[0].iter"),
            ({"op": "read"}, "agent_id"),
            ({"op": "read", "agent_id": "a", "from_sequence": -1}, "from_sequence"),
            ({"op": "read", "agent_id": "a", "limit": 0}, "limit"),
            ({"op": "read", "agent_id": "a", "limit": "all"}, "limit"),
            ({"op": "describe"}, "agent_id"),
            ({"op": "agents", "state": "dead"}, "state"),
            ({"op": "agents", "kind": 5}, "kind"),
            ({"op": "agents", "after": -1}, "after"),
            ({"op": "agents", "uid": "all"}, "uid"),
            ({"op": "compact", "agent_id": "a", "force": 1}, "force"),
            ({"op": "tail", "last": -1}, "last"),
            ({"op": "tail", "from_position": "0"}, "from_position"),
            ({"op": "tail", "follow": "no"}, "follow"),
            ({"op": "hello", "protocol": "1"}, "protocol"),
        ],
        ids=json.dumps,
    )
    def test_a_wrong_field_is_named(self, fields: dict[str, object], field: str) -> None:
        """By the error's ``field`` and in its message; the id is echoed where it is one."""
        if "id" in fields:
            refused, request_id = refusal(line(**fields)), None
        else:
            refused, request_id = refusal(line(**fields, id=9)), 9
        assert isinstance(refused.error, InvalidError)
        assert str(refused.error.details["field"]).startswith(field)
        assert field in refused.error.message
        assert refused.request_id == request_id

    @pytest.mark.parametrize(
        "raw",
        [
            b'{"op":"read","agent_id":7}',
            b'{"op":"read"}',
            b'{"op":"nonsense"}',
            b'{"op":7}',
            b'{"op":"append","agent_id":"a","entries":[{"event":{"A":1},"iteration":-1}]}',
            b"nonsense",
            b'{"x":"\xff"}',
            b"\0\0",
        ],
    )
    def test_a_refused_line_is_not_kept(self, raw: bytes) -> None:
        """An error in a cycle with its own frame kept it, and all that came with it."""
        sent = bytes(bytearray(raw))
        gc.collect()
        gc.disable()
        try:
            before = sys.getrefcount(sent)
            for _ in range(3):
                with contextlib.suppress(RefusedLineError):
                    decode_request(sent)
            assert sys.getrefcount(sent) == before
        finally:
            gc.enable()

    @given(name=st.text())
    def test_an_unknown_operation_is_named_with_those_there_are(self, name: str) -> None:
        refused = refused_or_none(line(op=name, id="x"))
        if refused is None:
            assert name in {"agents", "backup", "close", "hello", "ping", "stats", "tail", "verify"}
            return
        assert refused.request_id == "x"
        assert len(refused.error.message) < 400
        if isinstance(refused.error, UnknownOpError):
            assert "append" in refused.error.message
        else:
            holding = {"attach", "cancel", "decide", "detach", "fork", "park", "resume", "signal"}
            others = {"append", "compact", "describe", "export", "import", "read"}
            assert name in holding | others

    @given(raw=st.binary(max_size=200))
    def test_no_bytes_raise_anything_but_a_refusal(self, raw: bytes) -> None:
        self.decoded_or_refused(raw)

    @given(
        raw=st.dictionaries(
            st.sampled_from([*Append.__struct_fields__, "op", "limit", "after", "last", "follow"]),
            json_values
            | st.sampled_from(["append", "read", "agents", "tail", "ping", "a"])
            | st.fixed_dictionaries({"A": json_values}),
        ).map(lambda fields: json.dumps(fields).encode()),
        cut=st.integers(0, 400),
        junk=st.binary(max_size=2),
    )
    def test_no_object_raises_anything_but_a_refusal(
        self, raw: bytes, cut: int, junk: bytes
    ) -> None:
        """Whole, cut off, and with bytes put in between."""
        for one in (raw, raw[:cut], raw[:cut] + junk + raw[cut:]):
            self.decoded_or_refused(one)

    def decoded_or_refused(self, raw: bytes) -> None:
        refused = refused_or_none(raw)
        if refused is not None:
            reply = json.loads(error_reply(refused.request_id, refused.error))
            assert reply["error"]["message"] == refused.error.message
            assert refused.error.code in ERRORS


class TestChecks:
    @pytest.mark.parametrize("agent_id", ["a", "0", "a" * 128, "A.b_c:d@e-f", "x" + "-" * 127])
    def test_what_names_an_agent(self, agent_id: str) -> None:
        check_agent_id(agent_id)

    @pytest.mark.parametrize(
        "agent_id",
        ["", "a" * 129, "-a", ".a", "a b", "ä", "a\n", "a\x00", "a/b", "٣", "a" * 10_000],
        ids=lambda agent_id: f"{agent_id[:9]!a}-{len(agent_id)}",
    )
    def test_what_names_no_agent(self, agent_id: str) -> None:
        with pytest.raises(InvalidError) as refused:
            check_agent_id(agent_id)
        assert refused.value.details == {"field": "agent_id"}
        assert str(AGENT_ID_BYTES_MAX) in refused.value.message
        assert len(refused.value.message) < 300

    @pytest.mark.parametrize(
        ("key", "is_one"),
        [
            ("", False),
            ("k", True),
            ("k" * 256, True),
            ("k" * 257, False),
            ("ä" * 128, True),
            ("ä" * 129, False),
            ("k\x00", True),
            ("\x00k", False),
        ],
        ids=lambda value: f"{ascii(value)[:9]}-{len(value)}" if isinstance(value, str) else "",
    )
    def test_what_a_key_is(self, key: str, *, is_one: bool) -> None:
        """1 to 256 bytes, not characters."""
        if is_one:
            check_key(key)
            return
        with pytest.raises(InvalidError, match="256 bytes") as refused:
            check_key(key)
        assert refused.value.details == {"field": "key"}

    @pytest.mark.parametrize(
        "event",
        [b"{}", b'{"A":1,"B":2}', b"[]", b"null", b'"Started"', b"5", b"[1]", b'"a"', b"true"],
        ids=bytes.decode,
    )
    def test_an_event_is_an_object_with_one_key(self, event: bytes) -> None:
        with pytest.raises(InvalidError, match="one key") as refused:
            event_name(msgspec.Raw(event))
        assert refused.value.details == {"field": "event"}

    def test_an_event_may_not_be_missing(self) -> None:
        with pytest.raises(InvalidError, match="missing"):
            event_name(UNSTARTED.event)

    @pytest.mark.parametrize("name", sorted(DAEMON_EVENTS))
    def test_the_daemons_own_events_are_the_daemons(self, name: str) -> None:
        with pytest.raises(InvalidError, match=name):
            event_name(msgspec.Raw(b'{"%b":{}}' % name.encode()))
        escaped = "".join(f"\\u{ord(letter):04x}" for letter in name)
        with pytest.raises(InvalidError, match=name):
            event_name(msgspec.Raw(b'{"%b":{}}' % escaped.encode()))

    @pytest.mark.parametrize(
        ("event", "reason"),
        [
            (b'{"Terminated":{"reason":"Completed"}}', "Completed"),
            (b'{"Terminated":{"reason":"\\u0043ompleted","x":[1e999]}}', "Completed"),
            (b'{"Terminated":{"reason":{"Error":"x"}}}', None),
            (b'{"Terminated":{}}', None),
            (b'{"Terminated":null}', None),
            (b'{"Terminated":"Completed"}', None),
            (b'{"Terminated":[{"reason":"Completed"}]}', None),
        ],
        ids=str,
    )
    def test_why_an_agent_ended(self, event: bytes, reason: str | None) -> None:
        assert terminated_reason(event) == reason

    @pytest.mark.parametrize(
        ("one", "other", "is_same"),
        [
            (b'{"A":1}', b'{"A":1}', True),
            (b'{"A":1}', b'{ "A" : 1 }', True),
            (b'{"A":{"x":1,"y":2}}', b'{"A":{"y":2,"x":1}}', True),
            (b'{"A":"\\u00e4"}', '{"A":"ä"}'.encode(), True),
            (b'{"A":1}', b'{"A":2}', False),
            (b'{"A":1}', b'{"B":1}', False),
            (b'{"A":1}', b'{"A":true}', False),
            (b'{"A":0}', b'{"A":false}', False),
            (b'{"A":1}', b'{"A":"1"}', False),
            (b'{"A":1}', b'{"A":1.0}', False),
            (b'{"A":null}', b'{"A":0}', False),
            (b'{"A":[1,2]}', b'{"A":[2,1]}', False),
            (b'{"A":1e400}', b'{"A":2e400}', False),
            (b'{"A":1e400}', b'{ "A":1e400}', True),
            (b'{"A":9007199254740993}', b'{"A":9007199254740992}', False),
            (b'{"A":' + b"9" * 5000 + b"}", b'{"A": ' + b"9" * 5000 + b"}", True),
            (b'{"A":"x"}', b'{"A":["x"]}', False),
        ],
        ids=lambda value: value.decode()[:20] if isinstance(value, bytes) else str(value),
    )
    def test_a_repeated_event_is_the_same_if_it_says_the_same(
        self, one: bytes, other: bytes, *, is_same: bool
    ) -> None:
        assert is_same_event(one, other) is is_same
        assert is_same_event(other, one) is is_same
