"""What a reply is compared with: JSON in which some strings stand for what varies.

A pattern is JSON.  Whatever is in it must be in the reply, equal in value and
in type, and nothing else may be there, but for these strings:

    "$any"        anything                  "$integer"    an integer, not negative
    "$string"     a string, not empty       "$timestamp"  RFC 3339, UTC, microseconds
    "$integer:x"  as "$integer", and the first one seen is kept as x; later
                  ones of the same name must equal it (so too "$string:x" …)

and a member named "..." (its value does not matter), which allows further
members.  "${x}" stands for what was kept as x, in requests as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_PATTERN: Final = re.compile(r"\$(any|integer|string|timestamp)(?::([\w.-]+))?")
_VARIABLE: Final = re.compile(r"\$\{([\w.-]+)\}")

_KINDS: Final[Mapping[str, Callable[[object], bool]]] = {
    "any": lambda _: True,
    "integer": lambda value: type(value) is int and value >= 0,
    "string": lambda value: isinstance(value, str) and value != "",
    "timestamp": lambda value: isinstance(value, str) and bool(_TIMESTAMP.fullmatch(value)),
}


class Mismatch(AssertionError):  # noqa: N818 - it is a finding, told by pytest as one
    """A reply is not what was expected; the message says where."""


class Matcher:
    """Compares replies with patterns and keeps the values that they name."""

    def __init__(self, **kept: object) -> None:
        self.kept: dict[str, Any] = dict(kept)

    def match(self, pattern: object, value: object, where: str = "reply") -> None:
        """Compare *value* with *pattern*.

        Raises:
            Mismatch: they differ.
        """
        if isinstance(pattern, str) and (found := _PATTERN.fullmatch(pattern)):
            self._match_kind(found[1], found[2], value, where)
        elif isinstance(pattern, dict) and isinstance(value, dict):
            self._match_members(pattern, value, where)
        elif isinstance(pattern, list) and isinstance(value, list):
            if len(pattern) != len(value):
                raise Mismatch(f"{where}: {len(value)} elements, expected {len(pattern)}: {value}")
            for index, (inner, element) in enumerate(zip(pattern, value, strict=True)):
                self.match(inner, element, f"{where}[{index}]")
        else:
            expected = self.fill(pattern)
            # True == 1 == 1.0 in Python, and not on the wire.
            if type(expected) is not type(value) or expected != value:
                raise Mismatch(f"{where}: {value!r}, expected {expected!r}")

    def fill(self, template: object) -> Any:
        """Return *template* with every "${name}" replaced by what was kept."""
        if isinstance(template, dict):
            return {name: self.fill(value) for name, value in template.items()}
        if isinstance(template, list):
            return [self.fill(value) for value in template]
        if not isinstance(template, str):
            return template
        if whole := _VARIABLE.fullmatch(template):
            return self.kept[whole[1]]
        return _VARIABLE.sub(lambda found: str(self.kept[found[1]]), template)

    def _match_kind(self, kind: str, name: str | None, value: object, where: str) -> None:
        if not _KINDS[kind](value):
            raise Mismatch(f"{where}: {value!r} is not: {kind}")
        if name is not None and self.kept.setdefault(name, value) != value:
            raise Mismatch(f"{where}: {value!r}, but {name} was {self.kept[name]!r} before")

    def _match_members(
        self, pattern: Mapping[str, object], value: Mapping[str, object], where: str
    ) -> None:
        expected = {name: inner for name, inner in pattern.items() if name != "..."}
        if missing := expected.keys() - value.keys():
            raise Mismatch(f"{where}: without {sorted(missing)}: {value}")
        if "..." not in pattern and (extra := value.keys() - expected.keys()):
            raise Mismatch(f"{where}: has {sorted(extra)} besides: {value}")
        for name, inner in expected.items():
            self.match(inner, value[name], f"{where}.{name}")
