"""The options that say how agents are resumed, by what, and with how much patience.

``[resume]`` holds for all agents, ``[resume.kinds.NAME]`` says what is
different for those of a kind, and ``[launchers.NAME]`` names a program or a
unit that starts agents.  The names in these tables are the person's own, so
to the rest of the configuration all kinds are one option, and so are all
launchers.
"""

from __future__ import annotations

import difflib
import os
import pwd
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Final, cast

from ..errors import ConfigError
from ..model import Uid
from .config_values import KIB, MIB, Option, choice, count, seconds, shown, size, switch, words

AGENT_ID: Final = "{agent_id}"
ATTEMPT: Final = "{attempt}"
EVERYBODY: Final = "*"

_PLACEHOLDER: Final = re.compile(r"\{[A-Za-z_]*\}")
_TEMPLATE: Final = re.compile(r"[A-Za-z0-9:_.-]{1,100}@\.service", re.ASCII)
_TABLE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", re.ASCII)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)


class TableError(ConfigError):
    """What is wrong in tables whose names are the person's own: dotted name, what to do."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in problems))
        self.problems = problems


# --- the kinds of values that only these have ----------------------------------------


def _variables() -> dict[str, Option]:
    """Describe a list of names of environment variables."""
    described = words()["option"]

    def parse(raw: object) -> tuple[str, ...]:
        given = cast("tuple[str, ...]", described.parse(raw))
        for name in given:
            if not _VARIABLE.fullmatch(name):
                raise ConfigError(f"{shown(name)} is not the name of an environment variable")
        return given

    return {"option": Option(parse=parse)}


def _program() -> dict[str, Option]:
    """Describe the arguments of a program, its path in full first."""
    described = words()["option"]

    def parse(raw: object) -> tuple[str, ...]:
        argv = cast("tuple[str, ...]", described.parse(raw))
        if not argv or not argv[0].startswith("/"):
            raise ConfigError(
                'the program is not named in full; write ["/path/to/program", "argument", …]'
            )
        if _PLACEHOLDER.search(argv[0]):
            raise ConfigError("the program is the same for every agent; name it without {…}")
        for wrong in {*_PLACEHOLDER.findall(" ".join(argv))} - {AGENT_ID, ATTEMPT}:
            raise ConfigError(f"{shown(wrong)} is not known; write {AGENT_ID} or {ATTEMPT}")
        return argv

    return {"option": Option(parse=parse)}


def _template() -> dict[str, Option]:
    """Describe the name of a template unit."""

    def parse(raw: object) -> str:
        if not isinstance(raw, str) or not _TEMPLATE.fullmatch(raw):
            raise ConfigError(
                f'{shown(raw)} is not a template unit; write a name like "agent@.service", '
                "which the agent's id becomes the instance of"
            )
        return raw

    return {"option": Option(parse=parse)}


def tables(
    parse_table: Callable[[str, Mapping[str, object], list[tuple[str, str]]], Any],
) -> dict[str, Option]:
    """Describe tables by the person's own names, each read by *parse_table*."""

    def parse(raw: object) -> Mapping[str, Any]:
        if not isinstance(raw, dict):
            raise ConfigError(f"{shown(raw)} is not a section; write one for each name")
        problems: list[tuple[str, str]] = []
        found: dict[str, Any] = {}
        for name, table in raw.items():
            if not _TABLE_NAME.fullmatch(name):
                problems.append((shown(name), "is no name; use letters, digits and ._:-"))
            elif not isinstance(table, dict):
                problems.append((name, "is a section; write its name above its options"))
            else:
                found[name] = parse_table(name, table, problems)
        if problems:
            raise TableError(problems)
        return MappingProxyType(found)

    return {"option": Option(parse=parse)}


def values_in(
    name: str,
    table: Mapping[str, object],
    declared: tuple[Field[Any], ...],
    problems: list[tuple[str, str]],
) -> dict[str, Any]:
    """Return the options in a table; what is wrong with any is added to *problems*."""
    known = {one.name: cast("Option", one.metadata["option"]) for one in declared}
    values: dict[str, Any] = {}
    for key, raw in table.items():
        if key not in known:
            near = difflib.get_close_matches(key.replace("-", "_"), known, n=1, cutoff=0.0)[0]
            shown_key = key if _TABLE_NAME.fullmatch(key) else shown(key)
            problems.append((f"{name}.{shown_key}", f"unknown option; the nearest is {near}"))
            continue
        try:
            values[key] = known[key].parse(raw)
        except ConfigError as error:
            problems.append((f"{name}.{key}", str(error)))
    return values


