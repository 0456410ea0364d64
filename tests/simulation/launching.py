"""What the daemon starts: keepers and their agents, which outlive it.

A keeper begins a little after it was asked for, whether or not the daemon that
asked still lives; it writes down whom it started and how that ended, and both are
found by the next daemon.  Here it is also looked at whether a process may be
started at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent_journal.service.attempt_output import Outcome
from agent_journal.service.config import Config
from agent_journal.service.launch_systemd import LaunchError
from agent_journal.service.launchers import KILL_SECONDS, Means, sequence_of
from agent_journal.store.base import AgentRecord
from simulation.host import Host, HostProcess, Life, Name

if TYPE_CHECKING:
    from agent_journal.testing.virtual_loop import VirtualProcess

LAUNCH_SECONDS: Final = 0.05


@dataclass(eq=False)
class Kept:
    """An attempt's traces on the disk."""

    name: Name
    number: int
    sequence: int
    boot_id: str
    process: HostProcess | None = None  # none: it was asked for, and has not begun
    outcome: Outcome | None = None
    is_refused: bool = False  # nobody wants it any more: it must not begin
    has_place: bool = True  # it counts among those that are starting


class Keepers:
    """All traces, and who started what."""

    def __init__(self, host: Host, run: Callable[[HostProcess, Kept], None]) -> None:
        self.kept: dict[tuple[Name, int], Kept] = {}
        self.alive: dict[int, Kept] = {}  # by pid
        self.refuse_share = 0.0
        self.slow_share = 0.0
        self.on_launch: Callable[[AgentRecord], None] = lambda _: None
        self.on_spawn: Callable[[Kept], None] = lambda _: None
        self.on_end: Callable[[Kept], None] = lambda _: None
        self._host = host
        self._run = run

    def begin(self, kept: Kept) -> None:
        """Start the agent, as its keeper does."""
        host = self._host
        if kept.boot_id != host.boot_id or kept.is_refused:
            return  # its host was rebooted, or a later daemon has let it go
        kept.process = process = host.spawn()
        host.trace("keeper starts", kept.name, kept.number, process.pid)
        self.alive[process.pid] = kept
        process.on_end.append(lambda: self._ended(kept))
        self.on_spawn(kept)
        self._run(process, kept)

    def _ended(self, kept: Kept) -> None:
        if kept.process is not None:
            self.alive.pop(kept.process.pid, None)
        if kept.outcome is None:
            kept.outcome = Outcome(how="signalled", signal="SIGKILL")
        self._host.trace("agent ends", kept.name, kept.number, kept.outcome)
        self.on_end(kept)


class SimulatedLaunchers:
    """A daemon's way to start attempts, in place of ``Launchers``."""

    def __init__(self, host: Host, keepers: Keepers, life: Life) -> None:
        self._host = host
        self._keepers = keepers
        self._process = life.process

    async def launch(self, record: AgentRecord, means: Means, config: Config) -> SimulatedAttempt:
        """Start an attempt."""
        host, keepers, chance = self._host, self._keepers, self._host.chance
        name = (int(record.uid), str(record.agent_id))
        assert not self._process.is_dead
        host.trace("launch", name, record.attempts)
        keepers.on_launch(record)
        await asyncio.sleep(chance.random() * LAUNCH_SECONDS)
        if chance.random() < keepers.refuse_share:
            raise LaunchError("it can't be started (this is a simulation)")
        kept = Kept(name, record.attempts, sequence_of(record), host.boot_id)
        keepers.kept[name, record.attempts] = kept
        slow = chance.random() < keepers.slow_share
        delay = chance.random() * (1.0 if slow else LAUNCH_SECONDS)
        host.loop.outside(delay, keepers.begin, kept)
        await asyncio.sleep(delay + chance.random() * LAUNCH_SECONDS)
        if kept.process is None:
            raise LaunchError("its keeper ended before it could start it")
        return SimulatedAttempt(host, kept, self._process)

    def find(self, record: AgentRecord) -> SimulatedAttempt | None:
        """Return what was started for an agent before this daemon was."""
        name = (int(record.uid), str(record.agent_id))
        kept = self._keepers.kept.get((name, record.attempts))
        if kept is None or (kept.boot_id, kept.sequence) != (
            self._host.boot_id,
            sequence_of(record),
        ):
            return None
        if kept.process is None:
            kept.is_refused = True  # a keeper that is on its way is late, and starts nothing
            return None
        return SimulatedAttempt(self._host, kept, self._process)

    def find_living(self, record: AgentRecord) -> tuple[int, SimulatedAttempt] | None:
        """Return whatever of an agent's attempts goes on."""
        name = (int(record.uid), str(record.agent_id))
        for kept in self._keepers.alive.values():
            if kept.name == name and kept.process is not None and kept.process.is_alive:
                return kept.number, SimulatedAttempt(self._host, kept, self._process)
        return None


class SimulatedAttempt:
    """An attempt, as the daemon holds it."""

    def __init__(self, host: Host, kept: Kept, watcher: VirtualProcess) -> None:
        assert kept.process is not None
        self.pid: int | None = kept.process.pid
        self._host = host
        self._kept = kept
        self._process = kept.process
        self._watched = host.find(kept.process.pid, watcher)
        if self._watched is not None and not kept.process.is_alive:
            self._watched = None
        self._kill: asyncio.TimerHandle | None = None

    @property
    def is_over(self) -> bool:
        return not self._process.is_alive

    def watch(self, on_end: Callable[[], None]) -> None:
        if self._watched is None or not self._process.is_alive:
            asyncio.get_running_loop().call_soon(on_end)
        else:
            self._watched.watch(on_end)

    async def outcome(self) -> Outcome:
        return self._kept.outcome or Outcome(how="lost")

    def end(self) -> None:
        if self.is_over:
            return
        chance = self._host.chance
        self._host.trace("SIGTERM to", self._kept.name, self._kept.number)
        if chance.random() < 0.7:
            self._host.loop.outside(chance.random() * 0.1, self._host.end, self._process)
        if self._kill is None:
            self._kill = self._host.loop.call_later(KILL_SECONDS, self._host.end, self._process)

    def close(self) -> None:
        if self._kill is not None:
            self._kill.cancel()
        if self._watched is not None:
            self._watched.close()
