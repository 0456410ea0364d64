"""A mutant: its mark tells of a commit that is still on its way to the disk.

One frame too many is enough: after a crash, the log seems to have lost what it
never held.
"""

from __future__ import annotations

import sys

from agent_journal.__main__ import main
from agent_journal.store.checkpoints import Checkpoints

durable_frames = Checkpoints._durable_frames


def one_more(self: Checkpoints, page_bytes: int) -> tuple[tuple[int, int], int]:
    salts, frames = durable_frames(self, page_bytes)
    return salts, frames + 1


Checkpoints._durable_frames = one_more  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
