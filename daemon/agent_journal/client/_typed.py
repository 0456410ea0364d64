"""Builds a value of a named type from the JSON that was recorded of it."""

from __future__ import annotations

import sys
import types
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Mapping,
    MutableMapping,
    MutableSequence,
    Sequence,
)
from contextlib import suppress
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from enum import Enum
from functools import lru_cache
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NotRequired,
    Required,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)
from weakref import WeakKeyDictionary

from ._agent_errors import ResultTypeError
from ._history import ABSENT

# Read back from text by the type itself: with fromisoformat where it has that.
_FROM_TEXT: Final = frozenset(
    {"datetime.datetime", "datetime.date", "datetime.time", "decimal.Decimal", "uuid.UUID"}
)
_FROM_PATH: Final = "pathlib.PurePath"

_OBJECTS: Final = frozenset({Mapping, MutableMapping})
_ARRAYS: Final = frozenset({Collection, Iterable, MutableSequence, Sequence})

_return_types: WeakKeyDictionary[Callable[..., Any], Any] = WeakKeyDictionary()


class WrongTypeError(TypeError):
    """The JSON does not fit the type."""


def typed(value: Any, kind: Any) -> Any:  # noqa: ANN401, C901, PLR0911, PLR0912 - the table of kinds
    """Return *value* as a *kind*; ``Any`` leaves it as it is.

    Raises:
        WrongTypeError: it does not fit.
    """
    if kind is Any or kind is object or type(value) is kind:
        return value
    origin: Any
    arguments: tuple[Any, ...]
    if type(kind) is types.GenericAlias:  # dict[str, int] and the like, in a hurry
        origin, arguments = kind.__origin__, kind.__args__
        if origin is dict:
            return _dict(value, arguments)
        if origin is list:
            return _list(value, arguments)
    elif isinstance(kind, TypeVar):
        return value
    else:
        origin, arguments = get_origin(kind), get_args(kind)
    if origin in {Annotated, Required, NotRequired}:
        return typed(value, arguments[0])
    if origin in {Union, types.UnionType}:
        return _first_fitting(value, arguments)
    if origin is Literal:
        return _one_of(value, arguments)
    if kind is None or kind is types.NoneType:
        return _scalar(value, types.NoneType)
    concrete = origin or kind
    if not isinstance(concrete, type):
        raise WrongTypeError(f"{kind!r} is no type that JSON can be made into")
    if concrete in {str, int, bool}:
        return _scalar(value, concrete)
    if concrete is float:
        return float(value) if type(value) is int else _scalar(value, float)
    if is_typeddict(kind):
        return _typed_dict(value, kind)
    if is_dataclass(concrete):
        return _dataclass(value, concrete)
    if hasattr(concrete, "__struct_fields__"):
        return _struct(value, kind)
    if callable(getattr(concrete, "model_validate", None)):
        return _attempted(concrete.model_validate, value)  # type: ignore[attr-defined]
    if issubclass(concrete, Enum):
        return _attempted(concrete, value)
    if issubclass(concrete, tuple):
        return _tuple(value, concrete, arguments)
    if concrete is dict or concrete in _OBJECTS:
        return _dict(value, arguments)
    if concrete is list or concrete in _ARRAYS:
        return _list(value, arguments)
    return _from_text(value, concrete)


def as_asked(value: Any, function: Callable[..., Any], result_type: Any, *, step: str) -> Any:  # noqa: ANN401 - any type
    """Return the recorded result of *step* in *result_type*, or in what *function* returns.

    With ``None`` it is left as it is; ``ABSENT`` says that nothing was asked for.

    Raises:
        ResultTypeError: it does not fit the type that was asked for.
    """
    if result_type is None:
        return value
    if result_type is ABSENT:
        try:
            return typed(value, return_type(function))
        except WrongTypeError:
            return value  # the annotation promised too much; here as on replay
    try:
        return typed(value, result_type)
    except WrongTypeError as error:
        raise ResultTypeError(
            f"the recorded result of step {step!r} does not fit its result_type: {error}",
            step=step,
        ) from None


def return_type(function: Callable[..., Any]) -> Any:  # noqa: ANN401 - any type form
    """Return what *function* says that it returns, awaited; ``Any`` where it says nothing."""
    if type(function) is not types.FunctionType:
        function = getattr(function, "func", function)  # a partial's
        function = getattr(function, "__func__", function)  # a bound method's
    if "return" not in getattr(function, "__annotations__", ()):
        return Any
    try:
        return _return_types[function]
    except (KeyError, TypeError):
        pass
    try:
        kind = get_type_hints(function, include_extras=True)["return"]
    except Exception:  # noqa: BLE001 - an annotation may name what is imported for types only
        kind = Any
    origin = get_origin(kind)
    if origin is not None and getattr(origin, "__name__", "") in {"Awaitable", "Coroutine"}:
        kind = get_args(kind)[-1]
    with suppress(TypeError):  # it cannot be referred to weakly: asked again next time
        _return_types[function] = kind
    return kind


