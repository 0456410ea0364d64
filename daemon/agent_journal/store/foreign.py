"""Whether a file is somebody's own, and no journal that was damaged.

Whoever names another file by mistake wants it back as it was: with its mode, and
with nothing beside it.  Whoever has a damaged journal wants to be told so.  What
tells the two apart, since a journal can lose any of its parts:

- what lies beside it: only a journal has sums, or a lock that a daemon left,
- its header: SQLite's name, or ours within it, of which damage may leave one,
- its other pages, if its first one is gone: those of a database look like nothing else.

A file of zeros is no sign of anything: it is what some disks make of a journal.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

from .btree import INTERIOR, INTERIOR_INDEX, INTERIOR_TABLE, LEAF_INDEX, LEAF_TABLE
from .integrity import APPLICATION_ID
from .page_file import HEADER_BYTES, MAGIC
from .page_sums import sums_path
from .rows import PAGE_BYTES
from .wal_scan import scan, wal_path

LOOKED_AT_PAGES: Final = 256  # of a file without a header

_NUMBER: Final = struct.Struct(">I")
_TREE_PAGE: Final = struct.Struct(">BHHHB")  # kind, free block, cells, where content begins
_USER_VERSION_AT: Final = 60
_APPLICATION_ID_AT: Final = 68


def what_else(database: Path) -> str | None:
    """Return what *database* is where it is certainly no journal; ``None``: it may be one."""
    with suppress(OSError):  # whoever uses it is told
        descriptor = os.open(database, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return _what_else(database, descriptor)
        finally:
            os.close(descriptor)
    return None


def _what_else(database: Path, descriptor: int) -> str | None:
    page = os.pread(descriptor, PAGE_BYTES, 0)
    is_ours = page[_APPLICATION_ID_AT : _APPLICATION_ID_AT + 4] == _NUMBER.pack(APPLICATION_ID)
    if is_ours or not any(page) or _is_beside(database):
        return None
    if page.startswith(MAGIC):
        page = scan(wal_path(database)).page(1) or page
        return None if _is_ours_or_new(page) else "an SQLite database of another program"
    if wal_path(database).exists():
        return None
    for number in range(1, LOOKED_AT_PAGES):
        if _is_of_a_tree(os.pread(descriptor, PAGE_BYTES, number * PAGE_BYTES)):
            return None
    return "no SQLite database"


def _is_beside(database: Path) -> bool:
    lock = database.with_name(database.name + ".lock")
    return sums_path(database).exists() or lock.exists()


def _is_ours_or_new(page: bytes) -> bool:
    if len(page) < HEADER_BYTES + _TREE_PAGE.size:
        return True  # cut off: what it was cannot be told
    (application_id,) = _NUMBER.unpack_from(page, _APPLICATION_ID_AT)
    (user_version,) = _NUMBER.unpack_from(page, _USER_VERSION_AT)
    kind, _, tables, _, _ = _TREE_PAGE.unpack_from(page, HEADER_BYTES)
    is_new = not (application_id or user_version or tables) and kind == LEAF_TABLE
    return application_id == APPLICATION_ID or is_new


def _is_of_a_tree(page: bytes) -> bool:
    if len(page) < PAGE_BYTES:
        return False
    kind, _, count, content, _ = _TREE_PAGE.unpack_from(page)
    if kind not in {INTERIOR_INDEX, INTERIOR_TABLE, LEAF_INDEX, LEAF_TABLE} or not count:
        return False
    begin = 12 if kind in INTERIOR else 8
    end = begin + 2 * count
    if not end <= content < PAGE_BYTES:
        return False
    offsets = struct.unpack_from(f">{count}H", page, begin)
    return all(content <= offset < PAGE_BYTES for offset in offsets)
