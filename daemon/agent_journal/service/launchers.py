"""Starting an agent: what, in which surroundings, and how its end is learnt.

What is started was said by the client that attached (its own command, and only
where it is the daemon's own user), or by the configuration (a launcher that
the client named).  No shell sees any of it, and nothing but an agent's id and
the attempt's number, both validated, is put into a launcher's arguments.

An agent must not live in the daemon's cgroup: systemd would end it with the
daemon.  So where systemd runs and may be asked it is a unit of its own
(``launch_systemd``), and elsewhere a session of its own.  Either way an
``attempt_keeper`` holds it, so that the daemon learns how it ended even if it
was restarted in between.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from ..model import AgentId, Uid
from ..store.attachment import Command
from ..store.base import AgentRecord, Unfinished
from . import attempt_keeper
from .attempt_output import (
    AttemptFiles,
    Outcome,
    ProcessFile,
    outcome_of,
    process_of,
    stderr_end,
    withdraw,
)
from .config import Config
from .config_resume import AGENT_ID, ATTEMPT
from .launch_systemd import LaunchError, Systemd, output_of
from .processes import PidfdProcess, find_process

KILL_SECONDS: Final = 5.0
"""How long an agent that is to end may take before it is killed."""

PLAIN_VARIABLES: Final = frozenset(
    {
        "DBUS_SESSION_BUS_ADDRESS",
        "HOME",
        "LANG",
        "LANGUAGE",
        "LOGNAME",
        "NODE_PATH",
        "NVM_DIR",
        "PATH",
        "PYENV_ROOT",
        "PYENV_VERSION",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONHASHSEED",
        "PYTHONIOENCODING",
        "PYTHONPATH",
        "PYTHONUNBUFFERED",
        "PYTHONUTF8",
        "SHELL",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "TMPDIR",
        "TZ",
        "USER",
        "VIRTUAL_ENV",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_DIRS",
        "XDG_CONFIG_HOME",
        "XDG_DATA_DIRS",
        "XDG_DATA_HOME",
        "XDG_RUNTIME_DIR",
        "XDG_STATE_HOME",
    }
)
"""Variables that say where things are and in which language; what may be secret is not here."""

_PLAIN_PREFIX: Final = "LC_"
_KEEPER: Final = (sys.executable, "-I", "-S", attempt_keeper.__file__)


def plain_env(environ: Mapping[str, str], *, extra: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the variables of the daemon's that agents get; the others may be secrets."""
    return {
        name: value
        for name, value in environ.items()
        if name in PLAIN_VARIABLES or name.startswith(_PLAIN_PREFIX) or name in extra
    }


# --- what is to be started -----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What starts an agent: arguments, or a template unit."""

    argv: tuple[str, ...] = ()
    is_pattern: bool = False  # argv holds placeholders
    unit: str | None = None
    cwd: str = "/"
    env: Mapping[str, str]
    shown: list[str] | str  # for the journal: the command, or the launcher's name


class NoMeansError(Exception):
    """Nothing may start this agent; *is_final* where only a person can change that."""

    def __init__(self, reason: str, *, is_final: bool) -> None:
        super().__init__(reason)
        self.is_final = is_final


def means_for(record: AgentRecord, config: Config, environ: Mapping[str, str]) -> Means:
    """Return what starts an agent.

    Raises:
        NoMeansError: nothing does, or may.
    """
    attachment = record.attachment
    if attachment is None or not (attachment.launcher or attachment.command):
        raise NoMeansError("its client named nothing that starts it", is_final=False)
    if attachment.launcher is not None:
        return _launcher(record, attachment.launcher, config, environ)
    assert attachment.command is not None  # noqa: S101 - one of the two is there
    return _command(record.uid, attachment.command, config, environ)


def _command(uid: Uid, command: Command, config: Config, environ: Mapping[str, str]) -> Means:
    if uid != os.geteuid():
        raise NoMeansError(
            f"its command is uid {uid}'s, and this daemon, which runs as uid {os.geteuid()}, "
            "starts others' agents only by launchers that its configuration names",
            is_final=False,
        )
    return Means(
        argv=command.argv,
        cwd=command.cwd,
        env={**_passed(config, environ), **command.env},
        shown=list(command.argv),
    )