def _kind(
    name: str, table: Mapping[str, object], problems: list[tuple[str, str]]
) -> Mapping[str, Any]:
    return MappingProxyType(values_in(name, table, fields(KindLimits), problems))


def _launcher(
    name: str, table: Mapping[str, object], problems: list[tuple[str, str]]
) -> LauncherOptions:
    before = len(problems)
    launcher = LauncherOptions(**values_in(name, table, fields(LauncherOptions), problems))
    if len(problems) == before and (launcher.argv is None) is (launcher.unit is None):
        problems.append((name, "needs either argv (a program) or unit (a template unit)"))
    return launcher


# --- the options ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class KindLimits:
    """With how much patience the agents of a kind are resumed."""

    enabled: bool = field(default=True, metadata=switch())
    attempts_max: int = field(default=5, metadata=count(1, 1_000_000))
    tokens_max: int = field(default=0, metadata=count(0, 10**15))
    backoff_seconds_initial: float = field(default=1, metadata=seconds(0, 86_400))
    backoff_seconds_max: float = field(default=300, metadata=seconds(0, 7 * 86_400))
    calm_seconds: float = field(default=3600, metadata=seconds(0, 365 * 86_400))
    attach_seconds: float = field(default=30, metadata=seconds(0.1, 86_400))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume(KindLimits):
    """How agents are resumed; ``of`` says it for a kind of them."""

    kinds: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: MappingProxyType({}), metadata=tables(_kind)
    )
    start_with: str = field(default="auto", metadata=choice("auto", "systemd", "process"))
    at_once_max: int = field(default=8, metadata=count(1, 10_000))
    per_second: float = field(default=10, metadata=seconds(0.001, 10_000))
    outbreak_agents: int = field(default=3, metadata=count(0, 1_000_000))
    outbreak_seconds: float = field(default=300, metadata=seconds(1, 86_400))
    output_bytes: int = field(default=64 * KIB, metadata=size(4 * KIB, 64 * MIB))
    outputs_kept: int = field(default=3, metadata=count(1, 1000))
    env: tuple[str, ...] = field(default=(), metadata=_variables())

    def of(self, kind: str | None) -> KindLimits:
        """Return what holds for the agents of *kind*."""
        different = self.kinds.get(kind) if kind is not None else None
        return replace(self, **different) if different else self


@dataclass(frozen=True, slots=True, kw_only=True)
class LauncherOptions:
    """What starts an agent: a program with its arguments, or a template unit of systemd."""

    argv: tuple[str, ...] | None = field(default=None, metadata=_program())
    unit: str | None = field(default=None, metadata=_template())
    users: tuple[str, ...] = field(default=(), metadata=words())

    def is_for(self, uid: Uid) -> bool:
        """Tell whether it may start agents of *uid*; those of the daemon's own, always."""
        if uid == os.geteuid() or {EVERYBODY, str(uid)} & {*self.users}:
            return True
        try:
            return pwd.getpwuid(uid).pw_name in self.users
        except KeyError:
            return False


def launchers() -> dict[str, Option]:
    """Describe all launchers, as the metadata of a field."""
    described = tables(_launcher)["option"]

    def parse(raw: object) -> Mapping[str, LauncherOptions]:
        found = cast("Mapping[str, LauncherOptions]", described.parse(raw))
        problems = _units_of_many(found)
        if problems:
            raise TableError(problems)
        return found

    return {"option": Option(parse=parse)}


def _units_of_many(found: Mapping[str, LauncherOptions]) -> list[tuple[str, str]]:
    """Return the launchers whose unit would start the agents of more than one user.

    An instance is named by the agent's id alone, and two users may use one id: the
    daemon would take the process of the one for the attempt of the other, and stop it.
    """
    users: dict[str, set[str]] = {}
    for launcher in found.values():
        if launcher.unit is not None:
            users.setdefault(launcher.unit, set()).update(launcher.users)
    return [
        (
            f"{name}.users",
            (
                f"{launcher.unit} is for agents of one user; give each user a template unit "
                "and a launcher of his own"
            ),
        )
        for name, launcher in found.items()
        if launcher.unit is not None
        and (len(users[launcher.unit]) > 1 or EVERYBODY in launcher.users)
    ]


def table_names(of: type[KindLimits | LauncherOptions]) -> Iterator[str]:
    """Yield the names of the options that a table may have."""
    return (one.name for one in fields(of))
