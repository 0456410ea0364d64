"""Parts of a test that are done side by side are all done, and none fails unheard."""

from __future__ import annotations

from contextlib import closing

import pytest

from workers import PartError, side_by_side


@pytest.mark.parametrize("workers", [1, 2])
def test_all_parts_are_done(workers: int) -> None:
    assert sorted(side_by_side(int, ["3", "1", "2"], workers)) == [1, 2, 3]


def test_what_fails_in_another_process_is_told_with_its_part() -> None:
    with (
        closing(side_by_side(int, ["1", "not a number"], 2)) as done,
        pytest.raises(PartError, match=r"(?s)not a number:.*ValueError: invalid literal"),
    ):
        list(done)


def test_what_fails_here_is_what_it_is() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        list(side_by_side(int, ["not a number"], 1))
