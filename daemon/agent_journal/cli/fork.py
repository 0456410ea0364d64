"""``agent-journal fork``: a new agent that begins with another's first entries."""

from __future__ import annotations

import argparse
from typing import Final

from .arguments import natural
from .connection import connected
from .counted import entries
from .word import add_agent, say, tell

EXAMPLES: Final = """\
  agent-journal show report-42                             # tells the sequences
  agent-journal fork report-42 --at 17 --as report-42b     # entries 0 to 16
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_agent(parser)
    parser.add_argument(
        "--at", type=natural, required=True, metavar="N", help="take the entries before this one"
    )
    parser.add_argument("--as", dest="new", required=True, metavar="ID", help="the new agent's id")


def run(arguments: argparse.Namespace) -> int:
    """Make the new agent; it waits for somebody to resume it."""
    reply = say(arguments, "fork", at_sequence=arguments.at, **{"as": arguments.new})
    with connected(arguments) as journal:
        known = journal.describe(arguments.new, uid=arguments.uid)
    then = f"agent-journal resume {arguments.new} lets it go on"
    if known.command is None and known.launcher is None:
        then = f"start its program with AGENT_JOURNAL_AGENT_ID={arguments.new}, and it goes on"
    sentence = f"{arguments.new} begins with {entries(arguments.at)} of {arguments.agent}; {then}"
    return tell(arguments, {"from": arguments.agent, **reply}, sentence)
