"""``agent-journal why``: why an agent is not running, and what to type next."""

from __future__ import annotations

import argparse
import textwrap
from typing import Final

from ..clock import Clock
from .arguments import add_agent_id, add_uid
from .explanation import explain
from .failures import ExitCode
from .output import print_json
from .show import look
from .terminal import WIDTH_DEFAULT, harmless, standard_output

EXAMPLES: Final = """\
  agent-journal why report-42
  agent-journal ls --state parked --json | jq -r .agent_id \\
      | xargs -n 1 agent-journal why
"""

INDENT: Final = "  "


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_agent_id(parser)
    add_uid(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the paragraph, the last words of the process, and what to try."""
    agent, timeline = look(arguments)
    explanation = explain(agent, timeline, Clock())
    if arguments.json:
        print_json(
            {
                "agent_id": agent["agent_id"],
                "state": agent["state"],
                "why": explanation.text,
                "stderr": explanation.stderr,
                "try": explanation.tries,
            }
        )
        return ExitCode.OK
    terminal = standard_output()
    for line in textwrap.wrap(
        harmless(explanation.text), terminal.width or WIDTH_DEFAULT, break_on_hyphens=False
    ):
        terminal.line(line)
    if explanation.stderr:
        terminal.line(terminal.paint("its last words:", "bold"))
        for line in explanation.stderr:
            terminal.line(terminal.paint(f"{INDENT}{harmless(line)}", "dim"))
    for command in explanation.tries:
        terminal.line(f"{terminal.paint('try:', 'bold')} {harmless(command)}")
    return ExitCode.OK
