"""One schedule: a host, its clients, what befalls them, and what is looked at meanwhile.

``run_schedule(seed)`` is all there is to it.  It begins with everything going on at
once, in any weather; then the weather clears, whatever is started again behaves well,
and within a bound of virtual time everything has to be as promised: every request
answered, every agent that something can start finished, parked or waiting, nothing
in flight, no task left over.
"""

# ruff: noqa: S311, ASYNC110 - chance is a seed, and waiting takes no time here

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

from agent_journal.lifecycle import is_terminal
from agent_journal.model import AgentState
from agent_journal.service.config import Commit, Config, Limits
from agent_journal.service.config_resume import LauncherOptions, Resume
from agent_journal.store.base import AgentRecord
from agent_journal.testing.virtual_loop import DeadlockError, VirtualLoop
from agent_journal.wire import render_timestamp
from simulation.census import left_behind
from simulation.clients import Agent, Operator, Rude, Script, Talk, Watcher, Writer
from simulation.disk import Weather
from simulation.edges import KnownServer, patched
from simulation.host import Host, HostProcess, Name
from simulation.launching import Keepers, Kept, SimulatedLaunchers
from simulation.laws import Laws
from simulation.ledger import ANSWER_SECONDS_MAX, Asked, Ledger

ADMIN: Final = 0
ALICE: Final = 4_000_000_001  # hardly the uid that runs the tests
BOB: Final = 4_000_000_002

SETTLED_SECONDS_MAX: Final = 500.0
"""How long agents may take to come to rest when the weather has cleared.

The longest chain: a process that hangs, then all its attempts, each with the longest
back-off and a wait; and a wall clock that was set back.
"""

