"""``agent-journal man``: a manual page as roff, for packagers; not listed in the help."""

from __future__ import annotations

import argparse
from typing import Final

from .failures import ExitCode
from .terminal import standard_output

EXAMPLES: Final = """\
  agent-journal man agent-journal | man -l -
  agent-journal man agent-journal.toml > debian/agent-journal.toml.5
"""

NAMES: Final = ("agent-journal", "agent-journald", "agent-journal.toml", "agent-journal-protocol")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("page", choices=NAMES, metavar="PAGE", help=f"one of {', '.join(NAMES)}")


def run(arguments: argparse.Namespace) -> int:
    """Print the page."""
    from .manual import PAGES  # noqa: PLC0415 - imports the module of every command

    standard_output().line(PAGES[arguments.page]().text().rstrip("\n"))
    return ExitCode.OK
