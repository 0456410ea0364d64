"""A throw-away container of this very system, with a systemd of its own, for tests to reboot.

An overlay lies above this system and is gone afterwards.  That takes root,
mounts and systemd-nspawn; where they are missing the test is skipped, with a
reason that says what was not checked.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.observed import wait_until

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
ANNA = 4242
SYSTEM_SOCKET = "/run/agent-journal/journal.sock"
USER_SOCKET = f"/run/user/{ANNA}/agent-journal/journal.sock"


def _python() -> str | None:
    """Return an interpreter like this one that a service without home directories sees."""
    own = Path(sys.executable).resolve()
    same = f"python{sys.version_info.major}.{sys.version_info.minor}"
    hidden = [Path("/root"), Path("/home"), Path("/run/user")]
    candidates = [own, Path("/usr/bin") / same, Path("/usr/local/bin") / same]
    seen = [one for one in candidates if not {*hidden} & {*one.parents} and one.exists()]
    return str(seen[0]) if seen else None


PYTHON = _python()

ASK = """
import json, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.settimeout(5)
connection.connect(sys.argv[1])
lines = connection.makefile("rwb")
lines.write(sys.argv[2].encode() + b"\\n")
lines.flush()
print(lines.readline().decode())
"""


def run(*command: str | Path, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


class Machine:
    """A container with a systemd of its own, which can be booted again."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        self._directory = directory
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def mount(self) -> None:
        """Put a writable layer above this system, for the container alone."""
        run("mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", self._directory)
        for name in ("upper", "work", "root"):
            (self._directory / name).mkdir()
        layers = f"lowerdir=/,upperdir={self._directory}/upper,workdir={self._directory}/work"
        run("mount", "-t", "overlay", "overlay", "-o", layers, self.root)

    def unmount(self) -> None:
        for place in (self.root, self._directory):
            run("umount", "--lazy", place, check=False)

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def boot(self) -> None:
        binds = {
            ROOT / "daemon": "/opt/agent-journal",
            sysconfig.get_paths()["purelib"]: "/opt/site",
        }
        self._nspawn = subprocess.Popen(
            [
                "systemd-nspawn", "--quiet", f"--directory={self.root}", "--private-network",
                f"--machine=agent-journal-{os.getpid()}", "--register=no", "--keep-unit",
                *(f"--bind-ro={source}:{target}" for source, target in binds.items()),
                "--boot", "--", "systemd.unit=basic.target", "systemd.show_status=no",
                "systemd.journald.forward_to_console=0",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        wait_until(self._find_leader, "the container boots")
        wait_until(self._is_running, "its systemd has started")

    def start_services(self) -> None:
        units = ["systemd-logind.service", f"user@{ANNA}.service"]
        if (self.root / "etc/systemd/system/agent-journald.service").exists():
            units.append("agent-journald.service")
        self.run("systemctl", "start", *units)

    def _find_leader(self) -> bool:
        assert self._nspawn is not None
        assert self._nspawn.poll() is None, "systemd-nspawn ended"
        generation = [self._nspawn.pid]
        for _ in range(2):
            generation = [child for pid in generation for child in _children(pid)]
            for pid in generation:
                with contextlib.suppress(OSError):  # a helper of nspawn's that has ended
                    if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                        self._leader = pid
                        return True
        return False

    def _is_running(self) -> bool:
        return self.run("systemctl", "is-system-running", check=False).strip() in {
            "running", "degraded",
        }  # fmt: skip

    def run(self, *command: str, check: bool = True, anna: bool = False) -> str:
        """Run a program in the container, as root or as anna."""
        if anna:
            environ = [
                "HOME=/home/anna", "USER=anna", f"XDG_RUNTIME_DIR=/run/user/{ANNA}",
                f"DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/{ANNA}/bus",
            ]  # fmt: skip
            ids = [f"--reuid={ANNA}", f"--regid={ANNA}", "--init-groups"]
            command = ("setpriv", *ids, "env", *environ, *command)
        return run("nsenter", f"--target={self._leader}", "-m", "-u", "-i", "-n", "-p", "--",
                   *command, check=check)  # fmt: skip

    def start_agent(self, socket: str, agent_id: str, mode: str, **environ: str) -> None:
        """Have anna start an agent, outside of any unit; it may be killed."""
        words = [f"{name}={value}" for name, value in environ.items()]
        self.run(
            "sh", "-c", '"$@" </dev/null >/dev/null 2>&1 &', "sh", "env", *words,
            f"AGENT_JOURNAL_SOCKET={socket}", f"AGENT_JOURNAL_AGENT_ID={agent_id}",
            str(PYTHON), "/opt/test/agent.py", mode, anna=True,
        )  # fmt: skip

    def ask(self, socket: str, **request: Any) -> dict[str, Any]:
        said = self.run(str(PYTHON), "/opt/test/ask.py", socket, json.dumps(request), anna=True)
        reply: dict[str, Any] = json.loads(said)
        return reply

    def describe(self, socket: str, agent_id: str) -> dict[str, Any]:
        reply = self.ask(socket, op="describe", agent_id=agent_id)
        agent: dict[str, Any] = reply.get("agent", {"state": "none", "attempts": 0})
        return agent

    def wait_for(self, socket: str, agent_id: str, state: str, attempts: int) -> None:
        def is_so() -> bool:
            agent = self.describe(socket, agent_id)
            return (agent["state"], agent["attempts"]) == (state, attempts)

        try:
            wait_until(is_so, f"{agent_id} is {state} after {attempts} attempts")
        except AssertionError as error:
            log = self.run("journalctl", "--no-pager", "-n", "40", "-o", "cat", check=False)
            raise AssertionError(f"{error}: {self.describe(socket, agent_id)}\n{log}") from None

    def cgroups(self, socket: str, agent_id: str) -> list[str]:
        """Return where each attempt of an agent said it was."""
        entries = self.ask(socket, op="read", agent_id=agent_id)["entries"]
        events = [entry["event"] for entry in entries]
        return [one["StepCompleted"]["result"] for one in events if "StepCompleted" in one]

    def cut_power(self) -> None:
        """End everything in it at once, as a power cut would; its files stay."""
        assert self._nspawn is not None
        os.kill(self._leader, signal.SIGKILL)
        self._nspawn.wait(30)
        self._nspawn, self._leader = None, 0

    def power_off(self) -> None:
        if self._nspawn is None:
            return
        if self._leader:
            os.kill(self._leader, signal.SIGRTMIN + 4)  # systemd(1): power off
        try:
            self._nspawn.wait(30)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        self._nspawn, self._leader = None, 0


def _children(pid: int) -> list[int]:
    text = "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(child) for child in text.split()]


def install(machine: Machine, agent: str) -> None:
    """Follow docs/INSTALL.md, but for where Python is; *agent* is a program for its agents."""
    daemon = (
        f'#!/bin/sh\nPYTHONPATH=/opt/agent-journal:/opt/site exec {PYTHON} -m agent_journal "$@"\n'
    )
    machine.write("/opt/test/agent-journald", daemon, mode=0o755)
    machine.write("/opt/test/agent.py", agent)
    machine.write("/opt/test/ask.py", ASK)
    targets = {
        "agent-journal.sysusers.conf": "/etc/sysusers.d/agent-journal.conf",
        "agent-journal.tmpfiles.conf": "/etc/tmpfiles.d/agent-journal.conf",
        "agent-journal.rules": "/etc/polkit-1/rules.d/50-agent-journal.rules",
        "agent-journald.service": "/etc/systemd/system/agent-journald.service",
        "agent-journald.socket": "/etc/systemd/system/agent-journald.socket",
        "user/agent-journald.service": "/etc/systemd/user/agent-journald.service",
        "user/agent-journald.socket": "/etc/systemd/user/agent-journald.socket",
    }
    for name, target in targets.items():
        lines = (UNITS / name).read_text().splitlines(keepends=True)
        text = "".join(
            "ExecStart=/opt/test/agent-journald\n" if line.startswith("ExecStart=") else line
            for line in lines
        )
        machine.write(target, text)
    run("chroot", machine.root, "systemd-sysusers")
    run("chroot", machine.root, "useradd", "-m", "-u", str(ANNA), "-G", "agents", "anna")
    wants = machine.root / "etc/systemd/system/basic.target.wants/agent-journald.service"
    wants.parent.mkdir(exist_ok=True)
    wants.symlink_to("/etc/systemd/system/agent-journald.service")


@contextlib.contextmanager
def booted(
    directory: Path,
    agent: str,
    *,
    prepare: Callable[[Machine], object],
    installed: Callable[[Machine, str], object] = install,
) -> Iterator[Machine]:
    """Yield a container with the units installed, prepared before its services are started."""
    unchecked = "nothing was resumed under a systemd that really runs"
    for program in ("systemd-nspawn", "nsenter", "setpriv", "useradd"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: {unchecked}")
    if PYTHON is None:
        pytest.skip(f"this Python is in a home directory, which services do not see: {unchecked}")
    if os.geteuid() != 0:
        pytest.skip(f"only root may boot a container: {unchecked}")
    machine = Machine(directory)
    try:
        try:
            machine.mount()
            machine.boot()
            machine.power_off()
        except (AssertionError, OSError) as error:
            pytest.skip(f"a container can't be booted here ({error}): {unchecked}")
        installed(machine, agent)
        prepare(machine)
        machine.boot()
        machine.start_services()
        yield machine
    finally:
        machine.power_off()
        machine.unmount()
