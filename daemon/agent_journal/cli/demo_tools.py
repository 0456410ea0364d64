"""The tools of the demo's agent: they really look at the files of a directory.

They only read, never follow a link, and are bounded in entries, bytes and time,
so that ``--dir /`` is as quick as an empty directory; a result says when it does
not cover everything.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Final

from ..clock import Clock

ENTRIES_MAX: Final = 5000
SCAN_S_MAX: Final = 1.0
SEARCHED_FILES_MAX: Final = 200
SEARCHED_BYTES_MAX: Final = 256 * 1024  # of one file
COUNTED_BYTES_MAX: Final = 16 * 1024 * 1024
HEAD_CHARACTERS_MAX: Final = 120  # of one line
SKIPPED: Final = frozenset({"node_modules", "__pycache__", "venv", "target", "build", "dist"})


class ToolError(Exception):
    """A tool could not do what it was asked; the agent observes the message."""


class Workspace:
    """A directory as the tools see it: regular files, by their path below it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[str, int] = {}  # path below the root → size in bytes
        self._directories = 0
        self._is_complete = True
        self._is_scanned = False
        self.tools: Final[Mapping[str, Callable[..., dict[str, object]]]] = {
            "list_files": self.list_files,
            "largest_files": self.largest_files,
            "count_lines": self.count_lines,
            "search": self.search,
            "read_head": self.read_head,
        }

    def call(self, tool: str, arguments: Mapping[str, object]) -> dict[str, object]:
        """Run a tool and return its result.

        Raises:
            ToolError: there is no such tool or file, or it cannot be read.
        """
        if tool not in self.tools:
            raise ToolError(f"there is no tool {tool}")
        try:
            return self.tools[tool](**arguments)
        except OSError as error:
            raise ToolError(f"{error.strerror or error}") from error

    def list_files(self) -> dict[str, object]:
        """Count what is there."""
        self._scan()
        suffixes = Counter(PurePath(path).suffix for path in self._files)
        return {
            "files": len(self._files),
            "directories": self._directories,
            "bytes": sum(self._files.values()),
            "by_suffix": dict(sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))[:5]),
            "is_complete": self._is_complete,
        }

    def largest_files(self, suffix: str, count: int) -> dict[str, object]:
        """Name the largest files with *suffix*."""
        sizes = [(-size, path) for path, size in self._matching(suffix)]
        return {"files": [path for _, path in sorted(sizes)[:count]]}

    def count_lines(self, path: str) -> dict[str, object]:
        """Count the lines of one file."""
        return {"path": path, "lines": self._content(path, COUNTED_BYTES_MAX).count(b"\n")}

    def search(self, word: str, suffix: str) -> dict[str, object]:
        """Count the lines that contain *word*."""
        lines, files = 0, 0
        for path, _ in list(self._matching(suffix))[:SEARCHED_FILES_MAX]:
            try:
                content = self._content(path, SEARCHED_BYTES_MAX)
            except (OSError, ToolError):  # unreadable or gone: not among the files searched
                continue
            files += 1
            lines += sum(word.encode() in line for line in content.splitlines())
        return {"word": word, "lines": lines, "files_searched": files}

    def read_head(self, path: str, count: int) -> dict[str, object]:
        """Read the first lines of one file."""
        content = self._content(path, 64 * 1024).decode(errors="replace")
        head = [line[:HEAD_CHARACTERS_MAX] for line in content.splitlines()[:count]]
        return {"path": path, "head": "\n".join(head)}

    def _matching(self, suffix: str) -> Iterator[tuple[str, int]]:
        self._scan()
        for path, size in self._files.items():
            if PurePath(path).suffix == suffix:
                yield path, size

    def _content(self, path: str, bytes_max: int) -> bytes:
        self._scan()
        if path not in self._files:
            raise ToolError(f"there is no file {path}")
        if self._files[path] == 0:  # and in /proc: reading there may wait, or do something
            return b""
        # A name may have become something else since the scan: a link, or a pipe that blocks.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(self._root / path, flags), "rb") as file:
            return file.read(bytes_max) or b""

    def _scan(self) -> None:
        """Find the files, once: all tools see the same directory."""
        if self._is_scanned:
            return
        self._is_scanned = True
        clock = Clock()
        deadline = clock.monotonic() + SCAN_S_MAX
        device = self._root.stat().st_dev
        waiting = [self._root]
        while waiting:
            if len(self._files) >= ENTRIES_MAX or clock.monotonic() > deadline:
                self._is_complete = False
                break
            waiting += reversed(self._scan_directory(waiting.pop(), device))

    def _scan_directory(self, directory: Path, device: int) -> list[Path]:
        """Take the files of one directory; return the directories in it."""
        below: list[Path] = []
        try:
            with os.scandir(directory) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            self._is_complete = False
            return below
        for entry in found:
            if entry.name.startswith(".") or entry.name in SKIPPED or not _is_text(entry.name):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            path = Path(entry.path)
            if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
                self._directories += 1
                below.append(path)
            elif stat.S_ISREG(status.st_mode):
                self._files[str(path.relative_to(self._root))] = status.st_size
        return below


def _is_text(name: str) -> bool:
    """Tell whether a file's name can be written down; it may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
