"""What becomes of Python's values in the journal, and what is made of them again."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from functools import partial
from pathlib import PurePosixPath
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    Optional,
    TypedDict,
    TypeVar,
    Union,
)

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_journal.client import NotSerializableError
from agent_journal.client._typed import WrongTypeError, return_type, typed
from agent_journal.client._values import bytes_if_plain, canonical, is_plain_form, plain, text_of

T = TypeVar("T")


class Colour(StrEnum):
    RED = "red"


class Level(Enum):
    HIGH = 3


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.0


@dataclass
class Shape:
    name: str
    points: list[Point]
    colour: Colour | None = None
    size: int = field(default=0, init=False)


class Pair(NamedTuple):
    left: int
    right: Point


class Options(TypedDict):
    deep: bool
    limit: NotRequired[int]


class Packed(msgspec.Struct, rename="camel"):
    first_name: str
    born: date | None = None


class Model:
    """Has the interface of a pydantic model."""

    def __init__(self, name: str) -> None:
        self.name = name

    def model_dump(self, *, mode: str) -> dict[str, str]:
        assert mode == "json"
        return {"name": self.name}

    @classmethod
    def model_validate(cls, value: Any) -> Model:
        return cls(value["name"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and other.name == self.name

    __hash__ = None  # type: ignore[assignment]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda parts: st.lists(parts) | st.dictionaries(st.text(st.characters(codec="utf-8")), parts),
    max_leaves=12,
)


class TestPlain:
    @given(JSON)
    def test_json_is_left_as_it_is_and_is_another_object(self, value: Any) -> None:
        made = plain(value, "it")
        assert made == value
        assert made is not value or not isinstance(value, dict | list)
        assert json.loads(text_of(made)) == value

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ((1, (2,)), [1, [2]]),
            (
                Shape("a", [Point(1)], Colour.RED),
                {
                    "name": "a",
                    "points": [{"x": 1, "y": 0.0}],
                    "colour": "red",
                    "size": 0,
                },
            ),
            (Pair(1, Point(2)), [1, {"x": 2, "y": 0.0}]),
            (Level.HIGH, 3),
            (Packed("Ada", date(1815, 12, 10)), {"firstName": "Ada", "born": "1815-12-10"}),
            (Model("Ada"), {"name": "Ada"}),
            (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
            (Decimal("1.10"), "1.10"),
            (PurePosixPath("/a/b"), "/a/b"),
            (uuid.UUID(int=1), str(uuid.UUID(int=1))),
            (type("Text", (str,), {})("a"), "a"),
            (type("Number", (int,), {})(3), 3),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_what_has_one_form_in_json_gets_it(self, value: Any, expected: Any) -> None:
        made = plain(value, "it")
        assert made == expected
        assert json.loads(text_of(made)) == expected

    @pytest.mark.parametrize(
        ("value", "path", "problem"),
        [
            ({"a": [1, {2}]}, "$.a[1]", "set has no form in JSON; use sorted"),
            ([{"key with space": b"x"}], "$[0]['key with space']", "bytes .*base64"),
            ({"a": {1: "x"}}, "$.a", r"1 \(int\) is no text"),
            ([0.0, float("nan")], "$[1]", "nan is no number"),
            ([10**5000], "$[0]", "so many digits"),
            (float("inf"), "$", "inf is no number"),
            ({"a": "\ud800"}, "$.a", "lone surrogate"),
            (Shape("a", [Point(1), object()]), "$.points[1]", "object has no form"),  # type: ignore[list-item]
            (len, "$", "builtin_function_or_method has no form"),
        ],
        ids=lambda value: None if not isinstance(value, str) else value[:12],
    )
    def test_what_has_none_is_named_by_its_path(self, value: Any, path: str, problem: str) -> None:
        with pytest.raises(NotSerializableError, match=problem) as caught:
            plain(value, "the result")
        assert caught.value.path == path
        assert caught.value.message.startswith("the result cannot be written as JSON: at ")

    def test_what_is_within_itself_is_refused(self) -> None:
        value: list[Any] = []
        value.append(value)
        with pytest.raises(NotSerializableError, match="within itself"):
            plain(value, "it")

    def test_a_coroutine_that_was_forgotten_is_told(self) -> None:
        async def work() -> None: ...

        coroutine = work()
        with pytest.raises(NotSerializableError, match="was it to be awaited"):
            plain(coroutine, "it")
        coroutine.close()

    def test_the_canonical_text_does_not_depend_on_order(self) -> None:
        assert canonical({"b": 1, "a": {"d": 2, "c": 3}}) == '{"a":{"c":3,"d":2},"b":1}'


class TestBytesIfPlain:
    @given(JSON)
    def test_it_is_the_canonical_text_of_the_plain_form(self, value: Any) -> None:
        assert bytes_if_plain(value) == canonical(plain(value, "it")).encode()

    @pytest.mark.parametrize("value", [(1, ("a",)), {"args": ({"b": (), "a": None},)}])
    def test_a_tuple_is_a_list(self, value: Any) -> None:
        assert bytes_if_plain(value) == canonical(plain(value, "it")).encode()

    @pytest.mark.parametrize(
        "value",
        [
            *({1: "x"}, {None: "x"}, {True: "x"}, {1.5: "x"}, {"a": [{2: 3}]}),
            *([float("nan")], float("-inf"), 10**5000, {"a": "\ud800"}, {"\ud800": 1}),
            *(
                Colour.RED,
                {Colour.RED: 1},
                [Level.HIGH],
                Pair(1, Point(2)),
                Point(1),
                len,
                b"x",
                {1},
            ),
            *(type("Text", (str,), {})("a"), type("Number", (int,), {})(3)),
        ],
        ids=range(20),
    )
    def test_what_is_not_plain_or_cannot_be_written_is_left_to_plain(self, value: Any) -> None:
        assert bytes_if_plain(value) is None
        assert bytes_if_plain([{"a": value}]) is None

    def test_what_is_within_itself_is_left_to_plain(self) -> None:
        value: list[Any] = []
        value.append(value)
        assert bytes_if_plain(value) is None


class TestIsPlainForm:
    @given(JSON, JSON)
    def test_it_is_so_only_where_both_are_written_alike(self, one: Any, other: Any) -> None:
        assert is_plain_form(one, other) <= (canonical(one) == canonical(other))

    @given(JSON)
    def test_json_is_its_own_plain_form_unless_it_has_numbers_with_a_point(self, one: Any) -> None:
        recorded = json.loads(canonical(one))
        assert is_plain_form(recorded, one) or "." in canonical(one) or "e" in canonical(one)

    def test_what_is_recorded_of_a_call_is_the_plain_form_of_its_arguments(self) -> None:
        given = {"args": ({"role": "user", "content": "why?"}, 3, None), "kwargs": {"deep": True}}
        assert is_plain_form(plain(given, "it"), given)

    @pytest.mark.parametrize(
        ("recorded", "value"),
        [
            *((1, True), (1, 1.0), (1.0, 1), (0.0, -0.0), (None, False), (0, None), ("1", 1)),
            *(({"1": 2}, {1: 2}), ({"a": None}, {"b": None}), ({"a": 1}, {"a": 1, "b": 1})),
            *(([1], [1, 2]), ([1], {"a": 1}), ({}, []), ([], None), (["a"], ("b",))),
            *(("red", Colour.RED), (3, Level.HIGH), ({"x": 1, "y": 0.0}, Point(1))),
            *(({"a": {"b": [1]}}, {"a": {"b": [True]}}), (object(), None)),
        ],
        ids=range(20),
    )
    def test_what_is_or_may_be_written_otherwise_is_not(self, recorded: Any, value: Any) -> None:
        assert not is_plain_form(recorded, value)


class TestTyped:
    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            (Any, {"a": 1}),
            (None, None),
            (int, 3),
            (bool, True),
            (str, "a"),
            (float, 1.5),
            (list[Point], [Point(1), Point(2, 3.0)]),
            (Sequence[Point], [Point(1)]),
            (Iterable[int], [1]),
            (dict[str, Point], {"a": Point(1)}),
            (Mapping[str, list[Point]], {"a": [Point(1)]}),
            (tuple[int, ...], (1, 2)),
            (tuple[int, Point], (1, Point(2))),
            (tuple, (1, 2)),
            (Pair, Pair(1, Point(2))),
            (Shape, Shape("a", [Point(1)], Colour.RED)),
            (Point | None, None),
            (Optional[Point], Point(1)),  # noqa: UP045 - both forms are written
            (Union[int, Point], Point(1)),  # noqa: UP007
            (Annotated[Point, "of the plane"], Point(1)),
            (Colour, Colour.RED),
            (Level, Level.HIGH),
            (Literal["a", 1], "a"),
            (Options, {"deep": True}),
            (Packed, Packed("Ada", date(1815, 12, 10))),
            (list[Packed], [Packed("Ada")]),
            (Model, Model("Ada")),
            (datetime, datetime(2026, 1, 2, tzinfo=UTC)),
            (date, date(2026, 1, 2)),
            (Decimal, Decimal("1.10")),
            (uuid.UUID, uuid.UUID(int=1)),
            (PurePosixPath, PurePosixPath("/a")),
            (T, {"a": 1}),
        ],
        ids=str,
    )
    def test_what_was_recorded_is_made_again(self, kind: Any, value: Any) -> None:
        made = typed(json.loads(text_of(plain(value, "it"))), kind)
        assert made == value
        assert type(made) is type(value)

    @pytest.mark.parametrize(
        ("kind", "value", "problem"),
        [
            (int, "1", "str is not int"),
            (int, True, "bool is not int"),
            (bool, 1, "int is not bool"),
            (str, None, "null is not str"),
            (list[int], [1, "2"], r"\[1\]: str is not int"),
            (list[int], {"a": 1}, "dict is no array"),
            (dict[str, int], [1], "list is no object"),
            (dict[str, int], {"a": "x"}, r"\.a: str is not int"),
            (tuple[int, int], [1], "1 items where 2 are needed"),
            (Point, {"x": 1, "z": 2}, "Point has no z"),
            (Point, {}, "missing 1 required"),
            (Shape, {"name": "a", "points": [{"x": "1"}]}, r"\.points: \[0\]: \.x: str is not int"),
            (Colour, "blue", "not a valid Colour"),
            (Literal["a"], "b", "is none of"),
            (int | None, "x", "str is not int and str is not NoneType"),
            (Options, {"limit": 3}, "needs deep"),
            (Packed, {"firstName": 3}, "Expected `str`"),
            (datetime, "yesterday", "Invalid isoformat"),
            (Decimal, 1, "cannot be made of int"),
            (object.__init__, 1, "is no type"),
        ],
        ids=str,
    )
    def test_what_does_not_fit_says_where(self, kind: Any, value: Any, problem: str) -> None:
        with pytest.raises(WrongTypeError, match=problem):
            typed(value, kind)

    def test_a_whole_number_is_a_float_too(self) -> None:
        assert typed(1, float) == 1.0


class TestReturnType:
    def test_it_is_what_the_annotation_says(self) -> None:
        def function() -> list[Point]: ...  # type: ignore[empty-body]
        async def coroutine() -> Point: ...  # type: ignore[empty-body]
        def silent():  # type: ignore[no-untyped-def]  # noqa: ANN202
            ...

        assert return_type(function) == list[Point]
        assert return_type(function) == list[Point]  # once more, from memory
        assert return_type(partial(function)) == list[Point]
        assert return_type(coroutine) is Point
        assert return_type(silent) is Any
        assert return_type(len) is Any

    def test_a_methods_is_found(self) -> None:
        class Tool:
            def use(self) -> Point:
                return Point(1)

        assert return_type(Tool().use) is Point

    def test_one_that_names_what_is_not_there_says_nothing(self) -> None:
        def function() -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
            ...

        assert return_type(function) is Any
