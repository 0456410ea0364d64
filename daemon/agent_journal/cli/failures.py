"""What a failure means to the one who typed the command: an exit code and a next step.

Every error of the wire is in one table here, so that none is met with a
traceback, and a script can tell "try again" (75) from "no such agent" (4)
without reading text.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from ..errors import ConfigError, JournalError
from ..value import Value


class ExitCode(IntEnum):
    """How a command ended; documented in ``agent-journal --help``."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    NO_SUCH_AGENT = 4
    REFUSED = 5
    DAMAGED = 6
    TRY_AGAIN = 75  # EX_TEMPFAIL
    BAD_CONFIG = 78  # EX_CONFIG
    NOT_EXECUTABLE = 126  # by run: as a shell reports it
    NOT_FOUND = 127  # by run: as a shell reports it
    INTERRUPTED = 130  # as a shell reports SIGINT
    PIPE_CLOSED = 141  # as a shell reports SIGPIPE


class Failure(Value):
    """One line that says what happened, one that says what to try."""

    exit_code: ExitCode
    what: str
    hint: str


class CommandError(Exception):
    """The command itself cannot go on; nothing was sent to the daemon for it."""

    def __init__(self, what: str, hint: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(what)
        self.failure = Failure(exit_code, what, hint)


class OutputError(OSError):
    """Standard output could not be written."""


def usage_error(what: str, hint: str) -> CommandError:
    """Return the error for a command line that makes no sense."""
    return CommandError(what, hint, ExitCode.USAGE)


# code → exit code, hint.  {agent} is the agent of the command line, if it has one;
# {start} what has a daemon listen.
FAILURES: Final[dict[str, tuple[ExitCode, str]]] = {
    "malformed": (ExitCode.USAGE, "check the JSON: one object, in UTF-8, without NaN or Infinity"),
    "invalid": (ExitCode.USAGE, "agent-journal {command} --help"),
    "unknown_op": (
        ExitCode.USAGE,
        """agent-journal call '{{"op":"hello"}}' shows the version that answers""",
    ),
    "unsupported_protocol": (
        ExitCode.FAILED,
        "agent-journal --version and agent-journald --version, and update the older one",
    ),
    "frame_too_large": (
        ExitCode.USAGE,
        "keep the large value in a file and record its path, or raise frame_bytes_max",
    ),
    "forbidden": (
        ExitCode.REFUSED,
        "ls -l on the socket, whose group may connect; only administrators may use --uid",
    ),
    "not_found": (ExitCode.NO_SUCH_AGENT, "agent-journal ls lists the ones you have"),
    "sequence_conflict": (
        ExitCode.REFUSED,
        "agent-journal describe {agent} shows its next sequence; somebody else may be writing",
    ),
    "key_conflict": (
        ExitCode.REFUSED,
        "agent-journal read {agent} shows what the key recorded; a new event needs a new key",
    ),
    "stale_epoch": (
        ExitCode.REFUSED,
        "stop this writer: another attempt owns the agent (agent-journal describe {agent})",
    ),
    "agent_attached": (
        ExitCode.REFUSED,
        "agent-journal why {agent}; its owner is alive and has to end first",
    ),
    "agent_finished": (
        ExitCode.REFUSED,
        "another agent id, or agent-journal compact {agent} to remove what it recorded",
    ),
    "agent_unfinished": (
        ExitCode.REFUSED,
        "agent-journal compact {agent} --force, if its entries may be lost",
    ),
    "parked": (
        ExitCode.REFUSED,
        "agent-journal why {agent} says the reason, agent-journal resume {agent} lets it go on",
    ),
    "overloaded": (ExitCode.TRY_AGAIN, "again in a moment, with fewer requests at once"),
    "too_many_connections": (
        ExitCode.TRY_AGAIN,
        "again in a moment; agent-journal stats shows the connections",
    ),
    "shutting_down": (ExitCode.TRY_AGAIN, "again in a moment, when the daemon is back"),
    "storage_full": (
        ExitCode.TRY_AGAIN,
        "make room on the journal's file system (df -h); reading still works",
    ),
    "damaged": (
        ExitCode.DAMAGED,
        "stop the daemon; agent-journal verify --offline, then restore a backup, or accept-loss",
    ),
    "storage_failed": (
        ExitCode.FAILED,
        "dmesg and the daemon's log; then agent-journal describe {agent} to see what was recorded",
    ),
    "connection_lost": (
        ExitCode.TRY_AGAIN,
        "agent-journal ping, and agent-journal read {agent} to see what was recorded",
    ),
    "daemon_not_running": (ExitCode.NOT_RUNNING, "{start}"),
    "not_answering": (
        ExitCode.TRY_AGAIN,
        "systemctl status agent-journald (--user for your own), and agent-journal doctor",
    ),
    "protocol_error": (ExitCode.FAILED, "another --socket: what answers there is not the daemon"),
}

# Commands that begin an agent: a list of those that are there is no help with a new name.
BEGINNING: Final = frozenset({"append", "run"})

# What to try where a command has its own answer to an error.
HINTS_OF_COMMANDS: Final[dict[tuple[str, str], str]] = {
    ("agent_unfinished", "forget"): "agent-journal forget {agent} --force, if it may be lost",
}

# Commands that change nothing: when the connection is lost, nothing is in doubt.
READING: Final = frozenset(
    {
        *("describe", "disk-usage", "doctor", "export", "log", "ls", "metrics", "ping"),
        *("read", "show", "stats", "tail", "top", "trace", "verify", "verify-replay", "why"),
    }
)


def failure_of(error: Exception, *, command: str, agent: str | None) -> Failure:
    """Return what to print for *error*, and the code to exit with."""
    match error:
        case CommandError():
            return error.failure
        case JournalError():
            return _journal_failure(error, command=command, agent=agent)
        case ConfigError():
            first, *more = str(error).splitlines()
            what = f"{first} (and {len(more)} more)" if more else first
            return Failure(ExitCode.BAD_CONFIG, what, "agent-journal config check")
        case OutputError():
            what = f"standard output could not be written: {error.strerror}"
            return Failure(ExitCode.FAILED, what, "another place for it, or room there (df -h)")
        case PermissionError():
            hint = "ls -l on it; you may lack the journal's group"
            return Failure(ExitCode.FAILED, _os_message(error), hint)
        case OSError():
            words = ["agent-journal", *filter(None, [command]), "--help"]
            return Failure(ExitCode.FAILED, _os_message(error), " ".join(words))
        case _:
            raise error


def _journal_failure(error: JournalError, *, command: str, agent: str | None) -> Failure:
    code = str(error.details.get("code", error.code))
    default = ExitCode.TRY_AGAIN if error.retryable else ExitCode.FAILED
    exit_code, hint = FAILURES.get(code, (default, "agent-journal {command} --help"))
    message, start = error.message, ""
    if code == "daemon_not_running":
        from .daemon_commands import how_to_start  # noqa: PLC0415 - seldom, and looks around

        message = message.partition(";")[0]  # the client's advice; ours stands on the next line
        start = how_to_start(str(error.details["socket"]))
    what = f"{message} ({code})"
    hint = HINTS_OF_COMMANDS.get((code, command), hint)
    if code == "connection_lost" and command in READING:
        hint = "agent-journal {command} again; agent-journal doctor, if that fails too"
    if "pid" in error.details and code == "not_answering":
        hint = (
            "ps -o pid,stat,etime,args -p {pid}; kill -CONT {pid} if its STAT is T, else restart it"
        )
    if error.details.get("field") == "agent_id" and command not in BEGINNING:
        hint = FAILURES["not_found"][1]
    if "retry_ms" in error.details:
        hint = f"again in {error.details['retry_ms']} ms, with fewer requests at once"
    elif "keys" in error.details and command == "append":
        hint = "the same again with --key {key}: recorded once, whatever became of this try"
    import shlex  # noqa: PLC0415 - only where something failed

    named = {
        "agent": shlex.quote(agent or "AGENT"),
        "key": shlex.quote(_key(error)),
        "pid": str(error.details.get("pid")),
        "start": start,
    }
    return Failure(exit_code, what, hint.format(command=command, **named))


def _key(error: JournalError) -> str:
    keys = error.details.get("keys")
    return str(keys[0]) if isinstance(keys, list) and keys else "KEY"


def _os_message(error: OSError) -> str:
    named = f"{error.filename}: " if error.filename else ""
    return f"{named}{error.strerror or error}"
