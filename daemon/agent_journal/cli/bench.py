"""``agent-journal bench``: what the journal costs on this host.

A daemon of its own on a database of its own, on the same file system, is measured and
thrown away, so that nobody's journal grows by it.  With ``--live`` it is the running
daemon, with the load that others put on it; what was recorded for it is removed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from .arguments import natural

EXAMPLES: Final = """\
  agent-journal bench                            # 16 clients, 5 seconds
  agent-journal bench --clients 1                # how long one append takes
  agent-journal bench --clients 50 --in-flight 16 --seconds 10 --json
  agent-journal bench --live                     # the running daemon, as it is

Every append is durable before it is answered. The clients are one Python
process on the same processors, so a busy one measures itself too. Of what
--live recorded nothing stays.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add = parser.add_argument
    add("--clients", type=natural, default=16, metavar="N", help="connections (default: 16)")
    add(
        "--in-flight",
        type=natural,
        default=1,
        metavar="N",
        help="appends on their way on each of them (default: 1)",
    )
    add("--seconds", type=natural, default=5, metavar="S", help="how long (default: 5)")
    add("--bytes", type=natural, default=300, metavar="N", help="of an event (default: 300)")
    add(
        "--directory",
        type=Path,
        metavar="DIR",
        help="where the database of its own is made (default: beside your journal)",
    )
    add("--live", action="store_true", help="measure the running daemon; --socket says which")


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print what came of it."""
    from .bench_run import measure  # noqa: PLC0415 - starts a daemon

    return measure(arguments)
