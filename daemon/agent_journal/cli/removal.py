"""The removal of an installation: what was made and is still so, and nothing else."""

from __future__ import annotations

import argparse
import os
import shutil
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from ..errors import ConfigError
from .failures import CommandError, ExitCode, usage_error
from .install_layout import Layout, below
from .install_manifest import Manifest, digest_at
from .install_steps import Step, run_step
from .installation import place_of
from .service_manager import UNITS, ServiceManager, user_name

BESIDE: Final = ("", "-wal", "-shm", "-journal", "-sums", ".lock")  # the journal's own files


def removal_steps(arguments: argparse.Namespace) -> list[Step]:
    """Return every step of the removal.

    Raises:
        CommandError: the journal would be deleted, and nobody has said that it may.
    """
    layout, root = place_of(arguments)
    if arguments.purge and not (arguments.yes or arguments.dry_run):
        raise usage_error(
            f"--purge deletes the journal in {below(root, layout.state)}, all that agents recorded",
            "agent-journal uninstall --purge --yes, or first agent-journal backup FILE",
        )
    database = _database_of(layout, root, is_needed=arguments.purge)
    removal = _Removal(layout, root)
    steps: list[Step] = []
    if arguments.root is None:
        steps += removal.service_steps(ServiceManager(is_system=layout.is_system))
    steps += removal.file_steps()
    if arguments.purge:
        steps += _purge_steps(layout, root, database)
    steps += removal.directory_steps()
    return [*steps, *_what_is_left(layout, root, database, is_purged=arguments.purge)]


def _database_of(layout: Layout, root: Path, *, is_needed: bool) -> Path:
    """Return where the journal is; that of another root is not looked for.

    Raises:
        ConfigError: the configuration does not say, and the journal is to be deleted.
    """
    default = below(root, layout.state / "journal.db")
    if root != Path("/"):
        return default
    from .closed_journal import database_in  # noqa: PLC0415 - the daemon's configuration

    try:
        return database_in(layout)
    except ConfigError:
        if is_needed:
            raise
        return default  # a mistake in it is no reason to stay installed


class _Removal:
    """What was made, beside what is still so."""

    def __init__(self, layout: Layout, root: Path) -> None:
        self._layout = layout
        self._root = root
        self._manifest = Manifest.read(below(root, layout.manifest))
        self._removed: set[Path] = set()

    def service_steps(self, manager: ServiceManager) -> Iterator[Step]:
        """Yield what has systemd forget it."""
        if self._manifest is None or not manager.runs():
            return
        yield run_step(
            manager.command("disable", "--now", *UNITS), why="what is queued is answered"
        )
        yield _socket_step(self._layout)
        # With them go the links that had them started, and the directories of these.
        for wants in self._layout.units.glob("*.wants"):
            self._removed |= {wants / unit for unit in UNITS}
            if {*wants.iterdir()} <= self._removed:
                self._removed.add(wants)

    def file_steps(self) -> Iterator[Step]:
        """Yield what removes the files that are as they were written, and the manifest last."""
        if self._manifest is None:
            yield Step(verb="note", what="nothing is installed here by agent-journal install")
            return
        for name in sorted(self._manifest.files):
            path = below(self._root, Path(name))
            if self._manifest.is_ours(Path(name), self._root):
                self._removed.add(path)
                yield Step(verb="remove", what=str(path), do=path.unlink)
            elif digest_at(path) != "":
                yield Step(verb="keep", what=str(path), why="changed since it was installed")
        manager = ServiceManager(is_system=self._layout.is_system)
        if self._root == Path("/") and manager.runs():
            yield run_step(manager.command("daemon-reload"), is_needed=False)
            if self._manifest.has_enabled_linger:  # the last: without a session it ends systemd
                command = ["loginctl", "disable-linger", user_name(os.getuid())]
                yield run_step(command, why="install enabled it", is_needed=False)
        manifest = below(self._root, self._layout.manifest)
        self._removed.add(manifest)
        yield Step(verb="remove", what=str(manifest), do=manifest.unlink)

    def directory_steps(self) -> Iterator[Step]:
        """Yield what removes the directories that were made and have nothing else in them."""
        made = [] if self._manifest is None else self._manifest.directories
        for name in sorted(made, key=len, reverse=True):
            path = below(self._root, Path(name))
            try:
                is_empty = {*path.iterdir()} <= self._removed
            except OSError:
                continue
            if is_empty:
                self._removed.add(path)
                yield Step(verb="rmdir", what=str(path), do=partial(_rmdir, path))


def _rmdir(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        return  # somebody has put something there meanwhile


def _socket_step(layout: Layout) -> Step:
    """Return the step that takes away the socket's file, which systemd leaves."""
    runtime = Path("/run") if layout.is_system else Path(os.environ.get("XDG_RUNTIME_DIR", "/"))
    path = runtime / "agent-journal" / "journal.sock"

    def do() -> None:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            except OSError:
                return  # it is gone, or nobody's to remove
        _rmdir(path.parent)

    return Step(verb="remove", what=str(path), why="nobody listens any more", do=do)


def _purge_steps(layout: Layout, root: Path, database: Path) -> Iterator[Step]:
    """Yield what deletes the journal: its own files, and none that it does not know."""
    from .closed_journal import holder_of  # noqa: PLC0415 - only where there is much to lose

    manager = ServiceManager(is_system=layout.is_system)
    is_stopped_first = root == Path("/") and manager.ask("is-active", UNITS[1]) == "active"
    holder = None if is_stopped_first else holder_of(database)
    if holder is not None:
        raise CommandError(
            f"a daemon has {database}, pid {holder}",
            f"kill -TERM {holder}, and then the same again",
            ExitCode.REFUSED,
        )
    for end in BESIDE:
        path = database.with_name(database.name + end)
        if path.is_file():
            yield Step(verb="delete", what=str(path), do=partial(path.unlink, missing_ok=True))
    attempts = database.with_name("attempts")
    if attempts.is_dir():
        yield Step(verb="delete", what=f"{attempts}/", do=lambda: shutil.rmtree(attempts))
    config = below(root, layout.configuration) / "config.toml"
    if config.is_file():
        yield Step(verb="delete", what=str(config), do=config.unlink)
    for directory in (database.parent, config.parent):
        if directory.name == "agent-journal" and directory.is_dir():
            why = "if nothing else is in it"
            yield Step(verb="rmdir", what=str(directory), why=why, do=partial(_rmdir, directory))


def _what_is_left(layout: Layout, root: Path, database: Path, *, is_purged: bool) -> Iterator[Step]:
    if is_purged:
        return
    if database.exists():
        yield Step(verb="note", what=f"the journal stays: {database}")
    config = below(root, layout.configuration) / "config.toml"
    if config.exists():
        yield Step(verb="note", what=f"the configuration stays: {config}")
    if layout.is_system:
        yield Step(verb="note", what="the user agent-journal and the group agents stay")
