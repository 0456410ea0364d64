"""``agent-journal describe``: all that is known of one agent."""

from __future__ import annotations

import argparse
from typing import Final

from .agents import STATE_STYLES
from .arguments import add_uid
from .connection import connected
from .failures import ExitCode
from .output import as_object, print_json
from .terminal import Cell, Column, Table, standard_output

EXAMPLES: Final = """\
  agent-journal describe report-42
  agent-journal describe report-42 --json | jq .next_sequence
"""

COLUMNS: Final = (Column(title="FIELD"), Column(title="VALUE", flexible=True))


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("agent", metavar="AGENT", help="the agent's id")
    add_uid(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the agent's fields."""
    with connected(arguments) as journal:
        agent = journal.describe(arguments.agent, uid=arguments.uid)
    if arguments.json:
        print_json(agent)
        return ExitCode.OK
    fields = as_object(agent)
    assert isinstance(fields, dict)  # noqa: S101 - an Agent is a record
    Table(standard_output(), COLUMNS).print(
        (
            Cell(name, "bold"),
            Cell(str(value), STATE_STYLES.get(value, "") if name == "state" else ""),
        )
        for name, value in fields.items()
    )
    return ExitCode.OK
