"""Processes of others, held by a pidfd: it names one process, and no later one with its pid."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

_START_TIME: int = 19  # behind the name in parentheses; the 22nd field of proc_pid_stat(5)


class Process(Protocol):
    """A process that may end."""

    pid: int
    start_time: int | None

    @property
    def is_alive(self) -> bool:
        """Tell whether it has not ended yet."""
        ...

    def watch(self, on_exit: Callable[[], None]) -> None:
        """Have *on_exit* called when it ends."""

    def close(self) -> None:
        """Let go of it."""


class PidfdProcess:
    """A process of this host."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self.start_time = start_time_of(pid)
        self._descriptor: int | None = descriptor
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_alive(self) -> bool:
        """Tell whether it has not ended yet; a zombie has."""
        if self._descriptor is None:
            return False
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return not poll.poll(0)

    def watch(self, on_exit: Callable[[], None]) -> None:
        """Have *on_exit* called once, when it ends."""
        if self._descriptor is None:
            return
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._exited, on_exit)

    def _exited(self, on_exit: Callable[[], None]) -> None:
        self._unwatch()
        on_exit()

    def _unwatch(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None and self._descriptor is not None and not loop.is_closed():
            loop.remove_reader(self._descriptor)

    def close(self) -> None:
        """Let go of it; closing twice is allowed."""
        self._unwatch()
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def find_process(pid: int) -> PidfdProcess | None:
    """Return the process *pid*, or ``None`` where none such can be seen from here."""
    if pid <= 0:
        return None
    try:
        return PidfdProcess(pid, os.pidfd_open(pid))
    except OSError:
        return None


def start_time_of(pid: int) -> int | None:
    """Return when a process began, in clock ticks since the boot, if /proc tells us."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return int(stat.rpartition(b")")[2].split()[_START_TIME])
    except (OSError, ValueError, IndexError):
        return None
