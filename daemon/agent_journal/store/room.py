"""The room that a journal takes on the disk, and how what it no longer needs is given back.

A database of SQLite does not grow smaller by itself: pages that hold nothing any
more are written to next.  One with pointer maps (``auto_vacuum``) can move its
last pages into the free ones and be cut off behind them, a few at a time, each
slice a transaction like any other.  So it goes through the WAL as everything
does: pages that moved get their sums with the next checkpoint, which is also what
cuts the file off, and a crash at any moment leaves a journal that is whole.

A journal that was made without pointer maps gets them when it is written anew.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .base import Space
from .opening import log_bytes
from .page_sums import sums_path
from .rows import PAGE_BYTES
from .transaction import Transaction

FREE_PAGES_KEPT: Final = 128  # a MiB that is not worth the moving: it is soon written to
SLICE_PAGES: Final = 16  # moving one writes some three: a slice is half a MiB of WAL at most
SLICE_BYTES: Final = 3 * SLICE_PAGES * PAGE_BYTES

_INCREMENTAL: Final = 2  # SQLite's number for it


class Room:
    """How much of the file is in use; everything here runs on the connection's thread."""

    def __init__(
        self,
        execute: Callable[[str], sqlite3.Cursor],
        database: Path,
        transaction: Callable[[], Transaction],
    ) -> None:
        self._execute = execute
        self._database = database
        self._transaction = transaction

    def _value(self, pragma: str) -> int:
        value: int = self._execute(f"PRAGMA {pragma}").fetchone()[0]
        return value

    def give_back(self) -> bool:
        """Give some free pages back; return whether there are more to be given."""
        spare = self._value("freelist_count") - FREE_PAGES_KEPT
        if spare <= 0 or self._value("auto_vacuum") != _INCREMENTAL:
            return False
        with self._transaction():
            for _ in range(min(spare, SLICE_PAGES)):
                # One at a time: Python's driver takes no more than one step of it.
                self._execute("PRAGMA incremental_vacuum(1)").close()
        return spare > SLICE_PAGES

    def vacuum(self) -> None:
        """Write the whole database anew, with pointer maps and without what is free.

        One transaction, which goes through the WAL as all others do: at any moment the
        journal is as it was, or as it will be.  It takes as long as the file is large,
        and as much room again in the WAL and in a file of SQLite's beside it.
        """
        os.environ["SQLITE_TMPDIR"] = str(self._database.parent)  # /var/tmp may be small
        self._execute("PRAGMA temp_store=FILE")  # and so may be the memory
        self._execute("PRAGMA auto_vacuum=INCREMENTAL")
        self._execute("VACUUM")

    def space(self) -> Space:
        """Return how much room the journal takes."""
        size = self._value("page_size")
        return Space(
            file_bytes=self._value("page_count") * size,
            free_bytes=self._value("freelist_count") * size,
            log_bytes=log_bytes(self._database),
            sums_bytes=_size_of(sums_path(self._database)),
            gives_back=self._value("auto_vacuum") == _INCREMENTAL,
        )


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
