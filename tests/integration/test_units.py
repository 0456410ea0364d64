"""systemd itself judges the units, and they agree with what the daemon believes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_journal.service.config import (
    default_config_file,
    default_database,
    default_socket,
)

UNITS = Path(__file__).parents[2] / "systemd"
NAMES = ["agent-journald.service", "agent-journald.socket"]


def tool(name: str, unchecked: str) -> str:
    """Return the program, or skip the test that needs it."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed: {unchecked} was not checked")
    return program


def settings(unit: str) -> dict[str, list[str]]:
    """Read a unit file; a setting may stand in it several times."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / unit).read_text().splitlines():
        if match := re.match(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def run(*command: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environ}
    )


@pytest.fixture
def verify(tmp_path: Path) -> Callable[..., str]:
    """Let systemd judge a directory of units, as if the daemon were installed."""
    program = tool("systemd-analyze", "whether systemd accepts the units")

    def verify(folder: Path, *options: str) -> str:
        copies = []
        for name in NAMES:
            text = (folder / name).read_text()
            copy = tmp_path / name
            copy.write_text(re.sub(r"(?m)^ExecStart=.*", "ExecStart=/bin/true", text))
            copies.append(copy)
        judged = run(program, *options, "verify", *copies, XDG_RUNTIME_DIR=str(tmp_path))
        return f"{judged.stdout}{judged.stderr}" or f"exit {judged.returncode}"

    return verify


class TestJudgedBySystemd:
    def test_the_units_of_the_system_are_clean(self, verify: Callable[..., str]) -> None:
        assert verify(UNITS) == "exit 0"

    def test_the_units_of_a_user_are_clean(self, verify: Callable[..., str]) -> None:
        assert verify(UNITS / "user", "--user") == "exit 0"

    def test_a_mistake_in_a_unit_would_be_noticed(
        self, verify: Callable[..., str], tmp_path: Path
    ) -> None:
        folder = tmp_path / "mistaken"
        shutil.copytree(UNITS, folder)
        unit = folder / "agent-journald.service"
        unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSytem=strict"))
        assert "ProtectSytem" in verify(folder)

    def test_the_service_exposes_little_of_the_host(self) -> None:
        """On systemd's scale of 0 (safe) to 10 (unsafe) it is at most 1.0."""
        program = tool("systemd-analyze", "how much of the host the service is exposed to")
        judged = run(
            program, "security", "--offline=true", "--no-pager", "--threshold=10",
            UNITS / "agent-journald.service",
        )  # fmt: skip
        overall = re.search(r"Overall exposure level .*: (\d+\.\d)", judged.stdout)
        assert overall, judged.stdout + judged.stderr
        assert judged.returncode == 0, overall[0]
        assert float(overall[1]) <= 1.0

    def test_the_users_are_made(self, tmp_path: Path) -> None:
        program = tool("systemd-sysusers", "whether the daemon's user and the group are made")
        (tmp_path / "etc").mkdir()
        made = run(program, f"--root={tmp_path}", UNITS / "agent-journal.sysusers.conf")
        assert made.returncode == 0, made.stderr
        users = (tmp_path / "etc/passwd").read_text()
        groups = (tmp_path / "etc/group").read_text()
        assert re.search(r"(?m)^agent-journal:.*:/var/lib/agent-journal:/usr/sbin/nologin$", users)
        assert re.search(r"(?m)^agents:", groups)

    def test_the_directories_of_root_are_made(self, tmp_path: Path) -> None:
        program = tool("systemd-tmpfiles", "whether the socket's directory is made")
        lines = settings_of_tmpfiles()
        assert lines == [
            "d /run/agent-journal 0755 root root -",
            "d /etc/agent-journal 0755 root root -",
        ]
        mine = tmp_path / "mine.conf"
        mine.write_text("\n".join(lines).replace("root root", "- -"))  # not all may give away
        made = run(program, "--create", f"--root={tmp_path}", mine)
        assert made.returncode == 0, made.stderr
        for line in lines:
            assert (tmp_path / line.split()[1][1:]).stat().st_mode & 0o777 == 0o755


def settings_of_tmpfiles() -> list[str]:
    lines = (UNITS / "agent-journal.tmpfiles.conf").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


