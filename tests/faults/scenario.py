"""What a daemon goes through while its system calls fail: a little of everything that it does.

One request at a time, so that its calls come in the same order each time, on
two connections.  ``Talk`` holds appends and compactions, whose every answer and
effect ``crash.model`` knows; ``Holding`` holds the rest: agents that are
attached to, told something, given up, forked, launched, parked and cancelled.
Each event has a token that is like no other's.

Nobody may be left waiting: a request is answered, or its connection ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agent_journal.testing.daemon import RawConnection, RunningDaemon
from crash.ledger import Attempt, Item, Name, Talk
from crash.snapshot import Stored, decode_tail_line

REPLY_S: Final = 20.0  # a request that takes longer hangs
MOMENT_S: Final = 3.0  # for what happens by itself, and may never where something failed

CONFIG: Final = """
[commit]
checkpoint_commits = 3
free_bytes_min = 0

[resume]
start_with = "process"
attempts_max = 1
backoff_seconds_initial = 0.01
backoff_seconds_max = 0.02
per_second = 1000
"""
OTHER_CONFIG: Final = CONFIG.replace("checkpoint_commits = 3", "checkpoint_commits = 2")


class HangError(AssertionError):
    """A request was not answered, and its connection did not end either."""


@dataclass(slots=True)
class Deed:
    """A request of the holding kind, and what came of it."""

    message: dict[str, Any]
    token: str | None = None  # of the event that it records
    reply: dict[str, Any] | None = None  # None: the connection ended

    @property
    def agent(self) -> str:
        """The agent's id."""
        name: str = self.message["agent_id"]
        return name

    @property
    def is_done(self) -> bool:
        """Tell whether it was acknowledged."""
        return self.reply is not None and bool(self.reply["ok"])

    @property
    def is_certainly_not_done(self) -> bool:
        """Tell whether it was refused."""
        return self.reply is not None and not self.is_done and not self.is_in_doubt

    @property
    def is_in_doubt(self) -> bool:
        """Tell whether nobody knows."""
        if self.reply is None:
            return True
        return not self.reply["ok"] and self.reply["error"]["outcome"] == "unknown"


@dataclass(slots=True)
class Story:
    """All that was asked of one daemon between two starts, and what it answered."""

    talk: Talk
    deeds: list[Deed] = field(default_factory=list)
    tail: Tail | None = None
    problems: list[str] = field(default_factory=list)  # answers that are wrong in themselves

    def errors(self) -> list[dict[str, Any]]:
        """Return all errors that were answered."""
        lines = [json.loads(line) for line in bytes(self.talk.received).split(b"\n")[:-1]]
        lines += [deed.reply for deed in self.deeds if deed.reply is not None]
        return [line["error"] for line in lines if not line["ok"]]


class Tail(threading.Thread):
    """Follows the journal until its daemon ends."""

    def __init__(self, socket: Path) -> None:
        super().__init__(daemon=True)
        self.shown: list[tuple[Name, Stored]] = []
        self._connection = RawConnection(socket)
        self._connection.socket.settimeout(None)
        self._connection.send(b'{"op":"tail","uid":"*","from_position":0}\n')
        self.start()

    def run(self) -> None:
        """Follow."""
        with contextlib.suppress(OSError, EOFError), self._connection:
            while True:
                line = self._connection.line()
                if b'"ok":false' not in line[:40]:
                    self.shown.append(decode_tail_line(line))


