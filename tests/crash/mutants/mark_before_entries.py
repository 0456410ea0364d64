"""A mutant: its high-water mark is moved forward with the first slice, not with the last.

Nothing is wrong until it dies between two slices: then the index has a hole
that no start looks for.
"""

from __future__ import annotations

import sys
from typing import Any

from agent_journal.__main__ import main
from agent_journal.store import database, sqlite
from agent_journal.store.settling import Put, settle
from agent_journal.store.sqlite import SqliteStore
from agent_journal.store.unsettled import Slice


def all_at_once(query: Any, put: Put, settling: Slice) -> None:
    settle(query, put, settling._replace(is_last=True))


sqlite.SETTLE_SLICE_ENTRIES_MIN = 32  # type: ignore[misc]
SqliteStore.__init__.__kwdefaults__["settle_entries"] = 200
SqliteStore._entries_since_settling = property(lambda _: 0, lambda *_: None)  # type: ignore[assignment]
database.settle = all_at_once  # type: ignore[attr-defined]

if __name__ == "__main__":
    sys.exit(main())
