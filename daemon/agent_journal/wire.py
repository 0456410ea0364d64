"""The wire without I/O: bytes to frames to requests, results to reply bytes.

The hot path is one typed decode per line, which leaves the event as the raw
bytes that came (they are kept and given back byte for byte), and one look at
the event for its name.  Only a line that fails is looked at a second time, to
say exactly what is wrong with it and to echo its id where that can be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from .errors import (
    FrameTooLargeError,
    InvalidError,
    JournalError,
    MalformedError,
    OverloadedError,
    UnknownOpError,
)
from .framing import DISCARDED_LINE, TOO_LONG, UNFINISHED_LINE
from .model import (
    AGENT_ID_BYTES_MAX,
    DAEMON_EVENTS,
    ITERATION_MAX,
    KEY_BYTES_MAX,
    SEQUENCE_MAX,
    AgentState,
    Micros,
    is_agent_id,
)
from .wire_requests import Count, HoldingRequest, KeepingRequest, NumericUid, Timestamp

RequestId = int | str | None

_Limit = Annotated[int, Meta(ge=1, le=SEQUENCE_MAX)]
_Iteration = Annotated[int, Meta(ge=0, le=ITERATION_MAX)]


class EntryFields(Struct, gc=False):
    """One member of an append's ``entries``."""

    event: Raw | UnsetType = UNSET
    iteration: _Iteration = 0
    timestamp: Timestamp | None = None
    key: str | None = None


class Append(Struct, tag_field="op", tag="append", gc=False):
    """Record one entry, or ``entries`` all or none."""

    agent_id: str
    event: Raw | UnsetType = UNSET
    iteration: _Iteration = 0
    id: int | str | None = None
    timestamp: Timestamp | None = None
    expected_sequence: Count | None = None
    epoch: Count | None = None
    key: str | None = None
    entries: list[EntryFields] | None = None
    uid: NumericUid | None = None


class Read(Struct, tag_field="op", tag="read"):
    """Give back an agent's entries in sequence order."""

    agent_id: str
    from_sequence: Count = 0
    limit: _Limit = 1000
    id: int | str | None = None
    uid: NumericUid | None = None


class Describe(Struct, tag_field="op", tag="describe"):
    """Tell what is known of one agent."""

    agent_id: str
    id: int | str | None = None
    uid: NumericUid | None = None


class Agents(Struct, tag_field="op", tag="agents"):
    """List agents by first position, or those whose ids begin alike, by id."""

    state: AgentState | None = None
    kind: str | None = None
    prefix: str | None = None
    order: Literal["oldest", "newest"] | None = None
    after: str | Count | None = None
    limit: _Limit = 100
    id: int | str | None = None
    uid: NumericUid | Literal["*"] | None = None


class Compact(Struct, tag_field="op", tag="compact"):
    """Remove all entries of an agent."""

    agent_id: str
    force: bool = False
    id: int | str | None = None
    uid: NumericUid | None = None


class Tail(Struct, tag_field="op", tag="tail"):
    """Stream entries in position order."""

    agent_id: str | None = None
    from_position: Count | None = None
    before_position: Count | None = None
    last: Count | None = None
    follow: bool = True
    id: int | str | None = None
    uid: NumericUid | Literal["*"] | None = None


class Stats(Struct, tag_field="op", tag="stats"):
    """Give the daemon's counters and gauges."""

    id: int | str | None = None
    uid: NumericUid | Literal["*"] | None = None


class Ping(Struct, tag_field="op", tag="ping"):
    """Answer without touching the store."""

    id: int | str | None = None


class Hello(Struct, tag_field="op", tag="hello"):
    """Agree on the protocol."""

    protocol: int | None = None
    id: int | str | None = None


class Close(Struct, tag_field="op", tag="close"):
    """End the conversation, a tail above all."""

    id: int | str | None = None


Request = (
    Append
    | Read
    | Describe
    | Agents
    | Compact
    | Tail
    | Stats
    | Ping
    | Hello
    | Close
    | HoldingRequest
    | KeepingRequest
)

_decode: Final[Callable[[bytes], Request]] = msgspec.json.Decoder(Request).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_INNER: Final[dict[str, Callable[[Raw], object]]] = {
    "entries": msgspec.json.Decoder(list[dict[str, Raw]]).decode,
    "command": _decode_members,
}
_decode_id: Final[Callable[[Raw], RequestId]] = msgspec.json.Decoder(RequestId).decode
_OPS: Final = {kind.__struct_config__.tag: kind for kind in Request.__args__}
_OPS_TEXT: Final = ", ".join(sorted(map(str, _OPS)))
_FIELD: Final = re.compile(r" - at `\$\.?([^`]*)`")

# What a decoder raises for input that no request looks like.
_REFUSED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)


