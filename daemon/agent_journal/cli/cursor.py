"""Where a reader of the journal stopped, as text, and in a file that outlives it.

A cursor names an entry by its position and its time.  A position is never given
twice in one journal; where the entry has another time, the journal is another
one, or was put back from a backup, and to go on would pass over what is new.

Invariant: a cursor file names an entry only after that entry was given out.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from .failures import CommandError, usage_error

if TYPE_CHECKING:
    from ..client import Entry
    from .entry_source import Source

_TEXT: Final = re.compile(r"p=(\d{1,19});t=(\d{1,18})")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The newest entry that was seen."""

    position: int
    timestamp_us: int

    @classmethod
    def at(cls, entry: Entry) -> Self:
        """Return the cursor for who has seen *entry*."""
        return cls(entry.position, (entry.timestamp - _EPOCH) // _US)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the cursor that *text* is, if it is one."""
        found = _TEXT.fullmatch(text.strip())
        return cls(int(found[1]), int(found[2])) if found else None

    def __str__(self) -> str:
        return f"p={self.position};t={self.timestamp_us}"

    def check(self, source: Source) -> None:
        """See that *source* is the journal that it was made of.

        Raises:
            CommandError: it is another one.
        """
        for page in source.forwards(self.position, self.position + 1):
            if Cursor.at(page[0].entry) != self:
                raise _of_another_journal(self)
        if source.end() <= self.position:
            raise _of_another_journal(self)


class CursorFile:
    """A file that holds the cursor of whoever reads with it."""

    def __init__(self, path: str) -> None:
        self._path = Path(path).resolve()  # a link is followed, and not replaced

    def load(self) -> Cursor | None:
        """Return what the last reader left, ``None`` where there was none.

        Raises:
            CommandError: it is a file of something else.
        """
        try:
            text = self._path.read_text("utf-8", errors="replace")
        except FileNotFoundError:
            return None
        cursor = Cursor.parse(text)
        if cursor is None:
            raise usage_error(
                f"{self._path} holds no cursor", "another file, which is made where there is none"
            )
        return cursor

    def save(self, cursor: Cursor) -> None:
        """Let *cursor* take the place of what was there, at once and for good."""
        folder = self._path.parent
        descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=folder)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as draft:
                draft.write(f"{cursor}\n")
                draft.flush()
                os.fsync(draft.fileno())
            Path(name).replace(self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise


def _of_another_journal(cursor: Cursor) -> CommandError:
    return CommandError(
        f"the cursor {cursor} is of another journal, or of this one before a backup was put back",
        "agent-journal log --since TIME, and then go on with a new cursor",
    )
