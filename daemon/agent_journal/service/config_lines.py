"""On which line of a TOML file an option stands, which no TOML reader of Python tells.

There is no second parser here to differ from the first.  The file is read in growing
pieces, and an option stands where the shortest piece that is TOML and holds it ends.
A value of several lines is one piece, since a part of it is no TOML.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping

LINES_MAX = 2000  # read anew for each line that says something; longer files have no numbers


def lines_of(text: str) -> dict[str, int]:
    """Return the number of the line, from 1, on which each dotted name begins.

    Of a table it is the line that opens it.  What follows a mistake is not found.
    """
    lines = text.splitlines(keepends=True)
    if len(lines) > LINES_MAX:
        return {}
    found: dict[str, int] = {}
    begin = 0
    for at, line in enumerate(lines):
        if not line.strip() or line.lstrip().startswith("#"):
            begin = at + 1 if begin == at else begin  # within a value it may be a part of it
            continue
        try:
            document = tomllib.loads("".join(lines[: at + 1]))
        except (ValueError, RecursionError):
            continue
        for name in _names(document):
            found.setdefault(name, begin + 1)
        begin = at + 1
    return found


def _names(table: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    for key, value in table.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{key}.")
