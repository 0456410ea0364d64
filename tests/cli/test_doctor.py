"""``agent-journal doctor``: what is wrong is found, and said with what to do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_journal import __version__
from agent_journal.cli import doctor_disk, doctor_host
from agent_journal.cli.doctor_daemon import BOOT_ID
from agent_journal.cli.finding import Finding, Verdict
from agent_journal.cli.service_manager import ServiceManager
from agent_journal.client import _discovery
from agent_journal.testing.daemon import RunningDaemon
from cli.fake_daemon import FakeDaemon, Run, agent, entry, refused

CHECKS = [
    "socket", "daemon", "version", "boot", "agents", "config", "rights", "filesystem", "room",
    "fsync", "sqlite", "clock", "files", "systemd",
]  # fmt: skip


@pytest.fixture(autouse=True)
def own_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CONFIG", "STATE", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    for name in ("CONFIGURATION_DIRECTORY", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


def found(run: Run, *arguments: str, code: int | None = None) -> dict[str, dict[str, Any]]:
    """Run the doctor; return what it found, by check."""
    result = run("doctor", "--json", *arguments)
    assert result.err == ""
    findings = {one["check"]: one for one in result.objects}
    assert len(findings) == len(result.objects)
    assert result.code == any(one["status"] == "wrong" for one in findings.values())
    assert code is None or result.code == code
    for one in findings.values():
        assert one["status"] in {"ok", "note", "wrong"}
        assert one["status"] != "wrong" or one["try"]
    return findings


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as daemon:
        yield daemon


class TestARealDaemon:
    def test_everything_is_looked_at_and_nothing_is_left(
        self, daemon: RunningDaemon, run: Run
    ) -> None:
        before = {*daemon.directory.iterdir()}
        findings = found(run, "-s", str(daemon.socket))
        assert [one for one in findings if one != "linger"] == CHECKS
        wrong = {name for name, one in findings.items() if one["status"] == "wrong"}
        assert wrong <= {"filesystem"}  # which may be in memory, where this test runs
        assert findings["daemon"]["pid"] == daemon.pid
        assert findings["rights"]["database"] == str(daemon.database)
        assert findings["fsync"]["syncs"] > 10
        assert 0 < findings["fsync"]["p50_ms"] <= findings["fsync"]["p99_ms"]
        assert {*daemon.directory.iterdir()} == before

    def test_a_journal_that_others_may_read_is_wrong(self, daemon: RunningDaemon, run: Run) -> None:
        daemon.database.chmod(0o644)
        try:
            rights = found(run, "-s", str(daemon.socket), "--no-fsync", code=1)["rights"]
        finally:
            daemon.database.chmod(0o600)
        assert daemon.database.name in rights["what"]
        assert rights["try"] == f"chmod 600 {daemon.database}*"

    def test_a_person_reads_a_line_for_each(self, daemon: RunningDaemon, run: Run) -> None:
        lines = run("doctor", "-s", str(daemon.socket), "--no-fsync").lines
        said = [line for line in lines if not line.startswith("  ")]
        assert [line.split()[1] for line in said if "linger" not in line] == [
            one for one in CHECKS if one != "fsync"
        ]
        assert {line[0] for line in said} <= {"✓", "!", "✗"}
        assert all(line.strip().startswith("try: ") for line in lines if line.startswith("  "))


class TestWithoutADaemon:
    def test_the_host_is_looked_at_all_the_same(self, run: Run, short_dir: Path) -> None:
        findings = found(run, "-s", f"{short_dir}/none.sock", "--no-fsync", code=1)
        assert findings["socket"]["status"] == "wrong"
        assert f"{short_dir}/none.sock (named by --socket)" in findings["socket"]["what"]
        assert findings["daemon"]["what"] == "none answers"
        assert {"config", "filesystem", "room", "sqlite", "clock", "files"} <= findings.keys()

    def test_the_variable_is_named(
        self, run: Run, short_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AGENT_JOURNAL_SOCKET", f"{short_dir}/none.sock")
        assert "named by $AGENT_JOURNAL_SOCKET" in found(run, "--no-fsync")["socket"]["what"]

    def test_the_runtime_directory_is_named(
        self, run: Run, short_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_dir))
        monkeypatch.setattr(_discovery, "HOST_SOCKET", f"{short_dir}/no daemon of the host's")
        what = found(run, "--no-fsync")["socket"]["what"]
        assert f"{short_dir}/agent-journal/journal.sock (in $XDG_RUNTIME_DIR)" in what

    def test_a_file_in_the_socket_s_place_is_wrong(self, run: Run, short_dir: Path) -> None:
        (short_dir / "file").touch()
        what = found(run, "-s", f"{short_dir}/file", "--no-fsync", code=1)["socket"]["what"]
        assert "is no socket" in what

    def test_a_configuration_with_a_mistake_is_wrong(
        self, run: Run, short_dir: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "config/agent-journal/config.toml"
        path.parent.mkdir(parents=True)
        path.write_text("sockte = 1\n[limits]\nframe_bytes_max = true\n")
        config = found(run, "-s", f"{short_dir}/none.sock", "--no-fsync", code=1)["config"]
        assert "2 problems" in config["what"]
        assert config["try"] == f"agent-journal config check {path}"

    def test_plain_signs_where_there_are_no_others(
        self, run: Run, short_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "agent_journal.cli.terminal.Terminal.sign", lambda _self, _sign, plain: plain
        )
        lines = run("doctor", "-s", f"{short_dir}/none.sock", "--no-fsync").lines
        assert {line[0] for line in lines if line[0] != " "} <= {"+", "!", "x"}


class TestTheDaemon:
    @pytest.fixture
    def sound(self, fake: FakeDaemon) -> FakeDaemon:
        fake.on("ping", {})
        boot_id = BOOT_ID.read_text().strip()
        fake.on("hello", {"version": __version__, "boot_id": boot_id})
        fake.on("stats", {"pid": os.getpid(), "sqlite_version": "3.51.3"})
        fake.on("agents", {"agents": [], "more": False})
        return fake

    @staticmethod
    def ask(run: Run, fake: FakeDaemon) -> dict[str, dict[str, Any]]:
        return found(run, "-s", str(fake.path), "--no-fsync")

    def test_another_version_is_told(self, sound: FakeDaemon, run: Run) -> None:
        sound.on("hello", {"version": "0.0.9", "boot_id": ""})
        findings = self.ask(run, sound)
        assert findings["version"]["status"] == "note"
        assert findings["version"]["daemon"] == "0.0.9"
        assert "boot" not in findings  # it does not tell

    def test_the_daemon_of_a_container_is_told(self, sound: FakeDaemon, run: Run) -> None:
        sound.on("hello", {"version": __version__, "boot_id": "another"})
        assert self.ask(run, sound)["boot"]["status"] == "note"

    def test_a_damaged_journal_is_wrong(self, sound: FakeDaemon, run: Run) -> None:
        sound.on("agents", refused("damaged", "page 7 is not what was written"))
        journal = self.ask(run, sound)["journal"]
        assert journal["what"] == "page 7 is not what was written (damaged)"
        assert "verify --offline" in journal["try"]

    def test_whom_nobody_resumes_is_told(self, sound: FakeDaemon, run: Run) -> None:
        parked = [agent(f"p{number}", state="parked") for number in range(5)]
        sound.on("agents", {"agents": [], "more": False}, {"agents": parked, "more": False})
        begun = [
            entry(0, {"AttemptStarted": {"attempt": 1}}),
            entry(1, {"StepStarted": {"key": "mail", "name": "mail", "effect": "unsafe"}}),
            entry(2, {"AttemptEnded": {"attempt": 1, "how": "signalled"}}),
        ]
        nothing = {"entries": [], "next_sequence": 0, "more": False}
        sound.on("read", {"entries": begun, "next_sequence": 3, "more": False}, nothing)
        findings = self.ask(run, sound)
        assert findings["agents"]["what"] == "5 agents are parked: p0, p1, p2 and 2 more"
        assert findings["agents"]["try"] == "agent-journal why p0"
        assert findings["steps"]["what"] == "a step is in doubt in p0"


def only(findings: Iterator[Finding]) -> Finding:
    [finding] = findings
    return finding


class TestTheDisk:
    @pytest.mark.parametrize(
        ("line", "verdict"),
        [
            ("ext4 /dev/x rw", Verdict.WELL),
            ("xfs /dev/x rw,attr2", Verdict.WELL),
            ("nfs4 host:/x rw", Verdict.WRONG),
            ("fuse.sshfs host:/x rw", Verdict.WRONG),
            ("tmpfs tmpfs rw", Verdict.WRONG),
            ("overlay overlay rw,lowerdir=/x", Verdict.NOTE),
            ("ext4 /dev/x rw,nobarrier", Verdict.WRONG),
            ("ext4 /dev/x rw,barrier=0", Verdict.WRONG),
            ("ext4 /dev/x rw,data=writeback", Verdict.NOTE),
        ],
        ids=str,
    )
    def test_what_a_file_system_does_to_a_journal(
        self, tmp_path: Path, line: str, verdict: Verdict
    ) -> None:
        mounts = tmp_path / "mountinfo"
        place, kind = str(tmp_path), line.partition(" ")[0]
        mounts.write_text(
            f"1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
            f"2 1 8:2 / {place} rw,noatime - {line}\n"
            f"3 1 8:3 / {place}-other rw - nfs host:/ rw\n"
        )
        finding = only(doctor_disk.look_at_file_system(tmp_path / "a/b/journal.db", mounts))
        assert finding.verdict is verdict
        assert f"{kind} on {tmp_path}" in finding.what

    def test_a_place_with_a_space_is_found(self, tmp_path: Path) -> None:
        mounts = tmp_path / "mountinfo"
        mounts.write_text("1 0 8:1 / /a\\040b rw - xfs /dev/x rw\n")
        mount = doctor_disk.mount_of(Path("/a b/c"), mounts)
        assert mount is not None
        assert (mount.place, mount.kind) == ("/a b", "xfs")

    def test_a_directory_that_others_write_to_is_wrong(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o777)
        finding = only(doctor_disk.look_at_rights(tmp_path / "journal.db"))
        assert (finding.verdict, finding.hint) == (Verdict.WRONG, f"chmod go-w {tmp_path}")

    @pytest.mark.parametrize(
        ("least", "verdict"), [(0, Verdict.WELL), (1 << 62, Verdict.WRONG)], ids=str
    )
    def test_room(self, tmp_path: Path, least: int, verdict: Verdict) -> None:
        assert doctor_disk.look_at_room(tmp_path / "x/journal.db", least).verdict is verdict

    def test_little_room_is_told_before_it_is_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        disk = os.statvfs(tmp_path)
        free = disk.f_bavail * disk.f_frsize
        monkeypatch.setattr(os, "statvfs", lambda _path: disk)
        finding = doctor_disk.look_at_room(tmp_path / "journal.db", free // 2)
        assert finding.verdict is Verdict.NOTE

    def test_a_sync_that_fails_is_wrong_and_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", fail)
        finding = doctor_disk.look_at_syncs(tmp_path / "journal.db")
        assert finding.verdict is Verdict.WRONG
        assert "Input/output error" in finding.what
        assert [*tmp_path.iterdir()] == []

    @pytest.mark.parametrize(
        ("seconds", "verdict"),
        [(0.000_001, Verdict.NOTE), (0.001, Verdict.WELL), (0.05, Verdict.NOTE)],
        ids=str,
    )
    def test_a_disk_may_be_too_slow_or_too_fast(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, verdict: Verdict
    ) -> None:
        now = 0.0

        def sync(_descriptor: int) -> None:
            nonlocal now
            now += seconds

        monkeypatch.setattr(os, "fdatasync", sync)
        monkeypatch.setattr(doctor_disk.Clock, "monotonic", lambda _self: now)
        assert doctor_disk.look_at_syncs(tmp_path / "journal.db").verdict is verdict

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_disk_that_is_another_s_is_not_measured(self) -> None:
        assert doctor_disk.look_at_syncs(Path("/usr/journal.db")).verdict is Verdict.NOTE


class TestTheHost:
    @pytest.mark.parametrize(
        ("version", "verdict"),
        [
            ("3.34.1", Verdict.WRONG),
            ("3.40.1", Verdict.NOTE),
            ("3.44.5", Verdict.NOTE),
            ("3.44.6", Verdict.WELL),
            ("3.50.7", Verdict.WELL),
            ("3.51.2", Verdict.NOTE),
            ("3.51.3", Verdict.WELL),
            ("3.60.0", Verdict.WELL),
        ],
    )
    def test_sqlite(self, version: str, verdict: Verdict) -> None:
        assert doctor_host.look_at_sqlite(version, is_daemons=True).verdict is verdict

    @pytest.mark.parametrize(
        ("state", "verdict"), [(0, Verdict.WELL), (5, Verdict.NOTE), (-1, Verdict.NOTE)]
    )
    def test_the_clock(self, state: int, verdict: Verdict) -> None:
        assert doctor_host.look_at_clock(state).verdict is verdict

    def test_the_kernel_tells_of_the_clock(self) -> None:
        assert doctor_host.clock_state() in range(-1, 6)

    @pytest.mark.parametrize(
        ("connections", "verdict"), [(1, Verdict.WELL), (1 << 40, Verdict.NOTE)], ids=str
    )
    def test_descriptors(self, connections: int, verdict: Verdict) -> None:
        for pid in (0, os.getpid()):
            assert doctor_host.look_at_descriptors(pid, connections).verdict is verdict


ANSWERS = """#!/bin/sh
shift
case "$1" in
    show) echo 252 ;;
    is-enabled) grep "^$2 " "$ANSWERS" | cut -d ' ' -f 2 ;;
    is-active) grep "^$2 " "$ANSWERS" | cut -d ' ' -f 3 ;;
