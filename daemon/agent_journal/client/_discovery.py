"""Where the daemon's socket is.

What exists decides between the user's own daemon and the host's, so a client
looks once and then stays with what it found: while the user's daemon restarts,
the host's must not get its entries.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Final

from ..errors import ForbiddenError

SOCKET_VARIABLE: Final = "AGENT_JOURNAL_SOCKET"
HOST_SOCKET: Final = "/run/agent-journal/journal.sock"


def socket_path(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> str:
    """Return the path of the socket to connect to.

    Raises:
        ForbiddenError: the directory for it under /tmp is somebody else's.
    """
    if named := environ.get(SOCKET_VARIABLE):
        return named
    candidates = _candidates(environ, os.geteuid() if uid is None else uid)
    return next(filter(os.path.exists, candidates), candidates[0])


def _candidates(environ: Mapping[str, str], uid: int) -> list[str]:
    if runtime_directory := environ.get("XDG_RUNTIME_DIR"):
        return [f"{runtime_directory}/agent-journal/journal.sock", HOST_SOCKET]
    if uid == 0:
        return [HOST_SOCKET]
    directory = f"/tmp/agent-journal-{uid}"  # noqa: S108 - checked to be ours alone
    _check_private(directory, uid)
    return [f"{directory}/journal.sock", HOST_SOCKET]


def _check_private(directory: str, uid: int) -> None:
    """Refuse a directory that another user made, to be sent what is meant for the daemon."""
    try:
        found = os.lstat(directory)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o077:
        raise ForbiddenError(
            f"{directory} is not a directory of yours alone, so what listens there is not trusted; "
            f"remove it, or name the socket in ${SOCKET_VARIABLE}"
        )
