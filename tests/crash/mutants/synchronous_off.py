"""A mutant: its database is told not to sync.

A pragma that was mistyped, or set before the journal mode was, does this.  No
test that kills the daemon notices: the kernel has what was written.
"""

from __future__ import annotations

import sys
from typing import Any

from agent_journal.__main__ import main
from agent_journal.store.database import Database

prepare = Database.prepare


def without_syncing(self: Database) -> Any:
    prepared = prepare(self)
    self._connection.execute("PRAGMA synchronous=OFF")
    return prepared


Database.prepare = without_syncing  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
