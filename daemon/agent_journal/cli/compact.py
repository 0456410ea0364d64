"""``agent-journal compact``: remove what a finished agent recorded."""

from __future__ import annotations

import argparse
from typing import Final

from .arguments import add_uid, add_whole_agent_id
from .connection import connected
from .counted import entries
from .failures import ExitCode
from .output import print_json
from .terminal import harmless, standard_output

EXAMPLES: Final = """\
  agent-journal compact report-42
  agent-journal compact report-42 --force     # although it has not ended
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_whole_agent_id(parser)
    parser.add_argument("--force", action="store_true", help="also where the agent has not ended")
    add_uid(parser)


def run(arguments: argparse.Namespace) -> int:
    """Remove the entries; say how many there were."""
    with connected(arguments) as journal:
        removed = journal.compact(arguments.agent, force=arguments.force, uid=arguments.uid)
    if arguments.json:
        print_json({"agent_id": arguments.agent, "removed": removed})
    else:
        standard_output().line(f"{entries(removed)} of {harmless(arguments.agent)} removed")
    return ExitCode.OK
