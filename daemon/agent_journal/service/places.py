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
from ..store.foreign import what_else
from .private_files import check_directory, check_file, make_private

BACKLOG: Final = 4096  # clients that wait while the daemon restarts; somaxconn cuts it
_CONNECT_SECONDS: Final = 1.0


# What may have passed when the daemon is started again, and is nothing that somebody chose.
_PASSING: Final = frozenset(
    {
        errno.EDQUOT,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOLCK,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.ESTALE,
    }
)


def is_passing(error: BaseException | None) -> bool:
    """Tell what a restart may cure from what a person has to."""
    return isinstance(error, OSError) and error.errno in _PASSING


def _unusable(what: str, error: OSError) -> ConfigError | StorageFailedError:
    """Return what to raise: a wrong place is for a person, a failing disk for a restart."""
    if is_passing(error):
        return StorageFailedError(f"{what}: {error.strerror}; the disk has failed, or is full")
    return ConfigError(
        f"{what}: {error.strerror}; choose another place with --socket or --database"
    )


class AlreadyRunningError(Exception):
    """Another daemon holds what this one wants."""


def private_directory(path: Path, *, mode: int = 0o700, may_be_shared: bool = False) -> None:
    """Have *path* exist; one that is made is for its owner only, but for *mode*.

    *may_be_shared*: others may have files of their own in it, as they may in /tmp.

    Raises:
        ConfigError: it cannot be made, or another user could tamper with it.
    """
    try:
        missing = [path, *path.parents]
        missing = [directory for directory in missing if not directory.exists()]
        for directory in reversed(missing):
            directory.mkdir(mode=0o700, exist_ok=True)
            if directory == path:
                directory.chmod(mode)
            _sync(directory.parent)
        check_directory(path, may_be_shared=may_be_shared)
    except OSError as error:
        raise _unusable(f"{path}: the directory cannot be made or used", error) from error


def check_journal(database: Path) -> None:
    """Refuse a file that is somebody's own, before anything is done to it.

    Raises:
        ConfigError: saying what it is.
    """
    kind = what_else(database)
    if kind is not None:
        raise ConfigError(
            f"{database} is not a journal ({kind}), and was left as it is; "
            "choose another place with --database"
        )


def check_writable(directory: Path) -> None:
    """Refuse a place where SQLite could make no file beside a journal that is there.

    Raises:
        ConfigError: saying which right is missing.
    """
    if os.access(directory, os.W_OK | os.X_OK):
        return
    try:
        mode = f", mode {stat.S_IMODE(directory.stat().st_mode):04o}"
    except OSError:
        mode = ""
    raise ConfigError(
        f"{directory}{mode}: uid {os.geteuid()} may make no files there, and a journal needs some "
        f"beside it; say chmod u+wx {directory}, or choose another place with --database"
    )


def private_journal(database: Path) -> list[Path]:
    """Have a database's files be for this user only; return those that were not.

    Raises:
        ConfigError: another user has, or could have, something to do with them.
    """
    try:
        return make_private(database)
    except OSError as error:
        raise _unusable(f"{database}: its files cannot be looked at", error) from error


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
        self._descriptor = _locked(path, what)
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


def _locked(path: Path, what: str) -> int:
    """Return a descriptor of the lock file that *path* names, and goes on naming."""
    while True:
        try:
            # Through a link that somebody put there, another file would be written to.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise _unusable(f"{path} cannot be opened", error) from error
        try:
            status = os.fstat(descriptor)
            check_file(path, status)
            _lock(descriptor, what)
            if os.path.samestat(status, path.lstat()):
                os.fchmod(descriptor, 0o600)
                return descriptor
        except FileNotFoundError:
            pass  # it was removed in between, and what is locked guards nothing
        except OSError as error:
            os.close(descriptor)
            raise StorageFailedError(f"{path} cannot be locked: {error.strerror}") from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, what: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
        raise AlreadyRunningError(
            f"{what} is in use by another agent-journald, pid {holder or 'unknown'}; "
            "stop that one, or choose another --socket and --database"
        ) from None


def listening_socket(path: Path, *, mode: int, group: str) -> socket.socket:
    """Return a socket that listens at *path*; its lock is held.

    Raises:
        AlreadyRunningError: something answers there.
        ConfigError: it cannot be made.
    """
    try:
        if path.exists() or path.is_symlink():
            _remove_stale(path)
    except OSError as error:
        raise _unusable(f"{path} cannot be looked at", error) from error
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
        if isinstance(error, OSError):
            raise _unusable(f"{path} cannot be listened on", error) from error
        raise ConfigError(f"{path} cannot be listened on: {error}") from error
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on, and nothing else."""
    status = path.lstat()
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigError(f"{path} exists and is no socket; remove it, or choose another --socket")
    if status.st_uid == os.geteuid() and not status.st_mode & stat.S_IWUSR:
        path.chmod(0o600)  # a daemon ended before it let anybody in; is there another?
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
