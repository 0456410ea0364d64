"""A mutant: its high-water mark is moved forward with the first slice, not with the last.

Nothing is wrong until it dies between two slices: then the index has a hole
that no start looks for.
"""

from __future__ import annotations

import sys

from agent_journal.__main__ import main
from agent_journal.store import sqlite
from agent_journal.store.database import Database
from agent_journal.store.sqlite import SqliteStore
from agent_journal.store.unsettled import Slice

settle = Database._settle


def all_at_once(self: Database, settling: Slice) -> None:
    settle(self, settling._replace(is_last=True))


sqlite.SETTLE_SLICE_ENTRIES_MIN = 32  # type: ignore[misc]
SqliteStore.__init__.__kwdefaults__["settle_entries"] = 200
SqliteStore._entries_since_settling = property(lambda _: 0, lambda *_: None)  # type: ignore[assignment]
Database._settle = all_at_once  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
