"""What a person says to an agent: the requests behind ``resume``, ``decide``, ``signal`` and so on.

A payload that is given as JSON goes to the daemon as it was typed, so that its
numbers keep their digits.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from .arguments import add_agent_id, add_uid, add_whole_agent_id
from .connection import connected
from .failures import ExitCode, usage_error
from .output import print_json
from .raw_json import json_problem
from .terminal import harmless, standard_output


def add_agent(
    parser: argparse.ArgumentParser, *, reason: str | None = None, is_whole: bool = False
) -> None:
    """Add the agent, by its whole id perhaps, and the reason where one may be given."""
    (add_whole_agent_id if is_whole else add_agent_id)(parser)
    if reason is not None:
        parser.add_argument("--reason", metavar="TEXT", help=reason)
    add_uid(parser)


def say(
    arguments: argparse.Namespace,
    op: str,
    *,
    typed: Mapping[str, str] | None = None,
    **fields: object,
) -> dict[str, Any]:
    """Send one request about the agent of the command line and return the reply.

    *typed* are fields whose values are JSON as it was typed.
    """
    from .verbatim import call_lines  # noqa: PLC0415 - imports the client

    with connected(arguments) as journal:
        known = {"op": op, "agent_id": arguments.agent, "uid": arguments.uid, **fields}
        members = {name: json.dumps(value) for name, value in known.items() if value is not None}
        members.update(typed or {})
        text = ",".join(f"{json.dumps(name)}:{value}" for name, value in members.items())
        [line] = call_lines(journal, f"{{{text}}}")
    reply: dict[str, Any] = json.loads(line)
    del reply["ok"]
    return reply


def checked_json(text: str, what: str) -> str:
    """Return JSON *text* as it is.

    Raises:
        CommandError: it is none; the message says where it breaks.
    """
    try:
        json.loads(text, parse_constant=_refuse_constant, parse_int=str)
    except RecursionError:
        raise usage_error(f"{what} is nested too deeply", "keep it in a file") from None
    except ValueError as error:
        hint = """quote it for the shell: '"yes"' is a text, 7 a number, '{"a": 1}' an object"""
        raise usage_error(f"{what} is not JSON: {json_problem(error)}", hint) from None
    return text


def tell(arguments: argparse.Namespace, reply: Mapping[str, object], sentence: str) -> int:
    """Print what became of it."""
    if arguments.json:
        print_json({"agent_id": arguments.agent, **reply})
    else:
        standard_output().line(harmless(sentence))
    return ExitCode.OK


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON value")
