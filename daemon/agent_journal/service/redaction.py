"""Redaction: what must not be recorded, found in JSON and taken out of it.

An event is looked at as the text that came.  What is found is replaced within its
string, and everything else stays byte for byte: numbers, white space, the order of
members, escapes.  Strings are compared as they read, so that one which spells a
secret in escapes hides nothing.

    {"header":"Authorization: Bearer eyJ0…"}  →  {"header":"Authorization: Bearer [redacted:jwt]"}

Most events hold nothing of the kind, and are told apart by a few searches for fixed
texts in their bytes.

Invariant: what comes out is JSON if what went in was, and redacting it again changes
nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from .secrets_known import SECRETS, SIGNS, Secret

# Own patterns are searched for in pieces, so that what one costs is linear in the event,
# whatever it looks like; it finds what is as long as the overlap.
PIECE_CHARS: Final = 2048
OVERLAP_CHARS: Final = 1024

_STRING: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_COLON: Final = re.compile(r"\s*:\s*")
_NESTED: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_SCALAR: Final = re.compile(r"[^\s,\]}]+")
# What stands for one character of a string; a pair of surrogates is one.
_UNIT: Final = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|.", re.DOTALL
)

Found = tuple[int, int, str]  # where it begins and ends, and what kind it is


def marker(kind: str) -> str:
    """Return what stands in the place of a secret."""
    return f"[redacted:{kind}]"


def folded(name: str) -> str:
    """Return the name of a member as it is compared: case, ``-`` and ``_`` aside."""
    return name.lower().replace("-", "_")


class Redaction:
    """Takes secrets out of JSON and of text."""

    def __init__(self, patterns: Sequence[re.Pattern[str]] = (), keys: Iterable[str] = ()) -> None:
        self._own = [
            Secret(f"pattern-{number}", pattern) for number, pattern in enumerate(patterns, 1)
        ]
        self._keys = {folded(key): key for key in keys}
        self._signs = tuple(sign.search for sign in SIGNS)
        names = "|".join(re.escape(key).replace("_", "[_-]") for key in self._keys)
        self._has_key = re.compile(rf'"(?:{names})"'.encode(), re.IGNORECASE).search

    def of_json(self, raw: bytes) -> bytes:
        """Return JSON with its secrets replaced; the very same object where there are none."""
        if not self._may_hold(raw):
            return raw
        text = raw.decode()
        replaced = "".join(self._pieces(text))
        return raw if replaced == text else replaced.encode()

    def of_text(self, text: str) -> str:
        """Return plain text with its secrets replaced."""
        found = self._found_in(text)
        return _replaced(text, found, range(len(text) + 1)) if found else text

    def _may_hold(self, raw: bytes) -> bool:
        """Tell whether it is worth a closer look."""
        if self._own or self._has_sign(raw):
            return True
        return bool(self._keys and self._has_key(raw))

    def _has_sign(self, raw: bytes) -> bool:
        for search in self._signs:  # noqa: SIM110 - a generator would cost as much again
            if search(raw):
                return True
        return False

    def _pieces(self, text: str) -> Iterator[str]:
        """Yield the text piece by piece, with what is to be replaced."""
        done = 0
        while (string := _STRING.search(text, done)) is not None:
            yield text[done : string.start()]
            token, done = string[0], string.end()
            read = _read(token)
            yield self._string(token, read)
            colon = _COLON.match(text, done) if self._keys else None
            kind = self._keys.get(folded(read)) if colon is not None else None
            if colon is None or kind is None:
                continue
            end = _end_of_value(text, colon.end())
            if text[colon.end() : end] == "null":
                continue
            yield f'{text[done : colon.end()]}"{marker(kind)}"'
            done = end
        yield text[done:]

    def _string(self, token: str, read: str) -> str:
        found = self._found_in(read)
        if not found:
            return token
        inner = token[1:-1]
        places: Sequence[int] = range(len(inner) + 1)
        if "\\" in inner:
            places = [unit.start() for unit in _UNIT.finditer(inner)] + [len(inner)]
        return f'"{_replaced(inner, found, places)}"'

    def _found_in(self, text: str) -> list[Found]:
        """Return what is to be replaced, in order; what overlaps is one."""
        found: list[Found] = []
        is_likely = self._has_sign(text.encode("utf-8", "surrogatepass"))
        for secret in SECRETS if is_likely else ():
            for match in secret.pattern.finditer(text):
                group = match.re.groups
                found.append((match.start(group), match.end(group), secret.kind))
        for secret in self._own:
            found += _in_pieces(secret, text)
        found.sort()
        merged: list[Found] = []
        for start, end, kind in found:
            if merged and start < merged[-1][1]:
                first, last, known = merged[-1]
                merged[-1] = first, max(last, end), known
            else:
                merged.append((start, end, kind))
        return merged


def _in_pieces(secret: Secret, text: str) -> Iterator[Found]:
    """Yield what an own pattern finds, which is never nothing at all."""
    for begin in range(0, max(len(text) - OVERLAP_CHARS, 1), PIECE_CHARS - OVERLAP_CHARS):
        for match in secret.pattern.finditer(text, begin, begin + PIECE_CHARS):
            if match.end() > match.start():
                yield match.start(), match.end(), secret.kind


def _read(token: str) -> str:
    """Return what a string of JSON reads."""
    if "\\" not in token:
        return token[1:-1]
    try:
        return str(json.loads(token, strict=False))
    except ValueError:
        return token[1:-1]


def _replaced(text: str, found: list[Found], places: Sequence[int]) -> str:
    """Return *text* with markers; *places* says where each character of what was read begins."""
    pieces: list[str] = []
    done = 0
    for start, end, kind in found:
        pieces += (text[done : places[start]], marker(kind))
        done = places[end]
    return "".join([*pieces, text[done:]])


def _end_of_value(text: str, start: int) -> int:
    """Return where the JSON value ends that begins at *start*."""
    if text[start] == '"':
        string = _STRING.match(text, start)
        return string.end() if string else len(text)
    if text[start] not in "[{":
        scalar = _SCALAR.match(text, start)
        return scalar.end() if scalar else start
    depth = 0
    for token in _NESTED.finditer(text, start):
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
            if not depth:
                return token.end()
    return len(text)
