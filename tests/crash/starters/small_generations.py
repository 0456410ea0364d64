"""The daemon, with an index that trails only a few entries behind.

What takes thousands of entries otherwise (freezing a generation, settling it in
slices, moving the high-water mark, sweeping what was compacted) then happens
all the time, and a kill hits the middle of it.
"""

from __future__ import annotations

import sys

from agent_journal.__main__ import main
from agent_journal.store import sqlite

sqlite.SETTLE_SLICE_ENTRIES_MIN = 8  # type: ignore[misc]
sqlite.SqliteStore.__init__.__kwdefaults__["settle_entries"] = 64

if __name__ == "__main__":
    sys.exit(main())
