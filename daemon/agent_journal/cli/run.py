"""``agent-journal run``: a program that knows nothing of the journal, as an agent.

We attach to the agent, start the program, and stay until it ends:

- exit code 0 is recorded as ``Terminated``: the agent is completed;
- anything else is a crash: nothing is recorded, we exit as the program did, and
  the daemon, which sees its owner gone, runs this same command line again,
  within its limits (``agent-journal why`` tells); a person is told so;
- Ctrl-C is a person's wish and no crash: the agent is given up, and waits for
  ``agent-journal resume``;
- ``cancel``, ``park`` and a take-over reach the program too: it is ended.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from ..errors import AgentFinishedError, ForbiddenError, JournalError
from ..model import TERMINAL, AgentState
from .failures import CommandError, ExitCode, usage_error
from .terminal import Terminal, harmless

if TYPE_CHECKING:
    from ..client import Attached, Client
    from .child import Child

EXAMPLES: Final = """\
  agent-journal run -- ./nightly.sh
  agent-journal run --id report-42 --kind report -- python report.py --all
  agent-journal run --env LOG_LEVEL -- python agent.py   # its value is recorded
"""

NAME_LENGTH_MAX: Final = 60
INTERPRETERS: Final = re.compile(
    r"(python|pypy|node|deno|bun|ruby|perl|bash|dash|sh|zsh|env)[\d.]*"
)
# A person at the keyboard; whatever else ends the program, it is to be run again.
WISHES: Final = frozenset({signal.SIGINT, signal.SIGQUIT})
ENDING_WORDS: Final = frozenset({"Cancelled", "Parked", "AttemptStarted"})
PATIENCE_S: Final = 300.0  # for a daemon that is down when the program ends
GRACE_S: Final = 10.0  # for a program to end after SIGTERM
MISSED_MAX: Final = 100  # entries between attaching and following; there is hardly ever one
LOOK_AGAIN_S: Final = 5.0  # after the daemon could not be reached


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--id", metavar="ID", help="the agent's id (default: made of CMD's name)")
    parser.add_argument("--kind", metavar="KIND", help="what sort of agent it is, for limits")
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME",
        help="a variable to record with its value, so no secret, for when the agent is resumed; "
        "PATH, HOME and so on always are",
    )
    parser.add_argument(
        "--launcher", metavar="NAME", help="let this launcher of the daemon's start it again"
    )
    parser.add_argument(
        "--take-over", action="store_true", help="although the agent's owner is alive"
    )
    parser.set_defaults(argv=[])  # what stands behind -- is cut off before this looks
    parser.usage = f"{parser.prog} [--id ID] [--kind KIND] [--env NAME] … -- CMD …"


def run(arguments: argparse.Namespace) -> int:
    """Run the program as an agent; return its exit code."""
    argv: list[str] = arguments.argv
    if not argv:
        raise usage_error("there is no program to run", "agent-journal run -- CMD ARGUMENTS")
    from .child import checked_program  # noqa: PLC0415 - brings what only this command needs

    path = checked_program(argv[0], os.environ, told="; nothing was recorded")
    agent_id = arguments.id or derived_id(argv)
    from ..client import connect  # noqa: PLC0415 - as in every command

    # The end of hours of work is worth more patience than a command at the prompt.
    with connect(arguments.socket, retry_s=max(arguments.wait, PATIENCE_S)) as journal:
        attached, has_command = _attach(journal, arguments, agent_id, argv)
        _tell_beginning(agent_id, attached, is_derived=arguments.id is None)
        # Of what the daemon started itself it keeps the last lines: the program's own.
        is_launched = os.environ.get("AGENT_JOURNAL_AGENT_ID") == agent_id
        guard = Guard(journal, agent_id, attached, tells_crash=has_command and not is_launched)
        return guard.run(path, argv, _environment(arguments, agent_id, attached))


class Guard:
    """Watches over the program, and records how it ended."""

    def __init__(
        self, journal: Client, agent_id: str, attached: Attached, *, tells_crash: bool
    ) -> None:
        self._journal = journal
        self._agent_id = agent_id
        self._epoch = attached.epoch
        self._next_sequence = attached.next_sequence
        self._tells_crash = tells_crash

    def run(self, path: str, argv: Sequence[str], environ: Mapping[str, str]) -> int:
        """Start the program and wait for its end."""
        from .child import Child  # noqa: PLC0415 - see above

        try:
            child = Child(path, argv, environ)
        except OSError as error:
            # It never ran, and would not run the next time either.
            message = f"{path}: {error.strerror}"
            self._terminate({"reason": "NotStarted", "message": message})
            hint = "a first line like #!/bin/sh, or its interpreter before it"
            raise CommandError(message, hint, ExitCode.NOT_EXECUTABLE) from None
        socket = environ["AGENT_JOURNAL_SOCKET"]
        watch = Watch(socket, self._agent_id, child, from_sequence=self._next_sequence)
        watch.start()
        exit_code = child.wait()
        self._conclude(exit_code, child, watch.word, socket)
        return exit_code

    def _conclude(self, exit_code: int, child: Child, word: str | None, socket: str) -> None:
        if word is not None:
            _tell(f"{self._agent_id} was ended: {word}")
        elif exit_code == 0:
            self._terminate({"reason": "Completed", "exit_code": 0})
        elif WISHES & set(child.received):
            self._journal.detach(self._agent_id, self._epoch)
            _tell(f"{self._agent_id} waits; go on with: agent-journal resume {self._agent_id}")
        elif self._tells_crash and self._is_to_go_on(socket):
            how = f"exited with {exit_code}" if child.signal is None else f"died of {child.signal}"
            _tell(
                f"{self._agent_id} {how}; the daemon starts it again soon, "
                f"agent-journal cancel {self._agent_id} ends it"
            )

    def _is_to_go_on(self, socket: str) -> bool:
        """Tell whether nobody, the program itself or a person, has ended or parked the agent."""
        from .connection import SILENCE_S_MIN, client_for  # noqa: PLC0415 - as in every command

        try:  # a crash waits for no daemon
            with client_for(socket, retry_s=0, silence_s=SILENCE_S_MIN) as journal:
                state = journal.describe(self._agent_id).state
        except JournalError:
            return True  # as far as is known
        return state not in {*TERMINAL, AgentState.PARKED}

    def _terminate(self, payload: dict[str, object]) -> None:
        try:
            self._journal.append(self._agent_id, {"Terminated": payload}, epoch=self._epoch)
        except AgentFinishedError:
            return  # the program said so itself, or a person did


class Watch(threading.Thread):
    """Follows the agent's journal, to end the program when the agent is not ours any more."""

    def __init__(self, socket: str, agent_id: str, child: Child, *, from_sequence: int) -> None:
        super().__init__(daemon=True)
        self.word: str | None = None
        self._socket = socket
        self._agent_id = agent_id
        self._child = child
        self._from_sequence = from_sequence  # where the agent was ours; what follows is for us
        self._position: int | None = None

    def run(self) -> None:
        """Wait for the word, for as long as the program runs."""
        from ..client import connect  # noqa: PLC0415 - as in every command

        while not self._child.has_ended.is_set():
            try:
                with connect(self._socket) as journal:
                    self._follow(journal)
            except JournalError:
                self._child.has_ended.wait(LOOK_AGAIN_S)

    def _follow(self, journal: Client) -> None:
        last = MISSED_MAX if self._position is None else None
        for entry in journal.tail(self._agent_id, from_position=self._position, last=last):
            self._position = entry.position + 1
            if entry.sequence >= self._from_sequence and entry.name in ENDING_WORDS:
                payload = entry.payload if isinstance(entry.payload, dict) else {}
                self.word = _told(entry.name, payload.get("reason"))
                self._child.end(GRACE_S)
                return


