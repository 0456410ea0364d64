"""The files that a daemon holds: its directories, its locks, its socket.

There is one daemon per database and per socket.  Each is guarded by a lock file
beside it, held for life, with the daemon's pid in it; the kernel gives a lock
back when its holder dies, so a stale one is never in the way.  (Locking the
database itself would not do: closing any descriptor of it would unlock it.)
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import socket
import stat
from pathlib import Path
from typing import Final

from ..errors import ConfigError, StorageFailedError

BACKLOG: Final = 4096  # clients that wait while the daemon restarts; somaxconn cuts it
_CONNECT_SECONDS: Final = 1.0


class AlreadyRunningError(Exception):
    """Another daemon holds what this one wants."""


def private_directory(path: Path, *, mode: int = 0o700) -> None:
    """Have *path* exist; one that is made is for its owner only, but for *mode*.

    Raises:
        ConfigError: it cannot be made, or another user could tamper with it.
    """
    missing = [path, *path.parents]
    missing = [directory for directory in missing if not directory.exists()]
    try:
        for directory in reversed(missing):
            directory.mkdir(mode=0o700, exist_ok=True)
            if directory == path:
                directory.chmod(mode)
            _sync(directory.parent)
        status = path.stat()
    except OSError as error:
        raise ConfigError(
            f"{path}: the directory cannot be made or used: {error.strerror}; "
            "choose another place with --socket or --database"
        ) from error
    is_sticky = bool(status.st_mode & stat.S_ISVTX)
    if status.st_uid not in (0, os.geteuid()) or (
        status.st_mode & stat.S_IWOTH and not is_sticky and status.st_uid != os.geteuid()
    ):
        raise ConfigError(
            f"{path} belongs to uid {status.st_uid}, who could put something else in its place; "
            "choose another place with --socket or --database"
        )


def _sync(directory: Path) -> None:
    """Make a new name in *directory* survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Lock:
    """A lock file that is held until it is closed, or its holder dies."""

    def __init__(self, path: Path, what: str) -> None:
        """Take the lock that guards *what*.

        Raises:
            AlreadyRunningError: with the holder's pid.
            ConfigError: the lock file cannot be written.
        """
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be opened: {error.strerror}; "
                "choose another place with --socket or --database"
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 32).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise AlreadyRunningError(
                f"{what} is in use by another agent-journald, pid {holder or 'unknown'}; "
                "stop that one, or choose another --socket and --database"
            ) from None
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            # On a full disk there is still a journal to be read; the lock is held.
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise StorageFailedError(f"{path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Give the lock back; the file stays, since removing it would race."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def listening_socket(path: Path, *, mode: int, group: str) -> socket.socket:
    """Return a socket that listens at *path*; its lock is held.

    Raises:
        AlreadyRunningError: something answers there.
        ConfigError: it cannot be made.
    """
    if path.exists() or path.is_symlink():
        _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.setblocking(False)  # noqa: FBT003 - socket's own signature
    try:
        # Nobody may connect before mode and group are what they should be.
        before = os.umask(0o777)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        if group:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        path.chmod(mode)
        listener.listen(BACKLOG)
    except (OSError, KeyError) as error:
        listener.close()
        raise ConfigError(f"{path} cannot be listened on: {error}") from error
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on, and nothing else."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise ConfigError(f"{path} exists and is no socket; remove it, or choose another --socket")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(_CONNECT_SECONDS)
    try:
        probe.connect(str(path))
    except ConnectionRefusedError:
        path.unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise AlreadyRunningError(
            f"{path} is in use ({error.strerror or 'it does not answer'}); choose another --socket"
        ) from error
    else:
        raise AlreadyRunningError(f"something listens on {path}; choose another --socket")
    finally:
        probe.close()
