"""Those who use a daemon in a soak: each does one thing again and again, and checks it.

What a worker was told is held against what the daemon shows, agent by agent, so the
ledger of an hour fits into memory; a finished agent is compacted some time later, so
the journal stays about as large as it was, and what grows all the same stands out.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from agent_journal.client import Client, connect
from agent_journal.errors import JournalError
from agent_journal.testing.daemon import RawConnection, RunningDaemon

KEPT_AGENTS = 3  # finished ones that a writer leaves in the journal
LIFE_ENTRIES = 50
PIPELINED = 40
STEPS = 4

CRASHING_AGENT = """
import os, signal, sys
from agent_journal.client import connect

def work(number):
    with open(sys.argv[1], "a") as effects:
        effects.write(f"{number}\\n")
    return number

with connect() as journal, journal.agent(sys.argv[2], kind="crashing") as agent:
    for number in range(4):
        if number == 2 and agent.attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        agent.step(f"step-{number}", work, number, effect="idempotent")
"""


class Found:
    """What the workers saw; each counts for itself, and the sums are read when they rest."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self._lock = threading.Lock()

    def add(self, counts: Counter[str]) -> None:
        with self._lock:
            self.counts += counts

    def problem(self, text: str) -> None:
        with self._lock:
            self.problems.append(text)


class Worker(threading.Thread):
    """Repeats its turn until it is told to rest; a failure is a problem that was found."""

    def __init__(
        self, turn: Callable[[Worker], None], daemon: RunningDaemon, found: Found, name: str
    ) -> None:
        super().__init__(daemon=True, name=name)
        self.turn = turn
        self.daemon_process = daemon
        self.found = found
        self.random = Random(name)  # noqa: S311 - repeatable, not secret
        self.counts: Counter[str] = Counter()
        self.rest = threading.Event()

    @property
    def is_wanted(self) -> bool:
        return not self.rest.is_set()

    def run(self) -> None:
        try:
            while self.is_wanted:
                self.turn(self)
        except Exception as error:  # noqa: BLE001 - reported, whatever it is
            self.found.problem(f"{self.name}: {error!r}")
        finally:
            self.found.add(self.counts)

    def connect(self) -> Client:
        return connect(self.daemon_process.socket)

    def agent_id(self) -> str:
        """Return the id of an agent that nobody had."""
        return f"{self.name}-{self.random.getrandbits(64):016x}"


def check_agent(worker: Worker, journal: Client, agent_id: str, numbers: list[int]) -> None:
    """Hold what the daemon shows of an agent against what it acknowledged."""
    shown = [entry.payload for entry in journal.read(agent_id)]
    if shown[: len(numbers)] != numbers or len(shown) - len(numbers) not in {0, 1}:
        worker.found.problem(f"{agent_id}: {len(numbers)} acknowledged, and shown {shown}")
    worker.counts["checked"] += len(numbers)


def write_lives(worker: Worker) -> None:
    """Append to an agent until it ends, look whether all is there, and compact an older one."""
    finished: deque[str] = deque()
    with worker.connect() as journal:
        while worker.is_wanted:
            agent_id = worker.agent_id()
            for number in range(LIFE_ENTRIES):
                journal.append(agent_id, {"Noted": number}, iteration=number)
            journal.append(agent_id, {"Terminated": {"reason": "Completed"}})
            worker.counts["appended"] += LIFE_ENTRIES + 1
            check_agent(worker, journal, agent_id, [*range(LIFE_ENTRIES)])
            finished.append(agent_id)
            if len(finished) > KEPT_AGENTS:
                journal.compact(finished.popleft())
                worker.counts["compacted"] += 1
        for agent_id in finished:
            journal.compact(agent_id)
            worker.counts["compacted"] += 1


def reconnect(worker: Worker) -> None:
    """Send with keys and break off in the middle; then send the same again, elsewhere."""
    agent_id = worker.agent_id()
    lines = [
        json.dumps(
            {"op": "append", "agent_id": agent_id, "key": f"k-{n:04}", "event": {"Noted": n}}
        )
        for n in range(PIPELINED)
    ]
    data = "".join(f"{line}\n" for line in lines).encode()
    with RawConnection(worker.daemon_process.socket) as connection:
        begun = data[: worker.random.randrange(len(data))]
        connection.send(begun)
        connection.replies(min(worker.random.randrange(3), begun.count(b"\n")))
    with RawConnection(worker.daemon_process.socket) as connection:
        connection.send(data)
        replies = connection.replies(PIPELINED)
    if not all(reply["ok"] for reply in replies):
        worker.found.problem(f"{agent_id}: refused: {replies}")
    worker.counts["appended"] += PIPELINED
    worker.counts["repeated"] += sum(reply.get("duplicate", False) for reply in replies)
    worker.counts["reconnected"] += 1
    with worker.connect() as journal:
        check_agent(worker, journal, agent_id, [*range(PIPELINED)])
        journal.compact(agent_id, force=True)


