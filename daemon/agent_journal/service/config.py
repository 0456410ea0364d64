"""Every option of the daemon: its default, its range, and whether it can change live.

The dataclasses are the one place that says what an option is; the loader, the
live reload and the tests of ``config.toml`` all read them.  A file is judged
as a whole: every problem in it is reported at once, each with what to do about
it, because a person who corrects one typing error per restart loses patience
before the file is right.
"""

from __future__ import annotations

import difflib
import json
import os
import pwd
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar, cast

from ..errors import ConfigError
from .config_resume import LauncherOptions, Resume, TableError, launchers
from .config_retention import Redaction, Retention
from .config_values import GIB, KIB, MIB, TIB, Option, choice, count, file_path, group, mode, size

SOCKET_PATH_BYTES_MAX: Final = 107
"""What fits into the kernel's ``sun_path`` besides the final NUL."""

_SYSTEM_SOCKET: Final = Path("/run/agent-journal/journal.sock")
_SYSTEM_CONFIG: Final = Path("/etc/agent-journal/config.toml")


# --- the options ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What clients may use of the daemon, each, per uid and together."""

    connections_max: int = field(default=16384, metadata=count(1, 1_000_000))
    connections_per_uid_max: int = field(default=16384, metadata=count(1, 1_000_000))
    frame_bytes_max: int = field(default=4 * MIB, metadata=size(4 * KIB, 256 * MIB))
    connection_bytes_in_flight_max: int = field(default=1 * MIB, metadata=size(4 * KIB, 4 * GIB))
    uid_bytes_in_flight_max: int = field(default=32 * MIB, metadata=size(64 * KIB, 16 * GIB))
    bytes_in_flight_max: int = field(default=64 * MIB, metadata=size(64 * KIB, 64 * GIB))
    partial_bytes_max: int = field(default=64 * MIB, metadata=size(64 * KIB, 64 * GIB))
    read_entries_max: int = field(default=10_000, metadata=count(1, 1_000_000))
    reply_bytes_max: int = field(default=1 * MIB, metadata=size(4 * KIB, 256 * MIB))


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """How entries are gathered into transactions, and when the WAL is folded back."""

    batch_entries_max: int = field(default=4096, metadata=count(1, 1_000_000))
    batch_bytes_max: int = field(default=4 * MIB, metadata=size(4 * KIB, 1 * GIB))
    checkpoint_commits: int = field(default=64, metadata=count(1, 100_000))
    free_bytes_min: int = field(default=64 * MIB, metadata=size(0, 1 * TIB))


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrity:
    """How the journal's file is looked at for bits that have flipped."""

    scrub_bytes_per_second: int = field(default=1 * MIB, metadata=size(0, 1 * GIB))
    scrub_interval_hours: int = field(default=24, metadata=count(0, 8760))


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may connect, and who may act for others."""

    admin_group: str = field(default="", metadata=group(live=True))
    socket_mode: str = field(default="0600", metadata=mode())
    socket_group: str = field(default="", metadata=group(live=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What is logged, and in which form."""

    level: str = field(default="info", metadata=choice("debug", "info", "warning", "error"))
    format: str = field(default="auto", metadata=choice("auto", "console", "json", "journal"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All options; ``Config()`` is what the daemon runs with when there is no file.

    A field whose metadata holds an ``Option`` stands at the top of the file,
    every other field is a section of it.
    """

    socket: Path | None = field(default=None, metadata=file_path(bytes_max=SOCKET_PATH_BYTES_MAX))
    database: Path | None = field(default=None, metadata=file_path())
    limits: Limits = field(default_factory=Limits)
    commit: Commit = field(default_factory=Commit)
    integrity: Integrity = field(default_factory=Integrity)
    access: Access = field(default_factory=Access)
    log: Log = field(default_factory=Log)
    resume: Resume = field(default_factory=Resume)
    retention: Retention = field(default_factory=Retention)
    redaction: Redaction = field(default_factory=Redaction)
    launchers: Mapping[str, LauncherOptions] = field(
        default_factory=lambda: MappingProxyType({}), metadata=launchers()
    )


_Section = TypeVar("_Section", Limits, Commit, Integrity, Access, Log, Resume, Retention, Redaction)

_NOT_ABOVE: Final = (
    ("limits.connections_per_uid_max", "limits.connections_max"),
    ("limits.connection_bytes_in_flight_max", "limits.uid_bytes_in_flight_max"),
    ("limits.uid_bytes_in_flight_max", "limits.bytes_in_flight_max"),
    # A frame larger than these could be sent in pieces, but never be admitted.
    ("limits.frame_bytes_max", "limits.uid_bytes_in_flight_max"),
    ("limits.frame_bytes_max", "limits.partial_bytes_max"),
)
"""Pairs of options of which the first may not be larger than the second."""


def options(config: Config) -> Iterator[tuple[str, Option, object]]:
    """Yield (dotted name, option, value) of every option, in the order of the file."""
    for declared in fields(config):
        value = getattr(config, declared.name)
        if "option" in declared.metadata:
            yield declared.name, _option(declared), value
        else:
            for inner in fields(value):
                yield f"{declared.name}.{inner.name}", _option(inner), getattr(value, inner.name)


def changes(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """Return the names of the options that differ: those that change live, those that can't."""
    live: list[str] = []
    needs_restart: list[str] = []
    for (name, option, before), (_, _, after) in zip(options(old), options(new), strict=True):
        if before != after:
            (live if option.live else needs_restart).append(name)
    return live, needs_restart


def in_force(running: Config, new: Config) -> Config:
    """Return what a running daemon can take over of ``new``; the rest stays as it is."""
    return replace(
        running,
        limits=_with_live_of(running.limits, new.limits),
        commit=_with_live_of(running.commit, new.commit),
        integrity=_with_live_of(running.integrity, new.integrity),
        access=_with_live_of(running.access, new.access),
        log=_with_live_of(running.log, new.log),
        resume=_with_live_of(running.resume, new.resume),
        retention=_with_live_of(running.retention, new.retention),
        redaction=_with_live_of(running.redaction, new.redaction),
        launchers=new.launchers,
    )


def _option(declared: Field[object]) -> Option:
    return cast("Option", declared.metadata["option"])


def _with_live_of(running: _Section, new: _Section) -> _Section:
    live = {
        declared.name: getattr(new, declared.name)
        for declared in fields(running)
        if _option(declared).live
    }
    return replace(running, **live)


# --- where things are when nobody says -----------------------------------------------


def default_socket(environ: Mapping[str, str], *, uid: int) -> Path:
    """Return where the daemon listens unless told otherwise."""
    if runtime := _directory(environ, "XDG_RUNTIME_DIR"):
        return runtime / "agent-journal" / "journal.sock"
    if uid == 0:
        return _SYSTEM_SOCKET
    return Path(f"/tmp/agent-journal-{uid}/journal.sock")  # noqa: S108 - a private directory there


def default_database(environ: Mapping[str, str], *, uid: int) -> Path:
    """Return where the journal is kept unless told otherwise."""
    if state := _directory(environ, "STATE_DIRECTORY"):
        return state / "journal.db"
    state = _directory(environ, "XDG_STATE_HOME") or _home(environ, uid) / ".local" / "state"
    return state / "agent-journal" / "journal.db"


def default_config_file(environ: Mapping[str, str], *, uid: int) -> Path:
    """Return the file that is read without ``--config``; it need not exist."""
    if configuration := _directory(environ, "CONFIGURATION_DIRECTORY"):
        return configuration / "config.toml"
    home = _directory(environ, "XDG_CONFIG_HOME")
    if home is None and uid == 0:
        return _SYSTEM_CONFIG
    return (home or _home(environ, uid) / ".config") / "agent-journal" / "config.toml"


def _directory(environ: Mapping[str, str], name: str) -> Path | None:
    # systemd joins several directories with colons; the XDG specification says
    # to ignore a relative path.
    first = environ.get(name, "").split(":", 1)[0]
    return Path(first) if first.startswith("/") else None


def _home(environ: Mapping[str, str], uid: int) -> Path:
    if home := _directory(environ, "HOME"):
        return home
    try:
        return Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:  # a container with a uid that nobody entered in its passwd
        return Path("/")


# --- the file ------------------------------------------------------------------------


def load(
    path: Path | None,
    *,
    environ: Mapping[str, str] = os.environ,
    uid: int | None = None,
) -> Config:
    """Return the options in ``path``, or in the default file if there is one.

    Raises:
        ConfigError: with a line ``file: key: what is wrong; what to do`` for
            every problem found.
    """
    uid = os.geteuid() if uid is None else uid
    is_optional = path is None
    path = path or default_config_file(environ, uid=uid)
    try:
        raw = path.read_bytes()
    except OSError as error:
        if is_optional and isinstance(error, FileNotFoundError | NotADirectoryError):
            return _DEFAULTS
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}; correct the path or its permissions"
        ) from error
    reader = _Reader(home=_home(environ, uid))
    config = reader.config(_document(path, raw))
    if reader.problems:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in reader.problems))
    return config