def _scalar(value: object, kind: type) -> object:
    if type(value) is not kind:
        raise WrongTypeError(f"{_name(value)} is not {kind.__name__}")
    return value


def _one_of(value: object, choices: tuple[object, ...]) -> object:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return value
    raise WrongTypeError(f"{value!r} is none of {choices}")


def _first_fitting(value: object, kinds: tuple[Any, ...]) -> object:
    problems = []
    for kind in kinds:
        try:
            return typed(value, kind)
        except WrongTypeError as error:
            problems.append(str(error))
    raise WrongTypeError(" and ".join(problems))


@lru_cache(maxsize=256)
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _members(value: object, kind: type) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WrongTypeError(f"{_name(value)} is no object, as {kind.__name__} needs")
    hints = _hints(kind)
    unknown = value.keys() - hints.keys()
    if unknown:
        raise WrongTypeError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    return {name: _at(f".{name}", member, hints[name]) for name, member in value.items()}


def _typed_dict(value: object, kind: Any) -> object:  # noqa: ANN401 - no type in Python's sense
    members = _members(value, kind)
    hints = _hints(kind)  # __required_keys__ does not see into annotations that are text
    optional = {name for name in hints if get_origin(hints[name]) is NotRequired}
    needed = {name for name in hints if get_origin(hints[name]) is Required}
    missing = ((kind.__required_keys__ - optional) | needed) - members.keys()
    if missing:
        raise WrongTypeError(f"{kind.__name__} needs {', '.join(sorted(missing))}")
    return members


def _dataclass(value: object, kind: Any) -> object:  # noqa: ANN401 - a class that makes them
    members = _members(value, kind)
    given = {each.name for each in dataclass_fields(kind) if each.init}
    return _attempted(kind, **{name: each for name, each in members.items() if name in given})


def _struct(value: object, kind: Any) -> object:  # noqa: ANN401 - a msgspec.Struct
    msgspec: Any = sys.modules["msgspec"]  # its Struct is here, so it was imported
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise WrongTypeError(str(error)) from None


def _tuple(value: object, kind: type, arguments: tuple[Any, ...]) -> object:
    items = _list(value, ())
    names = getattr(kind, "_fields", None)
    if names is not None:
        hints = _hints(kind)
        arguments = tuple(hints.get(name, Any) for name in names)
    elif not arguments:
        return tuple(items)
    elif len(arguments) == 2 and arguments[1] is Ellipsis:  # noqa: PLR2004 - tuple[X, ...]
        arguments = (arguments[0],) * len(items)
    if len(arguments) != len(items):
        raise WrongTypeError(f"{len(items)} items where {len(arguments)} are needed")
    made = [
        _at(f"[{n}]", item, kind)
        for n, (item, kind) in enumerate(zip(items, arguments, strict=True))
    ]
    return tuple(made) if names is None else kind(*made)


def _dict(value: object, arguments: tuple[Any, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WrongTypeError(f"{_name(value)} is no object")
    if not arguments:
        return value
    kind = arguments[1]
    return {
        name: member if type(member) is kind else _at(f".{name}", member, kind)
        for name, member in value.items()
    }


def _list(value: object, arguments: tuple[Any, ...]) -> list[Any]:
    if not isinstance(value, list):
        raise WrongTypeError(f"{_name(value)} is no array")
    if not arguments:
        return value
    kind = arguments[0]
    return [
        item if type(item) is kind else _at(f"[{number}]", item, kind)
        for number, item in enumerate(value)
    ]


def _from_text(value: object, kind: type) -> object:
    names = {f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__}
    if isinstance(value, str) and (names & _FROM_TEXT or _FROM_PATH in names):
        return _attempted(getattr(kind, "fromisoformat", kind), value)
    raise WrongTypeError(f"{kind.__qualname__} cannot be made of {_name(value)}")


def _at(place: str, value: object, kind: Any) -> object:  # noqa: ANN401 - any type form
    try:
        return typed(value, kind)
    except WrongTypeError as error:
        raise WrongTypeError(f"{place}: {error}") from None


def _attempted(make: Callable[..., Any], *args: object, **kwargs: object) -> object:
    try:
        return make(*args, **kwargs)
    except Exception as error:
        raise WrongTypeError(f"{type(error).__name__}: {error}") from error


def _name(value: object) -> str:
    return "null" if value is None else type(value).__name__
