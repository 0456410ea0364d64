"""The host: its processes, its disk, its one listener, and the daemons that come and go.

The daemon is the real one from ``App`` downwards.  Replaced are only its edges: the
clock, the socket, the store, what starts processes, and the kernel's word on them.
A life of it ends by SIGTERM (it drains and exits), by a failed store (it exits with
74), by ``kill -9``, or with the host.
"""

from __future__ import annotations

import random
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

from agent_journal.service.app import App
from agent_journal.service.config import Config
from agent_journal.service.config_watch import ConfigReloader
from agent_journal.service.context import Context
from agent_journal.service.launchers import Launchers
from agent_journal.service.owners import Owners
from agent_journal.service.supervisor import Supervisor
from agent_journal.testing.virtual_loop import (
    VirtualClock,
    VirtualLoop,
    VirtualProcess,
    this_process,
)
from simulation.disk import Disk, SimulatedStore
from simulation.network import Listener

Name = tuple[int, str]

EVENT_SECONDS: Final = 0.002  # until the kernel's word is heard, at the most


class Trace:
    """All that happened, in order."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.lines: list[str] = []
        self._loop = loop

    def __call__(self, *what: object) -> None:
        self.lines.append(f"{self._loop.now:.6f} {' '.join(map(str, what))}")


def _is_dead() -> bool:
    """Tell whether what runs now is being unwound: nobody hears it any more."""
    process = this_process()
    return process is not None and process.is_dead


class TracedLog:
    """The daemon's log, into the trace."""

    def __init__(self, trace: Trace, faults: list[str]) -> None:
        self._trace = trace
        self._faults = faults

    def _say(self, event: str, **values: object) -> None:
        if _is_dead():
            return
        self._trace("log", event, *[f"{key}={value}" for key, value in values.items()])

    debug = info = warning = error = critical = _say

    def exception(self, event: str, **values: object) -> None:
        """Take note of a defect of the daemon's."""
        if _is_dead():
            return
        self._say(event, **values)
        self._faults.append(f"the daemon logged {event}: {values} {traceback.format_exc()}")


@dataclass(eq=False)
class HostProcess:
    """A process of the host's."""

    pid: int
    boot_id: str
    start_time: int
    is_alive: bool = True
    watchers: list[WatchedProcess] = field(default_factory=list)
    on_end: list[Callable[[], None]] = field(default_factory=list)


class WatchedProcess:
    """A process as the daemon sees it: through a pidfd."""

    def __init__(self, host: Host, process: HostProcess, watcher: VirtualProcess) -> None:
        self.pid = process.pid
        self.start_time: int | None = process.start_time
        self._host = host
        self._process = process
        self._watcher = watcher
        self._on_exit: Callable[[], None] | None = None

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive

    def watch(self, on_exit: Callable[[], None]) -> None:
        self._on_exit = on_exit
        self._process.watchers.append(self)
        if not self._process.is_alive:
            self.ended()

    def ended(self) -> None:
        delay = self._host.chance.random() * EVENT_SECONDS
        self._host.loop.inside(self._watcher, delay, self._tell)

    def _tell(self) -> None:
        on_exit, self._on_exit = self._on_exit, None
        if on_exit is not None:
            on_exit()

    def close(self) -> None:
        self._on_exit = None


class SimulatedApp(App):
    """The daemon, at the host's edges."""

    def __init__(self, host: Host, config: Config) -> None:
        super().__init__(config, Path("config.toml"), socket_path=Path("s"), database=Path("j"))
        self._host = host
        self._clock = host.clock
        self._log = cast("Any", TracedLog(host.trace, host.faults))

    def _make_supervisor(self, context: Context, listener: Any) -> Supervisor:
        host, life = self._host, self._host.life
        assert life is not None
        context.owners = Owners(lambda pid: host.find(pid, life.process))
        launchers = host.make_launchers(life)
        supervisor = Supervisor(context, cast("Launchers", launchers), {"PATH": "/bin"})
        context.resumer = supervisor
        life.context, life.supervisor = context, supervisor
        return supervisor


class Life:
    """A daemon from its start to its end."""

    def __init__(self, host: Host, number: int) -> None:
        self.number = number
        self.process = VirtualProcess(host.loop)
        self.store = SimulatedStore(host.disk, self.process)
        self.app = SimulatedApp(host, host.config)
        self.context: Context | None = None
        self.supervisor: Supervisor | None = None
        self.is_stopping = False
        self.stop_asked_at = 0.0
        reloader = SimpleNamespace(current=host.config, on_change=None, loaded=None, reload=None)
        serving = self.app._serve(
            cast("Any", host.listener), self.store, cast("ConfigReloader", reloader), "ready"
        )
        self.serving = self.process.start(serving)