def _document(path: Path, raw: bytes) -> dict[str, object]:
    try:
        return tomllib.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}; correct that place") from error


class _Reader:
    """Turns a parsed file into a ``Config`` and gathers what is wrong with it."""

    def __init__(self, *, home: Path) -> None:
        self.problems: list[str] = []
        self._home = home
        self._wrong: set[str] = set()

    def config(self, document: dict[str, object]) -> Config:
        sections: dict[str, Any] = {
            declared.name: getattr(_DEFAULTS, declared.name)
            for declared in fields(Config)
            if "option" not in declared.metadata
        }
        top = {key: value for key, value in document.items() if key not in sections}
        config = replace(_DEFAULTS, **self._values("", fields(Config), top))
        for name, section in sections.items():
            content = document.get(name, {})
            if isinstance(content, dict):
                values = self._values(f"{name}.", fields(section), content)
                config = replace(config, **{name: replace(section, **values)})
            else:
                self.problems.append(f"{name}: is a section; write [{name}] above its options")
        self._check_pairs(config)
        return config

    def _values(
        self, prefix: str, declared: tuple[Field[object], ...], content: dict[str, object]
    ) -> dict[str, Any]:
        known = {one.name: _option(one) for one in declared if "option" in one.metadata}
        values: dict[str, Any] = {}
        for key, raw in content.items():
            if key not in known:
                self.problems.append(_unknown(prefix, key, raw))
                continue
            try:
                value = known[key].parse(raw)
                if isinstance(value, Path):  # once more: its whole length counts
                    value = known[key].parse(str(self._at_home(value)))
            except TableError as error:
                found = (f"{prefix}{key}.{name}: {problem}" for name, problem in error.problems)
                self.problems.extend(found)
            except ConfigError as error:
                self.problems.append(f"{prefix}{key}: {error}")
                self._wrong.add(prefix + key)
            else:
                values[key] = value
        return values

    def _at_home(self, path: Path) -> Path:
        return self._home.joinpath(*path.parts[1:]) if path.parts[0] == "~" else path

    def _check_pairs(self, config: Config) -> None:
        values = {name: value for name, _, value in options(config)}
        defaults = {name: value for name, _, value in options(_DEFAULTS)}
        for lower, upper in _NOT_ABOVE:
            small, large = cast("int", values[lower]), cast("int", values[upper])
            if small > large and not self._wrong & {lower, upper}:
                note = " (the default)" if small == defaults[lower] else ""
                self.problems.append(
                    f"{lower}: {small}{note} is more than {upper}, {large}; "
                    f"set it to {large} or less, or raise {upper}"
                )
        if config.socket is not None and config.socket == config.database:
            self.problems.append("database: is the socket's path too; give it another")


