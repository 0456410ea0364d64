"""A mutant: it takes SQLite's advice for WAL databases, ``synchronous=NORMAL``.

"Consistent, and durable but for power loss": a commit is not synced, only a
checkpoint is.
"""

from __future__ import annotations

import sys
from typing import Any

from agent_journal.__main__ import main
from agent_journal.store.database import Database

prepare = Database.prepare


def syncing_checkpoints_only(self: Database) -> Any:
    prepared = prepare(self)
    self._connection.execute("PRAGMA synchronous=NORMAL")
    return prepared


Database.prepare = syncing_checkpoints_only  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
