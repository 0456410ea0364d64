"""Does the parts of a large test side by side, in processes of their own.

A part is a value that says all that there is to do, its seed above all: it is
repeated without the others.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


class PartError(AssertionError):
    """A part failed; the message is all that its worker had to say."""


def side_by_side(
    work: Callable[[Part], Result], parts: Iterable[Part], workers: int
) -> Generator[Result, None, None]:
    """Do *work* on all *parts*; yield what each came to, in the order in which they end.

    One worker is this process.  Whoever stops early closes the generator: what was
    not begun by then is left.

    Raises:
        PartError: a part failed, in another process.
    """
    if workers == 1:
        yield from map(work, parts)
        return
    # Not forked: a worker begins without our threads and locks.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        for done in as_completed([pool.submit(partial(_done, work), part) for part in parts]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _done(work: Callable[[Part], Result], part: Part) -> Result:
    try:
        return work(part)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        # Not every exception comes through to another process, its text does.
        raise PartError(f"{part}:\n{''.join(traceback.format_exception(error))}") from None
