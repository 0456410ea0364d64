"""``agent-journal read``: what an agent recorded, in sequence order."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ..clock import Clock
from .arguments import add_agent_id, add_uid, natural
from .connection import connected
from .details import detail, event_name, event_style
from .failures import ExitCode
from .terminal import Cell, Column, Table, standard_output
from .timestamps import clock_time

if TYPE_CHECKING:
    from ..client import Entry

EXAMPLES: Final = """\
  agent-journal read report-42
  agent-journal read report-42 --from 100 --limit 20
  agent-journal read report-42 --json | jq 'select(.event.Terminated)'
"""

COLUMNS: Final = (
    Column(title="SEQ", right=True),
    Column(title="TIME"),
    Column(title="ITER", right=True),
    Column(title="EVENT"),
    Column(title="DETAIL", flexible=True),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_agent_id(parser)
    parser.add_argument(
        "--from",
        dest="from_sequence",
        type=natural,
        default=0,
        metavar="SEQUENCE",
        help="begin with this entry (default: 0)",
    )
    parser.add_argument("--limit", type=natural, metavar="N", help="at most so many (default: all)")
    add_uid(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the entries."""
    with connected(arguments) as journal:
        place = (arguments.agent, arguments.from_sequence, arguments.limit)
        if arguments.json:
            from .verbatim import print_line, read_lines  # noqa: PLC0415 - imports the client

            for line in read_lines(journal, *place, uid=arguments.uid):
                print_line(line)
        else:
            entries = journal.read(*place, uid=arguments.uid)
            output = standard_output()
            Table(output, COLUMNS).print(rows(entries, is_whole=output.width is None))
    return ExitCode.OK


def rows(entries: Iterator[Entry], *, is_whole: bool = False) -> Iterator[tuple[Cell | str, ...]]:
    """Return the table's rows; the demo's timeline is made of them too."""
    clock = Clock()
    for entry in entries:
        name = event_name(entry.event)
        yield (
            str(entry.sequence),
            Cell(clock_time(entry.timestamp, clock=clock), "dim"),
            str(entry.iteration),
            Cell(name, event_style(name)),
            detail(entry.event, is_whole=is_whole),
        )
