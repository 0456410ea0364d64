"""A journal whose every byte is fixed, and a terminal on which to look at it.

The agents are imported into a real daemon, which keeps what an import says: times,
pids, attempts, states.  Commands run in a child of this process, on a terminal of
its own or into a pipe, at a time that stands still.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import pty
import struct
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent_journal.cli import COMMANDS, MODULES, main, verbatim  # noqa: F401 - for the children
from agent_journal.clock import Clock
from agent_journal.testing.daemon import RunningDaemon

BEGIN = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
NOW = BEGIN + timedelta(minutes=30)

COMMAND = ["/usr/bin/python3", "nightly.py"]
TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "nightly.py", line 12, in <module>\n'
    '    rows = json.loads(page)["rows"]\n'
    "KeyError: 'rows'\n"
)
ATTACHMENT = {
    "command": {"argv": COMMAND, "cwd": "/home/ada", "env": {}},
    "incident": {},
}


class Told:
    """One agent, and what it recorded, half a second apart unless it is said otherwise."""

    def __init__(self, agent_id: str, minute: int, **agent: object) -> None:
        self.agent_id = agent_id
        self.agent = agent
        self.entries: list[dict[str, object]] = []
        self._at = BEGIN + timedelta(minutes=minute)

    def add(
        self, event: str, /, *, iteration: int = 0, after_ms: int = 500, **payload: object
    ) -> Told:
        if self.entries:
            self._at += timedelta(milliseconds=after_ms)
        self.entries.append(
            {
                "sequence": len(self.entries),
                "timestamp": stamp(self._at),
                "agent_id": self.agent_id,
                "iteration": iteration,
                "event": {event: payload},
            }
        )
        return self

    def attempt(self, number: int, *, launched: bool = False, after_ms: int = 500) -> Told:
        payload = {"attempt": number, "epoch": number, "launched": launched}
        return self.add("AttemptStarted", after_ms=after_ms, **payload, pid=4000 + number)

    def ended(self, number: int, **how: object) -> Told:
        return self.add("AttemptEnded", attempt=number, **how)

    def began(self, key: str, effect: str, iteration: int) -> Told:
        return self.add(
            "StepStarted",
            iteration=iteration,
            key=key,
            name=key.partition(":")[0],
            input_hash=f"hash of {key}",
            effect=effect,
            idempotency_key=f"aj-{key}",
        )

    def done(self, key: str, result: object, iteration: int, **more: object) -> Told:
        step = {"key": key, "name": key.partition(":")[0], "input_hash": f"hash of {key}"}
        return self.add("StepCompleted", iteration=iteration, **step, result=result, **more)

    def step(self, key: str, result: object, iteration: int, effect: str = "idempotent") -> Told:
        usage = {"usage": {"input_tokens": 812, "output_tokens": 96}} if "think" in key else {}
        self.began(key, effect, iteration)
        return self.done(key, result, iteration, duration_ms=431.5, **usage)

    def request(self) -> dict[str, object]:
        agent = {
            "agent_id": self.agent_id,
            "created_at": self.entries[0]["timestamp"],
            "entries": len(self.entries),
            **self.agent,
        }
        return {"op": "import", "agent": agent, "entries": self.entries}


def stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def agents() -> Iterator[Told]:
    """Tell of an agent in each of the states that an import can bring."""
    yield (
        Told("report-42", 0, state="completed", reason="Completed")
        .add("Started", goal="sum up the quarter", model="large-3")
        .add(
            "ReasoningComplete",
            iteration=1,
            thought="The figures are in two tables.",
            actions=[{"tool": "query"}, {"tool": "query"}],
        )
        .add(
            "PolicyEvaluated",
            iteration=1,
            allowed=["c1"],
            denied=[{"tool": "shell", "reason": "no shell here"}],
        )
        .add("ToolsDispatched", iteration=1, tools=["query"])
        .add(
            "ObservationsCollected",
            iteration=1,
            after_ms=2210,
            observations=[{"tool": "query", "result": [1204, 1310, 1388]}],
        )
        .add("Terminated", iteration=2, reason="Completed")
    )
    survivor = Told(
        "report-43",
        2,
        state="completed",
        kind="report",
        epoch=2,
        attempts=2,
        reason="Completed",
    )
    survivor.attempt(1).step("think:1", "look at the prices", 1)
    survivor.step("search:prices", {"pages": 3}, 1).began("search:rivals", "idempotent", 2)
    survivor.ended(1, how="signalled", signal="SIGKILL").attempt(2, launched=True, after_ms=1000)
    survivor.began("search:rivals", "idempotent", 2)
    survivor.done("search:rivals", {"pages": 5}, 2, duration_ms=904.0)
    yield survivor.add("Terminated", iteration=3, reason="Completed", result="three of five")
    parked = Told(
        "nightly-7",
        5,
        state="parked",
        kind="nightly",
        epoch=2,
        attempts=2,
        reason="gave up after 2 attempts that ended in the same way",
        attachment=ATTACHMENT,
    )
    for number in (1, 2):
        parked.attempt(number, launched=number > 1)
        parked.began("fetch:page-1", "read_only", 1)
        parked.ended(number, how="exited", exit_code=1, stderr=TRACEBACK)
    yield parked.add(
        "Parked", reason="gave up after 2 attempts that ended in the same way", stderr=TRACEBACK
    )
    doubtful = Told(
        "mail-9", 9, state="interrupted", kind="mail", epoch=1, attempts=1, attachment=ATTACHMENT
    )
    doubtful.attempt(1).step("draft:1", "Dear all", 1).began("send:call_9", "unsafe", 1)
    yield doubtful.ended(1, how="lost")
    yield (
        Told(
            "watch-1",
            12,
            state="waiting",
            kind="watch",
            epoch=1,
            attempts=1,
            attachment={**ATTACHMENT, "wait_for": ["approved"]},
        )
        .attempt(1)
        .step("look:1", "unchanged", 1)
        .ended(1, how="detached")
    )
    yield (
        Told("scrape-3", 15, state="failed", reason="StepLimitReached")
        .add("Started", goal="read all pages of the site")
        .add("StepLimitReached", iteration=40, after_ms=60_000)
        .add("Terminated", iteration=40, reason="StepLimitReached")
    )
    yield (
        Told("scrape-4", 18, state="cancelled", reason="not needed any more")
        .add("Started", goal="read all pages of the site")
        .add("Cancelled", reason="not needed any more", after_ms=4000)
    )
    yield (
        Told("live-5", 24, state="running")
        .add("Started", goal="答え: an answer with \x1b[2J and \x07 in it, " + "and so on " * 20)
        .add("Noted", iteration=1, n=1, text="as anybody names it", deep={"a": [1, {"b": None}]})
    )


def fill(daemon: RunningDaemon) -> None:
    """Import them."""
    for told in agents():
        reply = daemon.request(told.request())
        assert reply["ok"], reply


class At(Clock):
    """A clock that stands still."""

    def wall_us(self) -> int:
        return int(NOW.timestamp() * 1_000_000)


def shown(
    argv: Sequence[str],
    *,
    columns: int | None,
    environ: Mapping[str, str],
    directory: Path | None = None,
) -> tuple[str, int]:
    """Run a command line; return what it shows on a terminal, or into a pipe, and its end.

    ``< FILE`` at its end is what the shell takes it for.  In a child: Python's start
    alone would take longer than all that is looked at.
    """
    for name in COMMANDS:  # here once, and not in each child
        importlib.import_module(f"agent_journal.cli.{MODULES.get(name, name.replace('-', '_'))}")
    ours, theirs = pty.openpty() if columns is not None else os.pipe()
    if columns is not None:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    child = os.fork()
    if child == 0:
        _become(theirs, argv, environ, directory)
    os.close(theirs)
    text = bytearray()
    while data := _read(ours):
        text += data
    os.close(ours)
    _, status = os.waitpid(child, 0)
    return text.decode().replace("\r\n", "\n"), os.waitstatus_to_exitcode(status)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the terminal's other end is closed
        return b""


def _become(
    output: int, argv: Sequence[str], environ: Mapping[str, str], directory: Path | None
) -> None:
    """Be the command, in this child; does not return."""
    code = 70
    try:
        if directory is not None:
            os.chdir(directory)
        for descriptor in (0, 1, 2):
            os.dup2(output, descriptor)
        if argv[-2:-1] == ["<"]:
            os.dup2(os.open(argv[-1], os.O_RDONLY), 0)
            argv = argv[:-2]
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        os.environ.clear()
        os.environ.update({"TERM": "xterm", "TZ": "UTC", "PATH": "/usr/bin:/bin", **environ})
        time.tzset()
        Clock.wall_us = At.wall_us  # type: ignore[method-assign]  # in this child alone
        code = main(argv)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
