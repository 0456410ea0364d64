"""Sizes and spans of time, as a person writes and reads them."""

from __future__ import annotations

import argparse
import re
from typing import Final

KIB: Final = 1024
UNITS: Final = {"": 1, "b": 1, "k": KIB, "m": KIB**2, "g": KIB**3, "t": KIB**4}
SPANS: Final = {
    "s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400, "day": 86_400, "days": 86_400,
    "w": 7 * 86_400, "week": 7 * 86_400, "weeks": 7 * 86_400, "month": 2_629_800,
    "months": 2_629_800, "y": 31_557_600, "year": 31_557_600, "years": 31_557_600,
}  # fmt: skip

_NUMBER: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([A-Za-z]*)", re.ASCII)


def size(text: str) -> int:
    """Read a size: ``1G`` and ``500M`` as journalctl has them, ``64MiB`` as the configuration."""
    match = _NUMBER.fullmatch(text)
    unit = match[2].lower().removesuffix("ib") if match else "?"
    if match is None or unit not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, like 500M or 2G")
    return int(float(match[1]) * UNITS[unit])


def span(text: str) -> float:
    """Read a span of time in seconds: ``30d``, ``12h``, ``2weeks``."""
    match = _NUMBER.fullmatch(text)
    if match is None or match[2].lower() not in SPANS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a span of time, like 30d, 12h or 2weeks")
    return float(match[1]) * SPANS[match[2].lower()]


def size_text(size: int) -> str:
    """Write a size in the unit that a person would use."""
    if size < KIB:
        return f"{size} B"
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < KIB:
            return f"{value:.1f} {unit}"
        value /= KIB
    return f"{value:.1f} TiB"
