"""A mutant: it takes the next position from the newest entry there is.

Where the newest entries were compacted, their positions are given out again,
which is what SQLite itself does with a plain rowid.  Rows of which nothing is left
are deleted, and nothing is kept of how far the journal had come.
"""

from __future__ import annotations

import sys
from typing import Any

from agent_journal.__main__ import main
from agent_journal.store import sweeping
from agent_journal.store.database import Database

mark = Database._mark


def without_floor(self: Database, name: str) -> int:
    # No position is whole: a row that is missing is never missed.
    return {"next_position": 0, "whole_from": 2**62}.get(name, mark(self, name))


def deleted(query: Any, _: Any, row: Any) -> None:
    query("delete_row", row.first_position)


def nothing_to_check(*_: object) -> None:
    """Believe whatever is there."""


Database._mark = without_floor  # type: ignore[method-assign]
Database._check_mark = nothing_to_check  # type: ignore[method-assign]
sweeping._clear = deleted

if __name__ == "__main__":
    sys.exit(main())
