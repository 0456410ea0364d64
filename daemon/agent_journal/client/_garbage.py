"""Keeps the garbage collector from looking through what is known to be kept."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused(*, all_is_old_then: bool = False) -> Iterator[None]:
    """Keep the garbage collector from running while a long line is taken in.

    What is made of it is all kept, in tens of thousands of objects: the collector
    would look through them some dozen times, which takes longer than decoding them.

    *all_is_old_then* spares it the look through all of them as soon as it goes on: they
    are put among the long-lived ones.  So is all else that is young; garbage among it is
    found when those are gone through next.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if all_is_old_then and not gc.get_freeze_count():  # what the program froze stays so
                gc.freeze()
                gc.unfreeze()  # to the oldest, from wherever it was
            gc.enable()
