"""Whether, and when, an agent whose process ended is started again; pure, no clock, no chance.

A crash opens an *incident*.  Its budget (launches, and tokens where the events
say what they used) is never refilled while it is open: an agent that gets a
little further every time would otherwise crash, and pay, for ever.  The
back-off between launches is another matter: it grows with each attempt that
recorded no step, and begins again when one did, since something new happened.

An incident closes when the agent ends, gives itself up cleanly, is resumed by
a person, or has gone on calmly for long enough: see ``is_calm``.

A restart of the daemon or of the host is nobody's crash: it is one attempt of
everybody's budget (an agent that takes the host down with it is found out),
but makes nobody wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from msgspec.structs import replace

from ..model import Micros
from ..store.attachment import Incident

SECOND: Final = 1_000_000  # in microseconds, as times are

STEPLESS_CALM: Final = 24
"""How many times as long an attempt without a step must go on to count as calm."""

_DOUBLINGS_MAX: Final = 32  # beyond it every back-off is at its longest


class Limits(Protocol):
    """What the configuration says of the agents of a kind."""

    @property
    def attempts_max(self) -> int:
        """How many launches an incident may cost."""

    @property
    def tokens_max(self) -> int:
        """How many tokens an incident may cost; 0 for any number."""

    @property
    def backoff_seconds_initial(self) -> float:
        """How long to wait after the first attempt that recorded no step."""

    @property
    def backoff_seconds_max(self) -> float:
        """How long to wait at the most."""

    @property
    def calm_seconds(self) -> float:
        """After how long without a crash an incident is over; 0 for never."""


class Cause(StrEnum):
    """Why an attempt is over."""

    CRASH = "crash"  # the process ended, was never started, or never attached
    RESTART = "restart"  # the daemon or the host was restarted
    DUE = "due"  # it waited for a time, which has come
    REQUEST = "request"  # somebody asked: a person, or a signal that it waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What an attempt recorded before it was over, and how long it lasted."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Launch:
    """Start it, at once or at a time."""

    at: Micros


@dataclass(frozen=True, slots=True)
class Park:
    """Start it no more: a person decides."""

    reason: str


Decision = Launch | Park


def after(incident: Incident, cause: Cause, progress: Progress, limits: Limits) -> Incident:
    """Return the incident as it is when an attempt of it is over."""
    if cause in (Cause.DUE, Cause.REQUEST):
        return Incident()
    if is_calm(progress, limits):
        incident = Incident()
    failures = incident.failures
    if progress.steps:
        failures = 0
    elif cause is Cause.CRASH:
        failures += 1
    return replace(
        incident,
        steps=incident.steps + progress.steps,
        tokens=incident.tokens + progress.tokens,
        failures=failures,
        next_attempt_at=None,
    )


def is_calm(progress: Progress, limits: Limits) -> bool:
    """Tell whether an attempt did so well that its end is the first of new troubles.

    Without this, an agent that runs for months would be parked by its fifth
    reboot, however far apart.  Going on for long is no sign of doing well by
    itself; but a program may know nothing of steps, and then it is all there is.
    """
    long = limits.calm_seconds * (1 if progress.steps else STEPLESS_CALM)
    return bool(limits.calm_seconds) and progress.seconds >= long


def decide(
    incident: Incident, cause: Cause, limits: Limits, *, now: Micros, chance: float
) -> Decision:
    """Return what is to be done about an agent that is not running.

    *chance* is evenly spread over 0 to 1.
    """
    if cause in (Cause.DUE, Cause.REQUEST):
        return Launch(now)
    if incident.attempts >= limits.attempts_max:
        return Park(
            f"resumed {_times(incident.attempts)} without finishing, "
            "which is what resume.attempts_max allows"
        )
    if limits.tokens_max and incident.tokens >= limits.tokens_max:
        return Park(
            f"used {incident.tokens} tokens since its first crash, "
            f"and resume.tokens_max allows {limits.tokens_max}"
        )
    if cause is Cause.RESTART:
        return Launch(now)
    return Launch(Micros(now + round(backoff_seconds(incident, limits, chance) * SECOND)))


def backoff_seconds(incident: Incident, limits: Limits, chance: float) -> float:
    """Return how long to wait: twice as long each time, half of it left to chance.

    What failed together would otherwise be tried again together.
    """
    if not incident.failures:
        return 0.0
    doublings = min(incident.failures - 1, _DOUBLINGS_MAX)
    longest = min(limits.backoff_seconds_initial * (1 << doublings), limits.backoff_seconds_max)
    return longest * (1 + chance) / 2


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
