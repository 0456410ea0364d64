"""Who is at the other end of a connection, by the kernel's word alone."""

from __future__ import annotations

import functools
import grp
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..model import OVERFLOW_UID, Uid

_UCRED: Final = struct.Struct("iII")  # pid, uid, gid: struct ucred, unix(7)
_SO_PEERGROUPS: Final = 59  # not in the socket module; unix(7) has it since Linux 4.13
_ANSWER_BYTES_MAX: Final = 1024  # of Python's getsockopt
_GROUPS_MAX: Final = 65_536  # NGROUPS_MAX, limits.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The process that connected, as it was when it did."""

    uid: Uid
    gid: int
    pid: int
    groups: frozenset[int]

    def is_admin(self, admin_group: str) -> bool:
        """Tell whether it may act in the namespaces of others."""
        if self.uid in (0, os.geteuid()):
            return True
        if not admin_group:
            return False
        try:
            gid = grp.getgrnam(admin_group).gr_gid
        except KeyError:
            return False
        # In a user namespace that is the group of everybody who has one that is not named there.
        return gid != overflow_gid() and (gid == self.gid or gid in self.groups)


def peer_of(connection: socket.socket) -> Peer:
    """Return who connected."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return Peer(uid=Uid(uid), gid=gid, pid=pid, groups=_groups_of(connection))


def _groups_of(connection: socket.socket) -> frozenset[int]:
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _ANSWER_BYTES_MAX)
    except OSError:
        raw = _long_answer(connection)
    return frozenset(struct.unpack(f"{len(raw) // 4}I", raw))


def _long_answer(connection: socket.socket) -> bytes:
    """Ask for more groups than ``socket.getsockopt`` has room for."""
    import ctypes  # noqa: PLC0415 - hardly anybody is in so many groups

    answer = ctypes.create_string_buffer(4 * _GROUPS_MAX)
    size = ctypes.c_uint(len(answer))
    failed = ctypes.CDLL(None).getsockopt(
        connection.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, answer, ctypes.byref(size)
    )
    return b"" if failed else answer.raw[: size.value]


def overflow_uid() -> Uid:
    """Return the uid by which this kernel calls those that it cannot name here."""
    return Uid(_overflow("uid"))


@functools.cache
def overflow_gid() -> int:
    """Return the gid by which this kernel calls the groups that it cannot name here."""
    return _overflow("gid")


def _overflow(what: str) -> int:
    try:
        return int(Path(f"/proc/sys/kernel/overflow{what}").read_text("ascii"))
    except (OSError, ValueError):
        return OVERFLOW_UID  # and the gid is the same number
