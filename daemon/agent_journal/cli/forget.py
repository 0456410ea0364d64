"""``agent-journal forget``: have an agent be gone, and nothing be left of it."""

from __future__ import annotations

import argparse
from typing import Final

from .arguments import add_uid, add_whole_agent_id
from .asking import ask
from .connection import connected
from .counted import entries
from .failures import ExitCode
from .output import print_json
from .terminal import harmless, standard_output

EXAMPLES: Final = """\
  agent-journal forget report-42               # entries, keys, output; asks
  agent-journal forget report-42 --yes         # for scripts
  agent-journal forget report-42 --force       # although it has not ended

What was copied before stays where it is: exports, archives, backups, forks of
the agent.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_whole_agent_id(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--force", action="store_true", help="also where the agent has not ended")
    add_uid(parser)


def run(arguments: argparse.Namespace) -> int:
    """Say what would go, ask, and come back when it is gone."""
    agent_id = arguments.agent
    shown = harmless(agent_id)
    with connected(arguments) as journal:
        if not arguments.yes:
            agent = journal.describe(agent_id, uid=arguments.uid)
            ask(
                f"Forget {shown} ({agent.state}) and its {entries(agent.entries)}, for good?",
                nothing="nothing was forgotten",
                hint=f"agent-journal forget {shown} --yes",
            )
        removed = journal.forget(agent_id, force=arguments.force, uid=arguments.uid)
    if arguments.json:
        print_json({"agent_id": agent_id, "removed": removed})
    else:
        standard_output().line(f"{shown} and its {entries(removed)} are gone")
    return ExitCode.OK
