"""Times as people read them: the local clock, the date only where it is another day."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from ..clock import Clock

MINUTE_S: Final = 60
HOUR_S: Final = 3600
AGES: Final = ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h"), (None, 86_400, "d"))


def parsed(timestamp: str | datetime) -> datetime:
    """Return the time that an RFC 3339 *timestamp* names, in the local zone."""
    if isinstance(timestamp, str):
        timestamp = datetime.fromisoformat(timestamp)
    return timestamp.astimezone()


def from_us(wall_us: int) -> datetime:
    """Return the time of a clock's microseconds, in the local zone."""
    return datetime.fromtimestamp(wall_us / 1e6, UTC).astimezone()


def clock_time(timestamp: str | datetime, *, clock: Clock) -> str:
    """Return ``22:45:01.123``, or date and time where it was not today."""
    try:
        moment = parsed(timestamp)
    except ValueError:  # from a daemon that writes times in another way: as it is
        return str(timestamp)
    if moment.date() == from_us(clock.wall_us()).date():
        return moment.isoformat(sep=" ", timespec="milliseconds")[11:23]
    return moment.isoformat(sep=" ", timespec="seconds")[:19]


def age(timestamp: str | datetime, *, clock: Clock) -> str:
    """Return how long ago *timestamp* was, like ``5 min ago``."""
    try:
        return f"{span(timestamp, clock=clock)} ago"
    except ValueError:
        return str(timestamp)


def span(timestamp: str | datetime, *, clock: Clock) -> str:
    """Return the time since *timestamp*, like ``5 min``.

    Raises:
        ValueError: it is no time.
    """
    seconds = int(clock.wall_us() / 1e6 - parsed(timestamp).timestamp())
    for below, unit, name in AGES:
        if below is None or seconds < below:
            return f"{max(seconds, 0) // unit} {name}"
    raise AssertionError  # the last row has no bound


def in_future(timestamp: str | datetime, *, clock: Clock) -> str:
    """Return ``in 5 min``, or ``now`` for what is due."""
    try:
        seconds = parsed(timestamp).timestamp() - clock.wall_us() / 1e6
    except ValueError:
        return str(timestamp)
    return f"in {duration(seconds)}" if seconds > 0 else "now"


def duration(seconds: float) -> str:
    """Return ``340 ms``, ``1.2 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < MINUTE_S:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < HOUR_S:
        return f"{whole // MINUTE_S} min {whole % MINUTE_S} s"
    return f"{whole // HOUR_S} h {whole % HOUR_S // MINUTE_S} min"


def wire_time(moment: datetime | None) -> str | None:
    """Return a time as it is on the wire."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
