"""A mutant: it writes the sums of pages and lets the kernel choose when the disk gets them.

They are only a check of what is durable without them.  But the log that tells of
the same pages is begun anew behind a checkpoint, and where the sums are older than
that, a power cut leaves a journal whose own checks refuse it.
"""

from __future__ import annotations

import sys

from agent_journal.__main__ import main
from agent_journal.store.page_sums import PageSums


def nothing(_: PageSums) -> None:
    """Sync nothing."""


PageSums.sync = nothing  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
