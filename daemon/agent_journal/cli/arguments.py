"""Arguments that more than one command takes, and how their text is read."""

from __future__ import annotations

import argparse
import json
from typing import Final, Literal

from ..model import ITERATION_MAX, SEQUENCE_MAX
from .failures import usage_error
from .raw_json import json_problem

Uid = int | Literal["*"]

EVENT_EXAMPLE: Final = """'{"Started": {"goal": "write the report"}}'"""


def natural(text: str) -> int:
    """Read a number from 0 up; the name is what argparse says in "invalid natural value"."""
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number <= SEQUENCE_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return number


def iteration(text: str) -> int:
    """Read the turn of an agent's loop."""
    number = natural(text)
    if number > ITERATION_MAX:
        raise argparse.ArgumentTypeError(f"{text} is more than {ITERATION_MAX}")
    return number


def uid_or_everyone(text: str) -> Uid:
    """Read a uid, or ``*`` for every namespace."""
    return "*" if text == "*" else natural(text)


def add_uid(parser: argparse.ArgumentParser, *, everyone: bool = False) -> None:
    """Add ``--uid``, with ``*`` where the daemon takes it."""
    parser.add_argument(
        "--uid",
        type=uid_or_everyone if everyone else natural,
        metavar="UID|*" if everyone else "UID",
        help="act in another user's namespace (administrators only)",
    )


def add_agent_id(
    parser: argparse.ArgumentParser,
    what: str = "the agent's id",
    *,
    nargs: Literal["?"] | None = None,
) -> None:
    """Add the name of an agent that is there: its id, or so much of it as no other begins with."""
    told = f"{what}, or a beginning of it that is no other's"
    parser.add_argument("agent", metavar="AGENT", nargs=nargs, help=told)
    parser.set_defaults(finds_agent=True)


def add_whole_agent_id(parser: argparse.ArgumentParser) -> None:
    """Add the name of an agent that is to end, or to go: a part of its id is not enough.

    A beginning of it would name another agent as soon as it is gone, and a script that
    is run twice would end that one, too.
    """
    parser.add_argument("agent", metavar="AGENT", help="the agent's whole id")
    parser.set_defaults(wants_whole_id=True)


def json_object(text: str | bytes, example: str = EVENT_EXAMPLE) -> dict[str, object]:
    """Read one JSON object, such as *example*.

    Raises:
        CommandError: it is none; the message says where it breaks.
    """
    hint = f"quote it for the shell, like {example}"
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise usage_error("nested too deeply", hint) from None
    except ValueError as error:
        raise usage_error(f"not JSON: {json_problem(error)}", hint) from None
    if not isinstance(value, dict):
        raise usage_error(f"not a JSON object but {_KINDS[type(value)]}", hint)
    return value


_KINDS: Final = {
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    list: "an array",
    type(None): "null",
}


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON value")
