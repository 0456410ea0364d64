"""``agent-journal verify``: whether the journal is what was written.

The daemon is asked, and looks at its journal a slice at a time while it serves.
With ``--offline`` the files are looked at instead, which no daemon has then: also
damaged ones, and ones that may only be read.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import DamagedError
from .closed_journal import add_database, database_of, holder_of
from .connection import connected
from .counted import agents, counted, entries
from .failures import CommandError, ExitCode, usage_error
from .output import print_json
from .progress import Progress
from .terminal import harmless, standard_output

if TYPE_CHECKING:
    from ..client import Client

EXAMPLES: Final = """\
  agent-journal verify                          # while the daemon runs
  agent-journal verify --offline                # its files, while it does not
  agent-journal verify --offline backup.db --json | jq .problems
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--offline", action="store_true", help="look at files that no daemon has")
    parser.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="with --offline: the database"
    )
    add_database(parser)


def run(arguments: argparse.Namespace) -> int:
    """Verify; exit with 0 where all is sound, and 1 where something is damaged."""
    if arguments.offline:
        return _offline(arguments)
    if arguments.file is not None:
        raise usage_error(
            "the daemon verifies its own journal",
            f"agent-journal verify --offline {arguments.file}",
        )
    with connected(arguments) as journal, Progress("verifying") as progress:
        found = _asked(journal, progress)
    if arguments.json:
        print_json(found)
    else:
        _print(found)
    return ExitCode.OK if found["sound"] else ExitCode.FAILED


def _offline(arguments: argparse.Namespace) -> int:
    from ..store.verification import verify  # noqa: PLC0415 - the store's, and only now
    from .verification_report import print_report  # noqa: PLC0415 - as above

    database = arguments.file or database_of(arguments)
    _check_nobody_has(database)
    _check_is_journal(database)
    with Progress("verifying") as progress:
        report = verify(database, lambda what, at, of: progress.at(at, of, what))
    return print_report(report, as_json=arguments.json)


def _check_nobody_has(database: Path) -> None:
    """Refuse to look at files that change meanwhile; what cannot be asked is let pass."""
    pid = holder_of(database)
    if pid is not None:
        raise CommandError(
            f"a daemon has {database}, pid {pid}",
            "agent-journal verify, which asks it; or stop it first",
            ExitCode.REFUSED,
        )


def _check_is_journal(database: Path) -> None:
    """Refuse somebody's own file: all that could be said of it is what it lacks."""
    from ..store.foreign import what_else  # noqa: PLC0415 - the store's, and only now

    kind = what_else(database)
    if kind is not None:
        raise CommandError(
            f"{database} is not a journal ({kind})",
            "agent-journal verify --offline, which takes the daemon's own; or name another FILE",
        )


def _asked(journal: Client, progress: Progress) -> dict[str, Any]:
    """Have the daemon look at everything; return what it found."""
    from ..client._requests import ask  # noqa: PLC0415 - imported when there is something to ask

    cursor: str | None = None
    found: dict[str, Any] = {"sound": True, "agents": 0, "entries": 0, "pages": 0, "problems": []}
    while True:
        try:
            reply = journal._perform(ask("verify", dict, cursor=cursor))  # noqa: SLF001 - our engine
        except DamagedError as error:  # that is how it refuses from now on, whatever is asked
            return {**found, "sound": False, "problems": [*found["problems"], error.message]}
        for name in ("agents", "entries", "pages"):
            found[name] += reply[name]
        found["problems"] += reply["problems"]
        progress.at(reply["at"], reply["of"], f"verifying {reply['stage']}")
        cursor = reply["cursor"]
        if cursor is None:
            found["sound"] = not found["problems"]
            return found


def _print(found: dict[str, Any]) -> None:
    output = standard_output()
    pages = counted(found["pages"], "page")
    what = f"{agents(found['agents'])}, {entries(found['entries'])} and {pages}"
    if found["sound"]:
        output.line(f"the journal is sound: {what} were looked at")
        return
    output.line(f"the journal is damaged; {what} were looked at")
    for problem in found["problems"]:
        output.line(f"  {harmless(problem)}")
