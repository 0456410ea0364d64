"""``agent-journal ping``: does the daemon answer, and how fast."""

from __future__ import annotations

import argparse
from typing import Final

from ..clock import Clock
from .arguments import natural
from .connection import client_for
from .failures import ExitCode
from .output import print_json
from .terminal import harmless, standard_output

EXAMPLES: Final = """\
  agent-journal ping
  agent-journal ping --count 5
  agent-journal ping && echo "the journal is there"
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "-c", "--count", type=natural, default=1, metavar="N", help="how often (default: 1)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the time of each round trip."""
    from ..client import find_socket  # noqa: PLC0415 - as in every command

    clock = Clock()
    socket = str(arguments.socket or find_socket())
    terminal = standard_output()
    # No second try: whether it answers now is the question.
    with client_for(socket, retry_s=0, silence_s=arguments.wait) as journal:
        journal.ping()  # connects; not part of a round trip
        for _ in range(arguments.count):
            began = clock.monotonic()
            journal.ping()
            milliseconds = (clock.monotonic() - began) * 1000
            if arguments.json:
                print_json({"socket": socket, "round_trip_ms": round(milliseconds, 3)})
            else:
                terminal.line(f"{harmless(socket)} answered in {milliseconds:.2f} ms")
            terminal.flush()
    return ExitCode.OK
