"""A transaction of SQLite: all of it, or nothing."""

from __future__ import annotations

import sqlite3


class Transaction:
    """BEGIN … COMMIT, and a ROLLBACK where SQLite has not done it itself."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