class TestAgreement:
    def test_the_socket_of_the_system_is_where_clients_look(self) -> None:
        (listen,) = settings("agent-journald.socket")["ListenStream"]
        assert Path(listen) == default_socket({}, uid=0)
        assert f"d {Path(listen).parent} 0755" in settings_of_tmpfiles()[0]

    def test_the_socket_of_a_user_is_where_clients_look(self) -> None:
        (listen,) = settings("user/agent-journald.socket")["ListenStream"]
        runtime = "/run/user/7"
        assert Path(listen.replace("%t", runtime)) == default_socket(
            {"XDG_RUNTIME_DIR": runtime}, uid=7
        )

    def test_the_directories_of_the_system_are_those_of_the_documentation(self) -> None:
        service = settings("agent-journald.service")
        state = f"/var/lib/{service['StateDirectory'][0]}"
        assert default_database({"STATE_DIRECTORY": state}, uid=7) == Path(
            "/var/lib/agent-journal/journal.db"
        )
        etc = f"/etc/{service['ConfigurationDirectory'][0]}"
        assert default_config_file({"CONFIGURATION_DIRECTORY": etc}, uid=7) == Path(
            "/etc/agent-journal/config.toml"
        )

    @pytest.mark.parametrize("unit", ["agent-journald.service", "user/agent-journald.service"])
    def test_a_crash_is_followed_by_a_start_and_a_bad_configuration_by_none(
        self, unit: str
    ) -> None:
        service = settings(unit)
        assert service["Type"] == ["notify"]
        assert service["Restart"] == ["on-failure"]
        assert service["RestartPreventExitStatus"] == ["78"]
        assert service["StartLimitIntervalSec"] == ["0"]
        assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
        assert "WatchdogSec" in service

    @pytest.mark.parametrize("unit", ["agent-journald.service", "user/agent-journald.service"])
    def test_clients_can_be_told_apart_and_keep_their_socket(self, unit: str) -> None:
        """``PrivateUsers=yes`` makes every uid 65534; ``RuntimeDirectory=`` takes the socket."""
        service = settings(unit)
        assert service.get("PrivateUsers", ["no"]) == ["no"]
        assert "RuntimeDirectory" not in service

    def test_the_daemon_can_tell_whether_an_owner_lives(self) -> None:
        """It opens a pidfd of it, and reads when it started: of other users' processes, too."""
        service = settings("agent-journald.service")
        assert service["ProtectProc"] == ["default"]
        assert service["ProcSubset"] == ["all"]
        program = tool("systemd-analyze", "whether the service may open a pidfd")
        allowed = run(program, "syscall-filter", "@process").stdout
        assert "pidfd_open" in allowed
        assert "@process" in run(program, "syscall-filter", "@system-service").stdout

    def test_the_daemon_starts_agents_outside_of_itself(self) -> None:
        """Its own cgroup is ended with it; so no privilege to start others is kept in it."""
        service = settings("agent-journald.service")
        assert service["CapabilityBoundingSet"] == [""]
        assert service["NoNewPrivileges"] == ["yes"]
        assert "KillMode" not in service

    @pytest.mark.parametrize(
        ("unit", "is_allowed"),
        [
            ("report-agent@a-1.service", True),
            ("report-agent@b:c@d_e.f.service", True),
            ("report@a.service", False),
            ("sshd.service", False),
            ("x-agent@.service", False),
            ("x-agent@a/../b.service", False),
            ("x-agent@a.socket", False),
        ],
    )
    def test_polkit_lets_it_start_instances_of_agents_alone(
        self, unit: str, *, is_allowed: bool
    ) -> None:
        rules = (UNITS / "agent-journal.rules").read_text()
        (pattern,) = re.findall(r"/(\^.*\$)/\.test", rules)
        assert bool(re.fullmatch(pattern.replace("\\\\", "\\"), unit)) is is_allowed

    @pytest.mark.parametrize("folder", ["", "user/"])
    def test_no_number_of_crashes_takes_the_socket_away(self, folder: str) -> None:
        """Each limit would fail the socket unit, and every agent with it."""
        assert settings(f"{folder}agent-journald.socket")["TriggerLimitIntervalSec"] == ["0"]
        assert settings(f"{folder}agent-journald.service")["StartLimitIntervalSec"] == ["0"]

    @pytest.mark.parametrize("folder", ["", "user/"])
    @pytest.mark.parametrize(
        ("status", "slept"), [("0", ""), ("9", ""), ("74", "1"), ("75", "1"), ("78", "5")]
    )
    def test_a_daemon_that_can_not_start_is_not_started_in_a_hurry(
        self, folder: str, status: str, slept: str, tmp_path: Path
    ) -> None:
        """A waiting client has systemd start it at once; what runs after it is a brake."""
        (command,) = settings(f"{folder}agent-journald.service")["ExecStopPost"]
        shell, option, script = shlex.split(command.replace("$$", "$"))
        sleep = tmp_path / "sleep"
        sleep.write_text('#!/bin/sh\nprintf "%s" "$1"\n')
        sleep.chmod(0o755)
        done = run(shell, option, script, PATH=str(tmp_path), EXIT_STATUS=status)
        assert (done.returncode, done.stdout, done.stderr) == (0, slept, "")

    def test_the_instructions_name_every_file(self) -> None:
        instructions = (UNITS.parent / "docs" / "INSTALL.md").read_text()
        files = [file for file in UNITS.rglob("*") if file.is_file()]
        assert len(files) == 7
        for file in files:
            assert f"systemd/{file.relative_to(UNITS)}" in instructions

    def test_the_socket_of_a_user_is_nobody_else_s(self) -> None:
        assert settings("user/agent-journald.socket")["SocketMode"] == ["0600"]
        assert settings("agent-journald.socket")["SocketGroup"] == ["agents"]


ACTIVATED = """
import os
from agent_journal.service.systemd import inherited_socket
listening = inherited_socket(os.environ, pid=os.getpid())
assert listening is not None
listening.settimeout(30)
connection, _ = listening.accept()
connection.sendall(f"served by fd {listening.fileno()}".encode())
"""


def test_a_socket_is_handed_over_as_systemd_does_it(tmp_path: Path) -> None:
    """The client that connects first starts the process, and is served by it."""
    program = tool("systemd-socket-activate", "the take-over of a socket from systemd")
    path = tmp_path / "journal.sock"
    activator = subprocess.Popen(
        [program, f"--listen={path}", "--fdname=journal", sys.executable, "-c", ACTIVATED],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert activator.stderr is not None
        assert "Listening on" in activator.stderr.readline()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(30)
            client.connect(str(path))
            assert client.recv(100) == b"served by fd 3"
        assert activator.wait(30) == 0
    finally:
        activator.kill()
        activator.communicate()