def look_around(worker: Worker) -> None:
    """List agents, and describe and read some of them, who may be gone by then."""
    with worker.connect() as journal:
        while worker.is_wanted:
            for agent in journal.agents(limit=20, newest=True):
                with contextlib.suppress(JournalError):
                    journal.describe(agent.agent_id)
                    worker.counts["read"] += sum(1 for _ in journal.read(agent.agent_id))


def follow(worker: Worker) -> None:
    """Tail for a while: what is shown is durable and new, so positions only rise."""
    with RawConnection(worker.daemon_process.socket, timeout_s=0.5) as connection:
        connection.send_line({"op": "tail", "last": 5})
        position = -1
        for _ in range(500):
            with contextlib.suppress(TimeoutError):  # nobody appends just now
                entry = connection.reply()["entry"]
                if entry["position"] <= position:
                    worker.found.problem(f"{entry['position']} was shown behind {position}")
                position = entry["position"]
                worker.counts["followed"] += 1
            if not worker.is_wanted:
                return


def hold(worker: Worker) -> None:
    """Attach, record, give the agent up and attach again: the older epoch is fenced off.

    Without a command: whoever ends a soak must not have its daemon start another.
    """
    agent_id = worker.agent_id()
    with worker.connect() as journal:
        for number in range(STEPS):
            epoch = journal.attach(agent_id, kind="held").epoch
            journal.append(agent_id, {"Noted": number}, epoch=epoch)
            if epoch > 1:
                try:
                    journal.append(agent_id, {"Noted": -1}, epoch=epoch - 1)
                except JournalError as error:
                    is_fenced = error.code == "stale_epoch"
                else:
                    is_fenced = False
                if not is_fenced:
                    worker.found.problem(f"{agent_id}: epoch {epoch - 1} wrote beside {epoch}")
            journal.call({"op": "detach", "agent_id": agent_id, "epoch": epoch})
            worker.counts["attached"] += 1
        noted = [entry.payload for entry in journal.read(agent_id) if entry.name == "Noted"]
        if noted != [*range(STEPS)]:
            worker.found.problem(f"{agent_id}: shown {noted}")
        worker.counts["checked"] += STEPS
        journal.compact(agent_id, force=True)


def crash(worker: Worker) -> None:
    """Start an agent that kills itself in the middle; the daemon has it finish."""
    import subprocess  # noqa: PLC0415 - here alone

    agent_id = worker.agent_id()
    directory = worker.daemon_process.directory
    program, effects = directory / "crashing.py", directory / f"{agent_id}.effects"
    if not program.exists():
        program.write_text(CRASHING_AGENT)
    # Its own command, which is all that this daemon ever starts, ends by itself.
    environ = {"AGENT_JOURNAL_SOCKET": str(worker.daemon_process.socket)}
    subprocess.run([sys.executable, str(program), str(effects), agent_id], env=environ, check=False)
    with worker.connect() as journal:
        for entry in journal.tail(agent_id, from_position=0):
            if entry.name == "Terminated":
                break
            if entry.name == "Parked":
                worker.found.problem(f"{agent_id} was parked: {entry.payload}")
                return
        done = [int(line) for line in effects.read_text().split()]
        if done != [*range(STEPS)]:
            worker.found.problem(f"{agent_id}: steps took effect {done}")
        worker.counts["resumed"] += 1
        journal.compact(agent_id)
    effects.unlink()


def reload(worker: Worker) -> None:
    """Change a limit in the file and see it change in the daemon."""
    daemon = worker.daemon_process
    limit = worker.random.randrange(100, 10_000)
    draft = Path(f"{daemon.configuration}.new")
    draft.write_text(f"[limits]\nread_entries_max = {limit}\n")
    draft.replace(daemon.configuration)
    while worker.is_wanted:
        told: dict[str, Any] = daemon.request({"op": "hello"})["limits"]
        if told["read_entries_max"] == limit:
            worker.counts["reloaded"] += 1
            break
        worker.rest.wait(0.05)
    worker.rest.wait(0.5)


WORKERS: tuple[tuple[Callable[[Worker], None], int], ...] = (
    (write_lives, 6),
    (reconnect, 2),
    (look_around, 1),
    (follow, 2),
    (hold, 2),
    (crash, 1),
    (reload, 1),
)
