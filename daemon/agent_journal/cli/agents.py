"""``agent-journal agents``: the caller's agents and where each is in its life."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ..clock import Clock
from ..model import AgentState
from .arguments import add_uid, natural
from .connection import connected
from .failures import ExitCode
from .output import print_json
from .terminal import Cell, Column, Table, standard_output
from .timestamps import age

if TYPE_CHECKING:
    from ..client import Agent

EXAMPLES: Final = """\
  agent-journal agents
  agent-journal agents --state interrupted
  agent-journal agents --json | jq -r .agent_id
  sudo agent-journal agents --uid '*'
"""

COLUMNS: Final = (
    Column(title="AGENT"),
    Column(title="UID", right=True, optional=True),
    Column(title="STATE"),
    Column(title="KIND", optional=True, spare=True),
    Column(title="ENTRIES", right=True),
    Column(title="ITER", right=True, spare=True),
    Column(title="UPDATED"),
    Column(title="REASON", optional=True, flexible=True),
)

STATE_STYLES: Final = {
    "running": "green",
    "waiting": "cyan",
    "interrupted": "yellow",
    "resuming": "yellow",
    "parked": "alarm",
    "completed": "dim",
    "failed": "red",
    "cancelled": "dim",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--state", choices=list(AgentState), metavar="STATE", help=f"one of {', '.join(AgentState)}"
    )
    parser.add_argument("--kind", help="only agents of this kind")
    parser.add_argument("--limit", type=natural, metavar="N", help="at most so many (default: all)")
    add_uid(parser, everyone=True)


def run(arguments: argparse.Namespace) -> int:
    """Print the agents."""
    with connected(arguments) as journal:
        agents = journal.agents(
            state=arguments.state,
            kind=arguments.kind,
            limit=arguments.limit,
            uid=arguments.uid,
        )
        if arguments.json:
            for agent in agents:
                print_json(agent)
        else:
            table = Table(standard_output(), COLUMNS)
            if table.print(_rows(agents, everyone=arguments.uid == "*")) == 0:
                standard_output().line("no agents" + (" like that" if _narrowed(arguments) else ""))
    return ExitCode.OK


def _narrowed(arguments: argparse.Namespace) -> bool:
    return arguments.state is not None or arguments.kind is not None or arguments.limit == 0


def _rows(agents: Iterator[Agent], *, everyone: bool) -> Iterator[tuple[Cell | str, ...]]:
    clock = Clock()
    for agent in agents:
        yield (
            Cell(agent.agent_id, "bold"),
            str(agent.uid) if everyone else "",
            Cell(agent.state, STATE_STYLES.get(agent.state, "")),
            agent.kind or "",
            f"{agent.entries:,}",
            str(agent.last_completed_iteration),
            Cell(age(agent.updated_at, clock=clock), "dim"),
            agent.reason or "",
        )
