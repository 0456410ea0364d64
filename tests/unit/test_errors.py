"""Errors: who must act, was it recorded, is a retry worth it; the same on both ends."""

from __future__ import annotations

import inspect

import pytest

from agent_journal import errors
from agent_journal.errors import ERRORS, JournalError, Outcome, error_from_code

WIRE_CODES = {
    "malformed", "invalid", "unknown_op", "unsupported_protocol", "frame_too_large", "forbidden",
    "not_found", "sequence_conflict", "key_conflict", "stale_epoch", "agent_attached",
    "agent_finished", "agent_unfinished", "parked", "overloaded", "too_many_connections",
    "shutting_down", "storage_full", "damaged", "storage_failed",
}  # fmt: skip
RETRYABLE = {"overloaded", "too_many_connections", "shutting_down", "storage_full"}


def error_classes() -> list[type[JournalError]]:
    return [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, JournalError)
    ]


def test_every_code_of_the_wire_has_a_class_of_its_own() -> None:
    assert set(ERRORS) == WIRE_CODES | {"connection_lost"}
    own = [kind.code for kind in error_classes() if "code" in vars(kind)]
    assert len(own) == len(set(own))


@pytest.mark.parametrize("code", sorted(WIRE_CODES))
def test_what_an_error_says_of_its_outcome(code: str) -> None:
    kind = ERRORS[code]
    assert kind.retryable == (code in RETRYABLE)
    is_unknown = code == "storage_failed"
    assert kind.outcome is (Outcome.UNKNOWN if is_unknown else Outcome.NOT_RECORDED)


def test_a_lost_connection_is_worth_a_retry_with_the_same_key() -> None:
    kind = ERRORS["connection_lost"]
    assert kind.retryable
    assert kind.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_an_error_that_came_over_the_wire_is_its_class(code: str) -> None:
    error = error_from_code(code, "what happened", {"field": "x"})
    assert type(error) is ERRORS[code]
    assert error.code == code
    assert (error.message, error.details, str(error)) == (
        "what happened",
        {"field": "x"},
        "what happened",
    )


def test_a_code_of_a_newer_daemon_is_kept() -> None:
    """Nothing is known of it, so its outcome is unknown too."""
    error = error_from_code("too_blue", "the sky", {"hue": 3})
    assert type(error) is JournalError
    assert error.details == {"hue": 3, "code": "too_blue"}
    assert error.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
def test_an_error_is_named_as_one_and_says_who_must_act(kind: type[JournalError]) -> None:
    assert kind.__name__.endswith("Error")
    assert inspect.getdoc(kind)
