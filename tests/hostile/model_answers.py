"""What a model says of a reply: which ones are possible, and what each of them tells."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from hostile.answers import ERRORS
from hostile.model_state import ANY, Entry

Request = dict[str, Any]
Check = Callable[["Reply"], None]

INTEGER: Final = object()  # any number that the wire may carry
STRING: Final = object()
TIMESTAMP: Final = object()


class ShownEntry(msgspec.Struct, forbid_unknown_fields=True):
    """An entry on the wire, its event as it came."""

    sequence: int
    position: int
    timestamp: str
    agent_id: str
    iteration: int
    event: msgspec.Raw
    uid: int | None = None


class _Shown(msgspec.Struct):
    entries: list[ShownEntry] = []
    entry: ShownEntry | None = None


_shown: Final = msgspec.json.Decoder(_Shown)


class Reply:
    """One line of the daemon's."""

    def __init__(self, line: bytes) -> None:
        self.line = line
        self.members: dict[str, Any] = json.loads(line)
        shown = _shown.decode(line)
        self.entries = shown.entries
        self.entry = shown.entry

    def __repr__(self) -> str:
        return repr(self.members)


def _nothing(reply: Reply) -> None:
    """Change nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply that is possible, and what it does to the model."""

    check: Check
    effect: Check = _nothing

    def fits(self, reply: Reply) -> str | None:
        """Return ``None``, or what speaks against it."""
        try:
            self.check(reply)
        except AssertionError as problem:
            return str(problem)
        return None


def same(expected: Any, actual: Any, where: str = "reply") -> None:
    """Hold *actual* to *expected*, in value and in type; nothing may be there besides.

    Raises:
        AssertionError: they differ; it says where.
    """
    if expected is ANY:
        return
    if expected is INTEGER:
        assert type(actual) is int, f"{where}: {actual!r} is no number"
        assert 0 <= actual < 2**63, f"{where}: {actual!r} is no number"
    elif expected is STRING:
        assert type(actual) is str, f"{where}: {actual!r} is no text"
        assert actual, f"{where}: {actual!r} is no text"
    elif expected is TIMESTAMP:
        assert type(actual) is str, f"{where}: {actual!r} is no time"
        assert len(actual) == 27, f"{where}: {actual!r} is no time"
    elif type(expected) is dict and type(actual) is dict:
        optional = expected.get(OPTIONAL, {})
        needed = {name for name in expected if name is not OPTIONAL}
        assert needed <= actual.keys(), f"{where}: without {needed - actual.keys()}: {actual}"
        further = actual.keys() - needed - optional.keys()
        assert not further, f"{where}: has {further} besides: {actual}"
        for name, value in actual.items():
            same(expected[name] if name in needed else optional[name], value, f"{where}.{name}")
    elif type(expected) is list and type(actual) is list:
        assert len(expected) == len(actual), f"{where}: {len(actual)} of {len(expected)}: {actual}"
        for index, (one, other) in enumerate(zip(expected, actual, strict=True)):
            same(one, other, f"{where}[{index}]")
    else:
        is_same = type(expected) is type(actual) and expected == actual
        assert is_same, f"{where}: {actual!r}, expected {expected!r}"


OPTIONAL: Final = object()  # the member under which a pattern has those that may be missing


def yes(request: Request, effect: Check = _nothing, **members: Any) -> Answer:
    """Return a reply that says yes."""
    head = {} if request.get("id") is None else {"id": request["id"]}
    pattern = {**head, "ok": True, **members}
    return Answer(lambda reply: same(pattern, reply.members), effect)


def no(request: Request, code: str, **members: Any) -> Answer:
    """Return a refusal, with what the table of errors says of it."""
    retryable, outcome, names = ERRORS[code]
    assert names == members.keys(), f"the table says of {code}: {names}"
    error = {
        "code": code,
        "message": STRING,
        "retryable": retryable,
        "outcome": outcome,
        **members,
    }
    pattern = {"id": request.get("id"), "ok": False, "error": error}
    return Answer(lambda reply: same(pattern, reply.members))


def same_entry(entry: Entry, shown: ShownEntry, agent_id: str, uid: int | None) -> None:
    """Hold an entry that is shown to the one that is known.

    Raises:
        AssertionError: they differ.
    """
    expected = (entry.sequence, agent_id, entry.iteration, uid)
    actual = (shown.sequence, shown.agent_id, shown.iteration, shown.uid)
    assert actual == expected, f"{actual}, expected {expected}"
    same(entry.timestamp, shown.timestamp, f"timestamp of {actual}")
    event = bytes(shown.event).decode()
    if not entry.is_daemons:
        assert without_space(event) == without_space(entry.event), f"{event}, not {entry.event}"
        return
    ((name, members),) = json.loads(event).items()
    assert name == entry.name, f"{event}, not {entry.event}"
    for key, value in entry.payload.items():
        if value == "$number":  # of a process that only the daemon names
            assert type(members[key]) is int
        else:
            assert members.get(key) == value, f"{event}: {key} is not {value!r}"


def without_space(event: str) -> str:
    """Return JSON without the white space between its tokens."""
    found, in_string, is_escaped = [], False, False
    for letter in event:
        if in_string or letter not in " \t\r":
            found.append(letter)
        if is_escaped:
            is_escaped = False
        elif letter == "\\":
            is_escaped = True
        elif letter == '"':
            in_string = not in_string
    return "".join(found)


class _Number(str):
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Number) and str(self) == str(other)

    __hash__ = str.__hash__


def same_value(one: str, other: str) -> bool:
    """Tell whether two texts are the same JSON value; numbers by how they are written."""

    def parsed(text: str) -> Any:
        return json.loads(text, parse_int=_Number, parse_float=_Number)

    return bool(parsed(one) == parsed(other))