def _passed(config: Config, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the configuration says agents get of the daemon's environment."""
    return {name: environ[name] for name in config.resume.env if name in environ}


def _launcher(record: AgentRecord, name: str, config: Config, environ: Mapping[str, str]) -> Means:
    launcher = config.launchers.get(name)
    if launcher is None:
        raise NoMeansError(
            f"its launcher {name} is not in the configuration; "
            f"add [launchers.{name}] to it, then resume the agent",
            is_final=True,
        )
    if not launcher.is_for(record.uid):
        raise NoMeansError(
            f"[launchers.{name}] is not for agents of uid {record.uid}; "
            "name that user in its users, then resume the agent",
            is_final=True,
        )
    # Not the client's variables: those would let it choose what a launcher of
    # another user loads.
    env = plain_env(environ, extra=config.resume.env)
    if record.uid != os.geteuid():
        env["AGENT_JOURNAL_UID"] = str(record.uid)
    return Means(argv=launcher.argv or (), is_pattern=True, unit=launcher.unit, env=env, shown=name)


def filled(argv: tuple[str, ...], agent_id: AgentId, attempt: int) -> list[str]:
    """Return a launcher's arguments for one attempt."""
    return [word.replace(AGENT_ID, agent_id).replace(ATTEMPT, str(attempt)) for word in argv]


def sequence_of(record: Unfinished | AgentRecord) -> int:
    """Return where an agent's present attempt began."""
    return record.attachment.attempt_sequence if record.attachment is not None else 0


# --- what was started ----------------------------------------------------------------


class Attempt(Protocol):
    """An attempt that was launched."""

    @property
    def pid(self) -> int | None:
        """Who was started, where that is known."""
        ...

    @property
    def is_over(self) -> bool:
        """Tell whether its process has ended."""
        ...

    def watch(self, on_end: Callable[[], None]) -> None:
        """Have *on_end* called once, when it is over."""

    async def outcome(self) -> Outcome:
        """Return how it ended."""
        ...

    def end(self) -> None:
        """Make it end: ask, and kill it a little later."""

    def close(self) -> None:
        """Let go of it; it goes on."""


class KeptAttempt:
    """An attempt that has a keeper."""

    def __init__(self, directory: Path, process: ProcessFile, keeper: PidfdProcess | None) -> None:
        self._pid = process.pid
        self._directory = directory
        self._keeper = keeper
        self._kill: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """Who was started, as soon as its keeper has."""
        if self._pid is None:
            process = process_of(self._directory)
            self._pid = None if process is None else process.pid
        return self._pid

    @property
    def is_over(self) -> bool:
        """Tell whether its keeper has written down the end, or is gone without."""
        return self._keeper is None or not self._keeper.is_alive

    def watch(self, on_end: Callable[[], None]) -> None:
        """Have *on_end* called once, when it is over."""
        if self._keeper is None:
            asyncio.get_running_loop().call_soon(on_end)
        else:
            self._keeper.watch(on_end)

    async def outcome(self) -> Outcome:
        """Return how it ended, as far as that was written down."""
        found = outcome_of(self._directory)
        return found or Outcome(how="lost", stderr=stderr_end(self._directory))

    def end(self) -> None:
        """Ask the agent's process group to end, and kill it a little later."""
        if self._signal(signal.SIGTERM) and self._kill is None:
            loop = asyncio.get_running_loop()
            self._kill = loop.call_later(KILL_SECONDS, self._signal, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> bool:
        # While the keeper lives it has not reaped the agent, so the number is
        # the agent's and nobody else's.
        if self.is_over or self.pid is None:
            return False
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
        return True

    def close(self) -> None:
        """Let go of it; it goes on."""
        if self._kill is not None:
            self._kill.cancel()
        if self._keeper is not None:
            self._keeper.close()


class Launchers:
    """Starts attempts, and finds those again that were started before the daemon was."""

    def __init__(self, files: AttemptFiles, socket_path: str, boot_id: str) -> None:
        self._files = files
        self._socket_path = socket_path
        self._boot_id = boot_id
        self.systemd = Systemd()

    async def launch(self, record: AgentRecord, means: Means, config: Config) -> Attempt:
        """Start an attempt, which *record* says was counted.

        Raises:
            LaunchError: it could not be started; says why.
        """
        uid, agent_id, attempt = record.uid, record.agent_id, record.attempts
        if means.unit is not None:
            return await self.systemd.start_unit(means.unit, agent_id)
        spec: dict[str, Any] = {
            "argv": filled(means.argv, agent_id, attempt) if means.is_pattern else means.argv,
            "cwd": means.cwd,
            "env": {**means.env, **self._told(agent_id, attempt)},
            "output_bytes": config.resume.output_bytes,
            "sequence": sequence_of(record),
        }
        try:
            directory = await asyncio.to_thread(
                self._files.prepare, uid, agent_id, attempt, spec, kept=config.resume.outputs_kept
            )
        except OSError as error:
            raise LaunchError(f"no place for the attempt's output: {error}") from error
        if await self.systemd.is_wanted(config.resume.start_with):
            await self.systemd.run((*_KEEPER, str(directory)), uid, agent_id, attempt)
        else:
            await output_of((*_KEEPER, str(directory), "--detach"))
        found = self._kept(directory, sequence_of(record))
        if found is None:
            outcome = outcome_of(directory)
            raise LaunchError(
                outcome.stderr if outcome else "its keeper ended before it could start it"
            )
        return found

    def _told(self, agent_id: AgentId, attempt: int) -> dict[str, str]:
        return {
            "AGENT_JOURNAL_SOCKET": self._socket_path,
            "AGENT_JOURNAL_AGENT_ID": agent_id,
            "AGENT_JOURNAL_ATTEMPT": str(attempt),
        }

    def find(self, record: Unfinished | AgentRecord) -> Attempt | None:
        """Return an agent's present attempt, if it was launched in this boot; over or not."""
        if not self._files.has_any(record.uid, record.agent_id):
            return None
        directory = self._files.directory(record.uid, record.agent_id, record.attempts)
        if process_of(directory) is None:
            withdraw(directory)  # a keeper that is on its way is late, or was sooner than this
        return self._kept(directory, sequence_of(record))

    def find_living(self, record: Unfinished | AgentRecord) -> tuple[int, Attempt] | None:
        """Return one of an agent's attempts that goes on, whichever it is, and its number."""
        if not self._files.has_any(record.uid, record.agent_id):
            return None
        for directory in self._files.attempts(record.uid, record.agent_id):
            attempt = self._kept(directory)
            if attempt is not None and not attempt.is_over:
                return int(directory.name), attempt
            if attempt is not None:
                attempt.close()
        return None

    def _kept(self, directory: Path, sequence: int | None = None) -> KeptAttempt | None:
        process = process_of(directory)
        if process is None or process.boot_id != self._boot_id:
            return None
        if sequence not in (None, process.sequence):
            return None
        keeper = find_process(process.keeper_pid)
        if keeper is not None and keeper.start_time != process.keeper_start_time:
            keeper.close()  # a later process, which was given the number again
            keeper = None
        return KeptAttempt(directory, process, keeper)
