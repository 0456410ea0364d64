"""The command ``agent-journal``: one module per command, imported when it is asked for.

Whoever pipes ten thousand lines through a shell loop pays for the start ten
thousand times, so only the module of the command that was typed is imported,
and the client with it when it connects.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import importlib
import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, cast

from .. import __version__
from ..errors import ConfigError, JournalError
from .failures import CommandError, ExitCode, Failure, OutputError, failure_of
from .streams import discarding_output, prepare_streams
from .terminal import Terminal, harmless

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

COMMANDS: Final[dict[str, str]] = {
    "demo": "see agent and daemon killed, the agent resumed, nothing lost or done twice",
    "run": "run a program as an agent: it is started again when it crashes",
    "append": "record an event, or a stream of them from standard input",
    "ls": "list your agents, the newest first (also: agents)",
    "read": "show what an agent recorded",
    "show": "show an agent's story: attempts, steps, what was replayed",
    "trace": "export an agent's story as OpenTelemetry spans",
    "why": "say why an agent is not running, and what to do",
    "describe": "show what is known of one agent",
    "signal": "send an agent a signal that it waits for",
    "decide": "say what became of a step in doubt",
    "resume": "start an agent again, also a parked one",
    "park": "keep an agent from being resumed",
    "cancel": "end an agent for good",
    "fork": "make a new agent of another's first entries",
    "verify-replay": "see whether changed code still fits what an agent recorded",
    "compact": "remove the entries of a finished agent",
    "forget": "have an agent be gone, and nothing be left of it",
    "vacuum": "remove agents that ended long ago, or until the journal is small enough",
    "disk-usage": "show how much room the journal takes",
    "export": "write agents, with all that is kept of them, to a file",
    "import": "take in agents that were exported, or Symbiont's array of entries",
    "backup": "copy the whole journal while the daemon runs (its own user and root)",
    "restore": "put a backup in the place of the journal, while the daemon is stopped",
    "verify": "see whether the journal is what was written",
    "accept-loss": "go on with what is left of a damaged journal, which is kept aside",
    "log": "show entries by time, kind and text, with journalctl's flags",
    "tail": "show entries as they are recorded",
    "hook": "record what Claude Code's hooks tell, on standard input",
    "call": "send one raw request and print the raw reply",
    "ping": "see whether the daemon answers, and how fast",
    "stats": "show the daemon's counters",
    "top": "watch what the daemon is doing, live (q ends it)",
    "metrics": "print the daemon's counters for Prometheus",
    "doctor": "look at everything that the journal needs of this host; say what to do",
    "config": "check the configuration, show what holds and why, print the shipped file",
    "bench": "measure this host's durable appends a second, and how long one takes",
    "install": "install the service, man pages and completion, for you or for the host",
    "uninstall": "remove what install installed; the journal stays",
    "completion": "print the completion for bash, zsh or fish",
    "help": "show a manual page: of a command, config, protocol or agent-journald",
}

# For packagers; taken, and not listed.
HIDDEN: Final = {"man": "print a manual page, as roff"}

# A module can't be called as the language's own words are.
MODULES: Final = {"import": "import_agents"}

# Other names of commands, which are taken too and not listed.
ALIASES: Final = {"agents": "ls"}

WITH_PROGRAM: Final = frozenset({"run", "verify-replay"})

WAIT_S: Final = 10.0  # a daemon that restarts is back by then, a person still there
SECONDS_MAX: Final = 1e9
HELP_WIDTH: Final = 80
UNRECOGNIZED: Final = "unrecognized arguments: "  # as argparse begins it
GARBAGE_OBJECTS: Final = 20_000  # what a start makes stays; to look through it takes a tenth

EPILOG: Final = """\
examples:
  agent-journal demo
  agent-journal run -- ./nightly.sh          # resumed when it crashes
  agent-journal show report-42
  agent-journal why report-42                # why it does not run, what to type
  agent-journal append report-42 '{"Started": {"goal": "write the report"}}'
  agent-journal read report-42
  agent-journal tail --json | jq .event

