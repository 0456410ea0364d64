"""A backup, given out page by page to whoever writes it.

The daemon writes nothing: in its sandbox there is nowhere to, and a file that it
made would be its own and not the administrator's.  It keeps one copy in mind, a
byte for each page of the file, until it is whole, another is begun, or nobody
has asked for more of it for a while.
"""

from __future__ import annotations

import asyncio
import os

from ..errors import ForbiddenError, InvalidError, UnknownOpError
from ..store.backup import PageCopy
from ..store.sqlite import SqliteStore
from ..wire_requests import Backup
from .operations import Caller, check_unsent


def check_operator(caller: Caller) -> None:
    """Refuse what shows or burdens the whole journal to all but root and the daemon's uid.

    Raises:
        ForbiddenError: the caller is neither.
    """
    if caller.peer.uid not in {0, os.geteuid()}:
        raise ForbiddenError(
            f"you are uid {caller.peer.uid}; only root and the daemon's own uid may do this"
        )


async def backup(caller: Caller, request: Backup) -> dict[str, object]:
    """Give out some pages of the file, and where the next ones begin."""
    check_operator(caller)
    check_unsent(caller)
    store = caller.context.store
    await store.load([])  # says it, where the journal is damaged
    if not isinstance(store, SqliteStore):
        raise UnknownOpError("this journal is not kept in a file; export it")
    copy = await store.begin_copy() if request.cursor is None else store.copy
    if copy is None or copy.is_given_up or request.cursor not in {None, _cursor(copy)}:
        raise InvalidError(
            '"cursor": this backup was given up, or another was begun since; begin again',
            field="cursor",
        )
    if copy.is_almost_done():
        await store.finish_copy(copy)
    runs = await asyncio.to_thread(copy.next_slice)
    is_done = copy.is_whole and not copy.left
    if is_done:
        store.copy = None
    return {
        "cursor": None if is_done else _cursor(copy),
        "page_bytes": copy.page_bytes,
        "pages": copy.pages,
        "left": copy.left,
        "runs": [{"page": run.page, "data": run.data} for run in runs],
        "more": not is_done,
    }


def _cursor(copy: PageCopy) -> str:
    """Return what asks for the next pages of *copy*, and of no other, once."""
    return f"{copy.number}.{copy.slices}"
