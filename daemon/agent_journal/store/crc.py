"""CRC-32 of what a page holds, without letting go of the interpreter's lock.

zlib lets go of it for more than 5 KiB at once, and to have it back, while the event
loop works, costs more than the checksum of a page.  So a page is summed in two
halves; they are written out, since this runs for each page and row that is written.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

PIECE_BYTES: Final = 5 * 1024  # as many are summed under the lock (zlibmodule.c)


def crc_of(content: bytes | memoryview, start: int = 0) -> int:
    """Return the CRC-32 of *content*, which goes on from *start*."""
    if PIECE_BYTES < len(content) <= 2 * PIECE_BYTES:
        view = memoryview(content)
        return crc32(view[PIECE_BYTES:], crc32(view[:PIECE_BYTES], start))
    return crc32(content, start)
