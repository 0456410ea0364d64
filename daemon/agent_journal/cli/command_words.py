"""What can be typed, as the parsers know it: for completion and for the manual pages."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FILE_NAMES: Final = frozenset({"PATH", "FILE", "DIR", "DIRECTORY"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """What an option or an argument takes."""

    name: str
    choices: tuple[str, ...] = ()
    is_file: bool = False
    is_repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option: the ways to write it, what it does, and its value if it takes one."""

    flags: tuple[str, ...]
    help: str
    value: Value | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """An argument that is no option."""

    value: Value
    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandWords:
    """A command, and what can stand behind its name."""

    name: str
    description: str
    usage: str
    options: tuple[Option, ...]
    operands: tuple[Operand, ...]
    epilog: str


def words_of(parser: argparse.ArgumentParser, name: str) -> CommandWords:
    """Return what a parser takes."""
    shown = [one for one in parser._actions if one.help != argparse.SUPPRESS]  # noqa: SLF001
    return CommandWords(
        name=name,
        description=parser.description or "",
        usage=parser.format_usage().removeprefix("usage: ").rstrip("\n"),
        options=tuple(_option(one) for one in shown if one.option_strings),
        operands=tuple(
            Operand(value=_value(one), help=_help(one))
            for one in shown
            if not one.option_strings and not isinstance(one, argparse._SubParsersAction)  # noqa: SLF001
        ),
        epilog=parser.epilog or "",
    )


def commands_of(parser: argparse.ArgumentParser) -> Iterator[CommandWords]:
    """Yield the commands of a parser, also those that its help does not list."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            for name, command in action.choices.items():
                yield words_of(command, name)


def _option(action: argparse.Action) -> Option:
    takes_value = action.nargs != 0
    flags = tuple(sorted(action.option_strings, key=len))
    return Option(flags=flags, help=_help(action), value=_value(action) if takes_value else None)


def _value(action: argparse.Action) -> Value:
    name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    return Value(
        name=name,
        choices=tuple(map(str, action.choices or ())),
        is_file=action.type is Path or name in FILE_NAMES,
        is_repeated=action.nargs in {"*", "+", argparse.REMAINDER},
    )


def _help(action: argparse.Action) -> str:
    text = action.help or ""
    if action.dest == "help":
        return "show the help and exit"
    return text % {**vars(action), "prog": "agent-journal"} if "%" in text else text
