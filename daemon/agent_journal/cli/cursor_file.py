"""The file in which a reader of the log leaves how far it came, for the next one.

Invariant: it names an entry only after that entry was given out.
"""

from __future__ import annotations

from pathlib import Path

from .cursor import Cursor
from .failures import usage_error
from .whole_file import WholeFile


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
        with WholeFile(self._path) as file:
            file.stream.write(f"{cursor}\n".encode())
