"""The connection to the journal's file, set up so that a commit is durable.

SQLite's settings are read back where a promise hangs on them, another program's
database is left alone, and an older journal's schema is brought up to date.
"""

from __future__ import annotations

import ctypes
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigError, StorageFailedError
from .commands_apart import move_commands
from .integrity import APPLICATION_ID, check_version
from .rows import PAGE_BYTES
from .sql import MIGRATIONS
from .wal_scan import wal_path

COMMANDS_SCHEMA: Final = 5  # from this version on commands are apart from attachments

Execute = Callable[[str], sqlite3.Cursor]


def set_up(execute: Execute, path: Path) -> int:
    """Prepare a connection; return the version of the schema that it finds.

    Raises:
        ConfigError: the file is another program's, or a newer journal.
        StorageFailedError: SQLite can't make commits durable here.
    """
    _set(execute, "locking_mode", "exclusive")
    version = _version(execute, path)
    if not _value(execute, "page_count"):  # it is yet to be made
        execute(f"PRAGMA page_size={PAGE_BYTES}")
        # What is free can be given back (room.py).  Of a database that is there already
        # this would write the first page, into a log that nothing tells of yet.
        execute("PRAGMA auto_vacuum=INCREMENTAL")
    _set(execute, "journal_mode", "wal")
    execute("PRAGMA synchronous=FULL")
    level = _value(execute, "synchronous")
    if level != 2:  # noqa: PLR2004 - SQLite's number for FULL
        raise StorageFailedError(f"SQLite refused PRAGMA synchronous=FULL: it says {level}")
    for pragma in (
        "wal_autocheckpoint=0",
        "journal_size_limit=67108864",
        "mmap_size=0",
        "temp_store=MEMORY",
        "trusted_schema=OFF",
        "cell_size_check=ON",
        "secure_delete=ON",  # what is removed is overwritten: an agent can be forgotten
        "cache_size=-16384",
    ):
        execute(f"PRAGMA {pragma}").fetchall()
    return version


def page_count(execute: Execute) -> tuple[int, int]:
    """Return how many pages the database has, and how large they are."""
    return int(_value(execute, "page_count")), int(_value(execute, "page_size"))


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the schema up to date, a transaction for each version."""
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        pragmas = f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={number};"
        connection.executescript(f"BEGIN IMMEDIATE; {script} {pragmas}")
        if number == COMMANDS_SCHEMA:
            move_commands(connection)
        connection.execute("COMMIT")


def never_close(connection: sqlite3.Connection) -> None:
    """Keep SQLite from closing a file, also when the process ends.

    Its close writes what the WAL holds into the database and deletes the WAL, and
    nothing tells it not to: this connection is just never let go of.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def log_bytes(path: Path) -> int:
    """Return how large the WAL is of the database at *path*."""
    try:
        return wal_path(path).stat().st_size
    except FileNotFoundError:
        return 0
    except OSError:
        return sys.maxsize  # it can't be seen: then it is not known to be empty


def _value(execute: Execute, pragma: str) -> Any:  # noqa: ANN401 - SQLite's word for it
    return execute(f"PRAGMA {pragma}").fetchone()[0]


def _set(execute: Execute, pragma: str, value: str) -> None:
    answer = _value(execute, f"{pragma}={value}")
    if answer != value:
        raise StorageFailedError(f"SQLite refused PRAGMA {pragma}={value}: it says {answer!r}")


def _version(execute: Execute, path: Path) -> int:
    """Return the version of the journal's schema, 0 for a file that is yet empty.

    Raises:
        ConfigError: it is another program's, or a newer journal; nothing was changed.
    """
    version = int(_value(execute, "user_version"))
    application_id = _value(execute, "application_id")
    (tables,) = execute("SELECT count(*) FROM sqlite_master").fetchone()
    is_empty = not (version or application_id or tables)
    if application_id != APPLICATION_ID and not is_empty:
        raise ConfigError(
            f"{path} is an SQLite database, but not a journal; choose another --database"
        )
    check_version(path, version)
    return version
