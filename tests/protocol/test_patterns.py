"""The comparison that all tests of the protocol rest on refuses what is different."""

from __future__ import annotations

import pytest

from protocol.patterns import Matcher, Mismatch


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ({"ok": True}, {"ok": 1}),
        ({"count": 1}, {"count": 1.0}),
        ({"ok": True}, {"ok": True, "extra": 1}),
        ({"ok": True, "sequence": 0}, {"ok": True}),
        ({"ok": True, "...": 0}, {"ok": False}),
        ([1, 2], [1]),
        ([], [1]),
        ({"a": []}, {"a": None}),
        (None, False),
        ("$integer", -1),
        ("$integer", True),
        ("$string", ""),
        ("$string", 5),
        ("$timestamp", "2026-01-05T09:00:00Z"),
        ("$timestamp", "2026-01-05T09:00:00.000000+00:00"),
        ("$other", "anything"),
    ],
    ids=str,
)
def test_what_differs_is_refused(pattern: object, value: object) -> None:
    with pytest.raises(Mismatch):
        Matcher().match(pattern, value)


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ({"ok": True, "...": 0}, {"ok": True, "extra": 1}),
        ("$any", None),
        ("$integer", 0),
        ("$timestamp", "2026-01-05T09:00:00.000000Z"),
        ({"a": [{"b": "$string"}]}, {"a": [{"b": "x"}]}),
    ],
    ids=str,
)
def test_what_is_the_same_is_accepted(pattern: object, value: object) -> None:
    Matcher().match(pattern, value)


def test_a_name_stands_for_one_value() -> None:
    matcher = Matcher()
    matcher.match({"position": "$integer:first"}, {"position": 7})
    matcher.match(["$integer:first", "$integer:second"], [7, 8])
    matcher.match({"after": "${first}"}, {"after": 7})
    with pytest.raises(Mismatch, match="expected 7"):
        matcher.match({"after": "${first}"}, {"after": 7.0})
    with pytest.raises(Mismatch, match="was 7 before"):
        matcher.match("$integer:first", 8)
    assert matcher.fill({"after": "${first}", "text": "${first}-${second}"}) == {
        "after": 7,
        "text": "7-8",
    }
