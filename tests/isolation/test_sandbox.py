"""The sandbox of the installed service, tried from inside, under a systemd that really runs.

A probe is run in a unit with the settings of the daemon's, as the daemon's user, and
once more in one with no settings at all, as root: what only the first can't do, the
settings forbid.  It boots a container; where that can't be, the skip says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from integration.container import PYTHON, SYSTEM_SOCKET, UNITS, Machine, booted
from isolation import sandbox_probe

if TYPE_CHECKING:
    from conftest import Figures

DAEMON = "agent-journald.service"
PROBED = "/var/lib/agent-journal/probed.json"

# What of the daemon's unit is not its sandbox.
_OF_THE_DAEMON = ("ExecStart=", "ExecReload=", "ExecStopPost=", "Type=", "NotifyAccess=",
                  "WatchdogSec=", "Restart", "Requires=", "After=", "StartLimit")  # fmt: skip

# What the container itself, or the kernel, may forbid to root as well.
MAY_BE_FORBIDDEN_ANYWAY = frozenset(
    {
        "write /proc/sys/kernel/hostname",
        "write /proc/sysrq-trigger",
        "write /proc/sys/vm/swappiness",
        "write /sys/kernel/mm/ksm/run",
        "write /boot/probe",
        "write /sys/fs/cgroup/cgroup.procs",
        "see a network",
        "make a device",
        "read the kernel's log",
        "clear the kernel's log",
        "load a module",
        "unload a module",
        "load a kernel",
        "load a program into the kernel",
        "count events",
        "handle page faults",
        "change the clock",
        "change the host's name",
        "reboot",
        "swap",
        "set quotas",
        "open by handle",
        "add a key",
        "run in real time",
        "have more files",
        "be another architecture",
        "socket AF_INET6",
        "new cgroup namespace",
        "gain by a set-uid program",  # the control is root already
    }
)


def settings() -> str:
    """Return the daemon's unit without what is about the daemon and not about its sandbox."""
    lines = (UNITS / DAEMON).read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(_OF_THE_DAEMON))


def add_probe(machine: Machine) -> None:
    machine.write("/opt/test/probe.py", Path(sandbox_probe.__file__).read_text())
    program = f"Type=oneshot\nExecStart={PYTHON} /opt/test/probe.py {PROBED}\n"
    inside = settings().replace("[Service]\n", f"[Service]\n{program}", 1)
    machine.write("/etc/systemd/system/probe-inside.service", inside)
    control = f"[Service]\n{program.replace(PROBED, '/opt/test/control.json')}"
    machine.write("/etc/systemd/system/probe-control.service", control)
    machine.write("/home/anna/secret", "anna's")
    machine.write("/var/lib/secret", "root's", mode=0o600)
    machine.write("/etc/agent-journal/config.toml", "")
    copy = machine.root / "opt/test/set-user-id"
    copy.write_bytes(Path("/usr/bin/id").read_bytes())
    copy.chmod(0o4755)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with booted(tmp_path_factory.mktemp("machine"), "", prepare=add_probe) as machine:
        yield machine


def probed(machine: Machine, unit: str, path: str) -> dict[str, Any]:
    machine.run("systemctl", "start", unit)
    found: dict[str, Any] = json.loads((machine.root / path.lstrip("/")).read_text())
    return found


@pytest.mark.timeout(120)  # it boots
def test_what_it_must_not_be_able_to_do_fails(machine: Machine, figures: Figures) -> None:
    inside = probed(machine, "probe-inside.service", PROBED)
    control = probed(machine, "probe-control.service", "/opt/test/control.json")
    assert inside["uid"] != 0
    could = {name: told for name, told in inside["must_fail"].items() if told == "done"}
    assert could == {}, "its sandbox lets it"
    broken = {name: told for name, told in inside["must_fail"].items() if told[:6] == "failed"}
    assert broken == {}, "it was not tried"
    forbidden = {name for name, told in control["must_fail"].items() if told != "done"}
    assert forbidden <= MAY_BE_FORBIDDEN_ANYWAY, "the control could not either: this shows nothing"
    figures(tried=len(could) + len(inside["must_fail"]), done=0,
            forbidden_without_the_sandbox=len(forbidden))  # fmt: skip


def test_what_it_must_be_able_to_do_works(machine: Machine) -> None:
    inside = probed(machine, "probe-inside.service", PROBED)
    assert {name: told for name, told in inside["must_work"].items() if told != "done"} == {}


def test_its_temporary_files_are_its_own(machine: Machine) -> None:
    uid = probed(machine, "probe-inside.service", PROBED)["uid"]
    assert probed(machine, "probe-control.service", "/opt/test/control.json")["uid"] == 0
    left = machine.run("ls", "/tmp").split()  # noqa: S108 - the container's
    assert "left-by-0" in left
    assert f"left-by-{uid}" not in left


def test_the_running_daemon_has_what_the_unit_says(machine: Machine) -> None:
    """What the probe had is what the daemon has: the kernel's word for it."""
    pid = machine.run("systemctl", "show", "--property=MainPID", "--value", DAEMON).strip()
    status = machine.run("cat", f"/proc/{pid}/status")
    told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {told[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2")
    assert "0" not in told["Uid"].split()
    modes = machine.run("stat", "-c", "%U %a %n", "/var/lib/agent-journal", "/run/agent-journal",
                        "/etc/agent-journal", SYSTEM_SOCKET)  # fmt: skip
    assert modes.splitlines() == [
        "agent-journal 700 /var/lib/agent-journal",
        "root 755 /run/agent-journal",
        "root 755 /etc/agent-journal",
        f"root 660 {SYSTEM_SOCKET}",
    ]
    files = machine.run("find", "/var/lib/agent-journal", "-name", "journal.db*",
                        "-printf", "%u %m\n")  # fmt: skip
    assert {*files.splitlines()} == {"agent-journal 600"}


@pytest.mark.timeout(120)
def test_with_private_users_it_does_not_start_and_says_why(machine: Machine) -> None:
    """It is in most lists of what makes a service safe, and here it would undo isolation."""
    place = f"/etc/systemd/system/{DAEMON}.d/users.conf"
    machine.write(place, "[Service]\nPrivateUsers=yes\n")
    try:
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", DAEMON, check=False)
        shown = machine.run("systemctl", "show", "--property=ExecMainStatus,Result", DAEMON)
        assert "ExecMainStatus=78" in shown.split()
        log = machine.run("journalctl", "--no-pager", "-o", "cat", "-u", DAEMON)
        assert "could not tell them apart; run it without PrivateUsers=" in log
    finally:
        (machine.root / place.lstrip("/")).unlink()
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", DAEMON)
