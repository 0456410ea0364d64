"""Whether a daemon's files are its user's alone, in places where nobody else can swap them.

Whoever may write to a directory can put another file in the place of any in it: a
write-ahead log of his own beside the database, say.  So the journal is kept where
nobody can but root and the daemon's user.  A socket may also stand in a directory
like /tmp, where nobody can take away or rename what is another's (it is sticky).

What is amiss is told and not mended, but for a journal's files that others could
read: those become private.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Final

from ..errors import ConfigError

_BESIDE: Final = ("-wal", "-shm", "-journal", "-sums")  # the files that belong to a database
_OTHERS: Final = 0o077


def real_path(path: Path) -> Path:
    """Return where *path* leads: there SQLite puts its files, beside the database.

    Raises:
        ConfigError: nowhere.
    """
    try:
        return path.resolve()
    except RuntimeError as error:
        raise ConfigError(f"{path} leads in a circle of links; choose another path") from error


def check_directory(path: Path, *, may_be_shared: bool) -> None:
    """Refuse a directory in which another could tamper with what is put there.

    *may_be_shared*: others may have files of their own in it, as they may in /tmp.

    Raises:
        ConfigError: saying who could.
        OSError: it cannot be looked at.
    """
    status = path.stat()
    for one in (path.lstat(), status):  # who made a link can have it lead elsewhere
        if one.st_uid not in (0, os.geteuid()):
            raise ConfigError(
                f"{path} belongs to uid {one.st_uid}, who could put something else in its place; "
                "choose another place with --socket or --database"
            )
    is_sticky = bool(status.st_mode & stat.S_ISVTX)
    if _is_open_to_others(status) and not (is_sticky and may_be_shared):
        is_for_all = is_sticky or status.st_uid != os.geteuid()
        mend = "" if is_for_all else f"say chmod go-w {path}, or "
        raise ConfigError(
            f"{path} can be written to by others, who could put something else in the place of "
            f"what is in it; {mend}choose another place with --socket or --database"
        )


def _is_open_to_others(status: os.stat_result) -> bool:
    """Tell whether anybody but root and its owner may write to a directory."""
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_own_group(status.st_gid)


def _is_own_group(gid: int) -> bool:
    """Tell whether a group is this user's own, as many hosts give one to each user."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    is_named_alike = (user.pw_gid, user.pw_name) == (gid, group.gr_name)
    return is_named_alike and {*group.gr_mem} <= {user.pw_name}


def make_private(database: Path) -> list[Path]:
    """Have a journal's files be this user's alone; return those that others could get at.

    SQLite gives the files that it makes beside a database the mode that this has, so
    one that was copied with another mode would have all of them be readable.

    Raises:
        ConfigError: one of them is another's, or is known by another name as well.
        OSError: they cannot be looked at.
    """
    tightened = []
    for path in [database, *(database.with_name(database.name + end) for end in _BESIDE)]:
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        check_file(path, status)
        if status.st_mode & _OTHERS:
            path.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS)
            tightened.append(path)
    return tightened


def check_file(path: Path, status: os.stat_result) -> None:
    """Refuse a file that is not this user's, under this name alone.

    Raises:
        ConfigError: saying what it is instead.
    """
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is not a file; remove it, or choose another place")
    if status.st_uid != os.geteuid():
        raise ConfigError(
            f"{path} belongs to uid {status.st_uid}, and this daemon runs as uid {os.geteuid()}; "
            "run it as that user, or give it the file (chown)"
        )
    if status.st_nlink > 1:
        raise ConfigError(
            f"{path} has another name as well (a hard link), under which it could be changed; "
            "remove that one, or make a copy and use it"
        )
