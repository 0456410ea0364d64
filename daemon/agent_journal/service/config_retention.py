"""The options that say how long agents are kept that have ended, and what is never recorded.

``[retention]`` holds for all agents, ``[retention.kinds.NAME]`` says what is
different for those of a kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

from ..errors import ConfigError
from ..model import AgentState
from .config_resume import tables, values_in
from .config_values import TIB, Option, choice, file_path, seconds, shown, size, switch, words
from .pattern_cost import problem_of

DAYS_MAX: Final = 36_500
OFF: Final = "off"
MARK: Final = "mark"
REFUSE: Final = "refuse"

_MEMBER: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


def _directory() -> dict[str, Option]:
    """Describe the path of a directory, in full or from the home directory, or "" for none."""
    described = file_path()["option"]

    def parse(raw: object) -> Path | None:
        if raw == "":
            return None
        if raw == "/":
            raise ConfigError(f"{shown(raw)} is the root; name a directory of its own")
        path = described.parse(raw.rstrip("/") if isinstance(raw, str) else raw)
        assert isinstance(path, Path)  # noqa: S101 - what file_path describes
        return path

    return {"option": Option(parse=parse)}


def _kind(
    name: str, table: Mapping[str, object], problems: list[tuple[str, str]]
) -> Mapping[str, Any]:
    return MappingProxyType(values_in(name, table, fields(KindRetention), problems))


@dataclass(frozen=True, slots=True, kw_only=True)
class KindRetention:
    """How long the agents of a kind are kept when they have ended; 0: for ever."""

    completed_days: float = field(default=0, metadata=seconds(0, DAYS_MAX))
    failed_days: float = field(default=0, metadata=seconds(0, DAYS_MAX))
    cancelled_days: float = field(default=0, metadata=seconds(0, DAYS_MAX))
    is_spared_by_size: bool = field(default=False, metadata=switch())

    def days(self, state: AgentState) -> float:
        """Return how long an agent is kept that ended in *state*; 0: for ever."""
        match state:
            case AgentState.COMPLETED:
                return self.completed_days
            case AgentState.FAILED:
                return self.failed_days
            case AgentState.CANCELLED:
                return self.cancelled_days
            case _:
                return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention(KindRetention):
    """How long agents are kept; ``of`` says it for a kind of them."""

    journal_bytes_max: int = field(default=0, metadata=size(0, 64 * TIB))
    archive: Path | None = field(default=None, metadata=_directory())
    kinds: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: MappingProxyType({}), metadata=tables(_kind)
    )

    def of(self, kind: str | None) -> KindRetention:
        """Return what holds for the agents of *kind*."""
        different = self.kinds.get(kind) if kind is not None else None
        return replace(self, **different) if different else self

    @property
    def is_on(self) -> bool:
        """Tell whether there is any agent that is to go, one day."""
        rules = [self, *(self.of(kind) for kind in self.kinds)]
        return self.journal_bytes_max > 0 or any(
            rule.completed_days or rule.failed_days or rule.cancelled_days for rule in rules
        )


# --- redaction -----------------------------------------------------------------------


def _patterns() -> dict[str, Option]:
    """Describe a list of regular expressions that cost no more than their text is long."""
    described = words()["option"]

    def parse(raw: object) -> tuple[str, ...]:
        given = cast("tuple[str, ...]", described.parse(raw))
        for number, pattern in enumerate(given, 1):
            problem = problem_of(pattern)
            if problem is not None:
                raise ConfigError(f"pattern {number}, {shown(pattern)}: {problem}")
        return given

    return {"option": Option(parse=parse)}


def _names() -> dict[str, Option]:
    """Describe a list of names of members."""
    described = words()["option"]

    def parse(raw: object) -> tuple[str, ...]:
        given = cast("tuple[str, ...]", described.parse(raw))
        for name in given:
            if not _MEMBER.fullmatch(name):
                raise ConfigError(
                    f"{shown(name)} is not the name of a member; "
                    "use up to 64 letters, digits and ._-"
                )
        return given

    return {"option": Option(parse=parse)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Redaction:
    """What is taken out of what agents write, before it is recorded."""

    mode: str = field(default=OFF, metadata=choice(OFF, MARK, REFUSE))
    patterns: tuple[str, ...] = field(default=(), metadata=_patterns())
    keys: tuple[str, ...] = field(default=(), metadata=_names())
