"""``--json``: one object a line, for programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from datetime import datetime
from math import isinf
from typing import Final

from ..value import Fields, fields_of
from .terminal import harmless_json
from .timestamps import wire_time

# Stands for a number that Python has no JSON number for, until it is text.
_MARK: Final = "\x00number:"
_MARKED: Final = re.compile(r'"\\u0000number:([-+.0-9eE]+)"')


def print_json(value: object) -> None:
    """Print *value*, an object or one of the client's records, on a line."""
    sys.stdout.write(json_text(as_object(value)) + "\n")


def as_object(value: object) -> object:
    """Return a record as a plain object, without the fields that it does not have."""
    if isinstance(value, Fields):
        fields = fields_of(value).items()
        return {name: _plain(field) for name, field in fields if field not in (None, ())}
    return dict(value) if isinstance(value, Mapping) else value


def _plain(value: object) -> object:
    """Return a time as it is on the wire."""
    return wire_time(value) if isinstance(value, datetime) else value


def json_text(value: object, *, indent: int | None = None) -> str:
    """Return *value* as JSON that is safe to print on any terminal."""
    encoder = json.JSONEncoder(
        ensure_ascii=(sys.stdout.encoding or "").lower().replace("-", "") != "utf8",
        allow_nan=False,
        separators=(",", ":") if indent is None else (",", ": "),
        indent=indent,
    )
    try:
        text = encoder.encode(value)
    except (TypeError, ValueError):
        text = _MARKED.sub(r"\1", encoder.encode(_marked(value)))
    return "\n".join(map(harmless_json, text.split("\n")))


def _marked(value: object) -> object:
    """Mark the numbers that the journal keeps and Python cannot write as they are.

    ``1e400`` is read as infinity, for which JSON has no word, and an integer of
    thousands of digits is read as a ``Decimal``.
    """
    match value:
        case dict():
            return {name: _marked(item) for name, item in value.items()}
        case list():
            return [_marked(item) for item in value]
        case float() if isinf(value):
            return f"{_MARK}{'-' if value < 0 else ''}1e999"
        case str() | int() | float() | None:
            return value
        case _:
            return f"{_MARK}{value}"
