"""Archives: what retention removes, kept in a file that ``agent-journal import`` takes.

It is what ``agent-journal export`` writes, compressed.  A file gets its name when it
is complete and durable, so whatever has one is whole; only then is anything of it
removed from the journal.  Names sort by time.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from ..lifecycle import is_terminal
from ..model import Micros
from ..store.base import AgentRecord
from ..store.page_sums import sync_directory
from ..wire import render_timestamp
from .context import Context
from .moving import given_out, rendered

ARCHIVE_BYTES_MAX: Final = 64 * 1024 * 1024  # of a file, before it is compressed
PAGE_ENTRIES: Final = 512
PAGE_BYTES: Final = 256 * 1024
COMPRESSION: Final = 6

_FORMAT_LINE: Final = b'{"export":{"format":1}}\n'
_PREFIX: Final = "agents-"
_SUFFIX: Final = ".ndjson.gz"


class Archive:
    """A file of agents that is being written; everything here blocks."""

    def __init__(self, directory: Path, now: Micros) -> None:
        """Begin a file, with nothing but a name for the time being.

        Raises:
            OSError: it cannot be made.
        """
        self.agents = self.entries = self.size = 0
        if not directory.is_dir():
            directory.mkdir(mode=0o700, parents=True)
            sync_directory(directory.parent)
        stamp = render_timestamp(now).replace("-", "").replace(":", "")
        self.path = directory / f"{_PREFIX}{stamp}{_SUFFIX}"
        self._partial = directory / f".{self.path.name}.partial"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.fdopen(os.open(self._partial, flags, 0o600), "wb")
        self._stream = gzip.GzipFile("", "wb", COMPRESSION, self._file, mtime=0)
        self._hash = hashlib.sha256()
        self.write(_FORMAT_LINE)

    def write(self, data: bytes) -> None:
        """Write whole lines."""
        self._hash.update(data)
        self._stream.write(data)
        self.size += len(data)

    def finish(self) -> Path:
        """Make the file durable, and give it its name; return that.

        Raises:
            OSError: it is not, and nothing that is in it may be removed.
        """
        end = {
            "agents": self.agents,
            "entries": self.entries,
            "sha256": self._hash.hexdigest(),
        }
        self._stream.write(msgspec.json.encode({"end": end}) + b"\n")
        self._stream.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.link(self._partial, self.path)  # unlike a rename it never replaces another
        self._partial.unlink()
        sync_directory(self.path.parent)
        return self.path

    def give_up(self) -> None:
        """Leave nothing behind of a file that is not complete."""
        with suppress(OSError):
            self._stream.close()
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._partial.unlink()


async def archive(
    context: Context, directory: Path, records: list[AgentRecord]
) -> tuple[list[AgentRecord], Path | None]:
    """Write as many of *records* as fit into a file; return them, and where they are.

    Of an agent that was emptied there is nothing to be kept: it is among those returned.

    Raises:
        OSError: the file could not be written; there is none.
        JournalError: the journal could not be read.
    """
    file = await asyncio.to_thread(Archive, directory, context.now)
    kept: list[AgentRecord] = []
    try:
        for record in records:
            if await _is_written(context, file, record):
                kept.append(record)
            if file.size >= ARCHIVE_BYTES_MAX:
                break
        if not file.agents:
            return kept, None
        return kept, await asyncio.to_thread(file.finish)
    finally:
        await asyncio.to_thread(file.give_up)  # which does nothing to one that is finished


async def _is_written(context: Context, file: Archive, found: AgentRecord) -> bool:
    """Write an agent; False: it is not any more as it was found."""
    (record,) = await context.store.load([(found.uid, found.agent_id)])
    if record is None or record.number != found.number or not is_terminal(record.state):
        return False
    if not record.next_sequence:
        return True
    agent = msgspec.json.encode(given_out(record))
    pieces = [b'{"uid":%d,"agent":%b}\n' % (record.uid, agent)]
    sequence = 0
    while sequence < record.next_sequence:
        entries = await context.store.read_keyed(
            record.number, from_sequence=sequence, limit=PAGE_ENTRIES, bytes_max=PAGE_BYTES
        )
        if not entries:
            raise OSError(f"{record.agent_id} was compacted while it was archived")
        pieces += [rendered(record, entry, key) + b"\n" for entry, key in entries]
        sequence += len(entries)
        await asyncio.to_thread(file.write, b"".join(pieces))
        pieces = []
    file.agents += 1
    file.entries += sequence
    return True


def remove_remains(directory: Path) -> None:
    """Remove what a crash left of files that were being written."""
    with suppress(OSError):
        for path in directory.glob(f".{_PREFIX}*{_SUFFIX}.partial"):
            path.unlink(missing_ok=True)


def archived_bytes(directory: Path) -> int:
    """Return how much room the archives take."""
    size = 0
    with suppress(OSError):
        for path in directory.glob(f"{_PREFIX}*{_SUFFIX}"):
            size += path.stat().st_size
    return size