class RefusedLineError(Exception):
    """A line that is no request: the error to answer with, and the id to echo."""

    def __init__(self, error: JournalError, request_id: RequestId) -> None:
        super().__init__(error.message)
        self.error = error
        self.request_id = request_id


def decode_request(line: bytes) -> Request:
    """Return the request in *line*.

    Raises:
        RefusedLineError: *line* is not a request; carries what to answer.
    """
    try:
        if not line.isascii():
            line.decode()
        return _decode(line)
    except _REFUSED:
        return _decode_again(line)


def _decode_again(line: bytes) -> Request:
    """Find out what is wrong with *line*, or that nothing is."""
    if line.startswith(b"\0"):
        raise RefusedLineError(_framing_error(line), None)
    try:
        line.decode()
        members = _decode_members(line)
    except _REFUSED as malformed:
        raise RefusedLineError(_malformed(malformed), None) from None
    request_id = _readable_id(members)
    op = members.get("op")
    if op is None:
        error: JournalError = InvalidError(
            f'"op" is missing; it is one of: {_OPS_TEXT}', field="op"
        )
        raise RefusedLineError(error, request_id)
    try:
        name = msgspec.json.decode(op, type=str)
    except _REFUSED:
        error = InvalidError('"op" must be a string', field="op")
        raise RefusedLineError(error, request_id) from None
    if name not in _OPS:
        error = UnknownOpError(f"there is no operation {name!r:.80}; there are: {_OPS_TEXT}")
        raise RefusedLineError(error, request_id)
    _leave_last(members)
    try:  # of a repeated key the last one counts, and only one of them is left now
        request: Request = msgspec.json.decode(msgspec.json.encode(members), type=_OPS[name])
        return request  # noqa: TRY300 - the typed variable is for mypy
    except _REFUSED as invalid:
        # Kept no longer than this: with its traceback it would keep this frame, which
        # would keep it, and all lines of the caller's, until the garbage is collected.
        error = _invalid(invalid)
    raise RefusedLineError(error, request_id)


def _leave_last(members: dict[str, Raw]) -> None:
    """Leave of repeated keys within the objects of a request the last one."""
    for name, decode in _INNER.items():
        if name in members:
            with suppress(*_REFUSED):  # which is told when it is decoded as what it should be
                members[name] = Raw(msgspec.json.encode(decode(members[name])))


def _framing_error(line: bytes) -> JournalError:
    """Return the error for a word of the framer's."""
    limit = line.removeprefix(TOO_LONG)
    if limit != line and limit.isdigit():
        return FrameTooLargeError(
            f"the line is longer than {limit.decode()} bytes (limits.frame_bytes_max) and was "
            "discarded; split it, or record a reference to what is large",
            frame_bytes_max=int(limit),
        )
    if line == DISCARDED_LINE:
        return OverloadedError(
            "too many unfinished lines are held; this one was discarded, send it again later",
            retry_ms=1000,
        )
    if line == UNFINISHED_LINE:
        return MalformedError(
            "the last line did not end in a newline, so nothing of it was recorded; "
            "end each line with \\n"
        )
    return MalformedError("the line is not a JSON object: it begins with NUL")


def _readable_id(members: dict[str, Raw]) -> RequestId:
    try:
        return _decode_id(members.get("id", Raw(b"null")))
    except _REFUSED:
        return None


def _malformed(problem: Exception) -> MalformedError:
    match problem:
        case RecursionError():
            reason = "it is nested too deeply"
        case UnicodeDecodeError():
            reason = f"it is not UTF-8 (byte {problem.start})"
        case msgspec.ValidationError():
            reason = "it is JSON, but not an object"
        case _ if "truncated" in str(problem):
            reason = "it ends too early, is empty, or holds half of a surrogate pair"
        case _:
            reason = str(problem).removeprefix("JSON is malformed: ")
    return MalformedError(f"the line is not a JSON object: {reason}; send one object a line")


def _invalid(problem: Exception) -> JournalError:
    text = str(problem)
    if isinstance(problem, RecursionError):
        return _malformed(problem)
    where = _FIELD.search(text)
    if where:
        field, reason = where[1], text[: where.start()]
    else:
        missing = re.search(r"missing required field `(\w+)`", text)
        field = missing[1] if missing else ""
        reason = "it is missing" if missing else text
    return InvalidError(f'"{field}" is not acceptable: {reason}', field=field)


def check_agent_id(agent_id: str, field: str = "agent_id") -> None:
    """Refuse what cannot name an agent; the same rule holds for kinds and launchers.

    Raises:
        InvalidError: naming the field.
    """
    if not is_agent_id(agent_id):
        raise InvalidError(
            f'"{field}" must be 1 to {AGENT_ID_BYTES_MAX} of A-Z a-z 0-9 . _ : @ - '
            f"and begin with a letter or digit; got {agent_id!r:.80}",
            field=field,
        )


