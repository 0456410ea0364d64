"""``agent-journal append``: record one event, or all that come on standard input."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from .arguments import EVENT_EXAMPLE, iteration, json_object, natural
from .connection import connected
from .failures import ExitCode, usage_error
from .output import print_json
from .terminal import harmless, standard_output

EXAMPLES: Final = """\
  agent-journal append report-42 '{"Started": {"goal": "write the report"}}'
  agent-journal append report-42 '{"Noted": "half way"}' --iteration 3
  my-agent --events | agent-journal append report-42 -
  agent-journal append - < journal.ndjson     # each line with its own agent_id
"""

STREAM_OPTIONS: Final = ("iteration", "key", "expected_sequence", "timestamp")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("agent", metavar="AGENT", help="the agent's id, or - for whole requests")
    parser.add_argument("event", metavar="EVENT", nargs="?", help="a JSON object, or - for stdin")
    parser.add_argument("--iteration", type=iteration, metavar="N", help="the turn of the loop")
    parser.add_argument("--key", help="makes it safe to repeat: the first write wins")
    parser.add_argument(
        "--expected-sequence", type=natural, metavar="N", help="refuse any other place than this"
    )
    parser.add_argument(
        "--epoch", type=natural, metavar="N", help="of the attempt that writes (default: run's)"
    )
    parser.add_argument("--timestamp", metavar="RFC3339", help="when it happened (default: now)")
    parser.add_argument("--uid", type=natural, help="write into another user's namespace (admins)")


def run(arguments: argparse.Namespace) -> int:
    """Record what was given; print where it is."""
    if "-" in {arguments.agent, arguments.event}:
        return _run_stream(arguments)
    if arguments.event is None:
        hint = f"agent-journal append {arguments.agent} {EVENT_EXAMPLE}"
        raise usage_error("there is no event to record", hint)
    json_object(arguments.event)  # said here, it needs no daemon
    with connected(arguments) as journal:
        appended = journal.append(
            arguments.agent,
            arguments.event,  # as it was typed: numbers keep their digits
            iteration=arguments.iteration or 0,
            key=arguments.key,
            expected_sequence=arguments.expected_sequence,
            epoch=_epoch(arguments),
            timestamp=arguments.timestamp,
            uid=arguments.uid,
        )
    if arguments.json:
        print_json(appended)
    else:
        found = "was recorded before" if appended.duplicate else "recorded"
        place = f"sequence {appended.sequence:,} (position {appended.position:,})"
        standard_output().line(f"{found} as {place} of {harmless(arguments.agent)}")
    return ExitCode.OK


def _epoch(arguments: argparse.Namespace) -> int | None:
    """Return the epoch: a program under ``run`` may record of its own agent what it likes."""
    if arguments.epoch is None and arguments.agent == os.environ.get("AGENT_JOURNAL_AGENT_ID"):
        told = os.environ.get("AGENT_JOURNAL_EPOCH", "")
        return int(told) if told.isdecimal() else None
    epoch: int | None = arguments.epoch
    return epoch


def _run_stream(arguments: argparse.Namespace) -> int:
    if arguments.agent == "-" and arguments.event is not None:
        hint = "agent-journal append AGENT -, or agent-journal append - for whole requests"
        raise usage_error("with - for AGENT, events come from standard input", hint)
    for name in STREAM_OPTIONS:
        if getattr(arguments, name) is not None:
            option = f"--{name.replace('_', '-')}"
            hint = f"put {name} into each line, and use agent-journal append -"
            raise usage_error(f"{option} is for a single event", hint)
    from .append_stream import AppendStream  # noqa: PLC0415 - one event does not need it

    agent = None if arguments.agent == "-" else arguments.agent
    with connected(arguments) as journal:
        stream = AppendStream(
            journal,
            agent=agent,
            uid=arguments.uid,
            epoch=_epoch(arguments),
            as_json=arguments.json,
        )
        return stream.run(sys.stdin.buffer)
