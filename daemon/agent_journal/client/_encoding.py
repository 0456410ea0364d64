"""What users give, as the JSON that is sent.

Events given as JSON text are passed on as they are, but parsed first: a text
that is no JSON value could end the request's line, or add fields to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from json.encoder import encode_basestring
from typing import Final, NoReturn

from ..errors import InvalidError
from ._results import Event, Timestamp


def json_encoder(*, sort_keys: bool = False) -> Callable[[object], str]:
    """Return what writes a value as JSON, without a space; one within itself is too deep for it."""
    encoder = json.JSONEncoder(
        ensure_ascii=False,
        allow_nan=False,
        check_circular=False,
        separators=(",", ":"),
        sort_keys=sort_keys,
    )
    try:
        # What encode() makes anew for each value, which takes as long as to use it.
        options = (":", ",", sort_keys, encoder.skipkeys, encoder.allow_nan)
        write = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
            None, encoder.default, encode_basestring, None, *options
        )
        write([], 0)
    except (AttributeError, TypeError):  # a Python that has no such thing, or another
        return encoder.encode
    join = "".join
    return lambda value: join(write(value, 0))


_encode = json_encoder()


# A string as JSON, with its quotes.
quoted = encode_basestring


def json_string(text: str, field: str) -> bytes:
    """Return the request's *field*, which is *text*, as JSON.

    Raises:
        InvalidError: it is no text that UTF-8 can hold.
    """
    try:
        return quoted(text).encode()
    except (TypeError, UnicodeEncodeError):
        return _json_text(text, field)


def members(fields: Mapping[str, object]) -> bytes:
    """Return *fields* as the members that stand in a JSON object behind others."""
    return b",%b" % _json_text(fields)[1:-1] if fields else b""


def _json_text(value: object, field: str = "") -> bytes:
    try:
        return _encode(value).encode()
    except UnicodeEncodeError:
        problem = "a string in it is not text that UTF-8 can hold (a lone surrogate)"
    except RecursionError:
        problem = "it is nested too deeply"
    except (TypeError, ValueError) as error:  # no JSON type, NaN, or within itself
        problem = str(error)
    what = f'"{field}"' if field else "the request"
    raise InvalidError(f"{what} cannot be written as JSON: {problem}", field=field)


class CheckedText(bytes):
    """An event's JSON text on one line, made here: it need not be parsed to be sure of it."""


def event_text(event: Event) -> bytes:
    """Return *event* on one line.

    Raises:
        InvalidError: it is no JSON, or cannot be written as such.
    """
    if type(event) is CheckedText:
        return event
    if isinstance(event, str | bytes):
        return _checked(event)
    if isinstance(event, Mapping):
        return _json_text(event if isinstance(event, dict) else dict(event), "event")
    raise InvalidError(
        f'"event" must be a mapping, or JSON text, not {type(event).__name__}', field="event"
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Looks at the syntax alone: numbers stay text, which also spares the limit on
# how many digits Python makes a number of.
_check_syntax = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_int=str, parse_float=str
).decode


def _checked(text: str | bytes) -> bytes:
    """Return JSON *text* on one line, otherwise as it is."""
    try:
        decoded = text if isinstance(text, str) else text.decode()
        encoded = text if isinstance(text, bytes) else text.encode()
        _check_syntax(decoded)
    except RecursionError:
        raise InvalidError('"event" is nested too deeply', field="event") from None
    except ValueError as error:  # bad UTF-8 is one too
        raise InvalidError(f'"event" is not JSON text: {error}', field="event") from None
    if b"\n" not in encoded:
        return encoded
    # In valid JSON a newline can only stand between tokens.
    return encoded.replace(b"\r\n", b" ").replace(b"\n", b" ")


def timestamp_text(timestamp: Timestamp | None) -> str | None:
    """Return RFC 3339 in UTC for a datetime, and what is text as it is.

    Raises:
        InvalidError: the datetime has no time zone.
    """
    if not isinstance(timestamp, datetime):
        return timestamp
    if timestamp.tzinfo is None:
        raise InvalidError(
            '"timestamp" has no time zone; use datetime.now(UTC), or astimezone()',
            field="timestamp",
        )
    return timestamp.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def moment(us: int) -> datetime:
    """Return the time that is *us* microseconds behind the beginning of 1970."""
    return _EPOCH + timedelta(microseconds=us)


def moment_text(us: int) -> str:
    """Return the same as RFC 3339 text."""
    return moment(us).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def moment_us(text: str) -> int:
    """Return the microseconds of RFC 3339 *text*."""
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)
