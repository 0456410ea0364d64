"""``agent-journal decide``: a person's word on a step of which nobody knows whether it was done."""

from __future__ import annotations

import argparse
from typing import Any, Final

from .word import add_agent, checked_json, say, tell

EXAMPLES: Final = """\
  agent-journal why report-42                                  # names the step
  agent-journal decide report-42 send-mail --rerun             # it was not done
  agent-journal decide report-42 send-mail --result '{"id": 7}' # it was
  agent-journal decide report-42 send-mail --error "full"         # it failed
"""

ERROR_TYPE: Final = "DecidedError"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_agent(parser)
    parser.add_argument("step", metavar="STEP", help="the step's key")
    word = parser.add_mutually_exclusive_group(required=True)
    word.add_argument("--rerun", action="store_true", help="it was not done: run it again")
    word.add_argument("--result", metavar="JSON", help="it was done, and this is its result")
    word.add_argument("--error", metavar="TEXT", help="it failed, and this is why")


def run(arguments: argparse.Namespace) -> int:
    """Record the decision; replay obeys it."""
    fields: dict[str, Any] = {"step": arguments.step}
    typed: dict[str, str] = {}
    if arguments.rerun:
        fields["rerun"] = True
        told = "will be run again"
    elif arguments.result is not None:
        typed["result"] = checked_json(arguments.result, "the result")
        told = "counts as done"
    else:
        fields["error"] = {"type": ERROR_TYPE, "message": arguments.error}
        told = "counts as failed"
    reply = say(arguments, "decide", typed=typed, **fields)
    sentence = f"{arguments.step} {told}; agent-journal resume {arguments.agent} lets it go on"
    return tell(arguments, reply, sentence)