_DEFAULTS: Final = Config()
_NAMES: Final = tuple(name for name, _, _ in options(_DEFAULTS))
_SECTIONS: Final = (
    *dict.fromkeys(name.split(".")[0] for name in _NAMES if "." in name),
    "launchers",
)


def _unknown(prefix: str, key: str, raw: object) -> str:
    """Say what is wrong with a key that does not exist, and which one was probably meant."""
    where = f"{prefix}{_shown_key(key)}"
    wanted = key.lower().replace("-", "_")
    if not prefix and isinstance(raw, dict):
        near = difflib.get_close_matches(wanted, _SECTIONS, n=1, cutoff=0.0)[0]
        return f"{where}: unknown section; the nearest is [{near}]"
    # The right name in the wrong section comes first, then the nearest of its own section.
    same = [name for name in _NAMES if name.rpartition(".")[2] == wanted]
    own = [name for name in _NAMES if name.rpartition(".")[0] == prefix.rstrip(".")]
    near = (
        same
        or difflib.get_close_matches(prefix + wanted, own, n=1, cutoff=0.75)
        or sorted(_NAMES, key=lambda name: -_likeness(wanted, name))
    )[0]
    section, _, option = near.rpartition(".")
    place = f" in [{section}]" if section else " at the top of the file, above all sections"
    return f"{where}: unknown option; the nearest is {option}{'' if near in own else place}"


def _likeness(wanted: str, name: str) -> float:
    return difflib.SequenceMatcher(None, wanted, name.rpartition(".")[2]).ratio()


def _shown_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key) else json.dumps(key[:64])
