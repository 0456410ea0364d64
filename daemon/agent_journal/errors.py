"""Every error of the project, with what the one who gets it must know.

Three questions are asked of each: who must act, was the entry recorded, is a
retry worth it.  The answers are class attributes, so the wire, the client and
the command line cannot disagree: the daemon renders ``code``, ``outcome`` and
``retryable`` into its reply, and the client finds the class again by its code.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Final


class Outcome(StrEnum):
    """What became of the request that failed."""

    NOT_RECORDED = "not_recorded"
    UNKNOWN = "unknown"


class JournalError(Exception):
    """The base of every error; ``details`` are the extra fields on the wire."""

    code: ClassVar[str] = "internal"
    outcome: ClassVar[Outcome] = Outcome.UNKNOWN
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class RequestError(JournalError):
    """The caller must change something; nothing was recorded."""

    outcome = Outcome.NOT_RECORDED


class MalformedError(RequestError):
    """The line is not one JSON object in UTF-8."""

    code = "malformed"


class InvalidError(RequestError):
    """A field is missing or has a wrong value; ``field`` names it."""

    code = "invalid"


class UnknownOpError(RequestError):
    """The daemon does not know this operation."""

    code = "unknown_op"


class UnsupportedProtocolError(RequestError):
    """The daemon does not speak the protocol version asked for."""

    code = "unsupported_protocol"


class FrameTooLargeError(RequestError):
    """The line is longer than ``frame_bytes_max``."""

    code = "frame_too_large"


class ForbiddenError(RequestError):
    """Only an administrator may act in another's namespace."""

    code = "forbidden"


class NotFoundError(RequestError):
    """The caller has no such agent."""

    code = "not_found"


class SequenceConflictError(RequestError):
    """The agent's next sequence is not the expected one (``expected``, ``actual``)."""

    code = "sequence_conflict"


class KeyConflictError(RequestError):
    """The key was used before, for another event (``sequence``)."""

    code = "key_conflict"


class StaleEpochError(RequestError):
    """Another attempt took over; stop writing (``current``)."""

    code = "stale_epoch"


class AgentAttachedError(RequestError):
    """A live owner holds the agent (``epoch``, ``pid``)."""

    code = "agent_attached"


class AgentFinishedError(RequestError):
    """The agent has ended (``state``); it takes no more entries."""

    code = "agent_finished"


class AgentUnfinishedError(RequestError):
    """The agent has not ended (``state``)."""

    code = "agent_unfinished"


class ParkedError(RequestError):
    """The agent waits for a person."""

    code = "parked"


class UnavailableError(JournalError):
    """Nobody's fault; nothing was recorded and a retry later may succeed."""

    outcome = Outcome.NOT_RECORDED
    retryable = True


class OverloadedError(UnavailableError):
    """Too much is in flight; try again after ``retry_ms``."""

    code = "overloaded"


class TooManyConnectionsError(UnavailableError):
    """No more connections are taken."""

    code = "too_many_connections"


class ShuttingDownError(UnavailableError):
    """The daemon is stopping; connect again in a moment."""

    code = "shutting_down"


class StorageFullError(UnavailableError):
    """The disk is full; reads go on, appends again when there is room."""

    code = "storage_full"


class StoreError(JournalError):
    """The store cannot be relied upon any more."""


class DamagedError(StoreError):
    """The journal failed its checks; nothing is served until a person decides."""

    code = "damaged"
    outcome = Outcome.NOT_RECORDED


class StorageFailedError(StoreError):
    """A write or sync failed; the daemon restarts from what is on disk."""

    code = "storage_failed"
    outcome = Outcome.UNKNOWN


class ConnectionLostError(JournalError):
    """The connection ended before the answer came; never sent by the daemon.

    Retry with the same key: if the entry was recorded, the answer says so.
    """

    code = "connection_lost"
    outcome = Outcome.UNKNOWN
    retryable = True


class ConfigError(Exception):
    """The configuration is not usable; the message names the key and what to do."""


def _concrete(base: type[JournalError]) -> list[type[JournalError]]:
    found = [base] if "code" in vars(base) and base is not JournalError else []
    return found + [leaf for child in base.__subclasses__() for leaf in _concrete(child)]


ERRORS: Final[dict[str, type[JournalError]]] = {kind.code: kind for kind in _concrete(JournalError)}


def error_from_code(code: str, message: str, details: dict[str, object]) -> JournalError:
    """Return the exception for an error that came over the wire."""
    error = ERRORS.get(code, JournalError)(message, **details)
    if type(error) is JournalError:
        error.details["code"] = code  # from a newer daemon: keep what it said
    return error
