"""The daemon, with an index that trails only a few entries behind.

What takes thousands of entries otherwise (freezing a generation, settling it in
slices, moving the high-water mark, sweeping what was compacted) then happens
all the time, and a kill hits the middle of it.  So does wiping pages with commits in between.
"""

from __future__ import annotations

import sys

from agent_journal.__main__ import main
from agent_journal.store import sqlite, wiping
from agent_journal.store.sqlite import SqliteStore

sqlite.SETTLE_SLICE_ENTRIES_MIN = 32  # type: ignore[misc]
wiping.LAST_PAGES = 4  # type: ignore[misc]
SqliteStore.__init__.__kwdefaults__["settle_entries"] = 200
# Slices grow with what was committed meanwhile; here they are small whatever was.
SqliteStore._entries_since_settling = property(lambda _: 0, lambda *_: None)  # type: ignore[assignment]

if __name__ == "__main__":
    sys.exit(main())
