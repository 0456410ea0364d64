"""The daemon's own events, as they are recorded in an agent's journal.

What a client sent (a signal's payload, a decided result) goes in as the bytes
that came; members that have nothing to say are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import UNSET, Raw, UnsetType
from msgspec.json import encode

STDERR_BYTES_MAX = 4096

Members = Mapping[str, object]

How = Literal["exited", "signalled", "lost", "detached", "replaced", "launch_failed"]


def event(name: str, members: Members) -> bytes:
    """Return an event of *members*, less those that are ``None`` or unset."""
    told = {key: value for key, value in members.items() if value is not None}
    return encode({name: {key: value for key, value in told.items() if value is not UNSET}})


def attempt_started(
    attempt: int,
    epoch: int,
    *,
    launched: bool,
    pid: int | None,
    command: tuple[str, ...] | list[str] | str | None,
) -> bytes:
    """Return ``AttemptStarted``; *epoch* is the one that the attempt writes under."""
    members = {
        "attempt": attempt,
        "epoch": epoch,
        "launched": launched,
        "pid": pid,
        "command": command,
    }
    return encode({"AttemptStarted": members})


def attempt_ended(
    attempt: int,
    how: How,
    *,
    exit_code: int | None = None,
    signal: str | None = None,
    stderr: str | None = None,
) -> bytes:
    """Return ``AttemptEnded``."""
    return event(
        "AttemptEnded",
        {
            "attempt": attempt,
            "how": how,
            "exit_code": exit_code,
            "signal": signal,
            "stderr": last_of(stderr),
        },
    )


def parked(reason: str | None, stderr: str | None = None) -> bytes:
    """Return ``Parked``."""
    return event("Parked", {"reason": reason or "", "stderr": last_of(stderr)})


def signalled(name: str, payload: Raw | UnsetType, key: str | None) -> bytes:
    """Return ``Signalled``."""
    told = Raw(b"null") if payload is UNSET else payload
    return event("Signalled", {"name": name, "payload": told, "key": key})


def decided(step: str, *, result: Raw | UnsetType, error: Raw | UnsetType) -> bytes:
    """Return ``Decided``; with neither a result nor an error the step runs again."""
    is_rerun = True if result is UNSET and error is UNSET else UNSET
    return event("Decided", {"step": step, "rerun": is_rerun, "result": result, "error": error})


def last_of(text: str | None) -> str | None:
    """Return the end of *text*, as much of it as an entry should hold."""
    if text is None:
        return None
    return text.encode(errors="replace")[-STDERR_BYTES_MAX:].decode(errors="ignore")
