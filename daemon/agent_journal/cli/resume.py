"""``agent-journal resume``: start an agent again, also one that is parked."""

from __future__ import annotations

import argparse
from typing import Final

from .connection import connected
from .word import add_agent, say, tell

EXAMPLES: Final = """\
  agent-journal resume report-42
  agent-journal resume report-42 --reason "the API key is renewed"
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_agent(parser, reason="why; recorded with it")


def run(arguments: argparse.Namespace) -> int:
    """Ask for it; it lifts a park, and counts attempts anew."""
    reply = say(arguments, "resume", reason=arguments.reason)
    state = reply.get("state")
    if state == "running":
        sentence = f"{arguments.agent} is running already"
    elif _can_be_started(arguments):
        sentence = (
            f"{arguments.agent} is to be resumed (now {state}); "
            f"agent-journal why {arguments.agent} tells more"
        )
    else:
        sentence = (
            f"{arguments.agent} may go on (now {state}), but no command is recorded to start it: "
            f"start its program with AGENT_JOURNAL_AGENT_ID={arguments.agent}"
        )
    return tell(arguments, reply, sentence)


def _can_be_started(arguments: argparse.Namespace) -> bool:
    with connected(arguments) as journal:
        known = journal.describe(arguments.agent, uid=arguments.uid)
    return known.command is not None or known.launcher is not None