def attempts(tag: str) -> list[Attempt]:
    """Return appends of several kinds, ends, and compactions."""
    uid = os.geteuid()
    made = iter(range(1000))

    def item(**members: Any) -> Item:
        text = f"{tag}.{next(made)}"
        event = {"Noted": {"t": text, "pad": "x" * 60}}
        if "ends" in members:
            event = {"Terminated": {"reason": "Completed", "t": text}}  # type: ignore[dict-item]
        return Item(event=json.dumps(event, separators=(",", ":")).encode(), **members)

    def one(name: str, *items: Item, **members: Any) -> Attempt:
        return Attempt(agent=(uid, f"{tag}-{name}"), items=items or (item(),), **members)

    keyed = one("a", item(key="k1"))
    return [
        one("a"),
        keyed,
        one("b", item(), item(key="g1"), item(iteration=7)),
        one("a", item(timestamp="2020-02-03T04:05:06.000007Z")),
        one("c", *[item() for _ in range(6)]),
        keyed,  # again: a duplicate
        one("b", expected_sequence=3),
        one("b", expected_sequence=3),  # a conflict
        one("c", item(ends="completed")),
        one("a", *[item(key=f"m{index}") for index in range(8)]),
        Attempt(agent=(uid, f"{tag}-c")),  # compact
        one("c"),
        one("d"),
        Attempt(agent=(uid, f"{tag}-a")),  # refused: it has not ended
        Attempt(agent=(uid, f"{tag}-d"), force=True),
        one("d", item(key="again")),
        one("e", *[item() for _ in range(15)]),
        one("b"),
        one("e", item(ends="completed")),
        one("a"),
    ]


