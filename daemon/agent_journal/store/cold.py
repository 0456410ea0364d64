"""Files as the disk has them, and not as the kernel remembers them.

When a write fails, the kernel tells of it once, marks the page clean and keeps it:
from then on it shows what the disk does not have.  Worse, ext4 takes the page's
block for one that was written before; whatever is written over it later is called
synced, and reads back as zeros once the cache is cold.  So to begin again from the
log after an error is no cure by itself: a checkpoint writes the very pages anew
whose write had failed.  Where the pages are forgotten first, the log is read as far
as it is on the disk, and ext4 asks its own books before it writes a block.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_SUFFIXES: Final = ("", "-wal", "-journal", "-sums")


def forget_cached(database: Path) -> None:
    """Have the kernel forget what it holds of a journal's files; nobody may have them open.

    It is asked for, not promised: what a program has mapped, say, is kept.
    """
    for suffix in _SUFFIXES:
        try:
            descriptor = os.open(f"{database}{suffix}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # there is none, or who opens it next will say what is wrong
        try:
            # Only what is clean can be forgotten.  An error is of earlier writes, and
            # what became of them is seen when they are read.
            with suppress(OSError):
                os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
