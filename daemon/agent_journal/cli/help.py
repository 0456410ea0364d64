"""``agent-journal help``: a command's help, or a manual page where there is a pager for it."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from .failures import ExitCode, usage_error
from .shipped import shipped
from .terminal import standard_output

EXAMPLES: Final = """\
  agent-journal help                     # what there is
  agent-journal help ls                  # the same as: agent-journal ls --help
  agent-journal help config              # every option of config.toml
  agent-journal help protocol            # how any program talks to the daemon
  agent-journal help protocol | less
"""

# topic → its manual page, and what is printed where no man(1) shows that.
TOPICS: Final = {
    "config.toml": ("agent-journal.toml", "config.toml"),
    "config": ("agent-journal.toml", "config.toml"),
    "protocol": ("agent-journal-protocol", "PROTOCOL.md"),
    "agent-journald": ("agent-journald", ""),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "topic",
        nargs="?",
        metavar="COMMAND|TOPIC",
        help="a command, or one of config, protocol, agent-journald",
    )


def run(arguments: argparse.Namespace) -> int:
    """Show it."""
    from . import COMMANDS, main  # noqa: PLC0415 - this is imported by it

    topic = arguments.topic
    if topic is None:
        return main(["--help"])
    if topic in TOPICS:
        page, document = TOPICS[topic]
        if sys.stdout.isatty() and _shown_by_man(page):
            return ExitCode.OK
        if document:
            standard_output().line(shipped(document).read_text("utf-8").rstrip("\n"))
            return ExitCode.OK
        from ..__main__ import parser as daemon_parser  # noqa: PLC0415 - imports the whole daemon

        daemon_parser().print_help()
        return ExitCode.OK
    if topic in COMMANDS:
        return main([topic, "--help"])
    raise usage_error(f"there is no help on {topic!r}", "agent-journal help")


def _shown_by_man(name: str) -> bool:
    """Have man(1) show a page; tell whether it did."""
    import shutil  # noqa: PLC0415 - only on a terminal
    import subprocess  # noqa: PLC0415 - as above

    from .manual import PAGES  # noqa: PLC0415 - imports the module of every command

    program = shutil.which("man")
    if program is None:
        return False
    page = PAGES[name]().text().encode()
    shown = subprocess.run([program, "-l", "-"], input=page, check=False)  # noqa: S603 - man itself
    return shown.returncode == 0