The socket is the one of --socket, else $AGENT_JOURNAL_SOCKET, else your own
daemon's if it is there: $XDG_RUNTIME_DIR/agent-journal/journal.sock, or where
that is not set, and you are not root, /tmp/agent-journal-UID/journal.sock;
else the host's: /run/agent-journal/journal.sock.

exit codes (run has its program's own, or 126, 127 and 128+n as a shell):
  0 ok   1 failed   2 usage   3 daemon not running   4 no such agent
  5 refused (a conflict, a finished or unfinished agent, not allowed)
  6 the journal is damaged   75 try again   78 bad configuration
"""


class Command(Protocol):
    """What the module of a command offers."""

    EXAMPLES: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it; return the exit code."""


class _Parser(argparse.ArgumentParser):
    """Errors as everywhere here: what is wrong on one line, what to try on the next."""

    asked = ""  # the command that was typed, where it is not this parser that knows

    def error(self, message: str) -> NoReturn:
        asked = self.asked or self.prog
        hint = f"{asked} --help"
        if message.startswith(UNRECOGNIZED):
            from .unknown_options import nearest_option  # noqa: PLC0415 - only for who mistyped

            nearest = nearest_option(message.removeprefix(UNRECOGNIZED).split(), self)
            hint = f"{asked} {nearest}" if nearest else hint
        _print_failure(Failure(ExitCode.USAGE, message, hint))
        self.exit(ExitCode.USAGE)

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        # argparse would lose a help that cannot be written, and say nothing.
        (sys.stderr if file is None else file).write(message)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Knows the width, for which argparse would import half the library at every start."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(Terminal(sys.stdout).width or HELP_WIDTH, HELP_WIDTH))


def program() -> NoReturn:
    """Be the program: end as soon as all is said.

    The interpreter would take every module apart first, which takes a sixth of the time.
    """
    gc.set_threshold(GARBAGE_OBJECTS)
    exit_code = main()
    if threading.active_count() > 1:  # somebody is still at work
        sys.exit(exit_code)
    atexit._run_exitfuncs()  # noqa: SLF001 - what was asked for at the end is done
    with contextlib.suppress(OSError):  # the terminal is gone
        sys.stderr.flush()
    os._exit(exit_code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    prepare_streams()
    try:
        exit_code = _run(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()  # here, where a closed pipe is no traceback
    except KeyboardInterrupt:
        return discarding_output(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        return discarding_output(ExitCode.PIPE_CLOSED)
    except OSError as error:
        _print_failure(failure_of(error, command="", agent=None))
        return discarding_output(ExitCode.FAILED)
    return exit_code


def _run(argv: list[str]) -> int:
    argv = _by_its_name(argv)
    if misspelt := _unknown_command(argv):
        _print_failure(misspelt)
        return ExitCode.USAGE
    ours, program = _split(argv)
    try:
        arguments = _parser(ours).parse_args(ours)
    except SystemExit as finished:  # --help, --version, and errors already printed
        return finished.code if isinstance(finished.code, int) else ExitCode.OK
    if arguments.command is None:
        _parser(argv).print_help(sys.stderr)
        return ExitCode.USAGE
    if program is not None:
        arguments.argv = program
    try:
        return _command(arguments.command).run(arguments)
    except (BrokenPipeError, OutputError):
        raise
    except (CommandError, JournalError, ConfigError, OSError) as error:
        sys.stdout.flush()  # what was printed came before the error
        agent = getattr(arguments, "agent", None)
        failure = failure_of(error, command=arguments.command, agent=agent)
        _print_failure(failure)
        return failure.exit_code


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="agent-journal",
        description="Write to and look into the journal of this host's agents.",
        epilog=EPILOG,
        formatter_class=_Help,
        allow_abbrev=False,  # what works today by chance must not break with the next option
    )
    parser.add_argument("--version", action="version", version=f"agent-journal {__version__}")
    _add_shared(parser, socket=None, json=False, wait=WAIT_S)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, summary in {**COMMANDS, **HIDDEN}.items():
        # Only what was typed is made and imported; a second match is a word in an argument.
        if name not in argv:
            if name in COMMANDS:
                _list(commands, name, summary)
            continue
        listed: dict[str, Any] = {"help": summary} if name in COMMANDS else {}
        parser.asked = f"{parser.prog} {name}"
        command = commands.add_parser(
            name,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=_Help,
            allow_abbrev=False,
            **listed,
        )
        module = _command(name)
        module.configure(command)
        command.epilog = f"examples:\n{module.EXAMPLES}"
        # Suppressed, or the default here would undo the option before the command.
        unset = argparse.SUPPRESS
        _add_shared(command, socket=unset, json=unset, wait=unset)
    return parser


def _list(commands: argparse._SubParsersAction[_Parser], name: str, summary: str) -> None:
    """Have a command stand in the help; a parser for it would take a third of a millisecond."""
    line = commands._ChoicesPseudoAction(name, (), summary)  # noqa: SLF001 - as add_parser does
    commands._choices_actions.append(line)  # noqa: SLF001 - as above


def whole_parser() -> argparse.ArgumentParser:
    """Return the parser with the arguments of every command, for what is made from them."""
    return _parser([*COMMANDS, *HIDDEN])


def _add_shared(parser: argparse.ArgumentParser, **defaults: object) -> None:
    shared = parser.add_argument_group("everywhere")
    add = shared.add_argument
    add("-s", "--socket", metavar="PATH", default=defaults["socket"], help="the daemon's socket")
    add("--json", action="store_true", default=defaults["json"], help="print an object a line")
    add(
        "--wait",
        type=_seconds,
        metavar="SECONDS",
        default=defaults["wait"],
        help=f"how long to wait for a daemon that is busy, gone or hung (default: {WAIT_S:g})",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def _command(name: str) -> Command:
    module = MODULES.get(name, name.replace("-", "_"))
    return cast("Command", importlib.import_module(f".{module}", __package__))


def _first_word_at(argv: Sequence[str]) -> int | None:
    values = {at + 1 for at, word in enumerate(argv) if word in {"-s", "--socket", "--wait"}}
    words = (at for at, w in enumerate(argv) if at not in values and not w.startswith("-"))
    return next(words, None)


def _first_word(argv: Sequence[str]) -> str | None:
    at = _first_word_at(argv)
    return None if at is None else argv[at]


def _by_its_name(argv: list[str]) -> list[str]:
    """Return the command line with its command's own name in place of another one for it."""
    at = _first_word_at(argv)
    if at is None or argv[at] not in ALIASES:
        return argv
    return [*argv[:at], ALIASES[argv[at]], *argv[at + 1 :]]


def _split(argv: list[str]) -> tuple[list[str], list[str] | None]:
    """Return our own arguments and, where a program's stand behind ``--``, those.

    Left to argparse, a program's options would be taken for ours, or ours for its.
    """
    if _first_word(argv) not in WITH_PROGRAM or "--" not in argv:
        return argv, None
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def _unknown_command(argv: Sequence[str]) -> Failure | None:
    """Return what to say when the first word is no command; argparse would list them all."""
    word = _first_word(argv)
    if word is None or word in COMMANDS or word in HIDDEN:
        return None
    from .unknown_commands import hint_for  # noqa: PLC0415 - only for who mistyped

    hint = hint_for(word, (*COMMANDS, *ALIASES))
    return Failure(ExitCode.USAGE, f"there is no command {word!r}", hint)


def _print_failure(failure: Failure) -> None:
    with contextlib.suppress(OSError):  # nowhere to complain to
        terminal = Terminal(sys.stderr)
        prefix = terminal.paint("agent-journal:", "alarm")
        terminal.line(f"{prefix} {harmless(failure.what)}")
        terminal.line(f"{terminal.paint('try:', 'bold')} {harmless(failure.hint)}")
        terminal.flush()
