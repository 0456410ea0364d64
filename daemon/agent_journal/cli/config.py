"""``agent-journal config``: is the configuration right, what holds, and who said so."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import ConfigError
from .failures import ExitCode, usage_error
from .output import json_text, print_json
from .shipped import shipped
from .terminal import Terminal, harmless, standard_output

if TYPE_CHECKING:
    from ..service.config import Config
    from ..service.config_values import Option

EXAMPLES: Final = """\
  agent-journal config check                   # the file that your daemon reads
  agent-journal config check /etc/agent-journal/config.toml && echo good
  agent-journal config show --origin           # what holds, and who said so
  agent-journal config show --json | jq 'select(.origin != "default")'
  agent-journal config default > ~/.config/agent-journal/config.toml

The exit code is 78 where the daemon would not start with the file.
"""

ACTIONS: Final = ("check", "show", "default")
KIB: Final = 1024
COMMENT_AT: Final = 42  # the column of the origins, where the values leave it free


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "action",
        choices=ACTIONS,
        help="check a file; show the values that hold; print the shipped file (default)",
    )
    parser.add_argument(
        "file",
        type=Path,
        nargs="?",
        metavar="FILE",
        help="the file (default: the one that agent-journald would read)",
    )
    parser.add_argument(
        "--origin", action="store_true", help="with show: say where each value comes from"
    )

    # Up to Python 3.12 an optional argument is taken for missing where an option stands
    # before it: config show --origin FILE.
    parse = parser.parse_known_args

    def in_order(args: Sequence[str], namespace: argparse.Namespace | None) -> object:
        return parse(_options_first(args), namespace)

    parser.parse_known_args = in_order  # type: ignore[method-assign, assignment]


def _options_first(words: Sequence[str]) -> list[str]:
    options: list[str] = []
    others: list[str] = []
    remaining = iter(words)
    for word in remaining:
        (options if word.startswith("-") else others).append(word)
        if word in {"-s", "--socket", "--wait"}:
            options += [value for value in [next(remaining, None)] if value is not None]
    return [*options, *others]


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; a bad file is exit code 78."""
    if arguments.action == "default":
        if arguments.file is not None:
            raise usage_error("the shipped file is printed", "agent-journal config default > FILE")
        standard_output().line(shipped("config.toml").read_text("utf-8").rstrip("\n"))
        return ExitCode.OK
    file = _File(arguments.file)
    if file.problems:
        _print_problems(file, as_json=arguments.json)
        return ExitCode.BAD_CONFIG
    if arguments.action == "check":
        _print_sound(file, as_json=arguments.json)
    elif arguments.json:
        for setting in _settings(file):
            print_json(setting.as_object())
    else:
        _print_settings(file, standard_output(), with_origin=arguments.origin)
    return ExitCode.OK


@dataclass(frozen=True, slots=True)
class _Problem:
    """One thing that is wrong: of which option, on which line, as far as that is known."""

    key: str
    line: int | None
    problem: str


class _File:
    """A configuration file as the daemon's own reader judges it."""

    def __init__(self, path: Path | None) -> None:
        from ..service import config as configuration  # noqa: PLC0415 - the daemon's, and only now
        from ..service.config_lines import lines_of  # noqa: PLC0415 - as above

        default = configuration.default_config_file(os.environ, uid=os.geteuid())
        self.path: Final = default if path is None else path.absolute()
        self.is_there: Final = self.path.exists()
        self.lines: dict[str, int] = {}
        self.problems: list[_Problem] = []
        self.config: Config = configuration.Config()
        try:
            if self.is_there:
                self.lines = lines_of(self.path.read_text("utf-8", "replace"))
        except OSError:
            pass  # which the reader will say
        try:
            self.config = configuration.load(None if path is None else self.path)
        except ConfigError as error:
            self.problems = [self._problem(line) for line in str(error).splitlines()]

    def _problem(self, line: str) -> _Problem:
        told = line.removeprefix(f"{self.path}: ")
        key, _, problem = told.partition(": ")
        if key in self.lines:
            return _Problem(key, self.lines[key], problem)
        # A problem of two options is told of the one that may not be there.
        is_key = bool(problem) and " " not in key
        return _Problem(key, None, problem) if is_key else _Problem("", None, told)


def _print_problems(file: _File, *, as_json: bool) -> None:
    if as_json:
        problems = [
            {name: value for name, value in found if value not in (None, "")}
            for found in (
                (("key", one.key), ("line", one.line), ("problem", one.problem))
                for one in file.problems
            )
        ]
        print_json({"file": str(file.path), "ok": False, "problems": problems})
        return
    output = standard_output()
    for one in file.problems:
        line = "" if one.line is None else f":{one.line}"
        key = f"{output.paint(harmless(one.key), 'bold')}: " if one.key else ""
        output.line(f"{harmless(str(file.path))}{line}: {key}{harmless(one.problem)}")


