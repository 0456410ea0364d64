"""``install`` and ``uninstall`` under a systemd that really runs: of the host, and of a user."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.container import (
    ANNA,
    PYTHON,
    ROOT,
    SYSTEM_SOCKET,
    USER_SOCKET,
    Machine,
    booted,
    run,
)

PROGRAM = """#!/bin/sh
PYTHONPATH=/opt/agent-journal:/opt/site exec {python} -m {module} "$@"
"""
CLI, DAEMON = "/opt/test/agent-journal", "/opt/test/agent-journald"
UNITS = ("agent-journald.socket", "agent-journald.service")


def with_programs_alone(machine: Machine, _agent: str) -> None:
    """Have a checkout at /opt, and nothing of it installed."""
    for name, module in ((CLI, "agent_journal.cli"), (DAEMON, "agent_journal")):
        machine.write(name, PROGRAM.format(python=PYTHON, module=module), mode=0o755)
    opt = machine.root / "opt"
    shutil.copytree(ROOT / "systemd", opt / "systemd")
    shutil.copy(ROOT / "config.toml", opt)
    (opt / "docs").mkdir()
    shutil.copy(ROOT / "docs/PROTOCOL.md", opt / "docs")
    run("chroot", machine.root, "useradd", "-m", "-u", str(ANNA), "anna")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    directory = tmp_path_factory.mktemp("machine")
    with booted(
        directory, "", prepare=lambda _machine: None, installed=with_programs_alone
    ) as machine:
        yield machine


def names(*directories: Path) -> set[str]:
    return {str(path) for one in directories for path in one.rglob("*")}


def states(machine: Machine, *manager: str, anna: bool = False) -> list[str]:
    """Return whether the two units are active, and whether they are enabled."""
    told = [
        machine.run("systemctl", *manager, question, *UNITS, check=False, anna=anna)
        for question in ("is-active", "is-enabled")
    ]
    return "".join(told).split()


def wrong(machine: Machine, socket: str, *, anna: bool = False) -> list[str]:
    """Return what the doctor holds to be wrong, but for the container's file system."""
    said = machine.run(CLI, "doctor", "--json", "--no-fsync", "-s", socket, check=False, anna=anna)
    findings = [json.loads(line) for line in said.splitlines()]
    assert {"daemon", "systemd"} <= {one["check"] for one in findings}
    return [
        one["what"]
        for one in findings
        if one["status"] == "wrong" and one["check"] not in {"filesystem", "room"}
    ]


def test_the_host_s(machine: Machine) -> None:
    directories = [machine.root / "etc/systemd", machine.root / "usr/local"]
    before = names(*directories)
    machine.run(CLI, "install", "--system", "--program", DAEMON)
    assert states(machine) == ["active", "active", "enabled", "enabled"]
    machine.run(CLI, "-s", SYSTEM_SOCKET, "append", "a", '{"Started":{}}')
    assert wrong(machine, SYSTEM_SOCKET) == []
    again = machine.run(CLI, "install", "--system", "--program", DAEMON)
    assert "restart" not in again

    machine.run(CLI, "uninstall", "--system")
    assert states(machine)[:2] == ["inactive", "inactive"]
    assert names(*directories) == before
    assert (machine.root / "var/lib/agent-journal/journal.db").exists()
    assert not (machine.root / "run/agent-journal/journal.sock").exists()

    machine.run(CLI, "install", "--system", "--program", DAEMON)
    assert "Started" in machine.run(CLI, "-s", SYSTEM_SOCKET, "read", "a", "--json")
    machine.run(CLI, "uninstall", "--system", "--purge", "--yes")
    assert not (machine.root / "var/lib/agent-journal/journal.db").exists()


def test_a_user_s(machine: Machine) -> None:
    home, linger = machine.root / "home/anna", machine.root / "var/lib/systemd/linger/anna"
    before = names(home)
    installed = machine.run(CLI, "install", "--user", "--program", DAEMON, anna=True)
    assert states(machine, "--user", anna=True) == ["active", "active", "enabled", "enabled"]
    assert linger.exists() == ("enable-linger" in installed)
    machine.run(CLI, "append", "a", '{"Started":{}}', anna=True)
    assert wrong(machine, USER_SOCKET, anna=True) == []

    removed = machine.run(CLI, "uninstall", "--user", anna=True)
    # Without a session, and no longer lingering, her systemd ends as well.
    assert states(machine, "--user", anna=True)[:2] in (["inactive", "inactive"], [])
    left = names(home) - before
    assert {name for name in left if ".local/state" not in name} <= {str(home / ".local")}
    assert "the journal stays: /home/anna/.local/state/agent-journal/journal.db" in removed
    assert not linger.exists()
