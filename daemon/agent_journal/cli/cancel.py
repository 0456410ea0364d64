"""``agent-journal cancel``: end an agent for good."""

from __future__ import annotations

import argparse
from typing import Final

from .word import add_agent, say, tell

EXAMPLES: Final = """\
  agent-journal cancel report-42
  agent-journal cancel report-42 --reason "nobody needs it any more"
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_agent(parser, reason="why; recorded with it", is_whole=True)


def run(arguments: argparse.Namespace) -> int:
    """Cancel it; what it recorded stays."""
    reply = say(arguments, "cancel", reason=arguments.reason)
    sentence = f"{arguments.agent} is {reply.get('state')}; what it recorded can still be read"
    return tell(arguments, reply, sentence)
