"""``agent-journal tail``: entries in commit order, and then the ones that come."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from ..clock import Clock
from .arguments import add_agent_id, add_uid, natural
from .connection import connected
from .details import detail, event_name, event_style
from .failures import ExitCode
from .terminal import Cell, Column, Table, Terminal, standard_output
from .timestamps import clock_time

if TYPE_CHECKING:
    from ..client import Entry

EXAMPLES: Final = """\
  agent-journal tail                          # the last 10, then the new ones
  agent-journal tail report-42 -n 100
  agent-journal tail --from-position 0 --no-follow --json > journal.ndjson
"""

LAST_DEFAULT: Final = 10  # as tail(1)

# Rows come one by one, so what is usual for a column is its width from the start.
COLUMNS: Final = (
    Column(title="POSITION", right=True),
    Column(title="TIME", width_min=12),
    Column(title="AGENT", width_min=9),
    Column(title="SEQ", right=True, width_min=4),
    Column(title="EVENT", width_min=13),
    Column(title="DETAIL", flexible=True),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_agent_id(parser, "only this agent's entries: its id", nargs="?")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument(
        "-n",
        "--last",
        type=natural,
        metavar="N",
        help=f"begin with the last N entries (default: {LAST_DEFAULT})",
    )
    begin.add_argument(
        "--from-position",
        type=natural,
        metavar="POSITION",
        help="begin with this place in the journal",
    )
    parser.add_argument("--no-follow", action="store_true", help="end with the newest entry")
    add_uid(parser, everyone=True)


def run(arguments: argparse.Namespace) -> int:
    """Print entries until there are no more, or for ever."""
    last = arguments.last
    if last is None and arguments.from_position is None:
        last = LAST_DEFAULT
    terminal = standard_output()
    with connected(arguments, follows=not arguments.no_follow) as journal:
        what: dict[str, Any] = {
            "agent_id": arguments.agent,
            "from_position": arguments.from_position,
            "last": last,
            "follow": not arguments.no_follow,
            "uid": arguments.uid,
        }
        if arguments.json:
            from ..client._requests import Tail  # noqa: PLC0415 - only now
            from .verbatim import print_line, tail_lines  # noqa: PLC0415 - imports the client

            for line in tail_lines(journal, Tail(**what)):
                print_line(line)
                terminal.flush()
        else:
            _print(journal.tail(**what), terminal)
    return ExitCode.OK


def _print(entries: Iterator[Entry], terminal: Terminal) -> None:
    table = Table(terminal, COLUMNS)
    clock = Clock()
    for entry in entries:
        name = event_name(entry.event)
        table.row(
            (
                str(entry.position),
                Cell(clock_time(entry.timestamp, clock=clock), "dim"),
                Cell(entry.agent_id, "bold"),
                str(entry.sequence),
                Cell(name, event_style(name)),
                detail(entry.event, is_whole=terminal.width is None),
            )
        )
        terminal.flush()
