"""``agent-journal resume``: start an agent again, also one that is parked."""

from __future__ import annotations

import argparse
from typing import Final

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
    else:
        sentence = f"{arguments.agent} is to be resumed (now {state}); agent-journal why tells more"
    return tell(arguments, reply, sentence)
