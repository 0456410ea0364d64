"""A file that is there whole, or not at all.

It is written under another name beside its own, synced, and renamed when it is
complete; then the directory is synced, so that the name survives a power cut.
What was there under the name before stays until that moment.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self


class WholeFile:
    """A file being written; ``with`` keeps it if all went well, else nothing is left of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        descriptor = os.open(
            self.partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        self.stream: BinaryIO = os.fdopen(descriptor, "w+b")

    def sync(self) -> None:
        """Have what was written so far survive a power cut."""
        self.stream.flush()
        os.fsync(self.stream.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the file its name; or take away what there is of it."""
        try:
            if kind is None:
                self.sync()
                self.stream.close()
                self.partial.rename(self.path)
                sync_directory(self.path.parent)
        finally:
            self.stream.close()
            self.partial.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Have the names in *directory* survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
