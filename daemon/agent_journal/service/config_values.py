"""The kinds of values an option may have: how each is written in the file, and its range.

A parser gets the value as TOML gives it and returns it as ``Config`` holds it,
or raises a ``ConfigError`` that says what is wrong and what to write instead;
which option of which file it was, the loader adds.
"""

from __future__ import annotations

import grp
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import ConfigError

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

PATH_BYTES_MAX: Final = 4095
"""What the kernel takes as a path besides the final NUL."""

_SHOWN_MAX: Final = 60  # characters
_UNITS: Final = {"": 1, "b": 1, "kib": KIB, "mib": MIB, "gib": GIB, "tib": TIB}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What is known of an option besides its type and its default.

    ``parse`` turns the value in the file into the value in ``Config``; its
    ``ConfigError`` says what is wrong and what to write instead.
    """

    parse: Callable[[object], object]
    live: bool = True


def count(least: int, most: int) -> dict[str, Option]:
    """Describe a whole number; like all of these, as the metadata of a dataclass field."""

    def parse(raw: object) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int):
            raise ConfigError(f"{shown(raw)} is not a whole number; write {least} to {most}")
        if not least <= raw <= most:
            raise ConfigError(f"{shown(raw)} is out of range; write {least} to {most}")
        return raw

    return {"option": Option(parse=parse)}


def size(least: int, most: int) -> dict[str, Option]:
    """Describe a number of bytes, which may be written with a unit."""

    def parse(raw: object) -> int:
        size = _bytes(raw)
        if size is None:
            raise ConfigError(
                f'{shown(raw)} is not a size; write a number of bytes or one like "4MiB" '
                "(units: B, KiB, MiB, GiB, TiB)"
            )
        if not least <= size <= most:
            span = f"{size_text(least)} to {size_text(most)}"
            raise ConfigError(f"{shown(raw)} is out of range; write {span}")
        return size

    return {"option": Option(parse=parse)}


def seconds(least: float, most: float) -> dict[str, Option]:
    """Describe a number that need not be whole, of seconds or per second."""

    def parse(raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            raise ConfigError(f"{shown(raw)} is not a number; write {least:g} to {most:g}")
        if not least <= raw <= most:  # "nan" is not either
            raise ConfigError(f"{shown(raw)} is out of range; write {least:g} to {most:g}")
        return raw

    return {"option": Option(parse=parse)}


def switch() -> dict[str, Option]:
    """Describe what is on or off."""

    def parse(raw: object) -> bool:
        if not isinstance(raw, bool):
            raise ConfigError(f"{shown(raw)} is not known; write true or false")
        return raw

    return {"option": Option(parse=parse)}


def words() -> dict[str, Option]:
    """Describe a list of texts."""

    def parse(raw: object) -> tuple[str, ...]:
        if not isinstance(raw, list):
            raise ConfigError(f'{shown(raw)} is not a list; write ["one", "another"]')
        for word in raw:
            if not isinstance(word, str) or "\0" in word:
                raise ConfigError(f"{shown(word)} in the list is not a text; write it in quotes")
        return tuple(raw)

    return {"option": Option(parse=parse)}


def choice(*choices: str) -> dict[str, Option]:
    """Describe one word out of a few."""

    def parse(raw: object) -> str:
        if not isinstance(raw, str) or raw not in choices:
            raise ConfigError(f"{shown(raw)} is not known; write one of {', '.join(choices)}")
        return raw

    return {"option": Option(parse=parse)}


def file_path(*, bytes_max: int = PATH_BYTES_MAX) -> dict[str, Option]:
    """Describe the path of a file, in full or from the home directory; it can't change live."""

    def parse(raw: object) -> Path:
        if not isinstance(raw, str):
            raise ConfigError(f"{shown(raw)} is not a path; write it in quotes")
        if not raw.startswith(("/", "~/")) or "\0" in raw or raw.endswith("/"):
            raise ConfigError(
                f"{shown(raw)} is not the path of a file; write it in full, from / or from ~/"
            )
        if len(os.fsencode(raw)) > bytes_max:
            raise ConfigError(f"the path is longer than {bytes_max} bytes; choose a shorter one")
        return Path(raw)

    return {"option": Option(parse=parse, live=False)}


def mode() -> dict[str, Option]:
    """Describe the permissions of a socket; they can't change live."""

    def parse(raw: object) -> str:
        if not isinstance(raw, str) or not re.fullmatch(r"0?6[0-7][0-7]", raw):
            raise ConfigError(
                f"{shown(raw)} is not the mode of a socket; "
                'write "0600", "0660" (the group too) or "0666" (everybody)'
            )
        return raw

    return {"option": Option(parse=parse, live=False)}


def group(*, live: bool) -> dict[str, Option]:
    """Describe the name of a group that exists, or "" for none."""

    def parse(raw: object) -> str:
        if not isinstance(raw, str):
            raise ConfigError(f"{shown(raw)} is not the name of a group; write it in quotes")
        if raw:
            try:
                grp.getgrnam(raw)
            except (KeyError, ValueError):
                raise ConfigError(
                    f"there is no group {shown(raw)}; create it (groupadd), "
                    'correct the name, or write "" for none'
                ) from None
        return raw

    return {"option": Option(parse=parse, live=live)}


def _bytes(raw: object) -> int | None:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and (match := re.fullmatch(r"([0-9]{1,18}) ?([A-Za-z]*)", raw)):
        unit = _UNITS.get(match[2].lower())
        return None if unit is None else int(match[1]) * unit
    return None


def size_text(size: int) -> str:
    """Write a size with the largest unit that leaves it whole."""
    for unit, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def shown(raw: object) -> str:
    """Render a value about as it is written in the file, shortened."""
    match raw:
        case dict():
            return "a section"
        case list():
            return "a list"
        case bool() | str():
            text = json.dumps(raw)
        case int() if abs(raw) > TIB * TIB:
            return "a huge number"  # Python refuses to print the largest of them
        case _:
            text = str(raw)
    return text if len(text) <= _SHOWN_MAX else f"{text[: _SHOWN_MAX - 1]}…"