def _print_sound(file: _File, *, as_json: bool) -> None:
    changed = sum(setting.line is not None for setting in _settings(file))
    if as_json:
        print_json({"file": str(file.path), "ok": True, "options": changed, "problems": []})
        return
    options = "1 option" if changed == 1 else f"{changed} options"
    told = f"{options} set, nothing wrong" if file.is_there else "there is none; the defaults hold"
    standard_output().line(f"{harmless(str(file.path))}: {told}")


@dataclass(frozen=True, slots=True)
class _Setting:
    """An option that holds: its value as the file would have it, and who said so."""

    name: str
    value: object
    origin: str
    line: int | None
    live: bool
    title: str = ""  # of a table, as the file would have it

    def as_object(self) -> dict[str, object]:
        told: dict[str, object] = {"option": self.name, "value": self.value, "origin": self.origin}
        if self.line is not None:
            told["line"] = self.line
        return {**told, "live": self.live}


def _settings(file: _File) -> Iterator[_Setting]:
    """Yield every option; a table of a person's own names yields one for each of them."""
    from ..service.config import options  # noqa: PLC0415 - the daemon's, and only now

    for name, option, value in options(file.config):
        line = file.lines.get(name)
        origin = "default" if line is None else str(file.path)
        if isinstance(value, Mapping):
            for own, table in value.items():
                at = file.lines.get(f"{name}.{own}")
                where, title = str(file.path), f"{name}.{_key(own)}"
                yield _Setting(f"{name}.{own}", _members(table), where, at, option.live, title)
            continue
        if value is not None:
            place, why = value, origin
        elif name in _PLACES:
            place, why = _place(name)
        else:
            place, why = "", origin  # a directory that is none
        yield _Setting(name, _plain(place, option), why, line, option.live)


_PLACES: Final = ("socket", "database")


def _place(name: str) -> tuple[Path, str]:
    """Return where the socket or the database is when the file does not say, and why there."""
    from ..service import config as configuration  # noqa: PLC0415 - the daemon's, and only now

    uid = os.geteuid()
    if name == "socket":
        path, variables = configuration.default_socket(os.environ, uid=uid), ["XDG_RUNTIME_DIR"]
    else:
        path = configuration.default_database(os.environ, uid=uid)
        variables = ["STATE_DIRECTORY", "XDG_STATE_HOME"]
    by = [f"${one}" for one in variables if os.environ.get(one, "").startswith("/")]
    return path, f"default, from {by[0]}" if by else "default"


def _plain(value: object, option: Option) -> object:
    """Return a value as the file would have it: sizes with their unit, paths as text."""
    from ..service.config_values import size_text  # noqa: PLC0415 - the daemon's, and only now

    if isinstance(value, int) and not isinstance(value, bool):
        with contextlib.suppress(ConfigError):  # no size, which alone may have a unit
            option.parse(f"{value}B")
            return size_text(value) if value >= KIB else value
    return _members(value)


def _members(value: object) -> object:
    """Return a value out of tables, lists and what stands for itself."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    match value:
        case Mapping():
            return {k: _members(v) for k, v in value.items() if v not in (None, (), frozenset())}
        case tuple() | list() | frozenset():
            return [_members(one) for one in value]
        case Path():
            return str(value)
        case _:
            return value


def _print_settings(file: _File, output: Terminal, *, with_origin: bool) -> None:
    """Print all options as TOML, which the daemon would read the same way."""
    section = ""
    # A section can't be gone on with behind its tables.
    for setting in sorted(_settings(file), key=lambda one: isinstance(one.value, dict)):
        comment = _origin(setting) if with_origin else ""
        head, _, key = setting.name.rpartition(".")
        if isinstance(setting.value, dict):
            output.line("\n" + _commented(f"[{setting.title}]", comment, output))
            for name, value in setting.value.items():
                output.line(f"{name} = {_toml(value)}")
            continue
        if head != section:
            section = head
            output.line(f"\n[{head}]")
        output.line(_commented(f"{key} = {_toml(setting.value)}", comment, output))


def _toml(value: object) -> str:
    match value:
        case dict():
            return f"{{{', '.join(f'{json_text(k)} = {_toml(v)}' for k, v in value.items())}}}"
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case _:
            return harmless(json_text(value))


def _origin(setting: _Setting) -> str:
    return setting.origin if setting.line is None else f"{setting.origin}:{setting.line}"


def _commented(line: str, comment: str, output: Terminal) -> str:
    if not comment:
        return line
    style = "dim" if comment.startswith("default") else "green"
    return f"{line:<{COMMENT_AT}}  {output.paint(f'# {harmless(comment)}', style)}"


def _key(own: str) -> str:
    """Return a person's own name as a key, in quotes where it needs them."""
    is_bare = own.isascii() and own.replace("-", "").replace("_", "").isalnum()
    return own if is_bare else json_text(own)
