"""Kills agents, the daemon that resumes them, and both, until it has killed as often as it should.

An agent is started by hand once; from then on the daemon starts it again by
itself (and now and then somebody does so by hand at the same time).  A process
of it says that it is there in a file of the world's, so a kill needs nothing of
what is killed: it comes some milliseconds behind that the process began, or
behind that it attached.  All of it is drawn from a seed, but for the
scheduler's part.

Somebody also has to answer for the steps that are left to a person: when an
agent is parked for one, that is looked up in the world and decided.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from random import Random
from typing import Final

import agent_journal
from agent_journal.client import Entry, connect
from agent_journal.testing.daemon import RunningDaemon
from crash.resume_judge import BrokenResumeError, Judge, Verdict, results, words_of

AGENT: Final = Path(__file__).parent / "agents" / "fifty_steps.py"
PATIENCE_S: Final = 30.0

# Behind the beginning of a process, which takes this long to attach, and behind
# its attach, from where the fifty steps take several times as long.
BEGINNING_S_MAX: Final = 0.06
LIFE_S_MAX: Final = 0.09

# How often somebody starts the agent by hand beside the process that it has, or
# that the daemon is starting.
RIVALRY: Final = 0.1

CONFIG: Final = """
[resume]
start_with = "process"
attempts_max = 1000000
backoff_seconds_initial = 0.001
backoff_seconds_max = 0.01
per_second = 10000
outbreak_agents = 0
attach_seconds = 20
"""

VICTIMS: Final = [*["agent"] * 5, *["daemon"] * 2, *["both"] * 2, "keeper"]


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Wait for something that takes a moment.

    Raises:
        BrokenResumeError: it did not come about.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            raise BrokenResumeError(f"in vain for {PATIENCE_S:g} s: {what}")
        time.sleep(0.002)


def is_alive(pid: int) -> bool:
    """Tell whether a process has not ended; a zombie has."""
    return state_of(pid) not in {"Z", "X", ""}


def state_of(pid: int) -> str:
    """Return the letter of a process's state; nothing where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[0]


