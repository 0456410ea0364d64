"""JSON taken apart without being written anew.

The journal gives an event back byte for byte, so a tool that passes one on must
not decode and encode it: ``1.10`` would come out as ``1.1``, and ``1e400`` as
``Infinity``, which is not even JSON.  Here every value keeps the text it had.
"""

from __future__ import annotations

import json
import re
from typing import Final, NoReturn

from ..errors import MalformedError
from ..value import Value

INT_DIGITS_MAX: Final = 20  # what has more is no field of ours; Python refuses thousands


class RawValue(Value):
    """A JSON value and the text it was read from."""

    value: object
    text: str


def object_members(text: str) -> dict[str, RawValue]:
    """Return the members of the JSON object *text*; of a repeated name the last one.

    Raises:
        MalformedError: it is not one JSON object.
    """
    return dict(_taken_apart(text, "{}"))


def array_items(text: str) -> list[RawValue]:
    """Return the items of the JSON array *text*.

    Raises:
        MalformedError: it is not one JSON array.
    """
    return [item for _, item in _taken_apart(text, "[]")]


def indented(text: str) -> str:
    """Return JSON *text* over several lines, every value with the text it had."""
    lines = [""]
    depth = 0
    pieces = _PIECES(text)
    for piece, following in zip(pieces, [*pieces[1:], ""], strict=True):
        if piece in "}]" and not lines[-1].endswith(("{", "[")):
            lines.append(INDENT * depth)
        lines[-1] += piece
        if piece in "{[":
            depth += following not in "}]"
        if piece == ":":
            lines[-1] += " "
        elif following and following in "}]" and piece not in "{[":
            depth -= 1
        elif piece == "," or (piece in "{[" and following not in "}]"):
            lines.append(INDENT * depth)
    return "\n".join(lines)


def _taken_apart(text: str, brackets: str) -> list[tuple[str, RawValue]]:
    try:
        return _scan(text, *brackets)
    except RecursionError:
        raise MalformedError("nested too deeply") from None
    except ValueError as error:
        raise MalformedError(f"not JSON: {json_problem(error)}") from None


def json_problem(error: ValueError) -> str:
    """Return what a JSON decoder found wrong; it decodes one line, and counts only characters."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    return str(error)


def _scan(text: str, opening: str, closing: str) -> list[tuple[str, RawValue]]:
    found: list[tuple[str, RawValue]] = []
    at = _skip(text, 0)
    if not text.startswith(opening, at):
        _decode(text, at)  # says what is wrong where it is no JSON at all
        raise MalformedError(f"not a JSON {'object' if opening == '{' else 'array'}")
    at = _skip(text, at + 1)
    while not text.startswith(closing, at):
        name: object = ""
        if found:
            at = _skip_token(text, at, ",")
        if opening == "{":
            name, at = _decode(text, at)
            at = _skip_token(text, at, ":")
        value, end = _decode(text, at)
        if not isinstance(name, str):
            raise json.JSONDecodeError("Expecting a name in double quotes", text, at)
        found.append((name, RawValue(value, text[at:end])))
        at = _skip(text, end)
    if _skip(text, at + 1) != len(text):
        raise json.JSONDecodeError("Extra data", text, at + 1)
    return found


def _skip(text: str, at: int) -> int:
    """Return where the next token begins, at or behind *at*."""
    space = _SPACE(text, at)
    return space.end() if space else at


def _skip_token(text: str, at: int, token: str) -> int:
    at = _skip(text, at)
    if not text.startswith(token, at):
        raise json.JSONDecodeError(f"Expecting '{token}'", text, at)
    return _skip(text, at + 1)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _int(digits: str) -> int | str:
    return int(digits) if len(digits) <= INT_DIGITS_MAX else digits


INDENT: Final = "  "
_PIECES: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}:,]|[^][{}:,"\s]+').findall
_SPACE: Final = re.compile(r"[ \t\n\r]*").match
_decode: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_int).raw_decode
