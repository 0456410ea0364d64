"""The standard streams: closed ones, locales that lack characters, and output that has no room.

What fails in writing standard output is told from whatever else may fail: an error of
the system says neither which file it was nor, for a pipe or a full disk, its name.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, TypeVar

from .failures import OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

T = TypeVar("T")


class _Output(io.FileIO):
    """Standard output, whose errors say that they are its own."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write what is there.

        Raises:
            OutputError: it could not be written.
        """
        try:
            return super().write(data)
        except BrokenPipeError:
            raise  # the reader has enough, which is no error
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error


def prepare_streams() -> None:
    """Have all three streams there, and none that turns text into a traceback."""
    _name_output()
    # Whoever closed one (">&-") wants to hear nothing on it, and no traceback on another.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - pathlib costs
    # A locale that lacks a character must not turn a read into a traceback.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _name_output() -> None:
    before = sys.stdout
    buffer = getattr(before, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # unbuffered, there is one layer less
    if not isinstance(before, io.TextIOWrapper) or type(raw) is not io.FileIO:
        return  # closed, a test's, or it has its name
    output = _Output(raw.fileno(), "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        output if buffer is raw else io.BufferedWriter(output),
        encoding=before.encoding,
        errors=before.errors,
        line_buffering=before.line_buffering,
        write_through=before.write_through,
    )


def discarding_output(exit_code: T) -> T:
    """Return *exit_code*; what is still buffered must not fail again at exit."""
    with contextlib.suppress(OSError, ValueError):  # a test's stdout has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return exit_code
