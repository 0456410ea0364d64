"""A mutant: it takes the next position from the newest entry there is.

Where the newest entries were compacted, their positions are given out again,
which is what SQLite itself does with a plain rowid.
"""

from __future__ import annotations

import sys

from agent_journal.__main__ import main
from agent_journal.store.database import Database

mark = Database._mark


def without_floor(self: Database, name: str) -> int:
    return 0 if name == "next_position" else mark(self, name)


Database._mark = without_floor  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
