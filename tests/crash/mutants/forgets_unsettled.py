"""A mutant: at its start it takes the index for complete, and forgets what lies behind it."""

from __future__ import annotations

import sys

from agent_journal.__main__ import main
from agent_journal.store.database import Database
from agent_journal.store.unsettled import Generation


def nothing(self: Database) -> Generation:
    return Generation(self._next_position())


Database.unsettled = nothing  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
