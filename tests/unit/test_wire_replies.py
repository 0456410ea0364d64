"""Results to bytes: timestamps, entries and replies, each a line of JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent_journal.errors import (
    FrameTooLargeError,
    InvalidError,
    JournalError,
    SequenceConflictError,
)
from agent_journal.model import ITERATION_MAX, SEQUENCE_MAX
from agent_journal.service.rendering import EntryRenderer
from agent_journal.wire import (
    Append,
    RefusedLineError,
    appended_replies,
    appended_reply,
    decode_request,
    error_reply,
    micros_from,
    ok_reply,
    render_timestamp,
)

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


EDGES = [
    (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000000Z"),
    (datetime(999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "0999-12-31T23:59:59.999999Z"),
    (datetime(1970, 1, 1, tzinfo=UTC), "1970-01-01T00:00:00.000000Z"),
    (datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=UTC), "1969-12-31T23:59:59.000001Z"),
    (datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "9999-12-31T23:59:59.999999Z"),
]


class TestTimestamps:
    @pytest.mark.parametrize(("moment", "text"), EDGES, ids=str)
    def test_the_first_and_the_last_year(self, moment: datetime, text: str) -> None:
        assert render_timestamp(micros_from(moment)) == text

    @given(
        moment=st.datetimes(
            min_value=datetime(1, 1, 2),  # noqa: DTZ001 - hypothesis adds the zone
            max_value=datetime(9999, 12, 30),  # noqa: DTZ001
            timezones=st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m))),
        )
    )
    def test_a_timestamp_comes_back_as_the_same_moment_in_utc(self, moment: datetime) -> None:
        request = decode_request(line(op="append", agent_id="a", timestamp=moment.isoformat()))
        assert isinstance(request, Append)
        assert request.timestamp is not None
        text = render_timestamp(micros_from(request.timestamp))
        assert len(text) == 27
        assert text.endswith("Z")
        assert datetime.fromisoformat(text) == moment

    @pytest.mark.parametrize(
        "text",
        [
            "0001-01-01T00:00:00+00:01",
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59.999999-00:01",
            "9999-12-31T12:00:00-23:59",
        ],
    )
    def test_a_moment_beyond_the_first_or_last_year_is_refused(self, text: str) -> None:
        """In UTC it has no four-digit year: recorded, it could never be read again."""
        refused: JournalError | None = None
        try:
            request = decode_request(line(op="append", agent_id="a", timestamp=text))
            assert isinstance(request, Append)
            assert request.timestamp is not None
            micros_from(request.timestamp)
        except RefusedLineError as error:
            refused = error.error
        except JournalError as error:
            refused = error
        assert isinstance(refused, InvalidError)
        assert refused.details == {"field": "timestamp"}

    @given(
        micros=st.lists(
            st.integers(
                micros_from(datetime(1, 1, 1, tzinfo=UTC)),
                micros_from(datetime(9999, 12, 31, tzinfo=UTC)),
            )
            | st.integers(-2_000_000, 2_000_000),
            max_size=9,
        )
    )
    def test_an_entry_shows_its_timestamp_whatever_came_before(self, micros: list[int]) -> None:
        """The renderer remembers the last second; neighbours must not get each other's."""
        renderer = EntryRenderer()
        for one in micros:
            entry = json.loads(renderer.render(0, 0, one, b"a", 0, b'{"A":1}'))
            assert entry["timestamp"] == render_timestamp(one)


class TestReplies:
    ids = st.none() | st.integers(-(10**30), 10**30) | st.text()

    @given(request_id=ids, fields=st.dictionaries(st.text(max_size=5), json_values, max_size=3))
    def test_an_ok_reply_is_one_line_with_the_id(
        self, request_id: int | str | None, fields: dict[str, object]
    ) -> None:
        fields = {name: value for name, value in fields.items() if name not in {"id", "ok"}}
        reply = ok_reply(request_id, json.loads(json.dumps(fields)))
        assert reply.count(b"\n") == 1
        assert reply.endswith(b"\n")
        decoded = json.loads(reply)
        assert decoded.get("id") == request_id
        assert ("id" in decoded) == (request_id is not None)
        assert decoded["ok"] is True

    @given(request_id=ids, message=st.text(), expected=st.integers(0, SEQUENCE_MAX))
    def test_an_error_reply_says_what_its_class_says(
        self, request_id: int | str | None, message: str, expected: int
    ) -> None:
        error = SequenceConflictError(message, expected=expected, actual=expected + 1)
        decoded = json.loads(error_reply(request_id, error))
        assert decoded == {
            "id": request_id,
            "ok": False,
            "error": {
                "code": "sequence_conflict",
                "message": message,
                "retryable": False,
                "outcome": "not_recorded",
                "expected": expected,
                "actual": expected + 1,
            },
        }

    @given(
        request_id=ids,
        sequence=st.integers(0, SEQUENCE_MAX),
        position=st.integers(0, SEQUENCE_MAX),
        count=st.integers(1, 10**6),
        is_duplicate=st.booleans(),
    )
    @example(request_id='%d "quoted" \\ %s\n', sequence=0, position=0, count=1, is_duplicate=True)
    def test_an_append_is_answered_with_its_place(
        self,
        request_id: int | str | None,
        sequence: int,
        position: int,
        count: int,
        *,
        is_duplicate: bool,
    ) -> None:
        raw = appended_reply(request_id, sequence, position, count, is_duplicate=is_duplicate)
        assert raw.count(b"\n") == 1
        expected: dict[str, object] = {} if request_id is None else {"id": request_id}
        expected |= {"ok": True, "sequence": sequence, "position": position, "count": count}
        if is_duplicate:
            expected["duplicate"] = True
        assert json.loads(raw) == expected

    @given(
        asked=st.lists(
            st.tuples(st.integers(-(10**30), 10**30), st.integers(0, SEQUENCE_MAX)),
            min_size=1,
            max_size=9,
        ),
        first=st.integers(0, SEQUENCE_MAX),
    )
    def test_a_run_is_answered_as_one_by_one(
        self, asked: list[tuple[int, int]], first: int
    ) -> None:
        ids, sequences = [one[0] for one in asked], [one[1] for one in asked]
        assert appended_replies(ids, sequences, first) == b"".join(
            appended_reply(request_id, sequence, first + place, 1)
            for place, (request_id, sequence) in enumerate(asked)
        )

    @given(
        sequence=st.integers(0, SEQUENCE_MAX),
        iteration=st.integers(0, ITERATION_MAX),
        payload=json_values,
        uid=st.none() | st.integers(0, 2**32 - 1),
    )
    def test_an_entry_holds_its_event_as_it_was_sent(
        self, sequence: int, iteration: int, payload: object, uid: int | None
    ) -> None:
        event = json.dumps({"%d": payload}).encode()
        raw = EntryRenderer().render(sequence, sequence, 0, b"a:b@c", iteration, event, uid)
        assert raw.endswith(b',"event":' + event + b"}")
        decoded = json.loads(raw)
        assert decoded == {
            **({} if uid is None else {"uid": uid}),
            "sequence": sequence,
            "position": sequence,
            "timestamp": "1970-01-01T00:00:00.000000Z",
            "agent_id": "a:b@c",
            "iteration": iteration,
            "event": json.loads(event),
        }


def test_an_error_shows_its_details_beside_its_message() -> None:
    reply = json.loads(error_reply(None, FrameTooLargeError("too long", frame_bytes_max=5)))
    assert reply["error"]["frame_bytes_max"] == 5
    assert reply["id"] is None
