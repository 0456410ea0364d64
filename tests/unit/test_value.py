"""Classes of fields: what they promise is what frozen data classes promise."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping

import pytest

from agent_journal.value import Record, Value, fields_of


class Point(Value):
    x: int
    y: int = 0


class Named(Value, kw_only=True):
    name: str
    tags: tuple[str, ...] = ()
    more: Mapping[str, int] | None = None

    @property
    def is_tagged(self) -> bool:
        return bool(self.tags)


class Counter(Record, kw_only=True):
    count: int = 0


def test_fields_are_taken_in_their_order_or_by_name() -> None:
    assert fields_of(Point(1)) == {"x": 1, "y": 0}
    assert fields_of(Point(1, 2)) == fields_of(Point(y=2, x=1)) == {"x": 1, "y": 2}
    assert list(fields_of(Named(tags=("a",), name="n"))) == ["name", "tags", "more"]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (Point, "missing 1 required positional argument: 'x'"),
        (lambda: Point(1, 2, 3), "takes from 2 to 3 positional arguments"),  # type: ignore[call-arg]
        (lambda: Point(1, z=2), "unexpected keyword argument 'z'"),  # type: ignore[call-arg]
        (lambda: Named("n"), "takes 1 positional argument"),  # type: ignore[misc]
    ],
)
def test_a_wrong_call_is_refused(make: object, complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint):
        make()  # type: ignore[operator]


def test_values_are_equal_where_class_and_fields_are() -> None:
    assert Point(1, 2) == Point(1, 2) != Point(2, 1)
    assert Point(0) != Counter()
    assert Point(1, 2) != (1, 2)
    assert {Point(1, 2), Point(1, 2)} == {Point(1, 2)}
    with pytest.raises(TypeError, match="unhashable"):
        hash(Named(name="n", more={}))


def test_a_value_never_changes() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="'x' can't be set: a Point never changes"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="'z' can't be set"):
        point.z = 2  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="'x' can't be deleted"):
        del point.x
    assert point == Point(1)


def test_a_record_does() -> None:
    counter, other = Counter(), Counter()
    counter.count += 1
    assert (counter, other) == (Counter(count=1), Counter())
    assert counter != other
    with pytest.raises(AttributeError):
        counter.total = 1  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="unhashable"):
        hash(counter)


@pytest.mark.parametrize("made", [Point(1, 2), Named(name="n", tags=("a",)), Counter(count=3)])
def test_what_is_copied_or_pickled_is_equal(made: object) -> None:
    assert made == copy.copy(made) == copy.deepcopy(made) == pickle.loads(pickle.dumps(made))  # noqa: S301 - our own


def test_fields_can_be_replaced() -> None:
    assert Point(1, 2).__replace__(x=5) == Point(5, 2)
    assert Named(name="n", tags=("a",)).__replace__(name="m") == Named(name="m", tags=("a",))
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        Point(1).__replace__(z=1)


def test_it_is_shown_as_the_call_that_makes_it() -> None:
    assert repr(Point(1)) == "Point(x=1, y=0)"
    assert eval(repr(Named(name="n"))) == Named(name="n")  # noqa: S307 - our own


def test_its_own_methods_and_patterns_work() -> None:
    assert Named(name="n", tags=("a",)).is_tagged
    match Point(1, 2):
        case Point(x, y=2):
            assert x == 1
        case _:
            raise AssertionError
