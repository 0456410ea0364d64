"""An installation: what is to be there, beside what is, as the steps from one to the other.

It can be repeated: what is there already stays, what an older version left is replaced.
A file that somebody else wrote, or changed, is kept and said; nothing of that is asked.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .. import __version__
from .failures import CommandError, ExitCode
from .install_files import NewFile, check_visible, files_of, program_of
from .install_layout import Layout, below, layout_of
from .install_manifest import Manifest, digest, digest_at
from .install_steps import Step, mkdir_step, run_step
from .service_manager import UNITS, ServiceManager, lingers, user_name
from .whole_file import WholeFile

SERVICE: Final = "agent-journald.service"


def place_of(arguments: argparse.Namespace) -> tuple[Layout, Path]:
    """Return where to install, and below what.

    Raises:
        CommandError: only root may.
    """
    is_root = os.geteuid() == 0
    layout = layout_of(is_system=arguments.system or (is_root and not arguments.user))
    if arguments.root is not None:
        return layout, Path(arguments.root).absolute()
    if layout.is_system and not is_root and not arguments.dry_run:
        raise CommandError(
            "only root installs for the host", "the same with sudo, or agent-journal install --user"
        )
    return layout, Path("/")


def install_steps(arguments: argparse.Namespace) -> list[Step]:
    """Return every step of an installation.

    Raises:
        CommandError: it could not work, so nothing is begun.
    """
    layout, root = place_of(arguments)
    program = program_of("agent-journald")
    if arguments.program is not None:
        program = [str(arguments.program.absolute())]
    if layout.is_system:
        check_visible(program)
    installation = _Installation(layout, root, list(files_of(layout, program)))
    manager = ServiceManager(is_system=layout.is_system)
    steps = [*installation.file_steps()]
    if arguments.root is None:
        if manager.runs():
            _check_nobody_runs_it_by_hand(layout, manager)
            steps += installation.service_steps(manager, linger=not arguments.no_linger)
        else:
            steps.append(_not_started(layout))
    return [*steps, installation.manifest_step(), *_notes(layout, root)]


class _Installation:
    """What is to be there, beside what is."""

    def __init__(self, layout: Layout, root: Path, files: list[NewFile]) -> None:
        self._layout = layout
        self._root = root
        self._files = files
        self._before = Manifest.read(below(root, layout.manifest))
        known = self._before or Manifest()
        self._manifest = Manifest(
            version=__version__,
            files=dict(known.files),
            directories=[*known.directories],
            has_enabled_linger=known.has_enabled_linger,
        )
        self._has_new_units = False

    def file_steps(self) -> Iterator[Step]:
        """Yield what makes the files."""
        yield from self._directory_steps()
        yield Step(
            verb="write",
            what=str(self._at(self._layout.manifest)),
            why="what is installed, for uninstall",
            do=self._write_manifest,
        )
        for file in self._files:
            yield from self._file_steps(file)
        wanted = {str(file.path) for file in self._files}
        for name in sorted({*self._manifest.files} - wanted):
            yield from self._obsolete_steps(Path(name))

    def _directory_steps(self) -> Iterator[Step]:
        made: set[Path] = set()
        for path in (self._layout.manifest, *(file.path for file in self._files)):
            for directory in reversed(path.parents):
                if directory in made or self._at(directory).is_dir():
                    continue
                made.add(directory)
                self._manifest.directories.append(str(directory))
                yield mkdir_step(self._at(directory), self._layout.directory_mode)

    def _file_steps(self, file: NewFile) -> Iterator[Step]:
        path, name = self._at(file.path), str(file.path)
        there, wanted = digest_at(path), digest(file.content, leads_to=file.leads_to)
        is_ours = self._manifest.is_ours(file.path, self._root)
        if there == wanted:
            if is_ours:
                self._manifest.files[name] = [wanted]
            return
        if there == "" or is_ours:
            self._has_new_units |= file.path.name in UNITS
            self._manifest.files[name] = [*filter(None, [there]), wanted]
            leads = "" if file.leads_to is None else f" -> {file.leads_to}"
            yield Step(
                verb="link" if leads else "write" if there == "" else "update",
                what=f"{path}{leads}",
                do=lambda: _make(path, file),
            )
            return
        why = "changed since it was installed" if name in self._manifest.files else "not ours"
        yield Step(verb="keep", what=str(path), why=f"{why}; move it away to have it installed")

    def _obsolete_steps(self, path: Path) -> Iterator[Step]:
        """Yield what removes a file that an older version installed."""
        if self._manifest.is_ours(path, self._root):
            yield Step(verb="remove", what=str(self._at(path)), do=self._at(path).unlink)
        self._manifest.files.pop(str(path))

    def service_steps(self, manager: ServiceManager, *, linger: bool) -> Iterator[Step]:
        """Yield what has systemd run it."""
        if self._layout.is_system:
            yield run_step(["systemd-sysusers", "agent-journal.conf"])
            yield run_step(["systemd-tmpfiles", "--create", "agent-journal.conf"])
        yield run_step(manager.command("daemon-reload"))
        if not self._layout.is_system and linger and not lingers(os.getuid()):
            yield self._linger_step()
        yield run_step(manager.command("enable", "--now", *UNITS))
        if self._before and (self._has_new_units or self._before.version != __version__):
            why = "agents wait in the socket meanwhile"
            yield run_step(manager.command("try-restart", SERVICE), why=why)

    def _linger_step(self) -> Step:
        """Return the step that has the service run without a session.

        Only who turned it on turns it off again.
        """
        command = ["loginctl", "enable-linger", user_name(os.getuid())]
        step = run_step(command, why="it goes on when you log out", is_needed=False)
        do = step.do

        def remember() -> None:
            self._manifest.has_enabled_linger |= bool(do and do())

        return Step(verb=step.verb, what=step.what, why=step.why, do=remember)

    def manifest_step(self) -> Step:
        """Return the last step: what was made is known to be there."""

        def do() -> None:
            for name in self._manifest.files:
                there = digest_at(self._at(Path(name)))
                if there in self._manifest.files[name]:
                    self._manifest.files[name] = [str(there)]
            self._write_manifest()

        return Step(verb="done", what=f"agent-journal {__version__} is installed", do=do)

    def _write_manifest(self) -> None:
        self._manifest.write(self._at(self._layout.manifest))

    def _at(self, path: Path) -> Path:
        return below(self._root, path)


def _make(path: Path, file: NewFile) -> None:
    if file.leads_to is not None:
        path.unlink(missing_ok=True)
        path.symlink_to(file.leads_to)
        return
    with WholeFile(path) as whole:
        whole.stream.write(file.content)
        os.fchmod(whole.stream.fileno(), 0o644)


def _check_nobody_runs_it_by_hand(layout: Layout, manager: ServiceManager) -> None:
    """Refuse where the service could not get the journal.

    Raises:
        CommandError: a daemon that is not the service's has it.
    """
    from .closed_journal import database_in, holder_of  # noqa: PLC0415 - the daemon's configuration

    if manager.ask("is-active", SERVICE) == "active":
        return
    holder = holder_of(database_in(layout))
    if holder is not None:
        raise CommandError(
            f"a daemon that is not the service has the journal, pid {holder}",
            f"kill -TERM {holder}, and then the same again",
            ExitCode.REFUSED,
        )


def _not_started(layout: Layout) -> Step:
    whose = "systemd" if layout.is_system else "your systemd"
    how = "" if layout.is_system else " (systemctl --user needs a session of yours)"
    what = f"{whose} does not run here{how}: nothing was enabled; agent-journald runs without it"
    return Step(verb="note", what=what)


def _notes(layout: Layout, root: Path) -> Iterator[Step]:
    if root != Path("/"):
        return
    if layout.is_system:
        yield Step(verb="note", what='who may journal: usermod -aG agents "$USER"')
    elif str(layout.programs) not in os.environ.get("PATH", "").split(":"):
        yield Step(verb="note", what=f"{layout.programs} is not in your PATH")
    yield Step(verb="note", what="agent-journal doctor says whether all is well")
