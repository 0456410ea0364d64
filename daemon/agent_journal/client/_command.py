"""How this process was started, so that it can be started again.

A resumed agent is run with the same arguments in the same directory.  Of the
environment only what is listed here goes into the journal, and what the program
names itself: an environment is full of secrets.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from ..errors import InvalidError

AGENT_VARIABLE: Final = "AGENT_JOURNAL_AGENT_ID"
ATTEMPT_VARIABLE: Final = "AGENT_JOURNAL_ATTEMPT"

# Where programs, modules, the user's files and the right language are found.
VARIABLES: Final = (
    "HOME",
    "LANG",
    "LANGUAGE",
    "LOGNAME",
    "PATH",
    "PYTHONPATH",
    "PYTHONUNBUFFERED",
    "PYTHONUTF8",
    "SHELL",
    "TMPDIR",
    "TZ",
    "USER",
    "VIRTUAL_ENV",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
)
PREFIXES: Final = ("LC_",)

# None records how this process was started, False records nothing.
Command: TypeAlias = Sequence[str] | Mapping[str, Any] | bool | None


def own_arguments() -> list[str] | None:
    """Return the arguments that start this program again; ``None`` where none can.

    A program typed at a prompt, or read from standard input, is not there a
    second time.
    """
    arguments = list(sys.orig_argv)
    if not arguments or not sys.argv or sys.argv[0] in {"", "-"}:
        return None
    # The interpreter's own path: the daemon searches another PATH.
    return [sys.executable or arguments[0], *arguments[1:]]


def command_of(command: Command, environment: Iterable[str]) -> dict[str, Any] | None:
    """Return what to record; *environment* names further variables to keep."""
    if command is False:
        return None
    if isinstance(command, Mapping):
        return dict(command)
    argv = own_arguments() if command is None or command is True else [*command]
    if argv is None:
        return None
    return {"argv": argv, "cwd": os.getcwd(), "env": allowed(os.environ, environment)}  # noqa: PTH109 - pathlib is slow to import


def allowed(environ: Mapping[str, str], named: Iterable[str]) -> dict[str, str]:
    """Return the variables of *environ* that may be recorded."""
    names = {*VARIABLES, *named}
    return {
        name: value for name, value in environ.items() if name in names or name.startswith(PREFIXES)
    }


def launched_agent() -> str | None:
    """Return the agent that the daemon launched this process for."""
    return os.environ.get(AGENT_VARIABLE) or None


def named_or_launched(agent_id: str | None) -> str:
    """Return *agent_id*, or the agent that this process was launched for.

    Raises:
        InvalidError: neither is there.
    """
    found = agent_id or launched_agent()
    if found is None:
        raise InvalidError(
            f"give an agent_id: this process was not launched for an agent (${AGENT_VARIABLE})",
            field="agent_id",
        )
    return found


def launched_attempt(agent_id: str) -> int | None:
    """Return the attempt that the daemon launched this process for, where it is *agent_id*'s."""
    attempt = os.environ.get(ATTEMPT_VARIABLE, "")
    return int(attempt) if launched_agent() == agent_id and attempt.isdecimal() else None
