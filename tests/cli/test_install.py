"""``install`` and ``uninstall``: in a throw-away root, and beside a systemd that writes down."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_journal.cli import install_files, installation
from agent_journal.cli.failures import CommandError
from agent_journal.cli.install_files import check_visible, rendered
from agent_journal.cli.shipped import shipped
from agent_journal.cli.whole_file import WholeFile
from cli.fake_daemon import Result, Run

REPOSITORY = Path(__file__).parents[2]
HOME = "/home/anna"
PROGRAM = "/opt/agent-journal/bin/agent-journald"
UNIT = {"--user": f"{HOME[1:]}/.config/systemd/user", "--system": "etc/systemd/system"}
MANIFEST = {
    "--user": f"{HOME[1:]}/.local/share/agent-journal/installed.json",
    "--system": "usr/local/lib/agent-journal/installed.json",
}
BOTH = pytest.mark.parametrize("whose", ["--user", "--system"])

Tree = dict[str, bytes | None]


def tree(directory: Path) -> Tree:
    """Return everything below a directory: a file's bytes, where a link leads, or no bytes."""
    found: Tree = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = os.fsencode(path.readlink())
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


@pytest.fixture(autouse=True)
def anna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", HOME)
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "CONFIGURATION_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a root in which others have files beside those that are installed."""
    root = tmp_path / "root"
    for name in ("usr/local/bin/other", f"{HOME[1:]}/.config/systemd/user/other.service"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("another's")
    return root


@pytest.fixture
def at(run: Run, root: Path) -> Callable[..., Result]:
    """Run ``install`` or ``uninstall`` in the throw-away root."""

    def at(command: str, *arguments: str) -> Result:
        program = ["--program", PROGRAM] if command == "install" else []
        return run(command, *arguments, *program, "--root", str(root))

    return at


class TestTheThrowAwayRoot:
    @BOTH
    def test_nothing_is_left_behind(self, at: Run, root: Path, whose: str) -> None:
        before = tree(root)
        assert at("install", whose).code == 0
        installed = tree(root)
        assert len([name for name in installed if installed[name] is not None]) > 11
        assert at("uninstall", whose).code == 0
        assert tree(root) == before
        again = at("uninstall", whose)
        assert again.code == 0
        assert "nothing is installed here" in again.out

    @BOTH
    def test_a_rehearsal_says_what_is_done_and_does_nothing(
        self, at: Run, root: Path, whose: str
    ) -> None:
        before = tree(root)
        *rehearsed, end = at("install", whose, "--dry-run").lines
        assert tree(root) == before
        assert end.startswith("note    nothing was changed")
        *done, end = at("install", whose).lines
        assert (done, end.split()[0]) == (rehearsed, "done")
        installed = tree(root)
        *rehearsed, end = at("uninstall", whose, "--dry-run").lines
        assert tree(root) == installed
        assert end.startswith("note    nothing was changed")
        assert at("uninstall", whose).lines == rehearsed

    @BOTH
    def test_it_can_be_repeated(self, at: Run, root: Path, whose: str) -> None:
        at("install", whose)
        installed = tree(root)
        verbs = [line.split()[0] for line in at("install", whose).lines]
        assert verbs == ["write", "done"]  # the manifest
        assert tree(root) == installed

    def test_every_kind_of_file_is_there(self, at: Run, root: Path) -> None:
        at("install", "--system")
        shared = "usr/local/share"
        assert {
            "etc/systemd/system/agent-journald.service",
            "etc/systemd/system/agent-journald.socket",
            "etc/sysusers.d/agent-journal.conf",
            "etc/tmpfiles.d/agent-journal.conf",
            "etc/polkit-1/rules.d/50-agent-journal.rules",
            "etc/agent-journal/config.toml.example",
            f"{shared}/man/man1/agent-journal.1",
            f"{shared}/man/man5/agent-journal.toml.5",
            f"{shared}/man/man7/agent-journal-protocol.7",
            f"{shared}/man/man8/agent-journald.8",
            f"{shared}/bash-completion/completions/agent-journal",
            f"{shared}/zsh/site-functions/_agent-journal",
            f"{shared}/fish/vendor_completions.d/agent-journal.fish",
        } <= tree(root).keys()

    @pytest.mark.parametrize(("whose", "mode"), [("--user", 0o700), ("--system", 0o755)])
    def test_rights_are_not_the_umask_s(self, at: Run, root: Path, whose: str, mode: int) -> None:
        before = os.umask(0o027)
        try:
            at("install", whose)
        finally:
            os.umask(before)
        manifest = root / MANIFEST[whose]
        assert manifest.stat().st_mode & 0o777 == 0o644
        assert manifest.parent.stat().st_mode & 0o777 == mode
        unit = root / UNIT[whose] / "agent-journald.service"
        assert unit.stat().st_mode & 0o777 == 0o644

    @BOTH
    def test_json_says_the_same(self, at: Run, whose: str) -> None:
        plain = at("install", whose, "--dry-run").lines
        objects = at("install", whose, "--dry-run", "--json").objects
        assert [one["verb"] for one in objects] == [line.split()[0] for line in plain]
        assert all(one["dry_run"] is True for one in objects)
        assert "done" not in {one["verb"] for one in objects}


class TestWhatIsAnothers:
    @pytest.mark.parametrize("name", ["agent-journald.service", "agent-journald.socket"])
    def test_a_file_that_was_there_is_kept(self, at: Run, root: Path, name: str) -> None:
        unit = root / UNIT["--user"] / name
        unit.write_text("mine")
        before = tree(root)
        installed = at("install", "--user")
        assert f"keep    {unit}  (not ours" in installed.out
        assert unit.read_text() == "mine"
        at("uninstall", "--user")
        assert tree(root) == before

    def test_a_file_that_was_there_and_is_the_same_stays_when_ours_go(
        self, at: Run, root: Path
    ) -> None:
        at("install", "--user")
        unit = root / UNIT["--user"] / "agent-journald.socket"
        content = unit.read_bytes()
        at("uninstall", "--user")
        unit.write_bytes(content)
        at("install", "--user")
        at("uninstall", "--user")
        assert unit.read_bytes() == content

    def test_a_mask_is_kept(self, at: Run, root: Path) -> None:
        unit = root / UNIT["--user"] / "agent-journald.service"
        unit.symlink_to("/dev/null")
        assert f"keep    {unit}" in at("install", "--user").out
        at("uninstall", "--user")
        assert unit.is_symlink()

    def test_a_file_that_was_changed_is_kept_and_said(self, at: Run, root: Path) -> None:
        at("install", "--user")
        unit = root / UNIT["--user"] / "agent-journald.service"
        unit.write_text(unit.read_text() + "# and this\n")
        assert f"keep    {unit}  (changed since it was installed" in at("install", "--user").out
        removed = at("uninstall", "--user")
        assert f"keep    {unit}  (changed since it was installed)" in removed.lines
        assert unit.read_text().endswith("# and this\n")
        assert not (root / MANIFEST["--user"]).exists()

    def test_what_an_older_version_left_is_replaced_or_removed(self, at: Run, root: Path) -> None:
        at("install", "--user")
        installed = tree(root)
        manifest = root / MANIFEST["--user"]
        said = json.loads(manifest.read_text())
        unit = root / UNIT["--user"] / "agent-journald.service"
        gone = root / UNIT["--user"] / "agent-journald-old.service"
        gone.write_text("of version 0.0")
        unit.write_text("of version 0.0")
        old = installation.digest(b"of version 0.0")
        for path in (unit, gone):
            said["files"][f"/{path.relative_to(root)}"] = [old]
        manifest.write_text(json.dumps(said))
        lines = at("install", "--user").lines
        assert f"update  {unit}" in lines
        assert f"remove  {gone}" in lines
        assert tree(root) == installed

    def test_a_directory_in_which_somebody_put_something_stays(self, at: Run, root: Path) -> None:
        at("install", "--user")
        mine = root / HOME[1:] / ".config/agent-journal/config.toml"
        mine.write_text("# mine")
        removed = at("uninstall", "--user")
        assert mine.read_text() == "# mine"
        assert f"rmdir   {mine.parent}" not in removed.lines
        assert f"note    the configuration stays: {mine}" in removed.lines


class TestWhenItFails:
    def test_what_was_begun_can_be_removed(
        self, at: Run, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A disk that fills up half-way leaves nothing that uninstall does not know."""
        before = tree(root)
        written = 0

        class Filling(WholeFile):
            def __init__(self, path: Path) -> None:
                nonlocal written
                written += 1
                if written > 5:
                    raise OSError(28, "No space left on device", str(path))
                super().__init__(path)

        monkeypatch.setattr(installation, "WholeFile", Filling)
        failed = at("install", "--user")
        assert failed.code == 1
        assert "No space left on device" in failed.what
        assert len(tree(root)) > len(before) + 5
        assert at("uninstall", "--user").code == 0
        assert tree(root) == before

    def test_an_update_that_was_begun_can_be_removed(
        self, at: Run, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Some files are of the one version then, and some of the other."""
        before = tree(root)
        at("install", "--user")
        manifest = root / MANIFEST["--user"]
        said = json.loads(manifest.read_text())
        for name in ("agent-journald.socket", "agent-journald.service"):
            (root / UNIT["--user"] / name).write_text("of version 0.0")
            said["files"][f"/{UNIT['--user']}/{name}"] = [installation.digest(b"of version 0.0")]
        manifest.write_text(json.dumps(said))

        class Failing(WholeFile):
            def __init__(self, path: Path) -> None:
                if path.name == "agent-journald.service":
                    raise OSError(28, "No space left on device", str(path))
                super().__init__(path)

        monkeypatch.setattr(installation, "WholeFile", Failing)
        assert at("install", "--user").code == 1
        assert at("uninstall", "--user").code == 0
        assert tree(root) == before

    def test_a_manifest_that_makes_no_sense_is_not_guessed_at(self, at: Run, root: Path) -> None:
        at("install", "--user")
        installed = tree(root)
        (root / MANIFEST["--user"]).write_text('{"format": 7}')
        assert at("uninstall", "--user").code == 1
        assert at("install", "--user").code == 1
        assert {*tree(root)} == {*installed}

    @pytest.mark.skipif(os.geteuid() == 0, reason="run as root, who may install for the host")
    def test_only_root_installs_for_the_host(self, run: Run) -> None:
        result = run("install", "--system", "--program", PROGRAM)
        assert "only root installs for the host" in result.what

    @pytest.mark.parametrize("hidden", ["/home/anna/bin/x", "/root/x", "/run/user/7/x"])
    def test_a_program_that_the_service_cannot_see_is_refused(
        self, run: Run, root: Path, hidden: str
    ) -> None:
        result = run("install", "--system", "--root", str(root), "--program", hidden)
        assert result.code == 1
        assert "lies under a home directory" in result.what
        assert "python3 -m venv /opt/agent-journal" in result.hint

    def test_a_python_that_the_service_cannot_see_is_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "base_prefix", "/home/anna/.pyenv/versions/3.11")
        with pytest.raises(CommandError, match="lies under a home directory"):
            check_visible(install_files.program_of("agent-journald"))


class TestPurge:
    @pytest.fixture
    def state(self, root: Path) -> Path:
        """Return the directory of a journal, with a file in it that is not the journal's."""
        state = root / HOME[1:] / ".local/state/agent-journal"
        (state / "attempts/a/1").mkdir(parents=True)
        for name in ("journal.db", "journal.db-wal", "journal.db.lock", "attempts/a/1/stdout"):
            (state / name).write_text("x")
        return state

    def test_it_must_be_meant(self, at: Run, root: Path, state: Path) -> None:
        at("install", "--user")
        installed = tree(root)
        refused = at("uninstall", "--user", "--purge")
        assert refused.code == 2
        assert str(state) in refused.what
        assert "--purge --yes" in refused.hint
        assert tree(root) == installed

    def test_without_it_the_journal_stays_and_is_named(
        self, at: Run, root: Path, state: Path
    ) -> None:
        before = tree(root)
        at("install", "--user")
        assert f"note    the journal stays: {state}/journal.db" in at("uninstall", "--user").lines
        assert tree(root) == before

    def test_it_deletes_the_journal_and_the_configuration(
        self, at: Run, root: Path, state: Path
    ) -> None:
        at("install", "--user")
        config = root / HOME[1:] / ".config/agent-journal/config.toml"
        config.write_text("")
        assert at("uninstall", "--user", "--purge", "--yes").code == 0
        assert not state.exists()
        assert not config.parent.exists()

    def test_it_deletes_nothing_that_it_does_not_know(
        self, at: Run, root: Path, state: Path
    ) -> None:
        (state / "journal-backup.db").write_text("x")
        at("install", "--user")
        at("uninstall", "--user", "--purge", "--yes")
        assert {path.name for path in state.iterdir()} == {"journal-backup.db"}

    def test_not_while_a_daemon_has_the_journal(self, at: Run, state: Path) -> None:
        at("install", "--user")
        with (state / "journal.db.lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            result = at("uninstall", "--user", "--purge", "--yes")
        assert result.code == 5
        assert (state / "journal.db").exists()


RECORDING = r"""#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case "$*" in
    *show*) echo 252 ;;
    *is-active*) cat "$CALLS.active" 2>/dev/null ;;
    *enable\ --now*)
        mkdir -p "$HOME/.config/systemd/user/default.target.wants"
        touch "$HOME/.config/systemd/user/default.target.wants/agent-journald.service" ;;
    *disable*) rm -rf "$HOME/.config/systemd/user/default.target.wants" ;;
esac
[ ! -e "$CALLS.fails.$(basename "$0")" ]
"""


class TestSystemd:
    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Return a home directory, beside a systemd that writes down what it is told."""
        home, programs = tmp_path / "home", tmp_path / "programs"
        home.mkdir()
        programs.mkdir()
        for name in ("systemctl", "loginctl"):
            (programs / name).write_text(RECORDING)
            (programs / name).chmod(0o755)
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
        monkeypatch.setattr(installation, "lingers", lambda _uid: False)
        return home

    @pytest.fixture
    def calls(self, tmp_path: Path) -> Callable[[], list[str]]:
        """Return what tells, and forgets, what systemd was told to do."""

        def calls() -> list[str]:
            path = tmp_path / "calls"
            told = path.read_text().splitlines() if path.exists() else []
            path.unlink(missing_ok=True)
            return [one for one in told if "show" not in one and "is-active" not in one]

        return calls

    def test_a_user_s_service_is_enabled_and_forgotten(
        self, home: Path, run: Run, calls: Callable[[], list[str]]
    ) -> None:
        before = tree(home)
        assert run("install", "--user").code == 0
        linger, *others = sorted(calls())
        assert linger.startswith("loginctl enable-linger ")
        assert others == [
            "systemctl --user daemon-reload",
            "systemctl --user enable --now agent-journald.socket agent-journald.service",
        ]
        assert run("uninstall", "--user").code == 0
        told = calls()
        assert told[0] == (
            "systemctl --user disable --now agent-journald.socket agent-journald.service"
        )
        assert told[1:] == [
            "systemctl --user daemon-reload",
            linger.replace("enable", "disable"),
        ]
        assert tree(home) == before

    def test_lingering_that_was_on_before_stays_on(
        self,
        home: Path,
        run: Run,
        calls: Callable[[], list[str]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(installation, "lingers", lambda _uid: True)
        run("install", "--user")
        run("uninstall", "--user")
        assert not [one for one in calls() if one.startswith("loginctl")]

    def test_lingering_that_is_refused_is_said_and_no_failure(
        self, home: Path, run: Run, calls: Callable[[], list[str]], tmp_path: Path
    ) -> None:
        (tmp_path / "calls.fails.loginctl").touch()
        result = run("install", "--user")
        assert result.code == 0
        assert "enable-linger" in result.err
        calls()
        run("uninstall", "--user")
        assert not [one for one in calls() if one.startswith("loginctl")]

    def test_who_wants_no_lingering_gets_none(
        self, home: Path, run: Run, calls: Callable[[], list[str]]
    ) -> None:
        run("install", "--user", "--no-linger")
        assert not [one for one in calls() if one.startswith("loginctl")]

    def test_a_new_version_restarts_the_service(
        self, home: Path, run: Run, calls: Callable[[], list[str]]
    ) -> None:
        run("install", "--user")
        run("install", "--user")
        restart = "systemctl --user try-restart agent-journald.service"
        assert restart not in calls()
        manifest = home / ".local/share/agent-journal/installed.json"
        said = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**said, "version": "0.0.9"}))
        run("install", "--user")
        assert restart in calls()

    def test_a_systemd_that_refuses_is_a_failure_that_can_be_gone_on_from(
        self, home: Path, run: Run, tmp_path: Path
    ) -> None:
        before = tree(home)
        (tmp_path / "calls.fails.systemctl").touch()
        result = run("install", "--user")
        assert result.code == 1
        assert result.what.startswith("systemctl --user daemon-reload failed")
        (tmp_path / "calls.fails.systemctl").unlink()
        assert run("install", "--user").code == 0
        assert run("uninstall", "--user").code == 0
        assert tree(home) == before

    def test_a_rehearsal_tells_systemd_nothing(
        self, home: Path, run: Run, calls: Callable[[], list[str]]
    ) -> None:
        assert "run     systemctl --user enable" in run("install", "--user", "--dry-run").out
        assert calls() == []
        assert tree(home) == {}

    def test_a_daemon_that_runs_by_hand_is_told_of_first(self, home: Path, run: Run) -> None:
        lock = home / ".local/state/agent-journal/journal.db.lock"
        lock.parent.mkdir(parents=True)
        before = tree(home)
        with lock.open("w+") as held:
            held.write("4711\n")
            held.flush()
            fcntl.flock(held, fcntl.LOCK_EX)
            result = run("install", "--user")
        assert result.code == 5
        assert "pid 4711" in result.what
        lock.unlink()
        assert tree(home) == before

    def test_without_systemd_the_files_are_there_and_it_is_said(
        self, home: Path, run: Run, tmp_path: Path
    ) -> None:
        (tmp_path / "programs/systemctl").write_text("#!/bin/sh\nexit 1\n")
        result = run("install", "--user")
        assert result.code == 0
        assert "systemd does not run here" in result.out
        assert (home / ".config/systemd/user/agent-journald.service").exists()

    def test_a_mistake_in_the_configuration_is_no_reason_to_stay(
        self, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))  # root's is in /etc without
        config = home / ".config/agent-journal/config.toml"
        config.parent.mkdir(parents=True)
        config.write_text("a = 1\nb = 2\n")
        before = tree(home)
        refused = run("install", "--user")
        assert (refused.code, refused.hint) == (78, "agent-journal config check")
        assert refused.what.endswith("(and 1 more)")
        assert tree(home) == before
        config.unlink()
        run("install", "--user")
        config.write_text("a = 1\nb = 2\n")
        assert run("uninstall", "--user", "--purge", "--yes").code == 78
        assert run("uninstall", "--user").code == 0
        assert tree(home) == before

    def test_the_command_is_found_by_a_shell(self, home: Path, run: Run) -> None:
        run("install", "--user")
        program = install_files.program_of("agent-journal")
        link = home / ".local/bin/agent-journal"
        if len(program) == 1 and Path(program[0]).parent not in install_files.ON_EVERY_PATH:
            assert str(link.readlink()) == program[0]
        else:
            assert not link.exists()


class TestUnits:
    @pytest.mark.parametrize(
        ("program", "line"),
        [
            (["/opt/x/bin/agent-journald"], "ExecStart=/opt/x/bin/agent-journald"),
            (["/opt/a b/x"], 'ExecStart="/opt/a b/x"'),
            (["/opt/50%/$x"], "ExecStart=/opt/50%%/$$x"),
            (["/usr/bin/python3", "-m", "agent_journal"],
             "ExecStart=/usr/bin/python3 -m agent_journal"),
        ],
    )  # fmt: skip
    def test_they_start_this_installation(self, program: list[str], line: str) -> None:
        for name in ("agent-journald.service", "user/agent-journald.service"):
            text = rendered(shipped(f"systemd/{name}").read_text("utf-8"), program)
            assert [one for one in text.splitlines() if one.startswith("ExecStart=")] == [line]

    @BOTH
    def test_systemd_accepts_them(self, run: Run, root: Path, whose: str, tmp_path: Path) -> None:
        analyze = shutil.which("systemd-analyze")
        if analyze is None:
            pytest.skip("systemd-analyze is not installed: the rendered units were not judged")
        program = tmp_path / "bin/agent-journald"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        assert run("install", whose, "--program", str(program), "--root", str(root)).code == 0
        units = [root / UNIT[whose] / f"agent-journald.{kind}" for kind in ("service", "socket")]
        command = [analyze, *(["--user"] if whose == "--user" else []), "verify", *units]
        judged = subprocess.run(
            command,
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (judged.stdout + judged.stderr, judged.returncode) == ("", 0)


def test_what_is_shipped_is_in_the_wheel() -> None:
    """Whatever the commands look for beside the code is put there by the build."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for name in ("systemd", "config.toml", "PROTOCOL.md"):
        source = shipped(name).relative_to(REPOSITORY)
        assert included[str(source)] == f"agent_journal/_share/{name}"