esac
"""


class TestSystemd:
    @pytest.fixture
    def look(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[str, str], dict[str, Finding]]:
        """Return what looks at a user's systemd that says so of its two units."""
        program = tmp_path / "systemctl"
        program.write_text(ANSWERS)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setenv("ANSWERS", str(tmp_path / "answers"))
        monkeypatch.setattr(doctor_host, "lingers", lambda _uid: False)

        def look(socket: str, service: str) -> dict[str, Finding]:
            answers = f"agent-journald.socket {socket}\nagent-journald.service {service}\n"
            (tmp_path / "answers").write_text(answers)
            manager = ServiceManager(is_system=False)
            return {one.check: one for one in doctor_host.look_at_systemd(manager, answers=True)}

        return look

    @pytest.mark.parametrize(
        ("socket", "service", "verdict", "told"),
        [
            ("enabled active", "enabled active", Verdict.WELL, "enabled and active"),
            ("enabled active", "enabled inactive", Verdict.NOTE, "the first client starts it"),
            ("enabled active", "enabled failed", Verdict.WRONG, "service is failed"),
            ("enabled inactive", "enabled active", Verdict.WRONG, "socket is inactive"),
            ("disabled active", "enabled active", Verdict.WRONG, "not there after a boot"),
            ("not-found inactive", "not-found inactive", Verdict.NOTE, "are not installed"),
        ],
        ids=str,
    )
    def test_units(
        self,
        look: Callable[[str, str], dict[str, Finding]],
        socket: str,
        service: str,
        verdict: Verdict,
        told: str,
    ) -> None:
        finding = look(socket, service)["systemd"]
        assert finding.verdict is verdict
        assert told in finding.what

    def test_a_service_that_ends_with_the_session_is_told(
        self,
        look: Callable[[str, str], dict[str, Finding]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        told = look("enabled active", "enabled active")["linger"]
        assert told.verdict is Verdict.NOTE
        assert told.hint.startswith("loginctl enable-linger ")
        monkeypatch.setattr(doctor_host, "lingers", lambda _uid: True)
        assert look("enabled active", "enabled active")["linger"].verdict is Verdict.WELL

    def test_a_host_without_systemd(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda _name: None)
        manager = ServiceManager(is_system=True)
        finding = only(doctor_host.look_at_systemd(manager, answers=False))
        assert finding.verdict is Verdict.NOTE
        assert "does not run here" in finding.what
