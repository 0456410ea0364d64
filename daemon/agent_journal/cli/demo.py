"""``agent-journal demo``: the promise of the journal, kept before one's eyes.

A daemon, an agent that works on real files, and writers that keep the disk
busy; in the middle the daemon is killed with SIGKILL and started again.  Then
all that anybody was told is durable is looked for in the journal.  What is
printed is measured or counted: if an entry were lost, this would say so and
exit with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Final

from ..clock import Clock
from .demo_processes import Daemon, Process
from .demo_report import Outage, Report
from .failures import ExitCode, usage_error
from .terminal import harmless, standard_output

EXAMPLES: Final = """\
  agent-journal demo                    # its agent looks at the current directory
  agent-journal demo --dir ~/src/app
  agent-journal demo --keep             # keeps the journal, to look at it afterwards
"""

WRITERS: Final = 4
THINK_S: Final = 0.2
OUTAGE_S: Final = 0.4  # long enough for everybody to notice
KILL_ITERATION: Final = 3
KILL_EVENT: Final = "PolicyEvaluated"  # from here on the iteration's tools run
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
        report = Report(daemon.socket, play.ledgers, outage)
        if arguments.json:
            report.print_json()
        else:
            report.print()
        daemon.stop()
        if arguments.keep and not arguments.json:
            play.tell_where()
    return ExitCode.OK if report.is_good else ExitCode.FAILED


class Play:
    """Who does what, and when the daemon is killed."""

    def __init__(self, stage: Path, daemon: Daemon, *, is_quiet: bool) -> None:
        self._stage = stage
        self._daemon = daemon
        self._is_quiet = is_quiet
        self._terminal = standard_output()
        self._clock = Clock()
        self.ledgers: Final = [stage / "agent.ledger", stage / "writers.ledger"]

    def run(self, directory: Path) -> Outage:
        """Let the agent work on *directory*, kill the daemon under it, start it again."""
        outage = None
        answered_s = self._daemon.start()
        self._tell("daemon started", f"pid {self._daemon.pid}, answers after {_ms(answered_s)}")
        with self._writers() as writers, self._agent(directory) as agent:
            self._tell("writers started", f"{WRITERS} in pid {writers.pid}, to keep the disk busy")
            self._tell("agent started", f"pid {agent.pid}, looks at the files of {directory}")
            for progress in agent.lines():
                if outage is None and _is_time_to_kill(progress):
                    outage = self._kill_and_restart()
            agent.finish()
            if outage is None:
                raise agent.failure("ended before the daemon could be killed")
            self._tell("agent ended", "exit code 0; what happened to the daemon is not in its code")
            writers.finish()
        return outage

    def tell_where(self) -> None:
        """Say where the kept journal is, and how to look at it."""
        socket, database = self._daemon.socket, self._daemon.database
        self._terminal.line()
        self._terminal.line(f"the journal is kept in {self._stage}; to look at it:")
        self._terminal.line(f"  agent-journald --socket {socket} --database {database} &")
        self._terminal.line(f"  agent-journal -s {socket} agents")

    def _agent(self, directory: Path) -> Process:
        work = ["--directory", str(directory), "--think-s", str(THINK_S)]
        arguments = [*self._place(self.ledgers[0]), *work]
        log = self._stage / "agent.log"
        return Process("the agent", "agent_journal.cli.demo_agent", arguments, log)

    def _writers(self) -> Process:
        arguments = [*self._place(self.ledgers[1]), "--writers", str(WRITERS)]
        log = self._stage / "writers.log"
        return Process("the writers", "agent_journal.cli.demo_writers", arguments, log)

    def _place(self, ledger: Path) -> list[str]:
        return ["--socket", str(self._daemon.socket), "--ledger", str(ledger)]

    def _kill_and_restart(self) -> Outage:
        killed_pid = self._daemon.pid
        killed_us, killed_at = self._clock.wall_us(), self._clock.monotonic()
        self._daemon.kill()
        self._tell("daemon killed", f"SIGKILL to pid {killed_pid}, amid iteration {KILL_ITERATION}")
        threading.Event().wait(OUTAGE_S)
        found = "something" if self._daemon.answers() else "nothing"
        self._tell("", f"{_ms(self._clock.monotonic() - killed_at)} later {found} answers there")
        restarted_us, restarted_at = self._clock.wall_us(), self._clock.monotonic()
        answered_s = self._daemon.start()
        pid = self._daemon.pid
        self._tell("daemon restarted", f"pid {pid}, answers after {_ms(answered_s)}")
        return Outage(
            killed_pid=killed_pid,
            killed_us=killed_us,
            killed_at=killed_at,
            restarted_pid=pid,
            restarted_us=restarted_us,
            restarted_at=restarted_at,
        )

    def _tell(self, what: str, how: str) -> None:
        if not self._is_quiet:
            self._terminal.line(f"{self._terminal.paint(f'{what:<17}', 'bold')} {harmless(how)}")
            self._terminal.flush()  # it is watched while it happens


def _is_time_to_kill(progress: Mapping[str, object]) -> bool:
    return (progress["iteration"], progress["event"]) == (KILL_ITERATION, KILL_EVENT)


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
        yield stage
    finally:
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
