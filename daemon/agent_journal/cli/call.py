"""``agent-journal call``: one raw request, its raw reply; for shells and for bug reports.

Both are passed on as they are, byte for byte.  A ``tail`` is answered with many
lines; with ``follow`` they end with Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from typing import Final

from ..errors import JournalError
from .arguments import json_object
from .connection import connected
from .failures import ExitCode, usage_error
from .output import print_json
from .raw_json import indented
from .terminal import harmless_json, standard_output

EXAMPLES: Final = """\
  agent-journal call '{"op": "hello"}'
  agent-journal call '{"op": "read", "agent_id": "report-42", "limit": 1}'
  agent-journal call '{"op": "tail", "last": 5, "follow": false}'
  echo '{"op": "ping"}' | agent-journal call -
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("request", metavar="REQUEST", help="a JSON object with an op; - is stdin")


def run(arguments: argparse.Namespace) -> int:
    """Print the reply, an error's too (which is then also the exit code)."""
    text = arguments.request
    if text == "-":
        text = _decoded(sys.stdin.buffer.read())
    request = json_object(text, """'{"op": "hello"}'""")
    if not isinstance(request.get("op"), str):
        raise usage_error('the request has no "op"', """agent-journal call '{"op": "hello"}'""")
    from .verbatim import call_lines  # noqa: PLC0415 - imports the client

    with connected(arguments) as journal:
        try:
            for line in call_lines(journal, text):
                _print(line, pretty=_is_pretty(arguments))
        except JournalError as error:
            if not _came_from_the_daemon(error):
                raise
            print_json(_error_reply(request, error))
            raise
    return ExitCode.OK


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        hint = "iconv -t UTF-8, if it is text of another encoding"
        raise usage_error(f"not JSON: {error}", hint) from None


def _came_from_the_daemon(error: JournalError) -> bool:
    return error.code not in {"connection_lost", "daemon_not_running", "not_answering"}


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


def _print(line: str, *, pretty: bool) -> None:
    from .verbatim import print_line  # noqa: PLC0415 - imports the client

    if pretty:
        standard_output().line(_harmless(indented(line)))
    else:
        print_line(line)
    standard_output().flush()  # a stream's lines are read as they come


def _harmless(text: str) -> str:
    return "\n".join(map(harmless_json, text.split("\n")))
