"""``agent-journal describe``: all that is known of one agent."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final

from ..clock import Clock
from ..value import fields_of
from .arguments import add_agent_id, add_uid
from .connection import connected
from .details import any_value
from .failures import ExitCode
from .output import print_json
from .states import STATE_STYLES
from .terminal import Cell, Column, Table, standard_output
from .timestamps import age, clock_time

if TYPE_CHECKING:
    from ..client import Agent

EXAMPLES: Final = """\
  agent-journal describe report-42
  agent-journal describe report-42 --json | jq .next_sequence
"""

COLUMNS: Final = (Column(title="FIELD"), Column(title="VALUE", flexible=True))


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_agent_id(parser)
    add_uid(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the agent's fields."""
    with connected(arguments) as journal:
        agent = journal.describe(arguments.agent, uid=arguments.uid)
    if arguments.json:
        print_json(agent)
        return ExitCode.OK
    Table(standard_output(), COLUMNS).print(_rows(agent))
    return ExitCode.OK


def _rows(agent: Agent) -> Iterator[tuple[Cell, Cell]]:
    clock = Clock()
    for name, value in fields_of(agent).items():
        if isinstance(value, datetime):
            shown = f"{clock_time(value, clock=clock)}, {age(value, clock=clock)}"
        elif isinstance(value, int) and name != "uid":
            shown = f"{value:,}"
        elif isinstance(value, Mapping | list | tuple):
            shown = any_value(dict(value) if isinstance(value, Mapping) else list(value))
        else:
            shown = str(value)
        if value not in (None, (), [], {}):
            style = STATE_STYLES.get(shown, "") if name == "state" else ""
            yield Cell(name, "bold"), Cell(shown, style)
