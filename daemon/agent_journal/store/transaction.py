"""A transaction of SQLite: all of it, or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable


class Transaction:
    """BEGIN … COMMIT, and a ROLLBACK where SQLite has not done it itself."""

    def __init__(self, connection: sqlite3.Connection, on_failure: Callable[[], None]) -> None:
        self._connection = connection
        self._on_failure = on_failure

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        is_committed = False
        try:
            if kind is None:
                self._connection.execute("COMMIT")
                is_committed = True
        finally:
            if not is_committed:
                self._on_failure()
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
