"""Values of the agent's program as JSON, and back.

What the agent gets from a step is always what was recorded, also in the
attempt that ran it: a tuple comes back as a list at once, not only after a
crash.  A type that is asked for by name (``result_type``, or the function's own
annotation) is built again from the JSON.

Nothing is recorded that JSON would change behind the program's back: keys that
are no text, NaN, sets.  The error names the path of what cannot be written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from enum import Enum
from math import isfinite
from types import NoneType
from typing import Any, Final

from ._agent_errors import NotSerializableError
from ._encoding import json_encoder

_encode = json_encoder()
_encode_sorted = json_encoder(sort_keys=True)

# Types that JSON has no form for but that have one text form: how it is written.
# Named, not imported: who has such a value has imported its module.
_AS_TEXT: Final[Mapping[str, Callable[[Any], str]]] = {
    "datetime.datetime": lambda value: str(value.isoformat()),
    "datetime.date": lambda value: str(value.isoformat()),
    "datetime.time": lambda value: str(value.isoformat()),
    "decimal.Decimal": str,
    "pathlib.PurePath": str,
    "uuid.UUID": str,
}


INTEGER_BITS_MAX: Final = 14_000  # Python's own limit is 4300 digits


class _Unwritable(Exception):  # noqa: N818 - never leaves this module
    """Carries the path upwards, one part for each level left."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.parts: list[str] = []


def plain(value: object, what: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return *value* as new JSON values: dicts with text keys, lists, scalars.

    Raises:
        NotSerializableError: a part of it has no such form; *what* says whose value it is.
    """
    try:
        return _plain(value)
    except _Unwritable as error:
        path = "$" + "".join(reversed(error.parts))
        raise NotSerializableError(
            f"{what} cannot be written as JSON: at {path}: {error.problem}", path=path
        ) from None
    except RecursionError:
        raise NotSerializableError(
            f"{what} cannot be written as JSON: it is nested too deeply, or within itself"
        ) from None


def text_of(value: object) -> str:
    """Return plain *value* as JSON text, members in their own order."""
    return _encode(value)


def canonical(value: object) -> str:
    """Return plain *value* as JSON text that does not depend on the order of members."""
    return _encode_sorted(value)


def bytes_if_plain(value: object) -> bytes | None:
    """Return what ``canonical`` makes of the plain form, in UTF-8, if *value* is plain already.

    Most values are, and are not copied then.  ``None``: ask ``plain``, which may refuse it.
    """
    try:
        return _encode_sorted(value).encode() if _is_plain(value) else None
    except (ValueError, RecursionError):
        return None


def is_plain_form(recorded: Any, value: Any) -> bool:  # noqa: ANN401 - any values
    """Tell whether *recorded*, as JSON gave it, is for certain what ``plain`` makes of *value*.

    Where it says no, the texts tell: that is so for all that is not made of JSON's own types.
    """
    kind = type(value)
    if kind is dict:
        return type(recorded) is dict and _is_plain_object(recorded, value)
    if kind is list or kind is tuple:
        is_as_long = type(recorded) is list and len(recorded) == len(value)
        return is_as_long and all(map(is_plain_form, recorded, value))
    # 1 is neither 1.0 nor true.
    return type(recorded) is kind and kind in _ONE_TEXT and bool(recorded == value)


def _is_plain_object(recorded: dict[str, Any], value: dict[Any, Any]) -> bool:
    if len(recorded) != len(value):
        return False
    for name, member in value.items():  # a key that is no text is in no JSON
        other = recorded.get(name)
        if type(member) is str:
            if other != member:
                return False
        elif not is_plain_form(other, member) or (other is None and name not in recorded):
            return False
    return True


# Values of which are written alike where they are equal: 0.0 and -0.0 are not.
_ONE_TEXT: Final = frozenset({str, int, bool, NoneType})

_SCALARS: Final = frozenset({str, int, bool, NoneType, float})


def _is_plain(value: Any) -> bool:  # noqa: ANN401 - any value
    """Tell whether *value* is made of JSON's own types alone, and of tuples."""
    kind = type(value)
    if kind is dict:
        for name, member in value.items():
            if type(name) is not str or (type(member) not in _SCALARS and not _is_plain(member)):
                return False
        return True
    if kind is list or kind is tuple:
        return all([type(item) in _SCALARS or _is_plain(item) for item in value])  # noqa: C419 - faster
    return kind in _SCALARS


def _plain(value: Any) -> Any:  # noqa: ANN401, PLR0911 - one return for each kind of value
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _checked(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        if value.bit_length() > INTEGER_BITS_MAX:
            raise _Unwritable("an integer of so many digits is not written as text")
        return value
    if kind is float:
        if not isfinite(value):
            raise _Unwritable(f"{value} is no number in JSON")
        return value
    if kind is dict:
        return _members(value)
    if kind is list or kind is tuple:
        return _items(value)
    return _rare(value, kind)


def _rare(value: Any, kind: type) -> Any:  # noqa: ANN401, C901, PLR0911 - one return for each kind
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, str):
        return _checked(str.__str__(value))
    if isinstance(value, int):
        return _plain(int(value))
    if isinstance(value, float):
        return _plain(float(value))
    if isinstance(value, Mapping):
        return _members(value)
    if isinstance(value, list | tuple):
        return _items(value)
    if is_dataclass(kind):
        return _members({each.name: getattr(value, each.name) for each in dataclass_fields(value)})
    if hasattr(kind, "__struct_fields__") and (msgspec := sys.modules.get("msgspec")) is not None:
        return _plain(msgspec.to_builtins(value))
    if callable(getattr(kind, "model_dump", None)):  # pydantic's
        return _plain(value.model_dump(mode="json"))
    for base in kind.__mro__:
        write = _AS_TEXT.get(f"{base.__module__}.{base.__qualname__}")
        if write is not None:
            return write(value)
    raise _Unwritable(f"{kind.__qualname__} has no form in JSON{_hint(value)}")


def _hint(value: object) -> str:
    if isinstance(value, set | frozenset):
        return "; use sorted(...)"
    if isinstance(value, bytes | bytearray):
        return "; decode it, or use base64"
    if hasattr(value, "__await__"):
        return "; was it to be awaited?"
    return ""


def _checked(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Unwritable("a lone surrogate is no text in UTF-8") from None
    return value


def _members(value: Mapping[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    name: object = None
    try:
        for name, member in value.items():
            if type(name) is not str or not name.isascii():
                _check_is_text(name)
                name = _checked(str.__str__(name))  # noqa: PLW2901 - what the path is to name too
            found[name] = _plain(member)
    except _Unwritable as error:
        if isinstance(name, str):
            error.parts.append(f".{name}" if name.isidentifier() else f"[{name!r}]")
        raise
    return found


def _check_is_text(name: object) -> None:
    if not isinstance(name, str):
        kind = type(name).__qualname__
        raise _Unwritable(f"{name!r} ({kind}) is no text, as the keys of an object must be")


def _items(value: list[Any] | tuple[Any, ...]) -> list[Any]:
    found: list[Any] = []
    try:
        for item in value:
            found.append(_plain(item))  # noqa: PERF401 - the path needs the count
    except _Unwritable as error:
        error.parts.append(f"[{len(found)}]")
        raise
    return found
