"""Agents as units of systemd: transient ones for programs, instances of templates.

In a unit of its own an agent has limits and a cgroup that are not the
daemon's, and a restart of the daemon leaves it alone.  A user's daemon asks the
user's manager, root's asks the system's.  A daemon of the system that is not
root needs systemd's permission (polkit) to start a unit.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from signal import Signals
from typing import Final

from ..model import AgentId, Uid
from .attempt_output import Outcome, cleaned
from .processes import PidfdProcess, find_process

COMMAND_SECONDS_MAX: Final = 30.0
"""How long starting may take: a unit whose start takes longer has its own ways to say so."""

UNIT_NAME_MAX: Final = 200  # of the 255 that systemd takes

_BOOTED: Final = Path("/run/systemd/system")  # sd_booted(3)


class LaunchError(Exception):
    """An agent could not be started; the message is for the journal."""


async def output_of(argv: tuple[str, ...]) -> str:
    """Run a program of ours to its end and return what it printed.

    Raises:
        LaunchError: it failed, or did not end.
    """
    # In a thread, by vfork: uvloop forks, which holds everybody up for as long as
    # it takes to copy the page tables of the daemon's memory (9 ms for 75 MB).
    try:
        done = await asyncio.to_thread(_run, argv)
    except OSError as error:
        raise LaunchError(f"{argv[0]} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise LaunchError(f"{argv[0]} did not end within {COMMAND_SECONDS_MAX:g} s") from None
    if done.returncode:
        text = cleaned(done.stderr.decode(errors="replace"))
        raise LaunchError(text or f"{argv[0]} ended with status {done.returncode}")
    return done.stdout.decode(errors="replace")


def _run(argv: tuple[str, ...]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603 - the daemon's own programs, and no shell
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        start_new_session=True,
        timeout=COMMAND_SECONDS_MAX,
    )


class Systemd:
    """The service manager that this daemon may ask, if there is one."""

    def __init__(self) -> None:
        self._scope = () if os.geteuid() == 0 or is_system_service() else ("--user",)
        self._answers: bool | None = None

    async def is_wanted(self, start_with: str) -> bool:
        """Tell whether programs are started as units.

        Raises:
            LaunchError: they would have to be, and cannot.
        """
        if start_with == "process":
            return False
        if self._answers is None:
            self._answers = await self._ask()
        if not self._answers and (start_with == "systemd" or own_service() is not None):
            raise LaunchError(
                "systemd does not answer, and what the daemon starts itself would end with it; "
                'name a launcher with a unit, or set resume.start_with to "process"'
            )
        return self._answers

    async def _ask(self) -> bool:
        if not _BOOTED.is_dir():
            return False
        try:
            await output_of(("systemctl", *self._scope, "show", "--property=Version"))
        except LaunchError:
            return False
        return True

    async def run(self, argv: tuple[str, ...], uid: Uid, agent_id: AgentId, attempt: int) -> None:
        """Start a program as a transient unit; it says itself when it is ready.

        Raises:
            LaunchError: it could not be started.
        """
        await output_of(
            (
                "systemd-run",
                *self._scope,
                "--quiet",
                "--collect",
                f"--unit={unit_name(uid, agent_id, attempt)}",
                f"--description=Agent {agent_id}, attempt {attempt}",
                "--service-type=notify",
                "--property=NotifyAccess=main",
                "--",
                *argv,
            )
        )

    async def start_unit(self, template: str, agent_id: AgentId) -> UnitAttempt:
        """Start the instance of a template that is the agent's.

        Raises:
            LaunchError: it could not be started.
        """
        unit = template.replace("@.", f"@{agent_id}.")
        await output_of(("systemctl", *self._scope, "--quiet", "start", "--", unit))
        attempt = UnitAttempt(unit, self._scope)
        await attempt.look()
        return attempt


class UnitAttempt:
    """An attempt that is an instance of a template unit."""

    def __init__(self, unit: str, scope: tuple[str, ...]) -> None:
        self.pid: int | None = None
        self._unit = unit
        self._scope = scope
        self._process: PidfdProcess | None = None
        self._ending: asyncio.Task[str] | None = None

    async def look(self) -> None:
        """Find the unit's process."""
        pid = int((await self._show()).get("MainPID", "0"))
        if pid:
            self.pid = pid
            self._process = find_process(pid)

    async def _show(self) -> dict[str, str]:
        names = "MainPID,ExecMainCode,ExecMainStatus,Result"
        shown = await output_of(
            ("systemctl", *self._scope, "show", f"--property={names}", "--", self._unit)
        )
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    @property
    def is_over(self) -> bool:
        """Tell whether its process has ended."""
        return self._process is None or not self._process.is_alive

    def watch(self, on_end: Callable[[], None]) -> None:
        """Have *on_end* called once, when it is over."""
        if self._process is None:
            asyncio.get_running_loop().call_soon(on_end)
        else:
            self._process.watch(on_end)

    async def outcome(self) -> Outcome:
        """Return how it ended, as systemd tells; what it wrote is in systemd's journal."""
        try:
            shown = await self._show()
        except LaunchError:
            return Outcome(how="lost")
        stderr = f"see: journalctl{''.join(f' {word}' for word in self._scope)} -u {self._unit}"
        return outcome_from(shown, stderr)

    def end(self) -> None:
        """Have systemd stop the unit, as its own settings say."""
        if self._ending is None:
            command = ("systemctl", *self._scope, "--no-block", "stop", "--", self._unit)
            self._ending = asyncio.get_running_loop().create_task(output_of(command))
            self._ending.add_done_callback(_looked_at)

    def close(self) -> None:
        """Let go of it; it goes on."""
        if self._process is not None:
            self._process.close()