def _told(name: str, reason: object) -> str:
    what = {"AttemptStarted": "another process took it over"}.get(name, name.lower())
    return f"{what} ({reason})" if isinstance(reason, str) and reason else what


def _attach(
    journal: Client, arguments: argparse.Namespace, agent_id: str, argv: Sequence[str]
) -> tuple[Attached, bool]:
    """Attach; return with it whether the daemon knows how to start the agent again."""
    from ..client._command import allowed  # noqa: PLC0415 - the same package's list

    arguments.agent = agent_id  # for the hints of what may go wrong
    how: dict[str, Any] = {"kind": arguments.kind, "take_over": arguments.take_over}
    if arguments.launcher is not None:
        return journal.attach(agent_id, launcher=arguments.launcher, **how), True
    command = {
        "argv": resume_line(arguments, agent_id, argv),
        "cwd": os.getcwd(),  # noqa: PTH109 - a text is wanted
        "env": allowed(os.environ, arguments.env),
    }
    try:
        return journal.attach(agent_id, command=command, **how), True
    except ForbiddenError:
        # A daemon of another user's runs no commands of ours; it may still record.
        attached = journal.attach(agent_id, **how)
        _tell("this daemon does not run commands of yours: after a crash, run this line again")
        return attached, False


def resume_line(arguments: argparse.Namespace, agent_id: str, argv: Sequence[str]) -> list[str]:
    """Return the command line that does this again, for this agent."""
    script = os.path.abspath(sys.argv[0])  # noqa: PTH100 - a text is wanted
    if os.path.basename(script) == "agent-journal" and os.access(script, os.X_OK):  # noqa: PTH119 - as above
        ourselves = [script]
    else:
        # -P: a module of the working directory must not stand in for one of Python's.
        ourselves = [sys.executable, "-P", "-m", __package__]
    options = ["--id", agent_id]
    options += ["--kind", arguments.kind] if arguments.kind is not None else []
    options += ["--launcher", arguments.launcher] if arguments.launcher is not None else []
    options += [word for name in arguments.env for word in ("--env", name)]
    return [*ourselves, "run", *options, "--", *argv]


