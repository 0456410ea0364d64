"""Writing a closed journal's file anew, without what is free in it."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Final

from .closed_journal import database_of, locked
from .failures import CommandError, ExitCode
from .output import print_json
from .progress import Progress
from .sizes import size_text
from .terminal import harmless, standard_output

LOOK_SECONDS: Final = 0.1


def write_anew(arguments: argparse.Namespace) -> int:
    """Write the file anew, and say how much smaller it is."""
    database = database_of(arguments).resolve()
    with locked(database):
        if not database.exists():
            raise CommandError(f"{database} is not there", "another --database")
        with Progress("writing anew") as progress:
            before = _size(database)
            asyncio.run(_write_anew(database, progress))
    after = _size(database)
    freed = max(before - after, 0)
    if arguments.json:
        print_json({"database": str(database), "bytes": after, "freed_bytes": freed})
    else:
        standard_output().line(
            f"{harmless(str(database))} has {size_text(after)}, {size_text(freed)} less"
        )
    return ExitCode.OK


def _size(database: Path) -> int:
    """Return how large the journal's database and its WAL are together."""
    paths = (database, database.with_name(f"{database.name}-wal"))
    return sum(path.stat().st_size for path in paths if path.exists())


async def _write_anew(database: Path, progress: Progress) -> None:
    from ..store.sqlite import SqliteStore  # noqa: PLC0415 - the store's, and only now

    store = SqliteStore(database)
    await store.open()
    try:
        await store.settle_all()
        await store.checkpoint()
        size = _size(database)
        writing = asyncio.ensure_future(store.vacuum())
        while not writing.done():
            await asyncio.wait([writing], timeout=LOOK_SECONDS)
            progress.at(max(_size(database) - size, 0), size)
        writing.result()
    finally:
        await store.close()
