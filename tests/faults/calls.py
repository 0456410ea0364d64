"""Makes chosen system calls of a daemon fail, hang or kill it: the test's end of ``calls.c``.

The daemon's calls on the files below its directory are numbered, and a test says
what becomes of which.  The library does not know what is a database and what a
log, so what the daemon does with files in future is covered as it comes.
"""

from __future__ import annotations

import errno
import mmap
import shutil
import struct
import subprocess
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

import pytest

SOURCE: Final = Path(__file__).with_name("calls.c")
FOREVER: Final = 1 << 62

# Which calls end in which error on a real system; others would be a fantasy.
GROWING: Final = frozenset({"create", "write", "allocate", "rename", "mkdir"})
CHANGING: Final = GROWING | {"openw", "truncate", "unlink", "chmod"}
_KINDS: Final = (
    "open", "openw", "create", "read", "write", "sync", "truncate", "allocate", "unlink",
    "rename", "mkdir", "stat", "statvfs", "lock", "chmod",
)  # fmt: skip
KINDS_OF_ERROR: Final = {
    errno.EIO: frozenset(_KINDS) - {"lock"},
    errno.ENOSPC: GROWING | {"sync"},
    errno.EDQUOT: GROWING | {"sync"},
    errno.EROFS: CHANGING,
    errno.EINTR: frozenset(_KINDS) - {"unlink", "rename", "mkdir", "stat", "chmod"},
    errno.ENOLCK: frozenset({"lock"}),
}


class Action(IntEnum):
    """What is done to a call; the numbers are those of ``calls.c``."""

    NOTHING = 0
    FAIL = 1
    SHORTEN = 2  # a write of half of it
    KILL_BEFORE = 3
    KILL_AFTER = 4
    KILL_WITHIN = 5  # behind half of a write, at the end of a sector
    HANG = 6


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was made."""

    number: int
    kind: str
    path: str  # below the directory
    is_injected: bool = False

    def __str__(self) -> str:
        return f"call {self.number}: {self.kind} {self.path}"


def compiled(directory: Path) -> Path:
    """Return the library, compiled into *directory*."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: what follows a system call that fails was not checked")
    library = directory / "calls.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        pytest.skip(f"failing system calls were not checked, {SOURCE.name}: {done.stderr[-400:]}")
    return library


class Calls:
    """The control block and the trace of one daemon, over all its starts."""

    _LAYOUT: Final = struct.Struct("=qqqqiiiiiiq")

    def __init__(self, directory: Path) -> None:
        self.control = directory / "control"
        self.trace = directory / "trace"
        self.control.write_bytes(bytes(self._LAYOUT.size))
        with self.control.open("r+b") as file:
            self._block = mmap.mmap(file.fileno(), self._LAYOUT.size)

    def close(self) -> None:
        """Let go of the control block."""
        self._block.close()

    def _get(self, layout: str, offset: int) -> int:
        value: int = struct.unpack_from(layout, self._block, offset)[0]
        return value

    @property
    def count(self) -> int:
        """How many calls were made."""
        return self._get("=q", 0)

    @property
    def waiting(self) -> int:
        """How many threads hang in a call."""
        return self._get("=i", 48)

    @property
    def injected(self) -> int:
        """How often something was done to a call."""
        return self._get("=i", 52)

    def inject(  # noqa: PLR0913 - all of it is said in one go, or threads see a half
        self,
        action: Action,
        *,
        error: int = 0,
        first: int = 1,
        last: int = FOREVER,
        step: int = 1,
        kinds: frozenset[str] | None = None,
    ) -> None:
        """Do *action* to the calls from *first* to *last*, each *step*-th, of some kinds."""
        wanted = kinds if kinds is not None else KINDS_OF_ERROR.get(error, frozenset(_KINDS))
        if action is Action.SHORTEN:
            wanted = frozenset({"write"})
        bits = sum(1 << _KINDS.index(kind) for kind in wanted)
        struct.pack_into("=iii", self._block, 32, 0, error, bits)
        struct.pack_into("=qqq", self._block, 8, first, last, step)
        struct.pack_into("=i", self._block, 32, action)

    def inject_now(self, action: Action, *, error: int = 0, kinds: frozenset[str]) -> None:
        """Do *action* to every call of some kinds, from this moment on."""
        self.inject(action, error=error, kinds=kinds)

    def heal(self) -> None:
        """Do nothing to any call any more; those that hang go on."""
        struct.pack_into("=i", self._block, 32, Action.NOTHING)
        struct.pack_into("=qqq", self._block, 8, 0, 0, 1)

    def reset(self) -> None:
        """Heal, and count and trace from the beginning."""
        self.heal()
        struct.pack_into("=q", self._block, 0, 0)
        struct.pack_into("=i", self._block, 44, 0)
        struct.pack_into("=ii", self._block, 48, 0, 0)
        self.trace.unlink(missing_ok=True)

    def delay_syncs(self, delay_ms: int) -> None:
        """Have each sync take so long."""
        struct.pack_into("=i", self._block, 44, delay_ms * 1000)

    def set_wall_clock(self, seconds: float) -> None:
        """Have the wall clock be wrong by so much, from now on; no other clock knows of it."""
        struct.pack_into("=q", self._block, 56, round(seconds * 1_000_000))

    def made(self) -> list[Call]:
        """Return the calls that were made."""
        found = []
        for line in self.trace.read_text("utf-8", "replace").splitlines():
            number, kind, path, *rest = line.split(" ")
            found.append(Call(int(number), kind, path, "INJECTED" in rest))
        return sorted(found, key=lambda call: call.number)

    def injected_calls(self) -> str:
        """Return the first calls that something was done to, for a message."""
        shown = [str(call) for call in self.made() if call.is_injected]
        return "; ".join(shown[:4]) or "no call"


def name_of(error: int) -> str:
    """Return what an errno is called."""
    return errno.errorcode.get(error, str(error))
