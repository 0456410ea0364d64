"""``agent-journal park``: keep an agent from being resumed until a person says so."""

from __future__ import annotations

import argparse
from typing import Final

from .word import add_agent, say, tell

EXAMPLES: Final = """\
  agent-journal park report-42
  agent-journal park report-42 --reason "waits for the new model"

A running attempt is cut off: its next append is refused, and a program under
"agent-journal run" is ended. The step that it is in is in doubt then.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_agent(parser, reason="why; shown by agent-journal why")


def run(arguments: argparse.Namespace) -> int:
    """Park it."""
    reply = say(arguments, "park", reason=arguments.reason)
    sentence = (
        f"{arguments.agent} is {reply.get('state')}; "
        f"agent-journal resume {arguments.agent} lets it go on"
    )
    return tell(arguments, reply, sentence)