def is_key(key: str) -> bool:
    """Tell whether *key* may be an idempotency key."""
    return 1 <= len(key.encode()) <= KEY_BYTES_MAX and key[0] != "\0"


def check_key(key: str) -> None:
    """Refuse an idempotency key that is empty or too long, or that may be one of our own.

    Raises:
        InvalidError: naming the field.
    """
    if not is_key(key):
        raise InvalidError(
            f'"key" must be 1 to {KEY_BYTES_MAX} bytes long, the first of them not NUL',
            field="key",
        )


def event_name(event: Raw | UnsetType) -> str:
    """Return the name of *event*, which a client wants to record.

    Raises:
        InvalidError: it is not an object with one key, or only the daemon may write it.
    """
    try:
        (name,) = _decode_members(event)  # type: ignore[arg-type]
    except (TypeError, *_REFUSED):
        if event is UNSET:
            raise InvalidError('"event" is missing', field="event") from None
        raise InvalidError(
            '"event" must be an object with one key, the event\'s name: {"Started": {...}}',
            field="event",
        ) from None
    if name in DAEMON_EVENTS:
        raise InvalidError(f'"event": only the daemon itself records {name}', field="event")
    return name


def terminated_reason(event: bytes) -> str | None:
    """Return the ``reason`` of a ``Terminated`` event where it says one."""
    try:
        payload = _decode_members(_decode_members(event)["Terminated"])
        return msgspec.json.decode(payload["reason"], type=str)
    except (KeyError, *_REFUSED):
        return None


def is_same_event(one: bytes, other: bytes) -> bool:
    """Tell whether two events say the same, white space and key order aside."""
    try:
        return one == other or bool(_value(one) == _value(other))
    except (ValueError, RecursionError):
        return False


def _value(event: bytes) -> object:
    # Numbers are compared as they are written: any range, and 1 is not 1.0.
    return json.loads(event, parse_int=_Number, parse_float=_Number)


class _Number(str):
    """A number as it was written, which equals no string."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Number) and str.__eq__(self, other)

    __hash__ = str.__hash__


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_TIMESTAMP_MIN: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_TIMESTAMP_MAX: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND


def micros_from(timestamp: datetime, field: str = "timestamp") -> Micros:
    """Return *timestamp* as microseconds since 1970.

    Raises:
        InvalidError: its offset takes it beyond what can be written in UTC.
    """
    micros = (timestamp - _EPOCH) // _MICROSECOND
    if not _TIMESTAMP_MIN <= micros <= _TIMESTAMP_MAX:
        raise InvalidError(f'"{field}" must lie in the years 1 to 9999 of UTC', field=field)
    return Micros(micros)


def render_timestamp(micros: int) -> str:
    """Return RFC 3339 in UTC with microseconds."""
    return (_EPOCH + micros * _MICROSECOND).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


def ok_reply(request_id: RequestId, fields: dict[str, object]) -> bytes:
    """Return a reply line that says yes."""
    head: dict[str, object] = {} if request_id is None else {"id": request_id}
    return msgspec.json.encode({**head, "ok": True, **fields}) + b"\n"


def error_reply(request_id: RequestId, error: JournalError) -> bytes:
    """Return a reply line that says no, why, and what to do."""
    body = {
        "code": error.code,
        "message": error.message,
        "retryable": error.retryable,
        "outcome": error.outcome.value,
        **error.details,
    }
    return msgspec.json.encode({"id": request_id, "ok": False, "error": body}) + b"\n"


def id_prefix(request_id: RequestId) -> bytes:
    """Return how a reply to *request_id* begins, up to its second field."""
    if request_id is None:
        return b"{"
    return b'{"id":' + msgspec.json.encode(request_id) + b","


# Appends that came in one piece are answered in one piece.
_APPENDED: Final = '{"id":%d,"ok":true,"sequence":%d,"position":%d,"count":1}\n'


_APPENDED_RAW: Final = _APPENDED.encode()


def appended_replies(ids: list[int], sequences: list[int], first_position: int) -> bytes:
    """Return the replies to appends of one entry each, at neighbouring positions."""
    count = len(ids)
    if count == 1:
        return _APPENDED_RAW % (ids[0], sequences[0], first_position)
    values = [0] * (3 * count)
    values[0::3] = ids
    values[1::3] = sequences
    values[2::3] = range(first_position, first_position + count)
    return (_APPENDED * count % tuple(values)).encode()


def appended_reply(
    request_id: RequestId, sequence: int, position: int, count: int, *, is_duplicate: bool = False
) -> bytes:
    """Return the reply to one append."""
    duplicate = b',"duplicate":true' if is_duplicate else b""
    return id_prefix(request_id) + (
        b'"ok":true,"sequence":%d,"position":%d,"count":%d%b}\n'
        % (sequence, position, count, duplicate)
    )
