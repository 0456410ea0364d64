"""Classes of fields that cost a program's start next to nothing.

What a command imports is paid for each time somebody types it, or a script does ten
thousand times.  ``dataclasses`` imports ``inspect``, which takes 10 ms of the 100 in
which a command should have answered, and compiles six functions for a class, which
takes a millisecond more.  A ``Value`` is read, compared, printed, pickled and checked
by type checkers as a frozen data class with slots, and one function is compiled for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, Self, dataclass_transform


class _Kind(type):
    """Makes slots of a class's annotations, and an ``__init__`` that fills them."""

    def __new__(
        cls, name: str, bases: tuple[type, ...], body: dict[str, Any], *, kw_only: bool = False
    ) -> Any:  # noqa: ANN401 - a class
        own = tuple(body.get("__annotations__", ()))
        defaults = {field: body.pop(field) for field in own if field in body}
        body |= {"__slots__": own, "__match_args__": () if kw_only else own}
        made: Any = super().__new__(cls, name, bases, body)
        if own:
            made.__init__ = _filling(made, own, defaults, kw_only=kw_only)
        return made


def _filling(
    made: Any,  # noqa: ANN401 - a class
    fields: tuple[str, ...],
    defaults: Mapping[str, Any],
    *,
    kw_only: bool,
) -> Any:  # noqa: ANN401 - a function
    """Return the ``__init__`` of a class: compiled, since values are made by the thousand."""
    names: dict[str, Any] = {f"_default_{field}": value for field, value in defaults.items()}
    names |= {f"_set_{field}": getattr(made, field).__set__ for field in fields}
    takes = [f"{field}=_default_{field}" if field in defaults else field for field in fields]
    takes = ["_self", *(["*"] if kw_only else []), *takes]
    sets = [f" _set_{field}(_self, {field})" for field in fields]
    exec("\n".join([f"def __init__({', '.join(takes)}):", *sets]), names)  # noqa: S102 - our names
    return names["__init__"]


class Fields(metaclass=_Kind):
    """What records and values have in common.

    A class's annotations are its fields, taken in their order, or, by a class that is
    made with ``kw_only=True``, by their names.  A default must be immutable: all
    instances share it.  A class with fields is not derived from.
    """

    def __eq__(self, other: object) -> bool:
        """Tell whether *other* is of the same class and has equal fields."""
        if type(other) is not type(self):
            return NotImplemented
        return all(value == getattr(other, field) for field, value in _items(self))

    def __hash__(self) -> int:
        """Return a hash, where all fields have one."""
        return hash(tuple(value for _, value in _items(self)))

    def __replace__(self, **changes: object) -> Self:
        """Return one with other fields, for ``copy.replace`` of Python 3.13 and later."""
        kind: Any = type(self)
        made: Self = kind(**{**dict(_items(self)), **changes})
        return made

    def __repr__(self) -> str:
        """Return the call that would make this again."""
        shown = ", ".join(f"{field}={value!r}" for field, value in _items(self))
        return f"{type(self).__qualname__}({shown})"


@dataclass_transform()
class Record(Fields):
    """A base for what changes: ``class Point(Record)``."""

    __hash__ = None  # type: ignore[assignment] # as of all that changes


@dataclass_transform(frozen_default=True)
class Value(Fields):
    """A base for what never changes: ``class Point(Value)``."""

    def __setattr__(self, field: str, _: object) -> NoReturn:
        """Refuse."""
        raise AttributeError(f"{field!r} can't be set: a {type(self).__name__} never changes")

    def __delattr__(self, field: str) -> NoReturn:
        """Refuse."""
        raise AttributeError(f"{field!r} can't be deleted: a {type(self).__name__} never changes")

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it be copied and pickled, which would set fields."""
        return _made_again, (type(self), fields_of(self))


def fields_of(record: Fields) -> dict[str, Any]:
    """Return the fields of *record*, in their order."""
    return dict(_items(record))


def _items(record: Fields) -> Iterator[tuple[str, Any]]:
    kind: Any = type(record)
    return ((field, getattr(record, field)) for field in kind.__slots__)


def _made_again(kind: Any, fields: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any value
    return kind(**fields)
