"""Where a reader of the journal stopped, as text.

A cursor names an entry by its position and its time.  A position is never given
twice in one journal; where the entry has another time, the journal is another
one, or was put back from a backup, and to go on would pass over what is new.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Self

from ..value import Value
from .failures import CommandError

if TYPE_CHECKING:
    from ..client import Entry
    from .entry_source import Source

_TEXT: Final = re.compile(r"p=(\d{1,19});t=(\d{1,18})")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)


class Cursor(Value):
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


def _of_another_journal(cursor: Cursor) -> CommandError:
    return CommandError(
        f"the cursor {cursor} is of another journal, or of this one before a backup was put back",
        "agent-journal log --since TIME, and then go on with a new cursor",
    )
