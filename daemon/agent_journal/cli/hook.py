"""``agent-journal hook``: record what another tool's hooks tell, on standard input.

It runs at every tool call of somebody's agent, so it says nothing, is quick, and
is in nobody's way: where the journal cannot be reached it ends with 1, which
Claude Code shows and passes over.  With ``--required`` a tool call that cannot be
recorded is not made (exit code 2, before the call).
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, Final

from ..errors import JournalError, NotFoundError
from .arguments import natural
from .connection import connected
from .failures import CommandError, ExitCode, failure_of
from .terminal import harmless

if TYPE_CHECKING:
    from ..client import Client
    from .claude_code import Recorded

EXAMPLES: Final = """\
  agent-journal hook claude-code --settings         # for settings.json
  agent-journal hook claude-code < hook-input.json  # as Claude Code runs it
  agent-journal hook claude-code --required         # no call without a record
  agent-journal show claude-3f1c0a52-…              # the session's story
"""

BYTES_MAX: Final = 65_536
BLOCKS: Final = 2  # what Claude Code takes for "do not"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("tool", metavar="TOOL", choices=["claude-code"], help="claude-code")
    parser.add_argument(
        "--settings", action="store_true", help="print the hooks for the tool's settings.json"
    )
    parser.add_argument(
        "--prefix", default="claude-", help="of the agent's id, before the session's (%(default)s)"
    )
    parser.add_argument(
        "--required", action="store_true", help="refuse a tool call that cannot be recorded"
    )
    parser.add_argument(
        "--finish",
        action="store_true",
        help="end the agent with the session, which can't be recorded any more if it is resumed",
    )
    parser.add_argument(
        "--bytes-max",
        type=natural,
        default=BYTES_MAX,
        metavar="N",
        help="cut what a tool is given and returns (%(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Record what standard input says; print nothing, since the tool reads it."""
    from . import claude_code  # noqa: PLC0415 - there will be other tools

    if arguments.settings:
        command = "agent-journal hook claude-code"
        command += " --required" if arguments.required else ""
        command += " --finish" if arguments.finish else ""
        sys.stdout.write(json.dumps(claude_code.settings(command), indent=2) + "\n")
        return ExitCode.OK
    try:
        told = _told(sys.stdin.buffer.read())
        entry = claude_code.recorded(
            told, prefix=arguments.prefix, bytes_max=arguments.bytes_max, finish=arguments.finish
        )
    except ValueError as error:
        hint = "let Claude Code run it: agent-journal hook claude-code --settings"
        raise CommandError(f"this is no input of a hook: {error}", hint) from None
    try:
        with connected(arguments) as journal:
            _record(journal, entry)
    except (JournalError, OSError) as error:
        if arguments.required and entry.is_tool_call:
            failure = failure_of(error, command="hook", agent=entry.agent_id)
            sys.stderr.write(
                harmless(f"the journal cannot record this call: {failure.what}") + "\n"
            )
            return BLOCKS
        raise _passed_over(error, entry) from None
    return ExitCode.OK


def _told(data: bytes) -> dict[str, Any]:
    told = json.loads(data)
    if not isinstance(told, dict):
        raise ValueError("it is a JSON object")  # noqa: TRY004 - one kind of error for its caller
    return told


def _record(journal: Client, entry: Recorded) -> None:
    try:
        iteration = journal.describe(entry.agent_id).last_completed_iteration
    except NotFoundError:
        iteration = 0
    iteration += entry.begins_turn
    journal.append(entry.agent_id, entry.event, iteration=iteration, key=entry.key)


def _passed_over(error: JournalError | OSError, entry: Recorded) -> CommandError:
    """Return the error with the one exit code that stops nothing."""
    failure = failure_of(error, command="hook", agent=entry.agent_id)
    return CommandError(failure.what, failure.hint, ExitCode.FAILED)
