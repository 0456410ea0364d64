"""What becomes of a request, and what its caller is told when it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar, cast

from ..errors import ConnectionLostError, JournalError, Outcome
from ._requests import READING, Request

T = TypeVar("T")


class Ticket(Generic[T]):
    """One request on its way; settled once, with a result or an error."""

    __slots__ = (
        "deadline",
        "error",
        "give_up_at",
        "is_in_doubt",
        "is_settled",
        "number",
        "on_settled",
        "refusals",
        "request",
        "result",
    )

    def __init__(self, number: int, request: Request[T], deadline: float | None) -> None:
        self.number = number
        self.request = request
        self.deadline = deadline
        self.give_up_at: float | None = None  # set by the first failure
        self.is_in_doubt = False  # was sent, and may have been carried out unheard
        self.is_settled = False
        self.refusals = 0
        self.result: T | None = None
        self.error: JournalError | None = None
        self.on_settled: Callable[[], None] | None = None

    def outcome(self) -> T:
        """Return the result.

        Raises:
            JournalError: the request failed.
        """
        if self.error is not None:
            raise self.error
        return cast("T", self.result)

    def answer(self) -> T | JournalError:
        """Return the result, or the error as a value."""
        return cast("T", self.result) if self.error is None else self.error


# An append of a pipeline: on its way, or refused before it was sent.
Pending: TypeAlias = Ticket[T] | JournalError


def is_answered(pending: Pending[Any]) -> bool:
    """Tell whether there is an answer without waiting."""
    return isinstance(pending, JournalError) or pending.is_settled


def verdict_on(error: JournalError, ticket: Ticket[Any]) -> JournalError:
    """Return what to tell the caller who could not be served because of *error*."""
    # An error that calls the outcome unknown needs no correction, whatever it is.
    is_too_sure = error.outcome is not Outcome.UNKNOWN or isinstance(error, ConnectionLostError)
    # Each caller gets an exception of its own: a traceback belongs to one of them.
    if ticket.is_in_doubt and is_too_sure and ticket.request.op not in READING:
        verdict: JournalError = in_doubt(error.message, ticket)
        verdict.__cause__ = error.__cause__ or error
    else:
        verdict = copy_of(error)
        verdict.__cause__ = error.__cause__
    return verdict


def copy_of(error: JournalError) -> JournalError:
    return type(error)(error.message, **error.details)


def in_doubt(
    reason: str, ticket: Ticket[Any], *, was_sent: bool | None = None
) -> ConnectionLostError:
    details: dict[str, object] = {"keys": ticket.request.keys} if ticket.request.keys else {}
    if not (ticket.is_in_doubt if was_sent is None else was_sent):
        return ConnectionLostError(f"{reason}; the request was not sent", **details)
    if ticket.request.op in READING:
        return ConnectionLostError(reason, **details)
    if ticket.request.op == "append":
        return ConnectionLostError(
            f"{reason}; the entry may have been recorded: append it again with the same key "
            '(details["keys"]) to be sure',
            **details,
        )
    return ConnectionLostError(f"{reason}; the request may have been carried out")
