"""``agent-journal export``: agents with all that is kept of them, as lines of JSON.

A file begins with what it is; each agent is a line of its own, with its entries
in the lines behind it; the last line says how many there were, and the SHA-256
of all before it.  Nothing in it depends on when or where it was written, so what
was imported is exported byte for byte as before.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from .arguments import add_uid
from .connection import connected
from .counted import agents_with_entries
from .failures import CommandError, ExitCode, usage_error
from .naming import whole_id
from .output import print_json
from .progress import Progress
from .terminal import harmless, harmless_json, standard_output

if TYPE_CHECKING:
    from ..client import Client

EXAMPLES: Final = """\
  agent-journal export report-42 > report-42.ndjson
  agent-journal export --all -o mine.ndjson
  sudo agent-journal export --all --uid '*' -o everybody.ndjson
"""

FORMAT_LINE: Final = b'{"export":{"format":1}}\n'


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("agents", metavar="AGENT", nargs="*", help="the agents' ids")
    parser.add_argument("--all", action="store_true", help="all agents that have entries")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="where to (default: standard output)"
    )
    add_uid(parser, everyone=True)


def run(arguments: argparse.Namespace) -> int:
    """Write the agents, whole or not at all."""
    if arguments.all == bool(arguments.agents):
        raise usage_error("name the agents, or say --all", "agent-journal export --help")
    if arguments.uid == "*" and not arguments.all:
        raise usage_error(
            "two users may have agents of one name: --uid '*' exports all of them",
            "agent-journal export --all --uid '*'",
        )
    with connected(arguments) as journal, contextlib.ExitStack() as stack:
        if arguments.output is None:
            stream: Stream = _Screen() if sys.stdout.isatty() else sys.stdout.buffer
        else:
            from .whole_file import WholeFile  # noqa: PLC0415 - only where there is a file

            stream = stack.enter_context(WholeFile(arguments.output)).stream
        progress = stack.enter_context(Progress("exported entries"))
        writer = Writer(stream, progress)
        for agent_id, uid in _wanted(journal, arguments):
            writer.agent(journal, agent_id, uid=uid, with_uid=arguments.uid == "*")
        writer.end()
    if arguments.output is not None:
        _report(arguments, writer)
    return ExitCode.OK


def _wanted(journal: Client, arguments: argparse.Namespace) -> Iterator[tuple[str, int | None]]:
    if not arguments.all:
        for agent_id in arguments.agents:
            yield whole_id(journal, agent_id, arguments.uid), arguments.uid
        return
    for agent in journal.agents(uid=arguments.uid):
        if agent.next_sequence:  # of one that was compacted there is nothing to be told
            yield agent.agent_id, agent.uid if arguments.uid == "*" else arguments.uid


def _report(arguments: argparse.Namespace, writer: Writer) -> None:
    if arguments.json:
        print_json(
            {"file": str(arguments.output), "agents": writer.agents, "entries": writer.entries}
        )
    else:
        standard_output().line(
            f"{agents_with_entries(writer.agents, writer.entries)} "
            f"exported to {harmless(str(arguments.output))}"
        )


class Stream(Protocol):
    """Where an export is written to."""

    def write(self, data: bytes, /) -> object:
        """Write whole lines."""

    def flush(self) -> None:
        """Let the reader have what was written so far."""


class _Screen:
    """A terminal, which is shown the same JSON with nothing in it that it would obey."""

    def write(self, data: bytes, /) -> None:
        """Show whole lines."""
        sys.stdout.write("\n".join(map(harmless_json, data.decode().split("\n"))))

    def flush(self) -> None:
        """Let the person have what was shown so far."""
        sys.stdout.flush()


class Writer:
    """Writes the lines of an export, a page at a time."""

    def __init__(self, stream: Stream, progress: Progress) -> None:
        self.agents = 0
        self.entries = 0
        self._stream = stream
        self._progress = progress
        self._hash = hashlib.sha256()
        self._has_begun = False

    def _begin(self) -> None:
        """Write the first line, once it is known that there is something to write."""
        if not self._has_begun:
            self._has_begun = True
            self._write(FORMAT_LINE)

    def _write(self, data: bytes) -> None:
        self._hash.update(data)
        self._stream.write(data)

    def agent(self, journal: Client, agent_id: str, *, uid: int | None, with_uid: bool) -> None:
        """Write an agent as it is now, and its entries up to now."""
        from .export_pages import ExportPages  # noqa: PLC0415 - imports the client

        pages = ExportPages(journal, agent_id, uid)
        page = pages.next_page()
        total = page.total
        self._begin()
        if not total:
            return
        prefix = f'{{"uid":{uid},"agent":' if with_uid else '{"agent":'
        self._write(f"{prefix}{page.agent}}}\n".encode())
        self.agents += 1
        written = 0
        while True:
            lines = page.entries[: total - written]  # what came since is not of that state
            if not lines or page.begins_at != pages.begins_at:
                raise CommandError(
                    f"{agent_id} was compacted while it was exported",
                    "the same again",
                    ExitCode.TRY_AGAIN,
                )
            self._write("".join([f"{line}\n" for line in lines]).encode())
            written += len(lines)
            self.entries += len(lines)
            self._progress.at(self.entries)
            if written == total:
                return
            page = pages.next_page()

    def end(self) -> None:
        """Write the last line, by which a file that was cut off is known."""
        self._begin()
        line = (
            f'{{"end":{{"agents":{self.agents},"entries":{self.entries},'
            f'"sha256":"{self._hash.hexdigest()}"}}}}\n'
        )
        self._stream.write(line.encode())
        self._stream.flush()