class Host:
    """What there is beside the daemon, and outlives it."""

    def __init__(self, loop: VirtualLoop, chance: random.Random, config: Config) -> None:
        self.loop = loop
        self.chance = chance
        self.config = config
        self.trace = Trace(loop)
        self.faults: list[str] = []  # what was promised and is not so
        self.clock = VirtualClock(loop)
        self.disk = Disk(loop, chance)
        self.listener = Listener(loop, chance)
        self.boot_id = "boot-1"
        self.boots = 1
        self.processes: dict[int, HostProcess] = {}
        self.life: Life | None = None
        self.lives = 0
        self.restart_seconds = 0.5
        self.wants_daemon = True
        self.make_launchers: Callable[[Life], object] = lambda _: None
        self._pids = 1000

    def fault(self, text: str) -> None:
        """Take note of a promise that was not kept."""
        self.trace("FAULT", text)
        self.faults.append(f"at {self.loop.now:.6f}: {text}")

    # Processes

    def spawn(self) -> HostProcess:
        """Begin a process; numbers come again only with the next boot."""
        self._pids += 1
        start_time = round(self.loop.now * 100)
        process = HostProcess(self._pids, self.boot_id, start_time)
        self.processes[process.pid] = process
        return process

    def find(self, pid: int, watcher: VirtualProcess) -> WatchedProcess | None:
        """Return a process as the daemon sees it; ``None``: there is none."""
        process = self.processes.get(pid)
        if process is None or not process.is_alive:
            return None
        return WatchedProcess(self, process, watcher)

    def end(self, process: HostProcess) -> None:
        """End a process: its connections close, and who watches it hears of it."""
        if not process.is_alive:
            return
        process.is_alive = False
        self.processes.pop(process.pid, None)
        for act in process.on_end:
            act()
        for watcher in process.watchers:
            watcher.ended()
        process.watchers.clear()

    # The daemon

    def start_daemon(self) -> None:
        """Begin a life of the daemon's."""
        self.lives += 1
        self.trace("daemon starts", self.lives)
        self.listener.close()
        self.life = life = Life(self, self.lives)
        life.serving.add_done_callback(lambda _: self._exited(life))

    def _exited(self, life: Life) -> None:
        if life.process.is_dead:
            return
        if life.serving.cancelled() or life.serving.exception() is not None:
            error = None if life.serving.cancelled() else life.serving.exception()
            self.faults.append(f"the daemon crashed: {error!r}")
            if error is not None:
                self.faults.append("".join(traceback.format_exception(error)))
        else:
            code = life.serving.result()
            self.trace("daemon exits", life.number, code)
            if code == 0 and not life.is_stopping:
                self.faults.append("the daemon stopped, and nobody had asked it to")
        left = [task for task in life.process.tasks if not task.done()]
        if left:
            self.faults.append(f"tasks are left over at the exit: {left}")
        self._over(life)

    def kill_daemon(self) -> None:
        """Kill -9."""
        if self.life is not None:
            self.trace("daemon is killed", self.life.number)
            self._over(self.life)

    def _over(self, life: Life) -> None:
        if self.life is not life:
            return
        self.life = None
        life.store.crash()
        self.listener.drop_all()
        life.process.kill()
        self.loop.signal_handlers.clear()
        if self.wants_daemon:
            self.loop.outside(self.chance.random() * self.restart_seconds, self._restart)

    def _restart(self) -> None:
        if self.life is None and self.wants_daemon:
            self.start_daemon()

    def stop_daemon(self) -> None:
        """Send SIGTERM."""
        life = self.life
        handler = self.loop.signal_handlers.get(signal.SIGTERM)
        if life is not None and handler is not None and not life.is_stopping:
            self.trace("SIGTERM", life.number)
            life.is_stopping = True
            life.stop_asked_at = self.loop.now
            self.loop.inside(life.process, 0, handler)

    def reload(self, config: Config) -> None:
        """Give the daemon another configuration."""
        self.config = config
        life = self.life
        if life is not None and life.context is not None and not life.is_stopping:
            self.trace("reload", config.limits, config.resume)
            self.loop.inside(life.process, 0, life.app._apply, config)

    def reboot(self) -> None:
        """Cut the power: everything ends."""
        self.trace("reboot")
        self.kill_daemon()
        for process in list(self.processes.values()):
            self.end(process)
        self.boots += 1
        self.boot_id = f"boot-{self.boots}"
        self._pids = 1000  # the same numbers mean others now
