"""Points in time as people type them: ``2h``, ``3d``, ``today``, ``09:30``, an ISO time.

Without an offset from UTC, a time is the local one, as ``journalctl`` has it.
"""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from ..clock import Clock
from .timestamps import from_us

_UNITS_S: Final = {
    **dict.fromkeys(("s", "sec", "second"), 1),
    **dict.fromkeys(("m", "min", "minute"), 60),
    **dict.fromkeys(("h", "hr", "hour"), 3600),
    **dict.fromkeys(("d", "day"), 86_400),
    **dict.fromkeys(("w", "week"), 604_800),
    "month": 2_629_800,  # a twelfth of a year
    **dict.fromkeys(("y", "year"), 31_557_600),
}
_PART: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*")
_TIME_OF_DAY: Final = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
MOMENT_HELP: Final = "an age (90s, 2h, 3d), today, yesterday, 09:30, 2026-01-05T09:00 or @SECONDS"


def moment(text: str) -> datetime:
    """Read a point in time; the name is what argparse says in "invalid moment value"."""
    found = moment_from(text, Clock())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give {MOMENT_HELP}")
    return found


def moment_from(text: str, clock: Clock) -> datetime | None:
    """Return the time that *text* names, in the local zone, or ``None``."""
    now = from_us(clock.wall_us())
    word = text.strip().lower()
    # Without a zone: the offset of another day, or of the morning, may be another.
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    named = {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}
    if word in named:
        return named[word].astimezone()
    try:
        if word.startswith("@"):
            return datetime.fromtimestamp(float(word[1:]), UTC).astimezone()
        if (age := _age_s(word)) is not None:
            return now - timedelta(seconds=age)
        if of_day := _TIME_OF_DAY.fullmatch(word):
            hour, minute, second = (int(part or 0) for part in of_day.groups())
            return midnight.replace(hour=hour, minute=minute, second=second).astimezone()
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError, OSError):
        return None


def _age_s(word: str) -> float | None:
    body = word.removeprefix("-").removesuffix("ago").rstrip()
    parts = [*_PART.finditer(body)]
    if not parts or "".join(part[0] for part in parts) != body:
        return None
    units = [_UNITS_S.get(part[2].removesuffix("s") or "s") for part in parts]
    return (
        sum(float(part[1]) * (unit or 0) for part, unit in zip(parts, units, strict=True))
        if all(units)
        else None
    )
