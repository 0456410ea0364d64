"""Whether a regular expression of a person's is cheap whatever text it meets.

Python's ``re`` tries, so a pattern with repeats inside of repeats can take longer than
anybody lives over a few dozen characters that a client chooses.  What is refused here
is more than what is dangerous; what is accepted tries a bounded number of ways from
each place of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from re import _constants as kinds  # type: ignore[attr-defined] # the parser that re itself uses
from re import _parser as parser  # type: ignore[attr-defined] # as above
from typing import Any, Final

WAYS_MAX: Final = 4096
UNBOUNDED: Final = 1024  # as much as is searched at once, about

_REPEATS: Final = frozenset(
    getattr(kinds, name) for name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
)
_REFUSED: Final = {
    kinds.GROUPREF: "refers back to a group; write what it may be once more",
    kinds.GROUPREF_EXISTS: "depends on a group; write two patterns",
}


class _RefusedError(Exception):
    """A pattern that may be costly, and why."""


def problem_of(pattern: str) -> str | None:
    """Return what is wrong with *pattern*, and what to do about it, if anything is."""
    try:
        compiled = re.compile(pattern)
        tree = parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"is no regular expression: {error}; correct it"
    if compiled.match(""):
        return "matches nothing at all, which is everywhere; have it match a character at least"
    try:
        ways = _ways(tree, is_repeated=False)
    except _RefusedError as refused:
        return str(refused)
    if ways > WAYS_MAX:
        return (
            f"could match in {ways:,} ways from one place, and {WAYS_MAX:,} are the most; "
            "give its repeats bounds, like {1,40}"
        )
    return None


def _ways(tree: Iterable[tuple[Any, Any]], *, is_repeated: bool) -> int:
    """Return in how many ways a part could match from one place, at the most."""
    ways = 1
    for kind, argument in tree:
        if kind in _REFUSED:
            raise _RefusedError(_REFUSED[kind])
        if kind in _REPEATS:
            least, most, inner = argument
            if most != least and is_repeated:
                raise _RefusedError(
                    "repeats what repeats itself; give the inner repeat a fixed number, "
                    "or take it out"
                )
            span = 1 if most == least else min(int(most), UNBOUNDED) - int(least) + 1
            inside = _ways(inner, is_repeated=is_repeated or most != least)
            if inside > 1 and int(most) > 1:
                raise _RefusedError(
                    "repeats alternatives; write them as one class, like [ab], or one after another"
                )
            ways *= max(span, 1) * inside
        elif kind is kinds.BRANCH:
            ways *= sum(_ways(branch, is_repeated=is_repeated) for branch in argument[1])
        elif kind is kinds.SUBPATTERN:
            ways *= _ways(argument[-1], is_repeated=is_repeated)
        elif kind in {kinds.ASSERT, kinds.ASSERT_NOT}:
            ways *= _ways(argument[1], is_repeated=is_repeated)
        elif kind is getattr(kinds, "ATOMIC_GROUP", None):
            ways *= _ways(argument, is_repeated=is_repeated)
    return ways
