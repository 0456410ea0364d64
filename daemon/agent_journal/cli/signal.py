"""``agent-journal signal``: tell an agent something from outside, which it may be waiting for."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from ..errors import JournalError
from .connection import client_for
from .terminal import Terminal, harmless
from .word import add_agent, checked_json, say, tell

EXAMPLES: Final = """\
  agent-journal signal report-42 approval
  agent-journal signal report-42 approval '{"by": "Ada", "granted": true}'
  agent-journal signal report-42 approval --key ticket-17  # may be repeated
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_agent(parser)
    parser.add_argument("name", metavar="NAME", help="the signal's name")
    parser.add_argument("payload", metavar="PAYLOAD", nargs="?", help="JSON that comes with it")
    parser.add_argument("--key", help="makes it safe to repeat: the first one wins")


def run(arguments: argparse.Namespace) -> int:
    """Record the signal, for now or later; an agent that waits for it is resumed."""
    typed = {}
    if arguments.payload is not None:
        typed["payload"] = checked_json(arguments.payload, "the payload")
    # A key of its own lets it be repeated when the connection is lost.
    key = arguments.key or f"signal-{os.urandom(12).hex()}"
    reply = say(arguments, "signal", typed=typed, name=arguments.name, key=key)
    found = "was recorded before" if reply.get("duplicate") else "recorded"
    sentence = f"{arguments.name} {found} as sequence {reply['sequence']:,} of {arguments.agent}"
    exit_code = tell(arguments, reply, sentence)
    _note_another(arguments)
    return exit_code


def _note_another(arguments: argparse.Namespace) -> None:
    """Say so where the agent waits, and not for this: the name may be misspelt."""
    try:
        with client_for(arguments.socket, retry_s=0, silence_s=arguments.wait) as journal:
            known = journal.describe(arguments.agent, uid=arguments.uid)
    except JournalError:
        return  # what was asked for is done
    if known.state != "waiting" or not known.wait_for or arguments.name in known.wait_for:
        return
    names = " or ".join(known.wait_for)
    note = f"{known.agent_id} waits for {names}, not for {arguments.name}: it goes on waiting"
    Terminal(sys.stderr).line(harmless(note))
