"""``agent-journal demo``: the promise of the journal, kept before one's eyes.

A daemon, an agent that works on real files, and writers that keep the disk
busy.  In the middle of a tool call, whose effect is done and not recorded yet,
agent and daemon are killed with SIGKILL.  The daemon is started again, and
nothing else: it finds the agent and resumes it.  Then all that anybody was told
is durable is looked for in the journal, and what the agent did is counted
outside of it.  What is printed is measured or counted: if an entry were lost,
or a step done twice, this would say so and exit with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

from ..client import connect
from ..clock import Clock
from ..errors import NotFoundError
from .demo_agent import AGENT_ID
from .demo_outside import read_outside
from .demo_processes import Daemon, Process, end_resumed
from .demo_report import Outage, Report
from .failures import CommandError, ExitCode, usage_error
from .terminal import harmless, standard_output

EXAMPLES: Final = """\
  agent-journal demo               # its agent looks at the current directory
  agent-journal demo --dir ~/src/app
  agent-journal demo --keep        # keeps the journal, to look at it later
"""

WRITERS: Final = 4
THINK_S: Final = 0.2
OUTAGE_S: Final = 0.4  # long enough for everybody to notice
KILL_TOOL: Final = "read_head"  # its answer is on its way when agent and daemon are killed
ANSWER_S: Final = 30.0  # how long that answer takes: nobody waits for it
RESUMED_S_MAX: Final = 30.0
LOOK_S: Final = 0.01
ALIVE: Final = "alive"
SOCKET_BYTES_MAX: Final = 107  # what the kernel takes


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="what the agent looks at; it only reads (default: here)",
    )
    parser.add_argument("--keep", action="store_true", help="keep the journal, and say where it is")


def run(arguments: argparse.Namespace) -> int:
    """Play it; return 0 only if nothing was lost."""
    directory = arguments.dir.resolve()
    if not directory.is_dir():
        raise usage_error(f"{arguments.dir} is not a directory", "agent-journal demo --dir .")
    with _interruptible(), _stage(keep=arguments.keep) as stage, Daemon(stage) as daemon:
        play = Play(stage, daemon, is_quiet=arguments.json)
        outage = play.run(directory)
        report = Report(daemon.socket, play.ledger, play.outside, outage)
        if arguments.json:
            report.print_json()
        else:
            report.print()
        daemon.stop()
        if arguments.keep and not arguments.json:
            play.tell_where()
    return ExitCode.OK if report.is_good else ExitCode.FAILED


class Play:
    """Who does what, and when agent and daemon are killed."""

    def __init__(self, stage: Path, daemon: Daemon, *, is_quiet: bool) -> None:
        self._stage = stage
        self._daemon = daemon
        self._is_quiet = is_quiet
        self._terminal = standard_output()
        self._clock = Clock()
        self.ledger: Final = stage / "writers.ledger"
        self.outside: Final = stage / "outside.ndjson"

    def run(self, directory: Path) -> Outage:
        """Let the agent work on *directory*, kill it and the daemon, start the daemon again."""
        answered_s = self._daemon.start()
        self._tell("daemon started", f"pid {self._daemon.pid}, answers after {_ms(answered_s)}")
        with self._writers() as writers:
            self._tell("writers started", f"{WRITERS} in pid {writers.pid}, to keep the disk busy")
            outage = self._first_attempt(directory)
            self._second_attempt(outage)
            writers.finish()
        return outage

    def _first_attempt(self, directory: Path) -> Outage:
        with self._agent(directory) as agent:
            self._tell("agent started", f"pid {agent.pid}, looks at the files of {directory}")
            for progress in agent.lines():
                if progress["done"] == KILL_TOOL:
                    return self._kill_and_restart(agent)
            agent.finish()
            raise agent.failure("ended before it could be killed")

    def _kill_and_restart(self, agent: Process) -> Outage:
        killed_pid = self._daemon.pid
        killed_us, killed_at = self._clock.wall_us(), self._clock.monotonic()
        self._daemon.kill()
        agent.kill()
        self._tell("agent killed", f"SIGKILL to pid {agent.pid}, amid a call of {KILL_TOOL},")
        self._tell("", "which has done its work; that was not recorded yet")
        self._tell("daemon killed", f"SIGKILL to pid {killed_pid}")
        threading.Event().wait(OUTAGE_S)
        found = "something" if self._daemon.answers() else "nothing"
        self._tell("", f"{_ms(self._clock.monotonic() - killed_at)} later {found} answers there")
        restarted_us, restarted_at = self._clock.wall_us(), self._clock.monotonic()
        answered_s = self._daemon.start()
        pid = self._daemon.pid
        self._tell("daemon restarted", f"pid {pid}, answers after {_ms(answered_s)}")
        return Outage(
            agent_pid=agent.pid,
            killed_pid=killed_pid,
            killed_us=killed_us,
            killed_at=killed_at,
            restarted_pid=pid,
            restarted_us=restarted_us,
            restarted_at=restarted_at,
        )

    def _second_attempt(self, outage: Outage) -> None:
        """Wait for what the daemon does, by itself."""
        resumed_pid = None
        with connect(self._daemon.socket) as journal:
            while True:
                try:
                    agent = journal.describe(AGENT_ID)
                except NotFoundError:
                    self._tell("agent lost", "the journal does not know it any more")
                    return  # the report finds out what else is gone
                if resumed_pid is None and (resumed_pid := self._resumed_pid()):
                    seconds = self._clock.monotonic() - outage.restarted_at
                    self._tell(
                        "agent resumed",
                        f"by the daemon, attempt {agent.attempts}, pid {resumed_pid}, "
                        f"{_ms(seconds)} after its start",
                    )
                if agent.is_terminal:
                    break
                if self._clock.monotonic() - outage.restarted_at > RESUMED_S_MAX:
                    hint = "agent-journal demo --keep, and agent-journal why demo-agent"
                    told = f"{AGENT_ID} is {agent.state} {RESUMED_S_MAX:g} s after the restart"
                    raise CommandError(told, hint)
                threading.Event().wait(LOOK_S)
        self._tell("agent ended", f"{agent.state}; what happened to it is not in its code")

    def _resumed_pid(self) -> int | None:
        """Return the pid of the second attempt, once it has done anything."""
        calls = read_outside(self.outside)
        return next((call["pid"] for call in calls if call["attempt"] > 1), None)

    def tell_where(self) -> None:
        """Say where the kept journal is, and how to look at it."""
        socket, database = self._daemon.socket, self._daemon.database
        self._terminal.line()
        self._terminal.line(f"the journal is kept in {self._stage}; to look at it:")
        self._terminal.line(f"  agent-journald --socket {socket} --database {database} &")
        self._terminal.line(f"  agent-journal -s {socket} agents")

    def _agent(self, directory: Path) -> Process:
        arguments = [
            *("--socket", str(self._daemon.socket)),
            *("--outside", str(self.outside)),
            *("--directory", str(directory)),
            *("--alive", str(self._stage / ALIVE)),
            *("--think-s", str(THINK_S)),
            *("--slow-tool", KILL_TOOL),
            *("--slow-s", str(ANSWER_S)),
        ]
        log = self._stage / "agent.log"
        return Process("the agent", "agent_journal.cli.demo_agent", arguments, log)

    def _writers(self) -> Process:
        arguments = [
            *("--socket", str(self._daemon.socket)),
            *("--ledger", str(self.ledger)),
            *("--writers", str(WRITERS)),
        ]
        log = self._stage / "writers.log"
        return Process("the writers", "agent_journal.cli.demo_writers", arguments, log)

    def _tell(self, what: str, how: str) -> None:
        if not self._is_quiet:
            self._terminal.line(f"{self._terminal.paint(f'{what:<17}', 'bold')} {harmless(how)}")
            self._terminal.flush()  # it is watched while it happens


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


@contextlib.contextmanager
def _stage(*, keep: bool) -> Iterator[Path]:
    """Make a directory for everything; remove it unless *keep*."""
    stage = Path(tempfile.mkdtemp(prefix="agent-journal-demo-"))
    if len(bytes(stage / "journal.sock")) > SOCKET_BYTES_MAX:  # a long TMPDIR
        stage.rmdir()
        stage = Path(tempfile.mkdtemp(prefix="agent-journal-demo-", dir="/tmp"))
    try:
        with (stage / ALIVE).open("w") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX)  # with us it ends, however we end: see demo_agent
            yield stage
    finally:
        end_resumed(stage)
        if not keep:
            shutil.rmtree(stage, ignore_errors=True)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Clean up whatever ends us: SIGTERM and a closed terminal as well as Ctrl-C."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in handled:  # a second one must not interrupt the cleaning up
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
