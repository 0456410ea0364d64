"""Who holds which agent, and when an owner is gone.

Death is proved, not timed out: an owner is gone when its connection is closed
and its process has ended.  A closed connection of a living process leaves it
the owner, since it may connect again; an ended process whose connection is open
in another one (a child that it forked) still holds the agent.  The kernel tells
both at once: of a connection by its end, of a process by its pidfd.

A process that cannot be seen from here (another pid namespace) has no pidfd:
its connection is all there is, and the end of it is the owner's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from ..model import AgentId, Uid
from ..store.attachment import Owner
from .processes import Process, find_process

Name = tuple[Uid, AgentId]


class Link(Protocol):
    """A connection, as far as an owner's life hangs on it."""

    is_gone: bool  # the client will send nothing more


class Loss(NamedTuple):
    """An agent whose owner is gone, or that ended: something is to be recorded or told."""

    uid: Uid
    agent_id: AgentId
    epoch: int


class Hold:
    """One owner's hold on one agent."""

    __slots__ = ("epoch", "link", "name", "pid", "process")

    def __init__(
        self, name: Name, epoch: int, pid: int, process: Process | None, link: Link | None
    ) -> None:
        self.name = name
        self.epoch = epoch
        self.pid = pid
        self.process = process
        self.link = link

    @property
    def is_connected(self) -> bool:
        """Tell whether the connection that attached is open."""
        return self.link is not None and not self.link.is_gone

    @property
    def is_alive(self) -> bool:
        """Tell whether the owner may still be there."""
        return self.is_connected or (self.process is not None and self.process.is_alive)


class Owners:
    """The holds of all living owners."""

    def __init__(self, find: Callable[[int], Process | None] = find_process) -> None:
        self._find: Final = find
        self._holds: dict[Name, Hold] = {}
        self._of_link: dict[int, dict[Name, Hold]] = {}
        self._of_process: dict[int, dict[Name, Hold]] = {}  # by pid
        self._processes: dict[int, Process] = {}
        self._losses: deque[Loss] = deque()
        self._wakeup: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._holds)

    # Holding and letting go

    def hold(self, name: Name, epoch: int, pid: int, link: Link | None) -> Hold | None:
        """Let the client of *link* hold an agent; return the hold that this replaces."""
        before = self._drop(name)
        self._put(Hold(name, epoch, pid, self._process(pid), link))
        return before

    def owner(self, name: Name, boot_id: str) -> Owner:
        """Return what tells the process that holds an agent from a later one."""
        hold = self._holds[name]
        start_time = None if hold.process is None else hold.process.start_time
        return Owner(hold.pid, start_time, boot_id)

    def put_back(self, name: Name, epoch: int, before: Hold | None) -> None:
        """Undo the ``hold`` of *epoch*: it could not be recorded."""
        if self.is_held_by(name, epoch):
            self._drop(name)
            if before is None:
                return
            before.process = self._process(before.pid)
            self._put(before)

    def keep(self, name: Name, epoch: int, owner: Owner, boot_id: str) -> bool:
        """Let an owner from before the daemon's start hold its agent, if it lives."""
        if owner.boot_id != boot_id:
            return False
        if self.is_held_by(name, epoch) and self._holds[name].is_alive:
            return True  # it is known already, and by its connection too
        process = self._process(owner.pid)
        if process is None or not process.is_alive or process.start_time != owner.start_time:
            if process is not None and owner.pid not in self._of_process:
                self._forget_process(owner.pid)
            return False
        self._drop(name)
        self._put(Hold(name, epoch, owner.pid, process, None))
        return True

    def release(self, name: Name, epoch: int) -> None:
        """Let go of what *epoch* held: it ended, was given up, or its loss is recorded."""
        if self.is_held_by(name, epoch):
            self._drop(name)

    def is_held_by(self, name: Name, epoch: int) -> bool:
        """Tell whether *epoch* holds an agent, alive or not: it was not let go of yet."""
        hold = self._holds.get(name)
        return hold is not None and hold.epoch == epoch

    def holder(self, name: Name) -> Hold | None:
        """Return the hold of a living owner, if the agent has one."""
        hold = self._holds.get(name)
        return hold if hold is not None and hold.is_alive else None

    def _put(self, hold: Hold) -> None:
        self._holds[hold.name] = hold
        if hold.link is not None:
            self._of_link.setdefault(id(hold.link), {})[hold.name] = hold
        if hold.process is not None:
            self._of_process.setdefault(hold.pid, {})[hold.name] = hold
        if not hold.is_alive:
            self._lose(hold)

    def _drop(self, name: Name) -> Hold | None:
        hold = self._holds.pop(name, None)
        if hold is None:
            return None
        if hold.link is not None:
            _discard(self._of_link, id(hold.link), name)
        if _discard(self._of_process, hold.pid, name):
            self._forget_process(hold.pid)
        return hold

    # Processes, one pidfd for all agents that one holds

    def _process(self, pid: int) -> Process | None:
        known = self._processes.get(pid)
        if known is not None and known.is_alive:
            return known
        process = self._find(pid)
        if process is None or known is not None:
            # A pid that was given again while holds of its first bearer are
            # still being recorded as lost: this owner's connection has to do.
            if process is not None:
                process.close()
            return None
        self._processes[pid] = process
        process.watch(lambda: self._exited(pid))
        return process

    def _forget_process(self, pid: int) -> None:
        process = self._processes.pop(pid, None)
        if process is not None:
            process.close()

    # What the kernel tells

    def left(self, link: Link) -> None:
        """Take note that a connection has ended."""
        for hold in list(self._of_link.pop(id(link), {}).values()):
            hold.link = None
            if not hold.is_alive:
                self._lose(hold)

    def _exited(self, pid: int) -> None:
        for hold in list(self._of_process.get(pid, {}).values()):
            if not hold.is_alive:
                self._lose(hold)

    def _lose(self, hold: Hold) -> None:
        self._tell(Loss(*hold.name, hold.epoch))

    def ending(self, name: Name, epoch: int) -> None:
        """Take note that an agent's end is on its way to the disk."""
        self._tell(Loss(*name, epoch))

    def _tell(self, loss: Loss) -> None:
        self._losses.append(loss)
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    async def losses(self) -> list[Loss]:
        """Wait for owners that are gone; each is told once."""
        while not self._losses:
            self._wakeup = asyncio.get_running_loop().create_future()
            try:
                await self._wakeup
            finally:
                self._wakeup = None
        found = list(self._losses)
        self._losses.clear()
        return found

    def close(self) -> None:
        """Watch nobody any more."""
        for pid in list(self._processes):
            self._forget_process(pid)
        self._holds.clear()
        self._of_link.clear()
        self._of_process.clear()


def _discard(index: dict[int, dict[Name, Hold]], key: int, name: Name) -> bool:
    """Take *name* out of *index*; return whether nothing is left under *key*."""
    held = index.get(key)
    if held is None:
        return False
    held.pop(name, None)
    if not held:
        del index[key]
    return not held
