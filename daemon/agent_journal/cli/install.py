"""``agent-journal install``: the service, the manual pages and the completion, in their places."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from .failures import ExitCode

EXAMPLES: Final = """\
  agent-journal install                  # for yourself; as root, for the host
  sudo /opt/agent-journal/bin/agent-journal install --system
  agent-journal install --dry-run        # every step, and none of them done
  agent-journal install --system --root ./pkg --program /usr/bin/agent-journald

A file that is not as it was installed is kept; "agent-journal uninstall"
removes the others. With --root nothing is started: for packages and images.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_place(parser)
    parser.add_argument(
        "--program",
        type=Path,
        metavar="PATH",
        help="the agent-journald that the units start (default: this installation's)",
    )
    parser.add_argument(
        "--no-linger",
        action="store_true",
        help="with --user: let the service end with the last session",
    )


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add for whom, where, and whether at all."""
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--user", action="store_true", help="for yourself (unless you are root)")
    whose.add_argument("--system", action="store_true", help="for every user of the host")
    parser.add_argument("--dry-run", action="store_true", help="say every step, and do none")
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="into this directory in place of /; starts nothing"
    )


def run(arguments: argparse.Namespace) -> int:
    """Install; say each step."""
    from .install_steps import perform  # noqa: PLC0415 - starts programs
    from .installation import install_steps  # noqa: PLC0415 - as above

    perform(install_steps(arguments), is_dry=arguments.dry_run, as_json=arguments.json)
    return ExitCode.OK
