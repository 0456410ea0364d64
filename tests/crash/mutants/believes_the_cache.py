"""A mutant: at its start it takes the files for what the kernel shows of them.

As everybody does who opens a file.  After a write that failed, the kernel shows
what the disk does not have; a checkpoint out of the log writes the same pages once
more, is told that they are synced, and empties the log.
"""

from __future__ import annotations

import sys
from pathlib import Path

from agent_journal.__main__ import main
from agent_journal.store import database_thread


def believe(_: Path) -> None:
    """Leave the cache as it is."""


database_thread.forget_cached = believe

if __name__ == "__main__":
    sys.exit(main())
