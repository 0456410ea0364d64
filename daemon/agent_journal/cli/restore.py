"""``agent-journal restore``: a backup in the place of the journal, while the daemon is stopped.

The backup is verified before anything is touched, and the copy of it again; what
was there is moved aside, and never deleted.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .closed_journal import add_database, aside_of, database_of, locked
from .counted import agents_with_entries
from .failures import CommandError, ExitCode
from .output import print_json
from .progress import Progress
from .terminal import harmless, standard_output

if TYPE_CHECKING:
    from ..store.verification import Report

EXAMPLES: Final = """\
  agent-journal restore journal-backup.db
  sudo cat /backup/journal.db | sudo -u agent-journal \\
      agent-journal restore --database /var/lib/agent-journal/journal.db -
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("file", metavar="FILE", help="the backup, or - for standard input")
    add_database(parser)


def run(arguments: argparse.Namespace) -> int:
    """Verify, copy, verify the copy, and put it in place."""
    from ..store.replacing import put_in_place  # noqa: PLC0415 - the store's, and only now
    from .whole_file import WholeFile  # noqa: PLC0415 - only now

    database = database_of(arguments).resolve()
    with locked(database), ExitStack() as stack:
        if arguments.file != "-":
            _checked(Path(arguments.file), Path(arguments.file))
        stack.callback(_remove, database.with_name(f".{database.name}.restored"))
        new = database.with_name(f".{database.name}.restored")
        with WholeFile(new) as whole:
            if arguments.file == "-":
                shutil.copyfileobj(sys.stdin.buffer, whole.stream)
            else:
                with Path(arguments.file).open("rb") as backup:
                    shutil.copyfileobj(backup, whole.stream)
        report = _checked(new, Path(arguments.file))
        aside = aside_of(database, "replaced")
        with Progress("writing page sums") as progress:
            moved = put_in_place(
                new,
                database,
                aside,
                schema=report.schema,
                next_position=report.next_position,
                on_progress=progress.at,
            )
    _told(arguments, database, report, aside if moved else None)
    return ExitCode.OK


def _remove(new: Path) -> None:
    """Remove what is left of a copy that was not put in place."""
    for path in (new, new.with_name(new.name + "-sums"), new.with_name(new.name + "-sums.new")):
        path.unlink(missing_ok=True)


def _checked(path: Path, named: Path) -> Report:
    """Verify a file that is to be the journal.

    Raises:
        CommandError: it is not sound.
    """
    from ..store.verification import verify  # noqa: PLC0415 - the store's, and only now

    with Progress("verifying") as progress:
        report = verify(path, lambda what, at, of: progress.at(at, of, what))
    if not report.is_sound:
        raise CommandError(
            f"{named} is not sound: {report.problems[0].text}; the journal was not touched",
            f"agent-journal verify --offline {named}, and another backup",
            ExitCode.DAMAGED,
        )
    return report


def _told(
    arguments: argparse.Namespace, database: Path, report: Report, aside: Path | None
) -> None:
    if arguments.json:
        print_json(
            {
                "database": str(database),
                "agents": report.agents,
                "entries": report.entries,
                "next_position": report.next_position,
                "aside": None if aside is None else str(aside),
            }
        )
        return
    output = standard_output()
    output.line(
        f"{harmless(str(database))} is the backup now: "
        f"{agents_with_entries(report.agents, report.entries)}"
    )
    if aside is not None:
        output.line(f"what was there before is in {harmless(str(aside))}")
