"""``agent-journal import``: take in agents that were exported.

The file is read to its end before anything is sent.  Then each agent is sent a
page at a time; what is there already is compared and passed over, so that the
same command again, after a crash or just so, goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from ..errors import JournalError, Outcome
from .arguments import add_uid
from .connection import connected
from .counted import agents, entries
from .export_file import Contents, ExportFile, Page, unusable
from .failures import CommandError, ExitCode, failure_of, usage_error
from .output import print_json
from .progress import Progress
from .seed_array import SeedArray
from .terminal import Terminal, harmless, standard_output

if TYPE_CHECKING:
    from ..client import Client
    from ..client._requests import Reply

EXAMPLES: Final = """\
  agent-journal import report-42.ndjson
  agent-journal import --park mine.ndjson     # nothing of it is started
  sudo agent-journal import --uid '*' everybody.ndjson
  agent-journal import agents-20260105T090000.000125Z.ndjson.gz   # an archive
  agent-journal import entries.json           # an array, as Symbiont has it
"""

GZIP_MAGIC: Final = b"\x1f\x8b"
SHOWN_MAX: Final = 10  # refused agents that are named

Source = ExportFile | SeedArray


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("file", metavar="FILE", help="the file, or - for standard input")
    parser.add_argument(
        "--park", action="store_true", help="park unfinished agents, for a person to resume them"
    )
    add_uid(parser, everyone=True)


def run(arguments: argparse.Namespace) -> int:
    """Check the file, send it, and say what became of it."""
    with ExitStack() as stack:
        stream = _opened(arguments.file, stack)
        size = stream.seek(0, 2)
        source = _source(stream)
        with Progress("checking", size) as progress:
            contents = source.check(progress)
        if contents.has_uids and arguments.uid is None:
            raise usage_error(
                "the file holds agents of several users",
                "--uid '*' to import each for its user, or --uid UID for those of one",
            )
        journal = stack.enter_context(connected(arguments))
        sender = Sender(journal, arguments)
        with Progress("importing", size) as progress:
            for page in source.pages():
                sender.send(page)
                progress.at(page.at)
    return _report(arguments, contents, sender, is_seed=isinstance(source, SeedArray))


def _opened(name: str, stack: ExitStack) -> BinaryIO:
    """Return a file that can be read twice, and is not compressed."""
    if name != "-":
        stream: BinaryIO = stack.enter_context(Path(name).open("rb"))  # noqa: SIM115 - as below
    else:
        stream = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
        shutil.copyfileobj(sys.stdin.buffer, stream)
        stream.seek(0)
    is_compressed = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    stream.seek(0)
    return _unpacked(stream, stack) if is_compressed else stream


def _unpacked(stream: BinaryIO, stack: ExitStack) -> BinaryIO:
    import gzip  # noqa: PLC0415 - only for what is compressed

    spool = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
    try:
        with gzip.GzipFile(fileobj=stream) as packed:
            shutil.copyfileobj(packed, spool)
    except (OSError, EOFError, zlib.error) as error:
        raise unusable(f"the file is cut off or changed: {error}") from None
    return spool


def _source(stream: BinaryIO) -> Source:
    stream.seek(0)
    while (first := stream.read(1)) and first.isspace():
        pass
    if not first:
        raise unusable("the file is empty")
    return SeedArray(stream) if first == b"[" else ExportFile(stream)


class Sender:
    """Sends pages, and keeps account of what became of the agents."""

    def __init__(self, journal: Client, arguments: argparse.Namespace) -> None:
        self.recorded = 0
        self.present = 0
        self.refused: dict[tuple[int | None, str], JournalError] = {}
        self._journal = journal
        self._uid = arguments.uid
        self._is_parking = arguments.park

    def send(self, page: Page) -> None:
        """Send a page, unless its agent was refused, or is not to be imported."""
        if page.uid is not None and self._uid not in {"*", page.uid}:
            return
        uid = page.uid if self._uid == "*" else self._uid
        name = uid, page.agent_id
        if name in self.refused:
            return
        try:
            reply = self._sent(page, uid)
        except JournalError as error:
            if error.retryable or error.outcome is not Outcome.NOT_RECORDED:
                raise
            self.refused[name] = error
            return
        self.recorded += reply["recorded"]
        self.present += reply["count"] - reply["recorded"]

    def _sent(self, page: Page, uid: int | None) -> Reply:
        from ..client._requests import Request  # noqa: PLC0415 - imported when it is sent

        agent = parked(page.agent) if self._is_parking else page.agent
        acting = "" if uid is None else f',"uid":{uid}'
        body = f',"agent":{agent},"entries":[{",".join(page.entries)}]{acting}}}\n'
        request: Request[Reply] = Request(op="import", body=body.encode(), parse=dict)
        return self._journal._perform(request)  # noqa: SLF001 - the same package's engine


def parked(agent: str) -> str:
    """Return an agent's text with the agent parked, if it has not ended."""
    fields = json.loads(agent)
    if fields.get("state") in {"completed", "failed", "cancelled"}:
        return agent
    reason = fields.get("reason") if fields.get("state") == "parked" else "imported"
    return json.dumps({**fields, "state": "parked", "reason": reason})


def _report(
    arguments: argparse.Namespace, contents: Contents, sender: Sender, *, is_seed: bool
) -> int:
    refused = len(sender.refused)
    if arguments.json:
        print_json(
            {
                "format": "array" if is_seed else "export",
                "agents": contents.agents,
                "entries": contents.entries,
                "recorded": sender.recorded,
                "present": sender.present,
                "renumbered": contents.renumbered,
                "refused": [
                    {"uid": uid, "agent_id": agent_id, "error": error.code}
                    for (uid, agent_id), error in sender.refused.items()
                ],
            }
        )
    else:
        standard_output().line(_told(contents, sender, is_seed=is_seed))
    if not refused:
        return ExitCode.OK
    _name_refused(sender)
    first = failure_of(next(iter(sender.refused.values())), command="import", agent=None)
    were = "was" if refused == 1 else "were"
    raise CommandError(
        f"{refused:,} of {agents(contents.agents)} {were} not imported",
        "the same again when what is said above is mended; nothing is recorded twice",
        first.exit_code,
    )


def _told(contents: Contents, sender: Sender, *, is_seed: bool) -> str:
    what = f"{entries(contents.entries)} of {agents(contents.agents)}"
    told = f"an array of {what}: " if is_seed else f"{what}: "
    told += f"{sender.recorded:,} recorded"
    if sender.present:
        told += f", {sender.present:,} were here already"
    if contents.renumbered:
        told += f", {contents.renumbered:,} got another sequence"
    return told


def _name_refused(sender: Sender) -> None:
    terminal = Terminal(sys.stderr)
    for (_, agent_id), error in list(sender.refused.items())[:SHOWN_MAX]:
        terminal.line(f"{harmless(agent_id)}: {harmless(error.message)}")
    if len(sender.refused) > SHOWN_MAX:
        terminal.line(f"and {len(sender.refused) - SHOWN_MAX:,} more")
    terminal.flush()
