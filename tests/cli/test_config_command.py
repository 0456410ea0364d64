"""``agent-journal config``: the daemon's own judgement, with the lines to look at."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from agent_journal.service.config import Config, load, options
from cli.fake_daemon import Run

SHIPPED = Path(__file__).parents[2] / "config.toml"

GOOD = """\
socket = "/tmp/x/journal.sock"
[limits]
frame_bytes_max = "8MiB"
[resume]
env = ["TOKEN"]
[resume.kinds.nightly-report]
attempts_max = 2
[launchers.coder]
unit = "coder-agent@.service"
users = ["anna"]
[launchers."a.b:c"]
argv = ["/bin/x", "{agent_id}"]
"""

BAD = """\
[limits]
frame_bytes_max = "8QiB"
conections_max = 4
[commit]
batch_bytes_max = true
[launchers.coder]
unit = "coder"
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.toml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.toml"
    path.write_text(BAD)
    return path


@pytest.fixture(autouse=True)
def own_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    for name in ("CONFIGURATION_DIRECTORY", "STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)


class TestCheck:
    def test_every_problem_is_named_with_its_line(self, run: Run, bad: Path) -> None:
        result = run("config", "check", str(bad))
        assert result.code == 78
        assert result.err == ""
        places = [line.split(": ")[:2] for line in result.lines]
        assert sorted(places) == sorted(
            [f"{bad}:{line}", key]
            for line, key in (
                (2, "limits.frame_bytes_max"),
                (3, "limits.conections_max"),
                (5, "commit.batch_bytes_max"),
                (7, "launchers.coder.unit"),
            )
        )

    def test_the_problems_are_those_that_the_daemon_has(self, run: Run, bad: Path) -> None:
        [report] = run("config", "check", str(bad), "--json").objects
        assert report["ok"] is False
        with pytest.raises(Exception, match="8QiB") as refused:
            load(bad)
        told = {f"{bad}: {one['key']}: {one['problem']}" for one in report["problems"]}
        assert told == {*str(refused.value).splitlines()}

    def test_a_right_file_is_said_to_be(self, run: Run, good: Path) -> None:
        result = run("config", "check", str(good))
        assert (result.code, result.out) == (0, f"{good}: 6 options set, nothing wrong\n")

    def test_a_default_file_need_not_be_there(self, run: Run, tmp_path: Path) -> None:
        result = run("config", "check")
        assert result.code == 0
        assert result.out.startswith(f"{tmp_path}/config/agent-journal/config.toml: there is none")

    @pytest.mark.parametrize(
        ("content", "told"),
        [("a = [", "not TOML"), (b"\xff\xfe", "not UTF-8"), (None, "cannot be read")],
        ids=["toml", "utf-8", "missing"],
    )
    def test_what_is_no_file_of_options(
        self, run: Run, tmp_path: Path, content: str | bytes | None, told: str
    ) -> None:
        path = tmp_path / "odd.toml"
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        result = run("config", "check", str(path))
        assert result.code == 78
        assert told in result.out
        [report] = run("config", "check", str(path), "--json").objects
        assert "key" not in report["problems"][0]


class TestShow:
    def test_what_is_shown_is_what_the_daemon_would_read(
        self, run: Run, good: Path, tmp_path: Path
    ) -> None:
        shown = tmp_path / "shown.toml"
        shown.write_text(run("config", "show", str(good)).out)
        told = {name: value for name, _, value in options(load(good))}
        again = {name: value for name, _, value in options(load(shown))}
        assert told.pop("database") is None  # that is shown where it would be
        assert str(again.pop("database")).endswith("/.local/state/agent-journal/journal.db")
        assert again == told

    def test_every_value_has_an_origin(self, run: Run, good: Path) -> None:
        lines = run("config", "show", "--origin", str(good)).lines
        said = dict(
            re.fullmatch(r"(\S+)(?: = .*?)?\s+# (.*)", line).groups()  # type: ignore[union-attr]
            for line in lines
            if "#" in line
        )
        assert said["socket"] == f"{good}:1"
        assert said["frame_bytes_max"] == f"{good}:3"
        assert said["env"] == f"{good}:5"
        assert said["[resume.kinds.nightly-report]"] == f"{good}:6"
        assert said["[launchers.coder]"] == f"{good}:8"
        assert said["connections_max"] == "default"
        names = {name.rpartition(".")[2] for name, _, _ in options(Config())}
        assert names - {"kinds", "launchers"} <= said.keys()

    def test_a_default_says_what_it_depends_on(self, run: Run, tmp_path: Path) -> None:
        told = {one["option"]: one for one in run("config", "show", "--json").objects}
        assert told["socket"] == {
            "option": "socket",
            "value": f"{tmp_path}/runtime/agent-journal/journal.sock",
            "origin": "default, from $XDG_RUNTIME_DIR",
            "live": False,
        }
        assert told["commit.free_bytes_min"]["value"] == "64MiB"

    def test_a_bad_file_is_not_shown(self, run: Run, bad: Path) -> None:
        result = run("config", "show", str(bad))
        assert result.code == 78
        assert "frame_bytes_max =" not in result.out


class TestDefault:
    def test_it_is_the_shipped_file(self, run: Run) -> None:
        result = run("config", "default")
        assert result.out == SHIPPED.read_text("utf-8")
        assert tomllib.loads(result.out)

    def test_it_is_printed_and_not_written(self, run: Run, tmp_path: Path) -> None:
        assert run("config", "default", str(tmp_path / "x.toml")).code == 2
        assert not (tmp_path / "x.toml").exists()
