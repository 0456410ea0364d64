"""Putting another database in the place of a journal, so that a crash can't leave half of it.

The new file is complete, synced, and has its page sums beside it, under other
names.  What is there is moved aside, into a directory of its own, and never
deleted.  The sums go first and the database last: in between, a database that is
not there, or not the one that the sums are of, is refused by the daemon, and is
put right by doing the same again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .integrity import SUMMED_SCHEMA
from .page_sums import PageSums, sums_path, sync_directory
from .rows import PAGE_BYTES
from .wal_scan import wal_path

SIDE_FILES: Final = ("-sums", "-wal", "-shm", "-journal", "")  # in the order they are moved

Progress = Callable[[int, int], None]


def put_in_place(  # noqa: PLR0913 - two files, a place, and what is known of the new one
    new: Path,
    database: Path,
    aside: Path,
    *,
    schema: int,
    next_position: int,
    on_progress: Progress | None = None,
) -> list[Path]:
    """Have *new* be the journal's database; return what was moved into *aside*.

    The caller holds the journal's lock, and *new* is in the same directory.
    """
    _write_sums(new, schema, next_position, on_progress)
    moved: list[Path] = []
    for suffix in SIDE_FILES:
        old = database.with_name(database.name + suffix)
        if os.path.lexists(old):
            aside.mkdir(mode=0o700, exist_ok=True)
            kept = aside / old.name
            old.rename(kept)
            moved.append(kept)
        if suffix == "-sums" and schema >= SUMMED_SCHEMA:
            sums_path(new).rename(sums_path(database))
            sync_directory(database.parent)
    if moved:
        sync_directory(aside)
    new.rename(database)
    sync_directory(database.parent)
    return moved


def _write_sums(new: Path, schema: int, next_position: int, on_progress: Progress | None) -> None:
    if wal_path(new).exists():
        wal_path(new).unlink()  # it was folded back, and is empty
    descriptor = os.open(new, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        if schema >= SUMMED_SCHEMA:
            with PageSums.create(sums_path(new), PAGE_BYTES) as sums:
                sums.add_whole_file(descriptor, position=next_position, on_progress=on_progress)
    finally:
        os.close(descriptor)
