"""``agent-journal uninstall``: what was installed is gone, and the journal is still there."""

from __future__ import annotations

import argparse
from typing import Final

from .failures import ExitCode
from .install import add_place

EXAMPLES: Final = """\
  agent-journal uninstall                # the journal and config.toml stay
  agent-journal uninstall --dry-run
  sudo agent-journal uninstall --system
  agent-journal uninstall --purge --yes  # the journal and the configuration too

Files that were changed since they were installed stay, and are named. The
program itself goes as it came: pipx uninstall agent-journal.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_place(parser)
    parser.add_argument(
        "--purge",
        action="store_true",
        help="delete the journal and the configuration too; needs --yes",
    )
    parser.add_argument("--yes", action="store_true", help="with --purge: they are to be deleted")


def run(arguments: argparse.Namespace) -> int:
    """Remove what was installed; say each step."""
    from .install_steps import perform  # noqa: PLC0415 - starts programs
    from .removal import removal_steps  # noqa: PLC0415 - as above

    perform(removal_steps(arguments), is_dry=arguments.dry_run, as_json=arguments.json)
    return ExitCode.OK
