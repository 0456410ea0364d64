"""The composition root: puts the daemon together, runs it, takes it apart.

Opened in this order and closed in the reverse: locks, store, committer,
socket.  The socket is served last, so a client that is answered at all is
answered by a journal that has been checked.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

from .. import __version__
from ..clock import Clock
from ..errors import DamagedError, StorageFailedError, StorageFullError
from ..store.base import Store
from ..store.refusing import RefusingStore
from ..store.sqlite import SqliteStore
from . import logs
from .admission import Admission
from .attaching import keep_owners
from .attempt_output import AttemptFiles
from .committer import Committer
from .config import Config
from .config_watch import ConfigReloader, watch
from .context import Context
from .counting import count_agents
from .heads import Heads
from .launchers import Launchers
from .metrics import Metrics
from .places import (
    Lock,
    check_journal,
    check_writable,
    listening_socket,
    private_directory,
    private_journal,
)
from .private_files import real_path
from .recovery import bury, recover
from .redacting import boundary_of
from .retention import Retention
from .scrubbing import scrub
from .server import Server
from .supervisor import Supervisor
from .systemd import Notifier, inherited_socket, watchdog_interval
from .user_namespace import check_namespace

EXIT_OK: Final = 0
EXIT_IO: Final = 74  # EX_IOERR: a restart begins from what is on the disk

# The database's thread waits this long for the interpreter's lock at the most;
# Python's own 5 ms would be forty fsyncs.
SWITCH_INTERVAL_SECONDS: Final = 0.00001

# A collection in the middle of a batch is felt by everybody in it, and hardly
# anything here is cyclic.
GC_THRESHOLDS: Final = (100_000, 50, 100)

START_SECONDS_MAX: Final = 600.0  # a large WAL is copied into the database before all else
STALLED_SECONDS: Final = 20.0  # a commit that takes longer is no sign of life


class App:
    """A daemon, from its configuration to its exit code."""

    def __init__(
        self, config: Config, config_path: Path, *, socket_path: Path, database: Path
    ) -> None:
        self._config = config
        self._config_path = config_path
        self._socket_path = socket_path
        self._database = database
        self._clock = Clock()
        self._log: FilteringBoundLogger = structlog.get_logger()
        self._notifier = Notifier.from_environ(os.environ, clock=self._clock)
        self._stop = asyncio.Event()
        self._is_in_a_hurry = False
        self._context: Context | None = None
        self._supervisor: Supervisor | None = None

    async def run(self) -> int:
        """Serve until told to stop; return the exit code.

        Raises:
            AlreadyRunningError: another daemon holds the database or the socket.
            ConfigError: something that the configuration names cannot be used.
        """
        os.umask(0o077)
        private_directory(self._database.parent)
        self._database = real_path(self._database)
        private_directory(self._database.parent)
        check_journal(self._database)
        check_writable(self._database.parent)
        lock = Lock(self._database.with_name(self._database.name + ".lock"), str(self._database))
        try:
            for path in private_journal(self._database):
                self._log.warning("file_was_open_to_others", path=str(path))
            return await self._run_locked()
        finally:
            lock.close()

    async def _run_locked(self) -> int:
        given = inherited_socket(os.environ, pid=os.getpid())
        if given is not None:
            return await self._run_on(given)
        path = self._socket_path
        mode = int(self._config.access.socket_mode, 8)
        private_directory(path.parent, mode=0o711 if mode & 0o077 else 0o700, may_be_shared=True)
        lock = Lock(path.with_name(path.name + ".lock"), str(path))
        try:
            listener = listening_socket(path, mode=mode, group=self._config.access.socket_group)
            try:
                return await self._run_on(listener)
            finally:
                # One that is left behind is in nobody's way: the next start sees
                # that nobody listens on it.
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        finally:
            lock.close()

    async def _run_on(self, listener: socket.socket) -> int:
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        warning = check_namespace(listener)
        if warning is not None:
            self._log.warning("users_not_all_named", warning=warning)
        store = SqliteStore(self._database)
        # Before the store: a file that is edited during a long start is not missed.
        reloader = ConfigReloader(
            self._config_path,
            current=self._config,
            apply=self._apply,
            log=self._log,
            notify=self._notifier,
        )
        self._notifier.extend_timeout(START_SECONDS_MAX)
        try:
            await store.open()
        except DamagedError as error:
            # Not an exit: under socket activation the next client would start
            # us again, dozens of times a second, for the same damage.
            self._log.critical("journal_damaged", error=str(error), **error.details)
            refusing = RefusingStore(error)
            return await self._serve(listener, refusing, reloader, f"DAMAGED: {error}")
        try:
            code = await self._serve(listener, store, reloader, "ready")
            if code == EXIT_OK and not self._is_in_a_hurry:
                await self._tidy(store)
        finally:
            await store.close()
        return code

    async def _tidy(self, store: SqliteStore) -> None:
        """Leave a journal of one file behind, which the next start need not put in order."""
        try:
            await store.settle_all()
            await store.checkpoint()
        except (StorageFullError, DamagedError) as error:
            self._log.warning("stop_left_untidy", error=str(error))

    async def _serve(
        self, listener: socket.socket, store: Store, reloader: ConfigReloader, status: str
    ) -> int:
        clock = self._clock
        heads = Heads(store, clock)
        metrics = Metrics(clock.monotonic())
        committer = Committer(store, heads, metrics, clock, self._log)
        context = Context(
            config=self._config,
            store=store,
            heads=heads,
            committer=committer,
            admission=Admission(self._config.limits),
            metrics=metrics,
            clock=clock,
            log=self._log,
            boot_id=_boot_id(),
        )
        self._context = context
        retention = context.retention = Retention(context)
        supervisor = self._supervisor = self._make_supervisor(context, listener)
        self._apply(reloader.current)
        self._handle_signals(reloader)
        stop, has_failed = self._stop, False
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        try:
            async with asyncio.TaskGroup() as tasks:
                server = Server(context, tasks)
                writer = tasks.create_task(self._write(committer))
                watcher = tasks.create_task(
                    watch(
                        self._config_path,
                        on_change=reloader.on_change,
                        stop=stop,
                        since=reloader.loaded,
                        journal=self._database,
                    )
                )
                watchdog = tasks.create_task(self._feed_watchdog(committer))
                keeper = tasks.create_task(keep_owners(context))
                # Before anybody is served: who attaches finds the owners known.
                lost = await recover(context, supervisor)
                await server.listen(listener)
                self._notifier.ready(status)
                self._log.info(
                    "daemon_started",
                    version=__version__,
                    socket=listener.getsockname(),
                    database=str(self._database),
                )
                supervisor.begin(tasks)
                burial = tasks.create_task(bury(context, supervisor, lost))
                scrubber = tasks.create_task(self._scrub(context))
                counter = tasks.create_task(count_agents(context))
                retainer = tasks.create_task(retention.keep())
                await stop.wait()
                self._notifier.stopping("answering what is queued")
                scrubber.cancel()
                counter.cancel()
                retainer.cancel()
                burial.cancel()
                supervisor.close()
                server.stop()
                committer.close()
                await writer
                await server.close()
                keeper.cancel()
                watchdog.cancel()
                watcher.cancel()
        except* StorageFailedError as group:  # before anybody was served
            self._log.critical("daemon_failed", error=str(group.exceptions[0]))
            has_failed = True
        if has_failed or committer.failure is not None:
            return EXIT_IO
        self._log.info("daemon_stopped", entries=metrics.entries)
        return EXIT_OK

    async def _write(self, committer: Committer) -> None:
        """Commit what comes; where the store fails, stop.

        In order: everybody else is to be answered, and not cut off.
        """
        try:
            await committer.run()
        except StorageFailedError as error:
            self._log.critical("daemon_failed", error=str(error))
        except Exception:  # noqa: BLE001 - the last resort
            # Out of memory, or a defect: what the disk holds is what counts.
            self._log.exception("daemon_failed", database=str(self._database))
        self._stop.set()

    async def _scrub(self, context: Context) -> None:
        """Look at the journal's file, until something is wrong with it."""
        if isinstance(context.store, SqliteStore):
            damage = await scrub(context, context.store)
            if damage is not None:
                self._notifier.status(f"DAMAGED: {damage}")

    def _make_supervisor(self, context: Context, listener: socket.socket) -> Supervisor:
        files = AttemptFiles(self._database.parent / "attempts")
        launchers = Launchers(files, str(listener.getsockname()), context.boot_id)
        context.attempts = files
        context.resumer = supervisor = Supervisor(context, launchers, os.environ)
        return supervisor

    def _apply(self, config: Config) -> None:
        """Run with *config* from now on; what cannot change live is as it was."""
        logs.configure(config.log)
        context = self._context
        if context is None:
            return  # at the start: applied when everything is there
        context.config = config
        context.boundary = boundary_of(config.redaction)
        if context.retention is not None:
            context.retention.look()
        context.admission.limits = config.limits
        committer, commit = context.committer, config.commit
        committer.batch_entries_max = commit.batch_entries_max
        committer.batch_bytes_max = commit.batch_bytes_max
        if isinstance(context.store, SqliteStore):
            context.store.checkpoint_commits = commit.checkpoint_commits
            context.store.free_bytes_min = commit.free_bytes_min
        if self._supervisor is not None:
            self._supervisor.configure()

    def _handle_signals(self, reloader: ConfigReloader) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_on, number)
        loop.add_signal_handler(signal.SIGHUP, reloader.reload, "SIGHUP")

    def _stop_on(self, number: signal.Signals) -> None:
        """Stop; a second signal skips what only makes the next start faster."""
        self._is_in_a_hurry = self._stop.is_set()
        self._log.info("stop_requested", signal=number.name, in_a_hurry=self._is_in_a_hurry)
        self._stop.set()

    async def _feed_watchdog(self, committer: Committer) -> None:
        """Tell systemd that the loop turns and that no commit is stuck."""
        interval = watchdog_interval(os.environ, pid=os.getpid())
        while interval is not None:
            since = committer.busy_since
            if since is None or self._clock.monotonic() - since < STALLED_SECONDS:
                self._notifier.watchdog()
            await asyncio.sleep(interval)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return "unknown"
