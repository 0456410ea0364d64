"""``agent-journal call``: one raw request, its raw reply; for shells and for bug reports."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from ..errors import JournalError
from .arguments import json_object
from .connection import connected
from .failures import ExitCode, usage_error
from .output import json_text, print_json
from .terminal import standard_output

EXAMPLES: Final = """\
  agent-journal call '{"op": "hello"}'
  agent-journal call '{"op": "read", "agent_id": "report-42", "limit": 1}'
  echo '{"op": "ping"}' | agent-journal call -
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("request", metavar="REQUEST", help="a JSON object with an op; - is stdin")


def run(arguments: argparse.Namespace) -> int:
    """Print the reply, an error's too (which is then also the exit code)."""
    text = sys.stdin.buffer.read() if arguments.request == "-" else arguments.request
    request = json_object(text)
    if not isinstance(request.get("op"), str):
        raise usage_error('the request has no "op"', """agent-journal call '{"op": "hello"}'""")
    if request["op"] == "tail":
        # Its answer is a stream; one reply of it would be a wrong picture.
        raise usage_error("call prints one reply, and tail has many", "agent-journal tail --json")
    with connected(arguments) as journal:
        try:
            reply = journal.call(request)
        except JournalError as error:
            if not _came_from_the_daemon(error):
                raise
            _print(_error_reply(request, error), pretty=_is_pretty(arguments))
            raise
    _print(reply, pretty=_is_pretty(arguments))
    return ExitCode.OK


def _came_from_the_daemon(error: JournalError) -> bool:
    return error.code not in {"connection_lost", "daemon_not_running"}


def _error_reply(request: dict[str, object], error: JournalError) -> dict[str, object]:
    shown = {
        "code": error.code,
        "message": error.message,
        "retryable": error.retryable,
        "outcome": error.outcome,
        **error.details,
    }
    return {"id": request.get("id"), "ok": False, "error": shown}


def _is_pretty(arguments: argparse.Namespace) -> bool:
    return standard_output().is_tty and not arguments.json


def _print(reply: dict[str, object], *, pretty: bool) -> None:
    if pretty:
        standard_output().line(json_text(reply, indent=2))
    else:
        print_json(reply)
