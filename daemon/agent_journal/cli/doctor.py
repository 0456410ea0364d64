"""``agent-journal doctor``: everything that the journal needs of its host, and what to do.

It works without a daemon, and changes nothing; the file that it syncs to measure the
disk is gone when it ends.
"""

from __future__ import annotations

import argparse
from typing import Final

from .failures import ExitCode
from .output import print_json
from .terminal import standard_output

EXAMPLES: Final = """\
  agent-journal doctor
  agent-journal doctor --json | jq 'select(.status != "ok")'
  sudo agent-journal -s /run/agent-journal/journal.sock doctor

A line begins with a tick, with ! for what should be known, or with a cross for
what is wrong. The exit code is 1 where something is wrong, else 0.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--no-fsync", action="store_true", help="leave out measuring the disk, which writes to it"
    )


def run(arguments: argparse.Namespace) -> int:
    """Look at everything; exit with 1 where something is wrong."""
    from .doctor_findings import findings  # noqa: PLC0415 - imports what looks at the host
    from .finding import Verdict  # noqa: PLC0415 - as above

    output = standard_output()
    is_wrong = False
    for finding in findings(arguments):
        is_wrong |= finding.verdict is Verdict.WRONG
        if arguments.json:
            print_json(finding.as_object())
        else:
            finding.print(output)
        output.flush()
    return ExitCode.FAILED if is_wrong else ExitCode.OK
