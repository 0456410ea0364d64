"""The daemon without the checks of its own: what they cost is the difference.

Nothing here is fit to keep a journal.  Rows are sealed with nothing, pages are not
summed, and how far the log has come is not written down.
"""

import sys

from agent_journal.__main__ import main
from agent_journal.store import rows
from agent_journal.store.checkpoints import Checkpoints


def _no_checksum(*_: object) -> int:
    return 0


def _nothing(checkpoints: Checkpoints, **_: object) -> None:
    checkpoints.is_behind = False


rows._checksum = _no_checksum  # noqa: SLF001 - the seal of a row is made in one place
Checkpoints.finish = _nothing  # type: ignore[method-assign]
Checkpoints.mark_log = _nothing  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
