"""How a client may say that it is to be started again, and what of it is kept.

A command is run as the daemon's user, so it is kept only where daemon, client
and namespace are one uid; a daemon that serves others runs what its own
configuration names, and nothing that they say.  Environment variables are kept
as they were sent, but for secrets: the journal is read by more people, and kept
for longer, than an environment is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final

from ..errors import ForbiddenError, InvalidError
from ..model import Uid
from ..store.attachment import Command
from ..wire import check_agent_id
from ..wire_requests import Attach, CommandFields
from .operations import Caller

COMMAND_BYTES_MAX: Final = 128 * 1024
ARGUMENTS_MAX: Final = 1024

# What a program needs to be itself again; names of secrets are not among them.
_PLAIN: Final = re.compile(
    r"PATH|HOME|LANG|LC_[A-Z]+|TZ|VIRTUAL_ENV|PYTHONPATH|XDG_[A-Z_]+|USER|LOGNAME|SHELL|TERM"
)
_SECRET: Final = re.compile(r"secret|token|key|password", re.IGNORECASE)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def launch_means(caller: Caller, uid: Uid, request: Attach) -> tuple[str | None, Command | None]:
    """Return the launcher or the command that *request* names, if it may name it.

    Raises:
        InvalidError: naming the field.
        ForbiddenError: a command from one whose commands are not run.
    """
    launcher, fields = request.launcher, request.command
    if launcher is not None:
        if fields is not None:
            raise InvalidError('send "launcher" or "command", not both', field="command")
        check_agent_id(launcher, "launcher")
        if not caller.context.resumer.knows_launcher(launcher, uid):
            raise InvalidError(
                f'"launcher": the configuration names none called {launcher} for agents of uid '
                f"{uid}; it would be [launchers.{launcher}], with that user among its users",
                field="launcher",
            )
        return launcher, None
    if fields is None:
        return None, None
    if not caller.peer.uid == uid == os.geteuid():
        raise ForbiddenError(
            f"this daemon runs as uid {os.geteuid()} and starts commands of that uid alone; "
            'attach with "launcher", a name from [launchers] in the daemon\'s configuration'
        )
    return None, _checked(fields)


def _checked(fields: CommandFields) -> Command:
    argv, cwd = fields.argv, fields.cwd
    if not 1 <= len(argv) <= ARGUMENTS_MAX or not argv[0]:
        raise InvalidError(
            f'"command.argv" must be a program and its arguments, {ARGUMENTS_MAX} at the most',
            field="command.argv",
        )
    _check_texts(argv, "command.argv")
    if not cwd.startswith("/"):
        raise InvalidError('"command.cwd" must be an absolute path', field="command.cwd")
    _check_texts([cwd], "command.cwd")
    _check_environment(fields.env)
    size = sum(map(len, argv)) + len(cwd) + sum(len(n) + len(v) for n, v in fields.env.items())
    if size > COMMAND_BYTES_MAX:
        raise InvalidError(
            f'"command" is larger than {COMMAND_BYTES_MAX} bytes; keep what is large in a file',
            field="command",
        )
    return Command(tuple(argv), cwd, fields.env)


def _check_environment(env: Mapping[str, str]) -> None:
    for name, value in env.items():
        field = f"command.env.{name}"
        if not _NAME.fullmatch(name):
            raise InvalidError(f'"command.env": {name!r:.80} is no name', field="command.env")
        if _SECRET.search(name) and not _PLAIN.fullmatch(name):
            raise InvalidError(
                f'"{field}" looks like a secret, and the journal keeps what it is sent; '
                "let the program read it from where it is kept",
                field=field,
            )
        _check_texts([value], field)


def _check_texts(texts: list[str], field: str) -> None:
    if any("\0" in text for text in texts):
        raise InvalidError(f'"{field}" must not hold NUL', field=field)
