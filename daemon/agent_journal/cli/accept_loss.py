"""``agent-journal accept-loss``: go on with what is left of a damaged journal.

Whatever can be read is written to a new journal, which is verified and takes the
place of the damaged one; the damaged files are moved aside, and never deleted.
What is lost is said first, and nothing is done before somebody says yes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from .closed_journal import add_database, aside_of, database_of, locked
from .counted import agents_with_entries, counted, entries
from .failures import CommandError, ExitCode
from .output import print_json
from .progress import Progress
from .terminal import harmless, standard_output
from .verification_report import report_fields, report_lines

if TYPE_CHECKING:
    from ..store.base import Entry
    from ..store.rebuilding import Rebuilt
    from ..store.verification import Report

EXAMPLES: Final = """\
  agent-journal accept-loss --dry-run           # say what would be lost
  agent-journal accept-loss
  sudo -u agent-journal agent-journal accept-loss --yes \\
      --database /var/lib/agent-journal/journal.db
"""

APART: Final = "entries-apart.ndjson"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--dry-run", action="store_true", help="only say what would be lost")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_database(parser)


def run(arguments: argparse.Namespace) -> int:
    """Say what is lost, ask, and put what is left in place."""
    from ..store.verification import verify  # noqa: PLC0415 - the store's, and only now

    database = database_of(arguments).resolve()
    with locked(database):
        if not database.exists():
            raise CommandError(
                f"{database} is not there, so nothing of it can be read",
                "agent-journal restore, with a backup",
            )
        with Progress("verifying") as progress:
            report = verify(database, lambda what, at, of: progress.at(at, of, what))
        if report.is_sound:
            _say(arguments, report, None, None)
            return ExitCode.OK
        if not arguments.json:
            for line in report_lines(report):
                standard_output().line(harmless(line))
        if arguments.dry_run:
            _say(arguments, report, None, None)
            return ExitCode.OK
        if not arguments.yes:
            _ask()
        rebuilt, aside = _replace(report, database)
    _say(arguments, report, rebuilt, aside)
    return ExitCode.OK


def _ask() -> None:
    """Have a person say yes.

    Raises:
        CommandError: nobody did.
    """
    answer = ""
    if sys.stdin.isatty():
        sys.stderr.write("Go on without what is lost? The damaged files are kept. [yes/no] ")
        sys.stderr.flush()
        answer = sys.stdin.readline().strip().lower()
    if answer not in {"yes", "y"}:
        raise CommandError("nothing was changed", "agent-journal accept-loss --yes")


def _replace(report: Report, database: Path) -> tuple[Rebuilt, Path]:
    """Write the new journal, verify it, and put it in place."""
    from ..store.rebuilding import rebuild  # noqa: PLC0415 - the store's, and only now
    from ..store.replacing import put_in_place  # noqa: PLC0415 - as above
    from ..store.verification import verify  # noqa: PLC0415 - as above
    from .whole_file import WholeFile, sync_directory  # noqa: PLC0415 - only now

    aside = aside_of(database, "damaged")
    aside.mkdir(mode=0o700)
    new = database.with_name(f".{database.name}.rebuilt")
    try:
        new.unlink(missing_ok=True)
        with WholeFile(aside / APART) as apart:
            rebuilt = rebuild(report, new, lambda entry, key: _keep(apart.stream, entry, key))
        new.chmod(0o600)
        with Progress("verifying") as progress:
            found = verify(new, lambda what, at, of: progress.at(at, of, what))
        if not found.is_sound:
            raise CommandError(
                f"what was made of it is not sound: {found.problems[0].text}; "
                "the journal was not touched",
                "agent-journal restore, with a backup; and please report this",
            )
        put_in_place(new, database, aside, schema=found.schema, next_position=found.next_position)
        if not rebuilt.apart:
            (aside / APART).unlink()
        sync_directory(aside)
    finally:
        for suffix in ("", "-wal", "-shm", "-sums", "-sums.new"):
            new.with_name(new.name + suffix).unlink(missing_ok=True)
    return rebuilt, aside


def _keep(stream: BinaryIO, entry: Entry, key: str | None) -> None:
    """Write an entry that has no place in the new journal."""
    fields = {
        "history": entry.number,
        "sequence": entry.sequence,
        "position": entry.position,
        "timestamp_us": entry.timestamp,
        "iteration": entry.iteration,
        "key": key,
    }
    head = json.dumps({name: value for name, value in fields.items() if value is not None})
    stream.write(head[:-1].encode() + b', "event": ' + entry.event + b"}\n")


def _say(
    arguments: argparse.Namespace, report: Report, rebuilt: Rebuilt | None, aside: Path | None
) -> None:
    if arguments.json:
        print_json(
            report_fields(report)
            | {
                "kept_agents": rebuilt.agents if rebuilt else None,
                "kept_entries": rebuilt.entries if rebuilt else None,
                "lost_entries": rebuilt.lost if rebuilt else None,
                "entries_apart": rebuilt.apart if rebuilt else None,
                "aside": None if aside is None else str(aside),
            }
        )
        return
    output = standard_output()
    if rebuilt is None or aside is None:
        if report.is_sound:
            output.line(f"{harmless(str(report.path))} is sound: there is no loss to accept")
        else:
            output.line("nothing was changed")
        return
    output.line(
        f"{harmless(str(report.path))} is sound again: "
        f"{agents_with_entries(rebuilt.agents, rebuilt.entries)}"
    )
    if rebuilt.lost:
        output.line(
            f"in the places of {counted(rebuilt.lost, 'lost entry', 'lost entries')} "
            "stands one that says so, and unfinished agents that lost some are parked"
        )
    output.line(f"the damaged files are in {harmless(str(aside))}")
    if rebuilt.apart:
        output.line(
            f"{entries(rebuilt.apart)} that can be read, but whose place is not known, "
            f"are in {APART} there"
        )
