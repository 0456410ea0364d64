"""The thread that has the journal's file, and what is handed to it.

The files are looked at before SQLite opens them, every call runs on one thread,
and what goes wrong comes back as an error of the project's.  Once the journal is
found damaged nothing is run any more.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import aiosqlite

from ..errors import DamagedError, JournalError, StorageFailedError, StorageFullError
from .base import AgentCounts
from .cold import forget_cached
from .database import Database
from .figures import StoreFigures
from .integrity import START_BYTES_MAX, check_before_open, damage, make_void
from .opening import log_bytes, never_close

T = TypeVar("T")

_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_NO_TEXT: Final = "Could not decode to UTF-8"  # Python's word for text that has rotted


class DatabaseThread:
    """A journal's file, opened, and its one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: aiosqlite.Connection | None = None
        self._database: Database
        self._descriptor = -1  # of the database, for what reads it beside SQLite
        self._is_whole = False  # all that is in the file is known, and may be put in order
        self._damage: DamagedError | None = None  # once found, nothing is served any more

    async def _connect(self) -> None:
        """Look at the files, and open them.

        Raises:
            DamagedError: they must not be served; SQLite has not touched them.
            StorageFailedError: they could not be opened.
        """
        connection = aiosqlite.Connection(self._open_file, iter_chunk_size=64)
        try:
            self._connection = await connection
        except BaseException:
            # Its thread still has a word for the loop, which must not be closed before.
            await asyncio.to_thread(connection._thread.join)  # noqa: SLF001
            raise
        # The thread's connection itself: aiosqlite's own methods cost a hop each.
        raw = self._connection._conn  # noqa: SLF001
        self._database = await self._call(lambda: Database(raw, self._path, self._descriptor))
        calls = self._connection._tx  # noqa: SLF001 - as in _begin
        self._database.is_awaited = lambda: not calls.empty()

    def _open_file(self) -> sqlite3.Connection:
        try:
            forget_cached(self._path)
            make_void(check_before_open(self._path, bytes_max=START_BYTES_MAX))
            # Before SQLite does, and closed after it: closing it drops SQLite's locks.
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            return sqlite3.connect(self._path, isolation_level=None, cached_statements=256)
        except (sqlite3.Error, OSError) as error:
            raise StorageFailedError(f"{self._path} could not be opened: {error}") from error

    async def _call(self, function: Callable[[], T]) -> T:
        """Run *function* on the connection's thread.

        It runs to its end even if the caller is cancelled meanwhile.
        """
        try:
            return await self._begin(function)
        except (sqlite3.Error, OSError, JournalError) as error:
            raise self._translate(error) from error

    def _begin(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Hand *function* to the connection's thread.

        This is what each of aiosqlite's methods does, less a coroutine and with
        the function handed over before anything is awaited.
        """
        if self._connection is None:
            raise StorageFailedError("the store is closed")
        if self._damage is not None:
            raise self._damage
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._connection._tx.put_nowait((done, function))  # noqa: SLF001
        return done

    def _translate(self, error: Exception) -> JournalError:
        """Return what *error* is to everybody else, and take note of what it means here."""
        if isinstance(error, sqlite3.Error):
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if code == sqlite3.SQLITE_FULL:
                return StorageFullError(
                    f"the disk that holds {self._path} is full; make room, "
                    "then send the entry again"
                )
            name = getattr(error, "sqlite_errorname", "unknown")
            if code not in _DAMAGED and _NO_TEXT not in str(error):
                self._is_whole = False
                return StorageFailedError(
                    f"{self._path}: {error} ({name}); the kernel's log says more of the disk, "
                    "unless a quota is reached or it was mounted read-only"
                )
        elif isinstance(error, JournalError) and not isinstance(error, DamagedError):
            self._is_whole = self._is_whole and not isinstance(error, StorageFailedError)
            return error
        elif isinstance(error, OSError):
            self._is_whole = False
            return StorageFailedError(f"{self._path}: {error}")
        self._is_whole = False
        self._damage = damage(self._path, error)
        return self._damage

    @property
    def path(self) -> Path:
        """Where the journal's file is."""
        return self._path

    @property
    def figures(self) -> StoreFigures:
        """How long it took what was done."""
        return self._database.figures

    @property
    def damage(self) -> DamagedError | None:
        """What was found wrong with the journal, of which nothing is served then."""
        return self._damage

    @property
    def agent_counts(self) -> AgentCounts | None:
        """How many agents there are; ``None`` until all were counted once."""
        return self._database.census.counts

    async def count_agents(self) -> bool:
        """Count a slice of the agents that there were; False: all are counted."""
        return await self._call(self._database.census.count_slice)

    async def checkpoint(self) -> None:
        """Empty the WAL into the database, at a clean stop."""
        await self._call(lambda: self._database.checkpoint("TRUNCATE"))

    async def close(self) -> None:
        """Close the file; closing twice is allowed.

        SQLite's own close copies the WAL into the database and deletes it.  Where
        all was well it finds an empty one, and the sums know of it.  But of a
        journal that is damaged, or whose disk failed, nothing is changed: then the
        file stays open until the process ends.
        """
        if self._connection is None:
            return
        if self._is_whole:
            try:
                await self.checkpoint()
            except JournalError:
                self._is_whole = False
        self._damage = None  # it may be let go of all the same
        await self._begin(self._database.close)
        connection, self._connection = self._connection, None
        if self._is_whole or not log_bytes(self._path):
            await connection.close()
            self._database.checkpoints.close()
            return
        never_close(connection._conn)  # noqa: SLF001 - the thread's connection itself
        connection._connection = None  # noqa: SLF001
        if (stopped := connection.stop()) is not None:
            await stopped