STOP_SECONDS_MAX: Final = 40.0


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a schedule."""

    seed: str
    faults: list[str]
    trace: list[str]
    requests: int
    commits: int
    lives: int
    launches: int
    seconds: float  # virtual
    turns: int

    @property
    def digest(self) -> str:
        """The same for the same schedule."""
        return sha256("\n".join(self.trace).encode()).hexdigest()


class World:
    """What clients and the director share."""

    def __init__(self, seed: str) -> None:
        self.chance = chance = random.Random(seed)
        self.loop = VirtualLoop(chance, is_unruly=chance.random() < 0.5)
        self.host = Host(self.loop, chance, a_config(chance))
        self.ledger = Ledger()
        self.keepers = Keepers(self.host, self._run_agent)
        self.laws = Laws(self.host, self.keepers)
        self.trace = self.host.trace
        self.fault = self.host.fault
        self.talks: dict[Talk, None] = {}
        self.shown: list[tuple[int, list[int]]] = []
        self.is_calm = False
        self.pause = chance.choice([0.02, 0.3, 2.0])
        self.plain_agents = [f"w{number}" for number in range(1 + chance.randrange(4))]
        self.held_agents: list[Name] = [
            (chance.choice([ALICE, BOB]), f"a{number}") for number in range(1 + chance.randrange(6))
        ]
        self.without_means = {name for name in self.held_agents if chance.random() < 0.15}
        self._connections = 0
        self._tags = 0
        self._scripts: dict[asyncio.Task[None], str] = {}
        self.host.make_launchers = lambda life: SimulatedLaunchers(self.host, self.keepers, life)
        self.keepers.refuse_share = chance.choice([0, 0, 0.1])
        self.keepers.slow_share = chance.choice([0, 0.05])
        self.host.disk.weather.full_share = chance.choice([0, 0, 0.1])

    # What scripts ask for

    def next_connection(self) -> int:
        self._connections += 1
        return self._connections

    def next_tag(self) -> str:
        self._tags += 1
        return f"t{self._tags}"

    def filler(self) -> str:
        chance = self.chance
        return "x" * (chance.randrange(30) if chance.random() < 0.9 else chance.randrange(3000))

    def time_in(self, seconds: float) -> str:
        return render_timestamp(self.host.clock.wall_us() + round(seconds * 1_000_000))

    def heard(self, asked: Asked) -> None:
        """Look at an answer."""
        delay = self.loop.now - asked.sent_at
        self.waited(asked, delay)
        if asked.code in {"malformed", "forbidden"}:
            self.fault(f"refused as {asked.code}: {asked.request}")

    def waited(self, asked: Asked, delay: float) -> None:
        """Hold a delay against the daemon."""
        if delay > ANSWER_SECONDS_MAX:
            self.fault(f"{asked.request} waited for {delay:.1f} s for {asked.reply}")

    def granted(self, name: Name, epoch: int, next_sequence: int) -> None:
        """Take note of an attach."""
        self.ledger.grants.append((name, epoch, next_sequence))

    def reset(self, name: Name) -> None:
        """Take note that a person may have an agent begin anew."""
        self.laws.launches[name] = 0
        self.laws.resumed.add(name)

    # Processes

    def spawn(self, script: Script, work: Coroutine[Any, Any, None], *, ends: bool = True) -> None:
        """Run a script as the process that it was made for."""
        process = script.process

        async def run() -> None:
            try:
                await work
            except asyncio.CancelledError:
                work.close()
                raise
            if ends:
                self.host.end(process)

        task = self.loop.create_task(run())
        self._scripts[task] = f"{type(script).__name__} {process.pid}"
        task.add_done_callback(self._done)
        process.on_end.append(lambda: task.cancel() if not task.done() else None)

    def _done(self, task: asyncio.Task[None]) -> None:
        name = self._scripts.pop(task)
        if not task.cancelled() and task.exception() is not None:
            self.fault(f"{name} failed: {task.exception()!r}")
            self.fault("".join(traceback.format_exception(task.exception())))

    def _run_agent(self, process: HostProcess, kept: Kept) -> None:
        script = Agent(self, process, kept.name, kept)
        self.spawn(script, script.run())

    def start_by_hand(self, name: Name) -> None:
        """Have a person start an agent."""
        process = self.host.spawn()
        script = Agent(self, process, name, None)
        self.spawn(script, script.run())

    def start_clients(self) -> None:
        """Start everybody."""
        chance = self.chance
        casts: list[tuple[type[Any], int, int]] = [
            (Writer, 1 + chance.randrange(4), 8),
            (Rude, chance.randrange(2), 4),
            (Watcher, chance.randrange(2), 4),
            (Operator, chance.randrange(2), 8),
        ]
        for kind, count, rounds in casts:
            for _ in range(count):
                is_admin = kind in (Watcher, Operator)
                uid = ADMIN if is_admin else chance.choice([ALICE, ALICE, BOB])
                script = kind(self, self.host.spawn(), uid)
                self.spawn(script, script.run(1 + chance.randrange(rounds)))
        for name in self.held_agents:
            for _ in range(1 if chance.random() < 0.7 else 2):
                self.start_by_hand(name)

    # What befalls them

    async def befall(self) -> None:
        """Let things happen, until it is enough."""
        chance = self.chance
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(chance.random() ** 3 * 6)
            self._one_thing()
        await asyncio.sleep(chance.random() * 2)

    def _one_thing(self) -> None:  # noqa: C901 - each is a line or two
        chance, host = self.chance, self.host
        weather, now = host.disk.weather, self.loop.now
        match chance.randrange(14):
            case 0 | 1:
                host.kill_daemon()
            case 2:
                host.stop_daemon()
            case 3:
                weather.failure = chance.random() < 0.5
            case 4:
                weather.full_until = now + chance.random() * 5
            case 5:
                weather.slow_share = chance.choice([0, 0.1, 0.5])
            case 6:
                host.reload(a_config(chance))
                self.laws.configured()
            case 7:
                host.clock.offset += (chance.random() - 0.5) * 60
                self.trace("the clock is set", host.clock.offset)
            case 8 if chance.random() < 0.3:
                host.reboot()
            case 9 | 10 | 11:
                alive = list(host.processes.values())
                if alive:
                    victim = chance.choice(alive)
                    self.trace("killed", victim.pid)
                    host.end(victim)
            case 12:
                self.start_by_hand(chance.choice(self.held_agents))
            case _:
                weather.commit_seconds = chance.choice([0.001, 0.02, 0.2])

    # From the beginning to the end

    async def run(self) -> None:
        """Live through it all."""
        host = self.host
        host.start_daemon()
        self.start_clients()
        await self.befall()
        self.trace("the weather clears")
        self.is_calm = True
        host.disk.weather = Weather()
        self.keepers.refuse_share = self.keepers.slow_share = 0.0
        limit = self.loop.now + SETTLED_SECONDS_MAX
        while (left := self._unsettled()) and self.loop.now < limit:
            await asyncio.sleep(1)
        for who in left:
            self.fault(f"not at rest after {SETTLED_SECONDS_MAX:g} s: {who}")
        await asyncio.sleep(6)  # for what was under way on a slow disk
        self._check_quiet()
        await self._stop()

    def _unsettled(self) -> list[str]:
        """Return who has not come to rest."""
        found = [*self._scripts.values()]
        if self.host.life is None or self.host.life.is_stopping:
            found.append("the daemon")
        for name, record in self.laws.durable.items():
            if not self._is_at_rest(name, record):
                found.append(f"{name}: {record}")
        return found

    def _is_at_rest(self, name: Name, record: AgentRecord) -> bool:
        attachment = record.attachment
        if is_terminal(record.state) or record.state is AgentState.PARKED or attachment is None:
            return True
        can_be_started = attachment.launcher is not None and attachment.launcher in (
            self.host.config.launchers
        )
        match record.state:
            case AgentState.WAITING:
                return attachment.wake_at is None or not can_be_started
            case AgentState.INTERRUPTED:
                return not can_be_started
            case AgentState.RUNNING:
                return attachment.owner is None
            case _:
                return False

    def _check_quiet(self) -> None:
        """Look for what is in flight when nobody is there."""
        for talk in self.talks:
            asked = talk.unanswered()
            if asked is not None:
                self.fault(f"never answered: {asked}")
        life = self.host.life
        if life is None or life.context is None or self.talks:
            return
        context, supervisor = life.context, life.supervisor
        assert supervisor is not None
        left = {
            "bytes in flight": context.admission.bytes_in_flight,
            "partial bytes": context.admission.partial_bytes,
            "accounts": len(context.admission.accounts),
            "connections that wait": len(context.admission._waiting),
            "queued entries": context.committer.queued_entries,
            "queued bytes": context.committer.queued_bytes,
            "queues": len(context.committer._queues),
            "heads that load": len(context.heads._loading),
            "holds": len(context.owners),
            "losses": len(context.owners._losses),
            "attempts watched": len(supervisor._launched),
            "being launched": len(supervisor._launching),
            "agents starting": len(supervisor._queue._starting),
            "agents recorded": len(supervisor._recording) + len(supervisor._restarted),
            "agents ready": len(supervisor._queue._ready),
            "work of the supervisor's": len(supervisor._at_work),
        }
        left |= left_behind(context, supervisor, KnownServer.latest)
        for what, count in left.items():
            if count:
                self.fault(f"left when everybody is gone: {count} {what}")
        # It serves, commits, keeps owners, watches its file, and looks who is to be removed.
        if len(life.process.tasks) > 5:
            names = [task.get_coro().__qualname__ for task in life.process.tasks]  # type: ignore[union-attr]
            self.fault(f"tasks are left when everybody is gone: {names}")

    async def _stop(self) -> None:
        host = self.host
        host.wants_daemon = False
        limit = self.loop.now + STOP_SECONDS_MAX
        host.stop_daemon()
        while host.life is not None and self.loop.now < limit:
            await asyncio.sleep(0.2)
        if host.life is not None:
            self.fault(f"it does not stop within {STOP_SECONDS_MAX:g} s")
            host.kill_daemon()

    def check(self) -> None:
        """Look at what is left on the disk."""
        for problem in self.ledger.problems(self.host.disk.store):
            self.fault(problem)
        for problem in self.ledger.left_out(self.host.disk.store, self.shown):
            self.fault(problem)
        for complaint in self.loop.complaints:
            self.fault(f"nobody caught this: {complaint}")


def a_config(chance: random.Random) -> Config:
    """Return a configuration with little room for anything."""
    connection = chance.choice([1_500, 6_000, 50_000])
    uid = connection * chance.choice([1, 3])
    limits = Limits(
        connections_max=chance.choice([4, 100]),
        connections_per_uid_max=chance.choice([3, 100]),
        frame_bytes_max=8_000,
        connection_bytes_in_flight_max=connection,
        uid_bytes_in_flight_max=uid,
        bytes_in_flight_max=uid * chance.choice([1, 2]),
        partial_bytes_max=chance.choice([9_000, 100_000]),
        read_entries_max=chance.choice([3, 1000]),
        reply_bytes_max=chance.choice([500, 100_000]),
    )
    resume = Resume(
        attempts_max=1 + chance.randrange(4),
        backoff_seconds_initial=chance.choice([0.1, 1]),
        backoff_seconds_max=4,
        calm_seconds=0,
        attach_seconds=3,
        at_once_max=chance.choice([1, 1, 2]),
        per_second=chance.choice([0.5, 5, 100]),
        outbreak_agents=chance.choice([0, 2]),
        outbreak_seconds=20,
    )
    commit = Commit(
        batch_entries_max=chance.choice([2, 8, 4096]),
        batch_bytes_max=chance.choice([4096, 1 << 22]),
    )
    launchers = {"start": LauncherOptions(argv=("/bin/agent",), users=("*",))}
    return replace(Config(), limits=limits, resume=resume, commit=commit, launchers=launchers)


def run_schedule(seed: str) -> Report:
    """Live through the schedule of *seed*."""
    world = World(seed)
    with patched(random.Random(f"constants of {seed}"), lambda: world.host.boot_id):
        try:
            world.loop.run_until_complete(world.run())
        except DeadlockError as error:
            world.fault(f"{error}: {world._unsettled()}")
        world.check()
        host = world.host
        report = Report(
            seed=seed,
            faults=host.faults,
            trace=host.trace.lines,
            requests=len(world.ledger.asked),
            commits=host.disk.commits,
            lives=host.lives,
            launches=len(world.keepers.kept),
            seconds=world.loop.now,
            turns=world.loop.turns,
        )
        world.loop.close()
    return report
