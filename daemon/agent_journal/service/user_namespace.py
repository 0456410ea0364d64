"""Whether the kernel can tell this daemon who its clients are.

Who connects is told by uid, as the daemon's own user namespace has it.  In the
host's namespace every user has one.  In another, whoever is not in its map is the
overflow uid, 65534: under ``PrivateUsers=yes`` that is everybody but root, and the
agents of different users would be one user's.  So 65534 is never served; and where
that would be most of those for whom the socket is open, the daemon does not start.

A container whose map names all users that it has is a host of its own: those
outside of it are refused, those inside are told apart.
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Final

from ..errors import ConfigError
from .peer import overflow_uid

UID_MAP: Final = Path("/proc/self/uid_map")
_EVERYBODY: Final = 2**32 - 1  # uids that there can be: the last number means "none"
_CONTAINER: Final = 65_534  # uids below the one that nobody has: what containers map
_OTHERS: Final = 0o066


def check_namespace(listener: socket.socket, *, uid_map: Path = UID_MAP) -> str | None:
    """Return what an administrator should know of this daemon's user namespace, if anything.

    Raises:
        ConfigError: those for whom the socket is open could not be told apart.
    """
    nobody = overflow_uid()
    if os.geteuid() == nobody:
        raise ConfigError(
            f"this daemon runs as uid {nobody}, which is what the kernel calls everybody whom it "
            "cannot name; run it as a user of its own"
        )
    named = named_uids(uid_map)
    if named >= _EVERYBODY:
        return None
    if named < _CONTAINER and _is_open_to_others(listener):
        raise ConfigError(
            f"this daemon is in a user namespace in which most users have no uid ({uid_map}), so "
            "it could not tell them apart; run it without PrivateUsers=, or outside of the "
            'namespace, or leave the socket to its own user (access.socket_mode = "0600", '
            "SocketMode=0600)"
        )
    return (
        "this daemon is in a user namespace: clients whose uid is not in its map appear as "
        f"uid {nobody} and are refused"
    )


def named_uids(uid_map: Path = UID_MAP) -> int:
    """Return how many uids, from 0 on, have a name here; where that can't be told, all."""
    try:
        lines = uid_map.read_text("ascii").splitlines()
    except OSError:
        return _EVERYBODY  # a kernel without user namespaces
    named = 0
    for first, _, count in sorted([int(word) for word in line.split()] for line in lines):
        if first <= named:
            named = max(named, first + count)
    return named


def _is_open_to_others(listener: socket.socket) -> bool:
    """Tell whether the socket's file lets more users connect than the one who has it."""
    name = listener.getsockname()
    if not isinstance(name, str) or not name:  # an abstract name has no mode
        return True
    try:
        return bool(stat.S_IMODE(Path(name).stat().st_mode) & _OTHERS)
    except OSError:
        return True
