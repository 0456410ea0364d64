"""All that the doctor looks at, in the order in which a person would."""

from __future__ import annotations

import argparse
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ..client import find_socket
from ..errors import JournalError
from .daemon_commands import HOST_DIRECTORY, how_to_run
from .doctor_daemon import (
    Answer,
    journal_for,
    look_at_agents,
    look_at_daemon,
    look_at_socket,
    why_there,
)
from .doctor_disk import look_at_file_system, look_at_rights, look_at_room, look_at_syncs
from .doctor_host import (
    database_of_process,
    look_at_clock,
    look_at_descriptors,
    look_at_sqlite,
    look_at_systemd,
    read_configuration,
)
from .finding import Finding, wrong
from .service_manager import ServiceManager


def findings(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Yield what was found, as soon as it was."""
    try:
        socket = Path(arguments.socket or find_socket()).absolute()
    except JournalError as error:
        yield wrong("socket", error.message, "ls -ld on it")
        return
    manager = ServiceManager(is_system=socket.parent == HOST_DIRECTORY)
    start = _how_to_start(manager, socket)
    yield look_at_socket(socket, why_there(arguments.socket), start)
    with closing(journal_for(socket)) as journal:  # entered, it would connect, or raise
        about_daemon, answer = look_at_daemon(journal, start)
        yield from about_daemon
        if answer is not None:
            yield from look_at_agents(journal)
    yield from _host(manager, answer, syncs=not arguments.no_fsync)


def _host(manager: ServiceManager, answer: Answer | None, *, syncs: bool) -> Iterator[Finding]:
    config, finding = read_configuration(is_system=manager.is_system)
    yield finding
    database = database_of_process(answer.pid) if answer else None
    if database is None:
        database = config.database or _default_database(is_system=manager.is_system)
    yield from look_at_rights(database)
    yield from look_at_file_system(database)
    yield look_at_room(database, config.commit.free_bytes_min)
    if syncs:
        yield look_at_syncs(database)
    version = answer.sqlite_version if answer else ""
    yield look_at_sqlite(version or sqlite3.sqlite_version, is_daemons=bool(version))
    yield look_at_clock()
    yield look_at_descriptors(answer.pid if answer else 0, config.limits.connections_max)
    yield from look_at_systemd(manager, answers=answer is not None)


def _default_database(*, is_system: bool) -> Path:
    from ..service import config as configuration  # noqa: PLC0415 - the daemon's, and only now
    from .install_layout import layout_of  # noqa: PLC0415 - as above

    if is_system:
        return layout_of(is_system=True).state / "journal.db"
    return configuration.default_database(os.environ, uid=os.geteuid())


def _how_to_start(manager: ServiceManager, socket: Path) -> str:
    """Return what to type where no daemon runs."""
    if not manager.runs():
        return how_to_run(socket)
    if (manager.ask("is-enabled", "agent-journald.socket") or "not-found") == "not-found":
        return f"agent-journal install {'--system' if manager.is_system else '--user'}"
    return " ".join(manager.command("start", "agent-journald.socket", "agent-journald.service"))
