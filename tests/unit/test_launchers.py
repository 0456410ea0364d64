"""What starts an agent, what it is told, and how systemd is asked."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from agent_journal.errors import InvalidError
from agent_journal.model import AgentId, Uid
from agent_journal.service import launch_systemd
from agent_journal.service.attempt_output import (
    AttemptFiles,
    Outcome,
    cleaned,
    outcome_of,
    process_of,
    stderr_end,
)
from agent_journal.service.config import Config
from agent_journal.service.config_resume import LauncherOptions, Resume
from agent_journal.service.launch_systemd import (
    UNIT_NAME_MAX,
    LaunchError,
    Systemd,
    outcome_from,
    output_of,
    unit_name,
)
from agent_journal.service.launchers import (
    Launchers,
    NoMeansError,
    filled,
    means_for,
    plain_env,
)
from agent_journal.service.processes import start_time_of
from agent_journal.store.attachment import Attachment, Command
from agent_journal.store.base import AgentNumber, AgentRecord

ME = Uid(os.geteuid())
OTHER = Uid(4_000_000_001)
A = AgentId("a")
ENVIRON = {"PATH": "/bin", "LC_TIME": "de_DE", "API_KEY": "s", "HOME": "/root"}


def record(uid: Uid = ME, **attachment: object) -> AgentRecord:
    known = Attachment(**attachment) if attachment else None  # type: ignore[arg-type]
    return AgentRecord(uid, A, AgentNumber(1), attachment=known)


class TestMeans:
    def test_a_command_gets_the_environment_it_sent_and_what_is_passed_on(self) -> None:
        command = Command(("agent", "{agent_id}"), "/work", {"WORD": "x"})
        config = Config(resume=Resume(env=("API_KEY", "NOT_THERE")))
        means = means_for(record(command=command), config, ENVIRON)
        assert means.env == {"WORD": "x", "API_KEY": "s"}
        assert means.cwd == "/work"
        assert not means.is_pattern, "a client's own arguments are taken as they are"
        assert means.shown == ["agent", "{agent_id}"]

    def test_another_user_s_command_is_not_run(self) -> None:
        with pytest.raises(NoMeansError, match="launchers that its configuration names") as caught:
            means_for(record(OTHER, command=Command(("x",), "/")), Config(), ENVIRON)
        assert not caught.value.is_final

    @pytest.mark.parametrize("attachment", [{}, {"incident": None}])
    def test_who_named_nothing_has_none(self, attachment: dict[str, object]) -> None:
        with pytest.raises(NoMeansError) as caught:
            means_for(record(**attachment), Config(), ENVIRON)
        assert not caught.value.is_final

    def test_a_launcher_gets_plain_variables_of_the_daemon_and_none_of_the_client(self) -> None:
        config = Config(launchers={"l": LauncherOptions(argv=("/x",), users=("*",))})
        mine = means_for(record(launcher="l"), config, ENVIRON)
        assert mine.env == {"PATH": "/bin", "LC_TIME": "de_DE", "HOME": "/root"}
        assert (mine.cwd, mine.shown) == ("/", "l")
        other = means_for(record(OTHER, launcher="l"), config, ENVIRON)
        assert other.env["AGENT_JOURNAL_UID"] == str(OTHER)

    @pytest.mark.parametrize(
        ("launchers", "reason"),
        [
            ({}, r"add \[launchers.l\] to it, then resume"),
            ({"l": LauncherOptions(argv=("/x",))}, "name that user in its users"),
        ],
        ids=["none", "not for this user"],
    )
    def test_a_launcher_that_may_not_start_it_is_for_a_person_to_settle(
        self, launchers: dict[str, LauncherOptions], reason: str
    ) -> None:
        with pytest.raises(NoMeansError, match=reason) as caught:
            means_for(record(OTHER, launcher="l"), Config(launchers=launchers), ENVIRON)
        assert caught.value.is_final

    def test_placeholders_are_filled_and_nothing_else_is(self) -> None:
        argv = ("/x", "--id={agent_id}", "{attempt}", "{other}", "$HOME")
        assert filled(argv, AgentId("a-1"), 7) == ["/x", "--id=a-1", "7", "{other}", "$HOME"]

    def test_what_may_be_secret_is_not_plain(self) -> None:
        environ = dict.fromkeys(
            ["OPENAI_API_KEY", "PASSWORD", "PATH", "LANG", "SSH_AUTH_SOCK", "LD_PRELOAD"], "x"
        )
        assert plain_env(environ).keys() == {"PATH", "LANG"}
        assert plain_env(environ, extra=("PASSWORD",)).keys() == {"PATH", "LANG", "PASSWORD"}


class TestPrograms:
    async def test_what_it_printed_is_returned(self) -> None:
        assert await output_of(("printf", "%s", "a b")) == "a b"

    async def test_a_failure_says_what_the_program_said(self) -> None:
        with pytest.raises(LaunchError, match=r"^no such unit$"):
            await output_of(("sh", "-c", "echo no such unit >&2; exit 5"))
        with pytest.raises(LaunchError, match="sh ended with status 5"):
            await output_of(("sh", "-c", "exit 5"))
        with pytest.raises(LaunchError, match="/no/such/program cannot be run: No such file"):
            await output_of(("/no/such/program",))

    async def test_one_that_does_not_end_is_ended(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(launch_systemd, "COMMAND_SECONDS_MAX", 0.05)
        with pytest.raises(LaunchError, match="did not end"):
            await output_of(("sleep", "600"))


class Called:
    """How programs in the place of systemd's were called."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def taken(self) -> list[str]:
        """Return the words of the calls since this was asked the last time."""
        if not self._path.exists():
            return []
        words = self._path.read_text().splitlines()
        self._path.unlink()
        return words


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Called:
    """Put programs in the place of systemd's that write down how they were called."""
    for name in ("systemctl", "systemd-run"):
        program = tmp_path / name
        program.write_text(
            f'#!/bin/sh\nprintf "%s\\n" {name} "$@" >> {tmp_path}/called\n'
            'case " $* " in *MainPID*) printf "MainPID=0\\nExecMainCode=1\\nExecMainStatus=4\\n";; '
            "esac\n"
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(launch_systemd, "_BOOTED", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(launch_systemd, "own_service", lambda: None)
    return Called(tmp_path / "called")


class TestSystemd:
    async def test_a_program_is_started_as_a_transient_unit(self, systemd: Called) -> None:
        manager = Systemd()
        assert await manager.is_wanted("auto")
        assert systemd.taken()[:2] == ["systemctl", "--user"]
        await manager.run(("python3", "keeper", "$x"), ME, AgentId("a@b"), 3)
        assert systemd.taken() == [
            "systemd-run", "--user", "--quiet", "--collect",
            f"--unit=agent-{ME}-a\\x40b-3.service", "--description=Agent a@b, attempt 3",
            "--service-type=notify", "--property=NotifyAccess=main", "--",
            "python3", "keeper", "$x",
        ]  # fmt: skip

    async def test_a_unit_is_started_by_its_name_and_tells_how_it_ended(
        self, systemd: Called
    ) -> None:
        attempt = await Systemd().start_unit("report-agent@.service", AgentId("a:b"))
        called = systemd.taken()
        assert called[:6] == [
            "systemctl", "--user", "--quiet", "start", "--", "report-agent@a:b.service",
        ]  # fmt: skip
        assert attempt.is_over
        outcome = await attempt.outcome()
        assert (outcome.how, outcome.exit_code) == ("exited", 4)
        assert "journalctl --user -u report-agent@a:b.service" in outcome.stderr

    async def test_where_systemd_does_not_run_agents_are_processes(
        self, systemd: Called, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(launch_systemd, "_BOOTED", Path("/no/such/directory"))
        assert not await Systemd().is_wanted("auto")
        with pytest.raises(LaunchError, match="systemd does not answer"):
            await Systemd().is_wanted("systemd")

    async def test_in_a_service_they_are_not(
        self, systemd: Called, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They would be ended with it."""
        monkeypatch.setattr(launch_systemd, "_BOOTED", Path("/no/such/directory"))
        monkeypatch.setattr(launch_systemd, "own_service", lambda: "agent-journald.service")
        with pytest.raises(LaunchError, match="would end with it"):
            await Systemd().is_wanted("auto")
        assert not await Systemd().is_wanted("process")

    async def test_who_wants_processes_need_not_ask(self, systemd: Called) -> None:
        assert not await Systemd().is_wanted("process")
        assert systemd.taken() == []

    def test_each_attempt_has_a_unit_of_its_own(self) -> None:
        long = AgentId("x@" * 64)
        names = {
            unit_name(uid, agent_id, attempt)
            for uid in (ME, OTHER)
            for agent_id in (A, AgentId("a@b"), long)
            for attempt in (1, 2)
        }
        assert len(names) == 12
        assert all("@" not in name and len(name) <= UNIT_NAME_MAX for name in names)

    @pytest.mark.parametrize(
        ("code", "status", "outcome"),
        [
            ("1", "7", Outcome(how="exited", exit_code=7)),
            ("2", "9", Outcome(how="signalled", signal="SIGKILL")),
            ("3", "6", Outcome(how="signalled", signal="SIGABRT")),
            ("0", "0", Outcome(how="lost")),
            ("2", "77", Outcome(how="signalled", signal="signal 77")),
        ],
    )
    def test_a_unit_s_end_reads_as_any_other(
        self, code: str, status: str, outcome: Outcome
    ) -> None:
        assert outcome_from({"ExecMainCode": code, "ExecMainStatus": status}, "") == outcome


class TestFinding:
    """What was started earlier is found again, and nothing else is taken for it."""

    @pytest.fixture
    def launchers(self, tmp_path: Path) -> Launchers:
        return Launchers(AttemptFiles(tmp_path), "/run/journal.sock", "this boot")

    def started(self, launchers: Launchers, tmp_path: Path, **members: object) -> AgentRecord:
        """Write down that this very process keeps attempt 3, which began at 17."""
        found = record(attempt_sequence=17)
        found.attempts = 3
        directory = tmp_path / str(ME) / "a" / "3"
        directory.mkdir(parents=True)
        me = os.getpid()
        process = {
            "sequence": 17, "pid": me, "keeper_pid": me, "boot_id": "this boot",
            "keeper_start_time": start_time_of(me), **members,
        }  # fmt: skip
        (directory / "process.json").write_text(json.dumps(process))
        return found

    def test_one_that_goes_on_is_found(self, launchers: Launchers, tmp_path: Path) -> None:
        attempt = launchers.find(self.started(launchers, tmp_path))
        assert attempt is not None
        assert not attempt.is_over
        attempt.close()

    @pytest.mark.parametrize("member", [{"boot_id": "before"}, {"sequence": 4}], ids=str)
    def test_one_of_another_boot_or_with_a_number_that_came_again_is_not(
        self, launchers: Launchers, tmp_path: Path, member: dict[str, object]
    ) -> None:
        assert launchers.find(self.started(launchers, tmp_path, **member)) is None

    def test_a_keeper_that_was_asked_for_and_has_not_begun_will_not(
        self, launchers: Launchers, tmp_path: Path
    ) -> None:
        """Its daemon was killed in between: what it would start is about to be started anew."""
        found = self.started(launchers, tmp_path)
        directory = tmp_path / str(ME) / "a" / "3"
        (directory / "process.json").unlink()
        (directory / "spec").touch()
        assert launchers.find(found) is None
        assert not (directory / "spec").exists()

    def test_one_that_its_keeper_is_just_starting_is_found(
        self, launchers: Launchers, tmp_path: Path
    ) -> None:
        found = self.started(launchers, tmp_path)
        directory = tmp_path / str(ME) / "a" / "3"
        known = json.loads((directory / "process.json").read_text())
        (directory / "process.json").unlink()
        (directory / "keeper.json").write_text(json.dumps({**known, "pid": None}))
        attempt = launchers.find(found)
        assert attempt is not None
        assert not attempt.is_over
        assert attempt.pid is None
        (directory / "process.json").write_text(json.dumps(known))
        assert attempt.pid == os.getpid(), "by now it is known who was started"
        attempt.close()

    @pytest.mark.parametrize("lives", [True, False])
    def test_an_earlier_attempt_that_lives_is_seen(
        self, launchers: Launchers, tmp_path: Path, *, lives: bool
    ) -> None:
        """Under whatever number: a person who resumes an agent has its attempts count anew."""
        found = self.started(launchers, tmp_path, **({} if lives else {"keeper_start_time": 1}))
        found.attempts = 0
        living = launchers.find_living(found)
        assert (living is not None) is lives
        if living is not None:
            assert living[0] == 3
            living[1].close()

    def test_of_an_agent_that_was_never_launched_there_is_nothing(
        self, launchers: Launchers, tmp_path: Path
    ) -> None:
        self.started(launchers, tmp_path)
        other = record()
        other.agent_id = AgentId("b")
        assert launchers.find(other) is None
        assert launchers.find_living(other) is None
        assert [path.name for path in (tmp_path / str(ME)).iterdir()] == ["a"]

    async def test_a_later_process_with_the_keeper_s_pid_is_not_the_keeper(
        self, launchers: Launchers, tmp_path: Path
    ) -> None:
        attempt = launchers.find(self.started(launchers, tmp_path, keeper_start_time=1))
        assert attempt is not None
        assert attempt.is_over
        assert (await attempt.outcome()).how == "lost"


class TestFiles:
    @pytest.fixture
    def files(self, tmp_path: Path) -> AttemptFiles:
        return AttemptFiles(tmp_path / "attempts")

    def test_it_is_told_whether_anything_of_an_agent_is_there(self, files: AttemptFiles) -> None:
        assert not files.has_any(ME, A)
        files.prepare(ME, A, 3, {"argv": ["x"]}, kept=2)
        assert files.has_any(ME, A)
        assert not files.has_any(ME, AgentId("a.b"))
        assert not files.has_any(ME, AgentId(f"../{ME}/a"))
        (files.root / "lost+found" / "a").mkdir(parents=True)
        assert AttemptFiles(files.root).has_any(ME, A), "the next daemon finds it"
        files.remove(ME, A)
        assert not files.has_any(ME, A)

    def test_an_attempt_has_a_directory_that_nobody_else_reads(self, files: AttemptFiles) -> None:
        before = os.umask(0o077)  # as the daemon has
        try:
            directory = files.prepare(ME, A, 3, {"argv": ["x"]}, kept=2)
        finally:
            os.umask(before)
        assert directory == files.root / str(ME) / "a" / "3"
        for path in (files.root, directory.parent, directory):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE((directory / "spec").stat().st_mode) == 0o600

    @pytest.mark.parametrize("agent_id", ["..", "../x", "a/b", ""])
    def test_what_is_no_id_is_no_directory(self, files: AttemptFiles, agent_id: str) -> None:
        with pytest.raises(InvalidError):
            files.directory(ME, AgentId(agent_id), 1)

    def test_the_last_attempts_are_kept(self, files: AttemptFiles) -> None:
        for attempt in range(1, 5):
            directory = files.prepare(ME, A, attempt, {}, kept=2)
            os.utime(directory, ns=(attempt, attempt))
        assert {path.name for path in (files.root / str(ME) / "a").iterdir()} == {"3", "4"}

    def test_an_attempt_of_the_same_number_begins_anew(self, files: AttemptFiles) -> None:
        """The numbers begin again when a person resumes the agent."""
        directory = files.prepare(ME, A, 1, {}, kept=3)
        (directory / "status.json").write_text('{"exit_code": 1}')
        assert outcome_of(files.prepare(ME, A, 1, {}, kept=3)) is None

    def test_what_is_not_whole_says_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "status.json").write_text("")
        (tmp_path / "process.json").write_text('{"pid": "x"}')
        assert outcome_of(tmp_path) is None
        assert process_of(tmp_path) is None
        assert stderr_end(tmp_path) == ""

    def test_only_so_many_agents_that_do_not_run_have_traces(
        self, files: AttemptFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("agent_journal.service.attempt_output.AGENTS_KEPT_MAX", 2)
        monkeypatch.setattr("agent_journal.service.attempt_output._LOOK_EVERY", 1)
        monkeypatch.setattr("agent_journal.service.attempt_output._LOOK_AT", 0)
        for number in range(5):
            directory = files.prepare(ME, AgentId(f"a{number}"), 1, {}, kept=3)
            if number != 1:  # which runs
                (directory / "status.json").write_text("{}")
            os.utime(directory.parent, ns=(number, number))
        files.prepare(ME, AgentId("new"), 1, {}, kept=3)
        kept = {path.name for path in (files.root / str(ME)).iterdir()}
        assert kept == {"a1", "a3", "a4", "new"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb\x1b[0m", "ab"),
        ("a\x1b]0;title\x07b", "ab"),
        ("a\x1b", "a"),
        ("a\r\nb\tc\n\n", "a\nb\tc"),
        ("a\x00\x08\x9bb", "ab"),
        ("ä…", "ä…"),
    ],
    ids=["colour", "title", "cut", "lines", "controls", "letters"],
)
def test_nothing_that_drives_a_terminal_is_kept(text: str, shown: str) -> None:
    assert cleaned(text) == shown