class Actor:
    """Goes through it, on whatever daemon there is, until it ends or is dead."""

    def __init__(self, daemon: RunningDaemon, tag: str) -> None:
        self.story = Story(Talk.of(tag, attempts(tag)))
        self._daemon = daemon
        self._tag = tag
        self._tokens = iter(range(1000))
        self._is_over = False

    def perform(self) -> Story:
        """Ask for everything, as far as the daemon lives."""
        talk = self.story.talk
        with contextlib.ExitStack() as stack:
            try:
                connections = [stack.enter_context(self._connect()) for _ in range(2)]
                self.story.tail = Tail(self._daemon.socket)
            except (OSError, EOFError) as error:
                talk.ended_by = repr(error)
                return self.story
            writer, holder = connections
            holding = self._holding(holder)
            for index in range(len(talk.lines)):
                self._append(writer, index)
                next(holding, None)
                if self._is_over:
                    break
            for _ in holding:
                if self._is_over:
                    break
        return self.story

    def _connect(self) -> RawConnection:
        return RawConnection(self._daemon.socket, timeout_s=REPLY_S)

    def _append(self, connection: RawConnection, index: int) -> None:
        talk = self.story.talk
        talk.sent = index + 1  # before it is sent: from here on it may be recorded
        line = self._ask(connection, talk.lines[index], f"request {index}")
        if line is None:
            talk.ended_by = "the end"
        else:
            talk.received += line + b"\n"
            self._look_at(json.loads(line))

    def _ask(self, connection: RawConnection, line: bytes, what: str) -> bytes | None:
        """Send *line*; return the answer, ``None`` where the connection ended."""
        if self._is_over:
            return None
        try:
            connection.send(line)
            return connection.line()
        except TimeoutError:
            raise HangError(f"{what} {line[:200]!r} was not answered in {REPLY_S:g} s") from None
        except (OSError, EOFError):
            self._is_over = True
            return None

    def _look_at(self, reply: dict[str, Any]) -> None:
        if reply["ok"]:
            return
        error = reply["error"]
        if error["code"] == "storage_full" and "room" not in error["message"]:
            self.story.problems.append(f"it does not say what to do: {error}")
        if error["code"] == "internal":
            self.story.problems.append(f"a defect was answered: {error}")

    def _do(self, connection: RawConnection, token: str | None = None, /, **message: Any) -> Deed:
        deed = Deed(message, token)
        line = (json.dumps({"uid": os.geteuid(), **message}) + "\n").encode()
        answer = self._ask(connection, line, message["op"])
        deed.reply = None if answer is None else json.loads(answer)
        if answer is not None:
            self._look_at(json.loads(answer))
        self.story.deeds.append(deed)
        return deed

    def _token(self) -> str:
        return f"{self._tag}.h{next(self._tokens)}"

    def _holding(self, connection: RawConnection) -> Iterator[None]:
        """Do one thing after the other, and let appends go between them."""
        held, launched = f"{self._tag}-held", f"{self._tag}-launched"
        attached = self._do(connection, op="attach", agent_id=held)
        yield
        epoch = (attached.reply or {}).get("epoch", 1)
        for _ in range(2):
            token = self._token()
            event = {"Noted": {"t": token}}
            self._do(
                connection, token, op="append", agent_id=held, epoch=epoch, event=event, iteration=1
            )
        yield
        command = {"argv": [shutil.which("true")], "cwd": "/", "env": {}}
        means = self._do(connection, op="attach", agent_id=launched, command=command)
        self._do(connection, op="detach", agent_id=launched, epoch=1)
        yield
        token = self._token()
        self._do(
            connection, token, op="signal", agent_id=held, name="go", payload={"t": token}, key="s1"
        )
        yield
        source = f"{self._tag}-b"
        self._do(
            connection, op="fork", agent_id=source, at_sequence=2, **{"as": f"{self._tag}-fork"}
        )
        yield
        if means.is_done:
            resumed = self._do(connection, op="resume", agent_id=launched)
            if resumed.is_done:
                self._wait_for_the_launch(connection, launched)
        yield
        self._read(connection)
        yield
        self._reload(connection)
        yield
        self._do(
            connection,
            op="detach",
            agent_id=held,
            epoch=epoch,
            wake_at="2099-01-01T00:00:00Z",
            wait_for=["never"],
        )
        yield
        self._do(connection, op="park", agent_id=f"{self._tag}-fork", reason="t")
        self._do(connection, op="cancel", agent_id=f"{self._tag}-fork", reason="t")
        yield
        self._read(connection)

    def _wait_for_the_launch(self, connection: RawConnection, agent_id: str) -> None:
        """Give the launched process the time to be started and to end."""
        deadline = time.monotonic() + MOMENT_S
        while time.monotonic() < deadline and not self._is_over:
            line = (json.dumps({"op": "describe", "agent_id": agent_id}) + "\n").encode()
            answer = self._ask(connection, line, "describe")
            if answer is None:
                return
            if json.loads(answer).get("agent", {}).get("state") == "parked":
                return
            time.sleep(0.005)

    def _reload(self, connection: RawConnection) -> None:
        """Change the configuration, as a person would."""
        if self._is_over:
            return
        behind = len(self._daemon.log)
        path: Path = self._daemon.configuration
        path.write_text(OTHER_CONFIG)
        self._daemon.reload()
        deadline = time.monotonic() + REPLY_S
        while not {"config_reloaded", "config_rejected"} & {*words(self._daemon.log[behind:])}:
            if self._ask(connection, b'{"op":"ping"}\n', "ping") is None:
                return
            if time.monotonic() > deadline:
                raise HangError("a reload of the configuration does not end")
            time.sleep(0.002)

    def _read(self, connection: RawConnection) -> None:
        """Read: what is answered must be what was recorded, or an error."""
        for op in ("agents", "stats", "ping", "hello"):
            self._ask(connection, f'{{"op":"{op}"}}\n'.encode(), op)
        name: Name = os.geteuid(), f"{self._tag}-b"
        line = f'{{"op":"read","agent_id":"{name[1]}"}}\n'.encode()
        answer = self._ask(connection, line, "read")
        if answer is None or not json.loads(answer)["ok"]:
            return
        events = [json.dumps(e["event"]) for e in json.loads(answer)["entries"]]
        for index, answered in enumerate(self.story.talk.replies()):
            attempt = self.story.talk.attempts[index]
            if answered.ok and not answered.duplicate and attempt.agent == name and attempt.items:
                first = answered.sequence or 0
                wanted = [json.dumps(json.loads(item.event)) for item in attempt.items]
                if events[first : first + len(wanted)] != wanted:
                    self.story.problems.append(f"a read does not show request {index}: {events}")


def words(log: str) -> list[str]:
    """Return the events in a log."""
    found = []
    for line in log.splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line)["event"])
    return found
