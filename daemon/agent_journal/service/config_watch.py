"""Live reload: a changed config file takes effect without a restart.

Two things are easily got wrong.  Editors do not write a file, they put another
one in its place, so it is the directory that is watched; and a file system
event is only ever a hint (the directory may be absent, be replaced, or hold a
symbolic link to a file elsewhere), so what decides is whether the file is
another one than the one last loaded.  An event makes that look happen at once,
a timer makes it happen anyhow.

How the pieces fit, in the composition root::

    path = arguments.config or default_config_file(os.environ, uid=os.geteuid())
    config = load(arguments.config)
    reloader = ConfigReloader(path, current=config, apply=apply, log=log, notify=notifier)
    loop.add_signal_handler(signal.SIGHUP, reloader.reload, "SIGHUP")
    tasks.create_task(
        watch(path, on_change=reloader.on_change, stop=stop, since=reloader.loaded)
    )

``current`` is what the file says: what the command line overrides is decided by
the caller and not put into it, or every reload would report it as a change.
``apply`` gets the options to run with from now on: live ones from the new file,
the others as they were.  It is called only when something live changed, and it
must not fail.  ``reloader.problem`` is the text for a status line while a bad
file waits to be corrected, else empty.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from types import EllipsisType
from typing import Final, NamedTuple, Protocol

import watchfiles
from structlog.typing import FilteringBoundLogger

from ..errors import ConfigError
from .config import Config, changes, in_force, load

QUIET_MS: Final = 200
"""How long the directory must rest before the file is read: a save is several events.

It is also how often the watching thread wakes up, and how late it sees the stop.
"""

LOOK_MS: Final = 5000
"""How often the file is looked at when no event says so."""

BUSY_LOOK_MS: Final = 500
"""How often it is looked at beside the journal, where events are not asked for.

Each write of each commit would be one, and wake the watching thread up: a tenth of all
the processor time that an entry costs.
"""


class FileState(NamedTuple):
    """What tells one state of a file from another."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


def file_state(path: Path) -> FileState | None:
    """Return the state of the file behind ``path``; None if there is none to be seen."""
    try:
        status = os.stat(path)  # noqa: PTH116 - the same, without a Path's overhead
    except OSError:
        return None
    return FileState(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )


async def watch(  # noqa: PLR0913 - they are what is known of one file
    path: Path,
    *,
    on_change: Callable[[], object],
    stop: asyncio.Event,
    since: FileState | EllipsisType | None = ...,
    look_ms: int = LOOK_MS,
    journal: Path | None = None,
) -> None:
    """Call ``on_change`` whenever the file is another one than before, until ``stop`` is set.

    ``since`` is the state that was loaded; without it, the one found now.  The directory
    of ``journal`` is not watched, but looked at now and then.
    """
    path = Path(os.getcwd(), path)  # noqa: PTH109 - a relative path has no parents to go up
    known = file_state(path) if since is ... else since
    async with aclosing(_hints(path, journal, stop=stop, look_ms=look_ms)) as hints:
        async for _ in hints:
            state = file_state(path)
            if state != known and not stop.is_set():
                known = state
                on_change()


async def _hints(
    path: Path, journal: Path | None, *, stop: asyncio.Event, look_ms: int
) -> AsyncGenerator[None, None]:
    """Yield whenever the file may have changed, until ``stop`` is set."""
    while not stop.is_set():
        yield  # for what happened while nothing was watched
        anchor = _anchor(path)
        if journal is not None and _anchor(journal).is_same(anchor):
            await _rest(stop, BUSY_LOOK_MS)
            continue
        events = watchfiles.awatch(
            anchor.directory,
            watch_filter=None,
            step=QUIET_MS,
            rust_timeout=look_ms,
            yield_on_timeout=True,
            stop_event=stop,
            recursive=False,
        )
        try:
            async with aclosing(events):
                async for _ in events:
                    yield
                    if _anchor(path) != anchor:
                        break
        except (OSError, RuntimeError):
            # It vanished just now, may not be read, or the user has no inotify
            # watch left: looking now and then does without one.
            await _rest(stop, look_ms)


async def _rest(stop: asyncio.Event, duration_ms: int) -> None:
    try:
        async with asyncio.timeout(duration_ms / 1000):
            await stop.wait()
    except TimeoutError:
        return


class _Anchor(NamedTuple):
    """The directory that is watched; a new one of the same name is another one."""

    directory: Path
    device: int
    inode: int

    def is_same(self, other: _Anchor) -> bool:
        """Tell whether both are one directory, whatever it is called."""
        return (self.device, self.inode) == (other.device, other.inode)


def _anchor(path: Path) -> _Anchor:
    """Return the file's directory or, while that does not exist, the nearest one above."""
    for directory in path.parents:
        try:
            status = os.stat(directory)  # noqa: PTH116
        except OSError:
            continue
        return _Anchor(directory, status.st_dev, status.st_ino)
    raise AssertionError("the root directory exists")


class ReloadNotifier(Protocol):
    """Who is told that a reload begins and ends: systemd."""

    def reloading(self) -> object:
        """Hear that a reload has begun."""

    def ready(self, status: str) -> object:
        """Hear that it has ended, and how."""


class ConfigReloader:
    """Loads the file again and says what came of it; a bad file changes nothing."""

    def __init__(
        self,
        path: Path,
        *,
        current: Config,
        apply: Callable[[Config], object],
        log: FilteringBoundLogger,
        notify: ReloadNotifier,
    ) -> None:
        self.current = current
        self.loaded = file_state(path)
        self.problem = ""
        self._path = path
        self._had_file = self.loaded is not None
        self._apply = apply
        self._log = log.bind(path=str(path))
        self._notify = notify

    def on_change(self) -> None:
        """Reload a file that changed, unless a SIGHUP was faster."""
        if file_state(self._path) != self.loaded:
            self.reload("file")

    def reload(self, reason: str) -> bool:
        """Take over what the file says now; return False where it was rejected."""
        self._notify.reloading()
        status = "config rejected"
        try:
            self.loaded = file_state(self._path)
            new = self._load()
        except ConfigError as error:
            status = self._reject(error, reason)
        else:
            status = self._accept(new, reason)
        finally:
            # Whatever came of it: systemd waits for this.
            self._notify.ready(status)
        return not self.problem

    def _load(self) -> Config:
        if self.loaded is None and not self._had_file:
            return Config()
        # Once there was a file its absence is an accident (an editor between two
        # steps, a package being replaced) and no wish for the defaults.
        new = load(self._path)
        self._had_file = True
        return new

    def _accept(self, new: Config, reason: str) -> str:
        live, needs_restart = changes(self.current, new)
        if live:
            self.current = in_force(self.current, new)
            self._apply(self.current)
        self.problem = ""
        say = self._log.warning if needs_restart else self._log.info
        say("config_reloaded", reason=reason, live=live, needs_restart=needs_restart)
        if needs_restart:
            return f"config reloaded; waits for a restart: {', '.join(needs_restart)}"
        return "config reloaded"

    def _reject(self, error: ConfigError, reason: str) -> str:
        problems = [line.removeprefix(f"{self._path}: ") for line in str(error).splitlines()]
        self.problem = f"config rejected, the former settings stay in force: {problems[0]}"
        self._log.error("config_rejected", reason=reason, problems=len(problems))
        for problem in problems:
            self._log.error("config_problem_found", problem=problem)
        return self.problem
