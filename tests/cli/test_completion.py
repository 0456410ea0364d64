"""Completion, in the shells themselves where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent_journal.cli import COMMANDS, HIDDEN
from agent_journal.cli.states import STATE_STYLES
from cli.fake_daemon import FakeDaemon, Run, agent, refused

SHELLS = ["bash", "zsh", "fish"]

PROGRAM = f"""#!{sys.executable}
import sys
from agent_journal.cli import main
sys.exit(main())
"""

# What bash does when Tab is pressed at the end of a line, word breaks and all.
BASH_TAB = r"""
source "$1"
COMP_LINE=$2
COMP_POINT=${#COMP_LINE}
COMP_WORDBREAKS=$' \t\n"\'><=;|&(:'
_agent_journal agent-journal
printf '%s\n' "${COMPREPLY[@]}"
"""


def shell(name: str) -> str:
    """Return the shell, or skip the test that needs it."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed: its completion was not run")
    return program


@pytest.fixture
def scripts(run: Run, tmp_path: Path) -> Path:
    """Return a directory with the script for each shell, and the program that they ask."""
    for name in SHELLS:
        (tmp_path / name).write_text(run("completion", name).out)
    program = tmp_path / "agent-journal"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    return tmp_path


def in_bash(scripts: Path, line: str) -> list[str]:
    """Return what bash offers at the end of *line*."""
    done = subprocess.run(
        [shell("bash"), "--norc", "-c", BASH_TAB, "bash", scripts / "bash", line],
        cwd=scripts,
        env={**os.environ, "PATH": f"{scripts}:/usr/bin:/bin", "HOME": str(scripts)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return sorted(filter(None, done.stdout.split("\n")))


@pytest.mark.parametrize("name", SHELLS)
def test_a_shell_accepts_its_script(scripts: Path, name: str) -> None:
    done = subprocess.run(
        [shell(name), "-n", scripts / name], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", SHELLS)
def test_a_script_knows_every_command(scripts: Path, name: str) -> None:
    text = (scripts / name).read_text()
    for command in COMMANDS:
        assert command in text
    assert "--expected-sequence" in text or "expected-sequence" in text


def test_no_shell_is_a_usage_error(run: Run) -> None:
    assert run("completion").code == 2
    assert run("completion", "csh").code == 2


class TestBash:
    def test_commands(self, scripts: Path) -> None:
        assert in_bash(scripts, "agent-journal ") == sorted(COMMANDS)
        assert in_bash(scripts, "agent-journal ver") == ["verify", "verify-replay"]
        assert not {*HIDDEN} & {*in_bash(scripts, "agent-journal m")}

    @pytest.mark.parametrize(
        ("line", "offered"),
        [
            ("agent-journal ls --st", ["--state"]),
            ("agent-journal --so", ["--socket"]),
            ("agent-journal --json ls --no", ["--no-header"]),
            ("agent-journal ls --state par", ["parked"]),
            ("agent-journal ls --state=par", ["parked"]),
            ("agent-journal ls --state parked,int", ["parked,interrupted"]),
            ("agent-journal config ", ["check", "default", "show"]),
            ("agent-journal completion f", ["fish"]),
            ("agent-journal ls --limit ", []),
            ("agent-journal -s /tmp/x ls --rev", ["--reverse"]),
            ("agent-journal config check conf", ["conf.toml"]),
            ("agent-journal --socket conf", ["conf.toml"]),
            ("agent-journal run --kind x -- agent-jour", ["agent-journal"]),
        ],
        ids=str,
    )
    def test_a_line(self, scripts: Path, line: str, offered: list[str]) -> None:
        (scripts / "conf.toml").touch()
        assert in_bash(scripts, line) == offered

    def test_every_state(self, scripts: Path) -> None:
        assert {*STATE_STYLES} < {*in_bash(scripts, "agent-journal ls --state ")}

    def test_agents_are_asked_of_the_daemon_on_the_line(
        self, scripts: Path, fake: FakeDaemon
    ) -> None:
        known = [agent("report:1"), agent("report:2"), agent("x;reboot")]
        fake.on("agents", {"agents": known, "more": False})
        line = f"agent-journal -s {fake.path} show rep"
        assert in_bash(scripts, line) == ["report:1", "report:2"]
        # Bash has cut the word at the colon, and puts in what stands behind it.
        assert in_bash(scripts, f"{line}ort:") == ["1", "2"]
        assert fake.of("agents")[0] == {"op": "agents", "limit": 200, "prefix": "rep"}


def test_kinds_are_those_of_the_newest_agents(fake: FakeDaemon, ask: Run) -> None:
    known = [agent("a", kind="nightly"), agent("b", kind=None), agent("c", kind="two words")]
    fake.on("agents", {"agents": known, "more": False})
    assert ask("completion", "--kinds", "").out == "nightly\n"
    assert fake.of("agents") == [{"op": "agents", "limit": 200, "order": "newest"}]


@pytest.mark.parametrize("how", ["gone", "refuses", "odd"])
def test_nothing_is_said_where_nothing_can_be_asked(fake: FakeDaemon, run: Run, how: str) -> None:
    """Somebody is in the middle of a line."""
    path = "/nowhere/journal.sock" if how == "gone" else str(fake.path)
    fake.on("agents", refused("damaged") if how == "refuses" else {"agents": [7]})
    result = run("completion", "--agents", "a", "-s", path)
    assert (result.code, result.out, result.err) == (0, "", "")


class TestFish:
    @pytest.mark.parametrize(
        ("line", "offered"),
        [
            ("agent-journal veri", ["verify", "verify-replay"]),
            ("agent-journal ls --st", ["--state"]),
            ("agent-journal ls --state par", ["parked"]),
            ("agent-journal config ch", ["check"]),
        ],
        ids=str,
    )
    def test_a_line(self, scripts: Path, line: str, offered: list[str]) -> None:
        assert self.in_fish(scripts, line) == offered

    def test_agents_are_asked_of_the_daemon_on_the_line(
        self, scripts: Path, fake: FakeDaemon
    ) -> None:
        fake.on("agents", {"agents": [agent("report-1"), agent("report-2")], "more": False})
        line = f"agent-journal -s {fake.path} show rep"
        assert self.in_fish(scripts, line) == ["report-1", "report-2"]

    @staticmethod
    def in_fish(scripts: Path, line: str) -> list[str]:
        done = subprocess.run(
            [shell("fish"), "--no-config", "-c", f"source {scripts}/fish; complete -C '{line}'"],
            cwd=scripts,
            env={**os.environ, "PATH": f"{scripts}:/usr/bin:/bin", "HOME": str(scripts)},
            capture_output=True,
            text=True,
            check=True,
        )
        return sorted(word.split("\t")[0] for word in done.stdout.splitlines())
