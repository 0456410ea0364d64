"""A mutant: it answers before the commit has reached the disk.

The most natural mistake of a group commit, and no client notices it until the
daemon dies.  (Its cousin, a daemon with ``PRAGMA synchronous=OFF``, cannot be
caught by killing processes: what was written lives on in the kernel's cache,
and only a power cut takes it away.  ``test_synced_before_answered`` looks at
the system calls for that.)
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from agent_journal.__main__ import main
from agent_journal.store.sqlite import SqliteStore

committed: Callable[..., Any] = SqliteStore._committed


async def answered_at_once(
    self: SqliteStore, done: asyncio.Future[None] | None, *rest: object
) -> object:
    if done is not None:
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
    return await committed(self, done, *rest)


SqliteStore._committed = answered_at_once  # type: ignore[assignment,method-assign]

if __name__ == "__main__":
    sys.exit(main())