def _looked_at(task: asyncio.Task[str]) -> None:
    """Take note of a failure that the time-out for ending will show as well."""
    if not task.cancelled():
        task.exception()


def outcome_from(shown: dict[str, str], stderr: str) -> Outcome:
    """Return how a unit's process ended: the code is waitid(2)'s."""
    code, status = shown.get("ExecMainCode"), int(shown.get("ExecMainStatus", "0") or 0)
    if code == "1":
        return Outcome(how="exited", exit_code=status, stderr=stderr)
    if code in ("2", "3"):
        return Outcome(how="signalled", signal=signal_name(status), stderr=stderr)
    return Outcome(how="lost", stderr=stderr)


def signal_name(number: int) -> str:
    """Return what a signal is called."""
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def unit_name(uid: Uid, agent_id: AgentId, attempt: int) -> str:
    """Return the name of an attempt's transient unit, which no other attempt has."""
    # An "@" would make it the instance of a template.
    escaped = agent_id.replace("@", "\\x40")
    name = f"agent-{uid}-{escaped}-{attempt}.service"
    if len(name) > UNIT_NAME_MAX:
        name = f"agent-{uid}-{hashlib.sha256(agent_id.encode()).hexdigest()}-{attempt}.service"
    return name


def own_service() -> str | None:
    """Return the unit that the daemon itself runs in, whose end ends all that is in it."""
    try:
        groups = Path("/proc/self/cgroup").read_text("utf-8", "replace")
    except OSError:
        return None
    for line in groups.splitlines():
        hierarchy, controllers, path = (*line.split(":", 2), "", "")[:3]
        if (hierarchy == "0" or controllers == "name=systemd") and path.endswith(".service"):
            return path.rpartition("/")[2]
    return None


def is_system_service() -> bool:
    """Tell whether the system's manager started the daemon, and not a user's."""
    try:
        groups = Path("/proc/self/cgroup").read_text("utf-8", "replace")
    except OSError:
        return False
    return own_service() is not None and "/user.slice/" not in groups
