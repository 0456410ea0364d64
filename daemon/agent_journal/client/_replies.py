"""What comes from the daemon: bytes to lines, lines to replies, errors to exceptions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, ClassVar, Final

from ..errors import JournalError, error_from_code
from ._requests import Reply

# Far above any limit of the daemon's; a peer beyond it is not our daemon.
REPLY_BYTES_MAX: Final = 1 << 28


class ProtocolError(JournalError):
    """What answers at the socket does not speak this protocol."""

    code: ClassVar[str] = "protocol_error"


# A page of entries.
LONG_BYTES: Final = 1 << 16


class LineBuffer:
    """Cuts what arrives into lines."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of a line that has not ended; joined once, when it ends
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that *data* completes, without their newlines."""
        if not self._size and data.endswith(b"\n"):
            return data[:-1].split(b"\n")
        first, *others = data.split(b"\n")
        self._pieces.append(first)
        self._size += len(first)
        if self._size > REPLY_BYTES_MAX:
            raise ProtocolError("an answer does not end: is this the daemon?")
        if not others:
            return []
        line = b"".join(self._pieces)
        rest = others.pop()
        self._pieces, self._size = [rest], len(rest)
        return [line, *others]


class ReplyFields(dict[str, Any]):
    """A reply's fields, and the line that they were read from, for who passes it on."""

    __slots__ = ("line",)

    line: bytes


def decode_reply(line: bytes) -> ReplyFields:
    try:
        reply = _loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"an answer is not JSON that can be read here: {error}") from error
    if not isinstance(reply, dict):
        raise ProtocolError("an answer is not a JSON object: is this the daemon?")
    fields = ReplyFields(reply)
    fields.line = line
    return fields


# What json.loads() calls when it has found out in which encoding its bytes are.
_decode = json.JSONDecoder().decode


def _loads(line: bytes) -> object:
    try:
        return _decode(line.decode())
    except RecursionError:
        raise
    except ValueError as error:
        if "integer string conversion" not in str(error):
            raise
        # Somebody recorded an integer of more digits than Python converts.
        from decimal import Decimal  # noqa: PLC0415 - hardly ever needed, and slow to import

        return json.loads(line, parse_int=lambda digits: _int_or(Decimal, digits))


def _int_or(fallback: Callable[[str], object], digits: str) -> object:
    try:
        return int(digits)
    except ValueError:
        return fallback(digits)


_ENVELOPE: Final = frozenset({"code", "message", "retryable", "outcome"})


def error_in(reply: Reply) -> tuple[JournalError, bool]:
    """Return the error in *reply*, and whether the daemon calls it retryable."""
    try:
        fields = reply["error"]
        details = {name: value for name, value in fields.items() if name not in _ENVELOPE}
        error = error_from_code(fields["code"], fields["message"], details)
        return error, bool(fields.get("retryable", error.retryable))
    except (KeyError, TypeError, AttributeError) as problem:
        raise ProtocolError(f"an error came that is not understood: {problem!r}") from problem