def _environment(
    arguments: argparse.Namespace, agent_id: str, attached: Attached
) -> dict[str, str]:
    from ..client import find_socket  # noqa: PLC0415 - as in every command

    return {
        **os.environ,
        "AGENT_JOURNAL_SOCKET": os.path.abspath(arguments.socket or find_socket()),  # noqa: PTH100 - a text is wanted
        "AGENT_JOURNAL_AGENT_ID": agent_id,
        "AGENT_JOURNAL_ATTEMPT": str(attached.attempt),
        "AGENT_JOURNAL_EPOCH": str(attached.epoch),  # with it the program may append, too
    }


def derived_id(argv: Sequence[str]) -> str:
    """Return an id that nobody has, made of the program's name."""
    words = list(argv)
    name = PurePath(words[0]).name
    while words[1:] and INTERPRETERS.fullmatch(name):
        words = words[1:]
        while words[1:] and words[0].startswith("-"):
            words = words[1:]
        name = PurePath(words[0]).stem
    readable = re.sub(r"[^A-Za-z0-9._:@-]+", "-", name).strip("-._:@")[:NAME_LENGTH_MAX]
    return f"{readable or 'agent'}-{os.urandom(4).hex()}"


def _tell_beginning(agent_id: str, attached: Attached, *, is_derived: bool) -> None:
    if attached.attempt > 1:
        _tell(f"{agent_id}, attempt {attached.attempt}")
    elif is_derived:
        _tell(f"this is agent {agent_id}")


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone; the exit code tells as much
        terminal = Terminal(sys.stderr)
        terminal.line(f"{terminal.paint('agent-journal:', 'bold')} {harmless(text)}")
        terminal.flush()
