"""Stores that are opened, or asked, thousands of times, less what only takes time.

Handing a call to another thread and back takes longer than most of what a start,
or a read, asks of SQLite.  Nothing waits for anything else here, so what the thread would do
can as well be done at once.  And the frames of a log, of which each has a checksum
of its own, are the same in one disk after the other: they are summed once.

Now and then a real daemon has to show the same (``hunt.served``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiosqlite
import pytest

from agent_journal.store import wal_checksum, wal_scan
from agent_journal.store.wal_checksum import ByteOrder, Checksum

FRAMES_MAX = 4096

Call = tuple["asyncio.Future[Any] | None", Callable[[], Any]]


class _AtOnce:
    """In place of the queue to the thread."""

    def put_nowait(self, call: Call) -> None:
        future, function = call
        try:
            result = function()
        except Exception as error:  # noqa: BLE001 - it is the caller's, as from the thread
            if future is not None:
                future.set_exception(error)
        else:
            if future is not None:
                future.set_result(result)

    def empty(self) -> bool:
        """Nobody ever waits."""
        return True


class _NoThread:
    """In place of the thread."""

    def start(self) -> None:
        pass

    def join(self) -> None:
        pass


class _Connection(aiosqlite.Connection):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tx = _AtOnce()  # type: ignore[assignment]
        self._thread = _NoThread()  # type: ignore[assignment]


class _FrameSums:
    """In place of the function, whose cost is that of a hundred frames for one."""

    def __init__(self) -> None:
        self._sums: dict[bytes, Checksum] = {}

    def __call__(
        self, frames: bytes, frame_bytes: int, head: int, order: ByteOrder
    ) -> list[Checksum]:
        if len(self._sums) > FRAMES_MAX:
            self._sums.clear()
        whole = len(frames) // frame_bytes * frame_bytes
        pieces = [frames[at : at + frame_bytes] for at in range(0, whole, frame_bytes)]
        new = [piece for piece in dict.fromkeys(pieces) if piece not in self._sums]
        if new:
            found = wal_checksum.frame_sums(b"".join(new), frame_bytes, head, order)
            self._sums.update(zip(new, found, strict=True))
        return [self._sums[piece] for piece in pieces]


@contextmanager
def in_a_hurry() -> Iterator[None]:
    """Have stores that are made meanwhile do everything at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wal_scan, "frame_sums", _FrameSums())
        patch.setattr(aiosqlite, "Connection", _Connection)
        yield
