"""A journal's files while no daemon has them: where they are, and the lock that says so."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ..clock import Clock
from .failures import CommandError, ExitCode

if TYPE_CHECKING:
    from .install_layout import Layout


def add_database(parser: argparse.ArgumentParser) -> None:
    """Add ``--database``."""
    parser.add_argument(
        "--database",
        type=Path,
        metavar="PATH",
        help="the journal's database (default: the one that agent-journald would take)",
    )


def database_of(arguments: argparse.Namespace) -> Path:
    """Return where the journal is kept."""
    if arguments.database is not None:
        return Path(arguments.database).absolute()
    from ..service import config as configuration  # noqa: PLC0415 - the daemon's, and only now

    uid = os.geteuid()
    config = configuration.load(None)
    return config.database or configuration.default_database(os.environ, uid=uid)


def database_in(layout: Layout) -> Path:
    """Return where the journal of a service is kept, by the configuration that it reads."""
    from ..service import config as configuration  # noqa: PLC0415 - the daemon's, and only now

    environ = dict(os.environ)
    if layout.is_system:
        environ |= {"CONFIGURATION_DIRECTORY": str(layout.configuration)}
        environ |= {"STATE_DIRECTORY": str(layout.state)}
    config = configuration.load(None, environ=environ)
    return config.database or configuration.default_database(environ, uid=os.geteuid())


def holder_of(database: Path) -> str | None:
    """Return the pid of the daemon that has *database*; ``None`` where none is known to."""
    import fcntl  # noqa: PLC0415 - only where there are files to look at

    try:
        with database.with_name(database.name + ".lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read(32).decode("ascii", "replace").strip() or "unknown"
    except OSError:
        return None
    return None


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Keep daemons from the journal.

    Raises:
        CommandError: one has it; says which.
    """
    from ..service.places import AlreadyRunningError, Lock  # noqa: PLC0415 - only now

    check_owner(database)
    try:
        lock = Lock(database.with_name(database.name + ".lock"), str(database))
    except AlreadyRunningError as error:
        from .daemon_commands import how_to_stop  # noqa: PLC0415 - seldom, and looks around

        what = str(error).partition(";")[0]
        stop = how_to_stop(holder_of(database) or "unknown")
        raise CommandError(what, stop, ExitCode.REFUSED) from None
    try:
        yield
    finally:
        lock.close()


def check_owner(database: Path) -> None:
    """Refuse to make files that the journal's daemon could not use.

    Raises:
        CommandError: the journal is another user's.
    """
    try:
        owner = (database if database.exists() else database.parent).stat().st_uid
    except OSError as error:
        raise CommandError(
            f"{database.parent}: {error.strerror}", "another --database", ExitCode.FAILED
        ) from None
    if owner != os.geteuid():
        raise CommandError(
            f"{database} belongs to uid {owner}, and you are uid {os.geteuid()}",
            f"the same as that user: sudo -u '#{owner}' agent-journal …",
            ExitCode.REFUSED,
        )


def aside_of(database: Path, what: str) -> Path:
    """Return a directory beside *database* that is not there yet, named after the time."""
    now = datetime.fromtimestamp(Clock().wall_us() / 1e6, UTC)
    stem = f"{database.name}.{what}-{now:%Y%m%dT%H%M%SZ}"
    aside = database.with_name(stem)
    number = 1
    while aside.exists():
        number += 1
        aside = database.with_name(f"{stem}-{number}")
    return aside