def parent_of(pid: int) -> int:
    """Return the pid of a process's parent; 0 where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


class World:
    """One agent: its directory outside, its processes, its journal."""

    def __init__(
        self, daemon: RunningDaemon, agent_id: str, directory: Path, program: Path = AGENT
    ) -> None:
        self.daemon = daemon
        self.agent_id = agent_id
        self.directory = directory
        self._program = program
        self.by_hand: list[subprocess.Popen[bytes]] = []
        directory.mkdir()

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start a process of the agent by hand; the daemon starts those that follow alike."""
        package = Path(agent_journal.__file__).parents[1]
        with (self.directory / f"stderr-{len(self.by_hand)}").open("wb") as stderr:
            process = subprocess.Popen(
                # Without site, which is half of what the start of such a program takes.
                [sys.executable, "-S", self._program, self.agent_id, self.directory, *options],
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(package),
                    "AGENT_JOURNAL_SOCKET": str(self.daemon.socket),
                },
                stderr=stderr,
            )
        self.by_hand.append(process)
        return process

    def told(self, word: str) -> list[list[str]]:
        """Return what processes of the agent told under a word, the word left out."""
        return [line[1:] for line in words_of(self.directory / "story") if line[0] == word]

    def wait_for(self, word: str, *words: object) -> None:
        """Wait until some process told this."""
        line = [str(one) for one in words]
        wait_until(
            lambda: any(told[: len(line)] == line for told in self.told(word)),
            f"{self.agent_id} tells {word} {' '.join(line)}",
        )

    def open_gate(self, pid: int) -> None:
        """Let a process go on that holds."""
        with (self.directory / f"gate-{pid}").open("wb"):
            pass

    def pids(self) -> list[int]:
        """Return every process that the agent had."""
        return [int(line[0]) for line in self.told("began")]

    def living(self, killed: Container[int]) -> list[int]:
        """Return the processes of the agent that have not ended, but for *killed*."""
        return [pid for pid in self.pids() if pid not in killed and self.is_alive(pid)]

    def is_alive(self, pid: int) -> bool:
        """Tell whether a process of the agent has not ended."""
        for process in self.by_hand:
            if process.pid == pid and process.poll() is not None:
                return False
        return is_alive(pid)

    def state(self) -> str:
        """Return the agent's state, as the daemon tells it."""
        with connect(self.daemon.socket) as journal:
            return str(journal.describe(self.agent_id).state)

    def entries(self) -> list[Entry]:
        """Return the agent's journal."""
        with connect(self.daemon.socket) as journal:
            return [*journal.read(self.agent_id)]

    def evidence(self) -> Judge:
        """Return what there is to judge the agent by."""
        return Judge(self.entries(), self.directory)

    def judge(self) -> Verdict:
        """Judge the agent, which has ended.

        Raises:
            BrokenResumeError: it shows that it was killed.
        """
        return self.evidence().judge()

    def answer(self) -> None:
        """Say what became of the step for which the agent is parked, and let it go on."""
        (key,) = self.evidence().open_steps
        is_done = any(line[0] == key for line in words_of(self.directory / "calls"))
        with connect(self.daemon.socket) as journal:
            if is_done:
                result = results()[int(key.removeprefix("step-"))]
                journal.decide(self.agent_id, key, result=result)
            else:
                journal.decide(self.agent_id, key, rerun=True)
            journal.resume(self.agent_id)

    def printed(self) -> str:
        """Return what processes of the agent wrote to stderr, the end of it."""
        kept = f"attempts/{os.geteuid()}/{self.agent_id}/*/stderr"
        found = [*self.directory.glob("stderr-*"), *sorted(self.daemon.directory.glob(kept))]
        return "\n".join(f"{path}:\n{path.read_text()[-2000:]}" for path in found)

    def close(self) -> None:
        """Leave no process behind."""
        for process in self.by_hand:
            process.kill()
            process.wait()
        for pid in self.pids():
            if is_alive(pid) and str(self.directory).encode() in _command_of(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Killer:
    """Kills in one journal, agent after agent."""

    def __init__(  # noqa: PLR0913 - two for mutants
        self,
        daemon: RunningDaemon,
        directory: Path,
        seed: str,
        *,
        program: Path = AGENT,
        victims: Sequence[str] = VICTIMS,
        judge: Callable[[Judge], Verdict] = Judge.judge,
    ) -> None:
        self.daemon = daemon
        self.directory = directory
        self.seed = seed
        self.program = program
        self.victims = victims
        self.judge = judge
        self.kills: Counter[str] = Counter()
        self.recovery_kills = 0
        self.rivals = 0
        self.answers = 0
        self.agents = 0
        self.calls = 0
        self.attempts = 0
        self.in_doubt: Counter[str] = Counter()
        self._random = Random()  # noqa: S311 - chosen by the seed, to be repeated

    def run(self, kills: int) -> None:
        """Have one agent after the other work, be killed, and be resumed, to its end.

        Raises:
            BrokenResumeError: an agent shows that it was killed; notes tell how to repeat it.
        """
        while self.kills.total() < kills:
            self._random = Random(f"{self.seed}/{self.agents}")  # noqa: S311 - see above
            name = f"agent-{self.agents}"
            world = World(self.daemon, name, self.directory / name, self.program)
            try:
                self._one(world, kills)
                verdict = self.judge(world.evidence())
            except Exception as error:
                error.add_note(f"{name} of seed {self.seed!r}, {dict(self.kills)} kills")
                error.add_note(f"its last processes printed:\n{world.printed()}")
                error.add_note(f"the daemon printed:\n{self.daemon.log[-3000:]}")
                raise
            finally:
                world.close()
            self.agents += 1
            self.calls += verdict.calls
            self.attempts += verdict.attempts
            self.in_doubt.update(verdict.in_doubt)

    def _one(self, world: World, kills: int) -> None:
        world.start()
        wait_until(lambda: bool(world.told("attached")), "the first process attached")
        killed: set[int] = set()
        while True:
            state = self._settled_or_alive(world, killed)
            if state == "completed":
                return
            if state == "parked":
                self.answers += 1
                world.answer()
                continue
            if self.kills.total() >= kills:
                wait_until(lambda: not world.living(killed), f"{world.agent_id} ends")
                continue
            living = world.living(killed)
            if not living:
                continue  # it came to its end just now
            pid = living[-1]
            if self._random.random() < RIVALRY:
                world.start()
                self.rivals += 1
            if self._random.random() < 0.8:
                self._wait_for_attach(world, pid)
                self._pause(LIFE_S_MAX)
            else:
                self._pause(BEGINNING_S_MAX)
            whom = self._random.choice(self.victims)
            if self._kill(world, pid, whom):
                self.kills[whom] += 1
            if whom in {"agent", "both"}:
                killed.add(pid)

    def _settled_or_alive(self, world: World, killed: set[int]) -> str:
        """Wait until there is a process to kill, or the agent is no one's to go on with."""
        found = ""

        def is_found() -> bool:
            nonlocal found
            found = "alive" if world.living(killed) else world.state()
            return found in {"alive", "completed", "parked"}

        wait_until(is_found, f"{world.agent_id} is resumed")
        return found

    def _wait_for_attach(self, world: World, pid: int) -> None:
        wait_until(
            lambda: (
                any(told[0] == str(pid) for told in world.told("attached"))
                or not world.is_alive(pid)
            ),
            f"process {pid} of {world.agent_id} attaches",
        )

    def _pause(self, seconds_max: float) -> None:
        """Let time pass: the one thing that is timed here is when somebody is killed."""
        threading.Event().wait(self._random.uniform(0, seconds_max))

    def _kill(self, world: World, pid: int, whom: str) -> bool:
        """Kill; tell whether a process of the agent was there to see it."""
        was_alive = world.is_alive(pid)
        steps: Sequence[Callable[[], None]]
        agent, daemon = (lambda: self._kill_agent(pid)), self.daemon.kill
        if whom == "agent":
            steps = [agent]
        elif whom == "daemon":
            steps = [daemon]
        elif whom == "both":
            steps = self._random.sample([agent, daemon], 2)
        else:
            steps = [lambda: self._kill_keeper(pid)]
        for step in steps:
            step()
            if len(steps) > 1 and self._random.random() < 0.5:
                self._pause(0.03)
        if whom in {"daemon", "both"}:
            self._pause(0.05)
            self.daemon.start()
            if self._random.random() < 0.2:  # once more, while it looks for whom to resume
                self._pause(0.05)
                self.daemon.kill()
                self.daemon.start()
                self.recovery_kills += 1
        return was_alive

    @staticmethod
    def _kill_agent(pid: int) -> None:
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [], PATIENCE_S)
        finally:
            os.close(process)

    @staticmethod
    def _kill_keeper(pid: int) -> None:
        """Kill who waits for the agent's process, which goes on; nobody does for the first."""
        keeper = parent_of(pid)
        if b"attempt_keeper" in _command_of(keeper):
            with contextlib.suppress(ProcessLookupError):
                os.kill(keeper, signal.SIGKILL)
