"""``agent-journal backup``: a copy of the whole journal while it is written.

The daemon gives the pages of its file, and this command writes them: with the
rights, and to the place, of whoever typed it.  The copy gets its name when it is
complete, synced and verified; a backup that was there before stays until then.
"""

from __future__ import annotations

import argparse
import os
from binascii import a2b_base64
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from ..errors import ConnectionLostError
from .connection import connected
from .counted import agents_with_entries
from .failures import CommandError, ExitCode
from .output import print_json
from .progress import Progress
from .terminal import harmless, standard_output

if TYPE_CHECKING:
    from ..client import Client

EXAMPLES: Final = """\
  agent-journal backup journal-backup.db
  sudo agent-journal backup -s /run/agent-journal/journal.sock /backup/j.db
  agent-journal verify --offline journal-backup.db
"""

TRIES: Final = 3  # over a connection that was lost, or a daemon that was restarted


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="where to")


def run(arguments: argparse.Namespace) -> int:
    """Copy, sync, verify, and give the copy its name."""
    from ..store.verification import verify  # noqa: PLC0415 - the store's, and only now
    from .whole_file import WholeFile  # noqa: PLC0415 - only now

    with WholeFile(arguments.file) as whole:
        with connected(arguments) as journal, Progress("copying") as progress:
            pages = _copied(journal, whole.stream, progress)
        whole.sync()
        with Progress("verifying") as progress:
            report = verify(whole.partial, lambda what, at, of: progress.at(at, of, what))
        if not report.is_sound:
            raise CommandError(
                f"the copy is not sound: {report.problems[0].text}",
                "agent-journal verify, which looks at the journal itself",
                ExitCode.DAMAGED,
            )
    size = arguments.file.stat().st_size
    if arguments.json:
        print_json(
            {
                "file": str(arguments.file),
                "bytes": size,
                "pages": pages,
                "agents": report.agents,
                "entries": report.entries,
                "next_position": report.next_position,
            }
        )
    else:
        standard_output().line(
            f"{agents_with_entries(report.agents, report.entries)} backed up to "
            f"{harmless(str(arguments.file))} ({size:,} bytes), and verified"
        )
    return ExitCode.OK


def _copied(journal: Client, stream: BinaryIO, progress: Progress) -> int:
    """Write all pages; return how many there are."""
    for _ in range(TRIES - 1):
        try:
            return _copy(journal, stream, progress)
        except ConnectionLostError:
            continue  # what was written so far is written again
    return _copy(journal, stream, progress)


def _copy(journal: Client, stream: BinaryIO, progress: Progress) -> int:
    stream.truncate(0)
    reply: dict[str, Any] = {"cursor": None, "more": True}
    size = 0
    while reply["more"]:
        reply = _next(journal, reply["cursor"])
        size = reply["page_bytes"]
        for run_of_pages in reply["runs"]:
            stream.seek((run_of_pages["page"] - 1) * size)
            stream.write(a2b_base64(run_of_pages["data"]))
        progress.at(reply["pages"] - reply["left"], reply["pages"])
    stream.flush()
    os.ftruncate(stream.fileno(), reply["pages"] * size)
    pages: int = reply["pages"]
    return pages


def _next(journal: Client, cursor: str | None) -> dict[str, Any]:
    from ..client._requests import ask  # noqa: PLC0415 - imported when there is something to ask

    request = ask("backup", dict, cursor=cursor)
    request.may_repeat = False  # what was given out once is not given out again
    return journal._perform(request)  # noqa: SLF001 - the same package's engine
