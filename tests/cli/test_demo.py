"""The demo as a newcomer starts it: a real daemon, killed for real."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from agent_journal.cli import demo_processes
from agent_journal.client import connect
from agent_journal.testing.daemon import RunningDaemon
from cli.fake_daemon import Run

DEMO = [
    *(sys.executable, "-c", "from agent_journal.cli import program; program()"),
    "demo",
]
VERDICT = re.compile(r"([\d,]+) acknowledged, ([\d,]+) found, 0 lost, 0 doubled$", re.MULTILINE)


@pytest.fixture
def stage(short_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo makes its directory; a socket named by the user must not matter."""
    monkeypatch.setenv("TMPDIR", str(short_dir))
    monkeypatch.setattr(tempfile, "tempdir", str(short_dir))  # it remembers what TMPDIR was
    monkeypatch.setenv("AGENT_JOURNAL_SOCKET", "/nowhere/journal.sock")
    return short_dir


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("a.py", "b.py", "c.md"):
        (tmp_path / name).write_text("def f(): ...  # TODO\n")
    return tmp_path


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids(text: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"pid (\d+)", text)]


def test_the_demo_loses_nothing_and_leaves_nothing(stage: Path, project: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--dir", str(project)],
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    out = done.stdout
    verdict = VERDICT.search(out)
    assert verdict is not None
    assert verdict[1] == verdict[2]
    assert int(verdict[1].replace(",", "")) > 23
    timeline = out[out.index("SEQ") : out.index("its answer")]
    before, killed, rest = timeline.partition("killed (SIGKILL)")
    outage, restarted, after = rest.partition("started ─")
    assert killed
    assert restarted
    assert outage.count("killed (SIGKILL)") == 1  # the agent's, and the daemon's
    steps = re.compile(r"^ *\d+  \S+ +\d+  (\S+) (\S+) +(done|interrupted)(.*)", re.MULTILINE)
    cut_off = steps.findall(before).pop()
    assert cut_off[:3] == ("call:3a", "read_head", "interrupted")
    assert all("  in 2  " in line for *_, line in steps.findall(before)[:-1])
    assert "attempt 2: launched by the daemon" in after
    again = steps.findall(after)
    assert again[0][:3] == ("call:3a", "read_head", "done")
    assert not any("  in 2  " in line for *_, line in again)
    assert "Terminated" not in before
    assert "Terminated" in after
    assert "1 denied: write_file" in after
    executed = len(steps.findall(before)) - 1
    assert f"attempt 1 executed {executed} steps; attempt 2 was handed {executed} of them" in out
    total = executed + len(again)
    effects = f"effects outside the journal: {total} steps, {total} done exactly once, 0 doubled"
    assert effects in out
    assert "its answer: 3 files with 63 bytes, 2 of them .py." in out
    assert list(stage.iterdir()) == []
    assert sorted(path.name for path in project.iterdir()) == ["a.py", "b.py", "c.md"]
    assert not any(map(is_alive, pids(out)))


def test_the_demo_for_programs(stage: Path, project: Path, run: Run) -> None:
    result = run("demo", "--dir", str(project), "--json")
    assert result.code == 0
    assert result.err == ""
    [verdict] = result.objects
    assert verdict["is_good"] is True
    assert verdict["acknowledged"] == verdict["found"] > 23
    assert verdict["writers"] == 4
    resume = verdict["resume"]
    assert resume["steps"] == resume["once"] == resume["executed_before"] + resume["executed_after"]
    assert resume["replayed"] == resume["executed_before"] > 0
    assert (resume["in_flight"], resume["attempts"], resume["was_launched"]) == (1, 2, True)
    assert resume["doubled"] == resume["missing"] == resume["run_again"] == 0
    assert verdict["in_flight"] >= verdict["in_flight_recorded_before"]
    assert verdict["outage"]["restarted_us"] > verdict["outage"]["killed_us"]
    assert list(stage.iterdir()) == []


def test_a_kept_journal_can_be_looked_at(stage: Path, project: Path, run: Run) -> None:
    result = run("demo", "--dir", str(project), "--keep")
    assert result.code == 0
    [kept] = stage.iterdir()
    assert f"the journal is kept in {kept}" in result.out
    with RunningDaemon(kept) as daemon, connect(daemon.socket) as journal:
        entries = list(journal.read("demo-agent"))
        assert journal.describe("demo-agent").state == "completed"
    assert entries[-1].name == "Terminated"
    assert f"{len(entries) - 1:>3}  " in result.out
    assert (kept / "outside.ndjson").exists()


@contextlib.contextmanager
def started_demo(project: Path) -> Iterator[subprocess.Popen[str]]:
    demo = subprocess.Popen(
        [*DEMO, "--dir", str(project)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield demo
    finally:
        demo.kill()
        demo.communicate()


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "daemon started"),
        (signal.SIGINT, "daemon killed"),
        (signal.SIGTERM, "daemon restarted"),
        (signal.SIGHUP, "agent started"),
        (signal.SIGINT, "agent resumed"),
    ],
    ids=str,
)
def test_an_interrupted_demo_leaves_nothing(
    stage: Path, project: Path, number: signal.Signals, moment: str
) -> None:
    with started_demo(project) as demo:
        assert demo.stdout is not None
        told = ""
        while moment not in told:
            line = demo.stdout.readline()
            assert line, f"the demo ended before {moment!r}: {told}"
            told += line
        demo.send_signal(number)
        _, err = demo.communicate()
        assert demo.returncode == 130
    assert err == ""
    assert list(stage.iterdir()) == []
    assert not any(map(is_alive, pids(told)))


def test_the_directory_must_be_one(run: Run, project: Path) -> None:
    result = run("demo", "--dir", str(project / "a.py"))
    assert result.code == 2
    assert "is not a directory" in result.what
    assert result.hint == "agent-journal demo --dir ."


def test_a_daemon_that_does_not_start_is_told_with_its_last_words(
    stage: Path, project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = project / "python"
    broken.write_text("#!/bin/sh\necho 'no such \x1b[1mluck' >&2\nexit 7\n")
    broken.chmod(0o755)
    monkeypatch.setattr(demo_processes.sys, "executable", str(broken))
    result = run("demo", "--dir", str(project))
    assert result.code == 1
    assert result.what == "the daemon ended instead of answering: no such \\x1b[1mluck"
    assert "--keep" in result.hint
    assert list(stage.iterdir()) == []


def pretend_to_be_python(monkeypatch: pytest.MonkeyPatch, directory: Path, before: str) -> None:
    """Let the demo start its processes with a script that does *before* first."""
    wrapper = directory / "python"
    wrapper.write_text(f'#!/bin/sh\n{before}\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(demo_processes.sys, "executable", str(wrapper))


def test_a_daemon_that_forgets_is_found_out(
    stage: Path, project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict is not a text: a daemon that starts with an empty journal fails the demo."""
    # -m agent_journal --socket … --database …
    forget = '[ "$2" = agent_journal ] && rm -f "$6"*'
    pretend_to_be_python(monkeypatch, project, forget)
    result = run("demo", "--dir", str(project))
    assert result.code == 1
    assert VERDICT.search(result.out) is None
    verdict = re.search(r"([\d,]+) acknowledged, ([\d,]+) found, ([\d,]+) lost", result.out)
    assert verdict is not None
    acknowledged, found, _ = (int(number.replace(",", "")) for number in verdict.groups())
    assert found < acknowledged


def test_an_agent_that_forgets_its_keys_is_found_out(
    stage: Path, project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count is no text: where the outside forgets what was done, a step is done twice."""
    forget = (
        '[ "$2" = agent_journal ] && f=$(dirname "$4")/outside.ndjson && [ -e "$f" ]'
        ' && sed -i \'/done.*call:3a/s/"key": "/&x/\' "$f"'
    )
    pretend_to_be_python(monkeypatch, project, forget)
    result = run("demo", "--dir", str(project))
    assert result.code == 1
    assert re.search(r"(\d+) steps, \d+ done exactly once, 1 doubled, 0 missing", result.out)


def test_an_agent_that_fails_is_told(
    stage: Path, project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail = "case $2 in *demo_agent) echo alas >&2; exit 3;; esac"
    pretend_to_be_python(monkeypatch, project, fail)
    result = run("demo", "--dir", str(project))
    assert result.code == 1
    assert result.what == "the agent failed (exit code 3): alas"
    assert not any(map(is_alive, pids(result.out)))
    assert list(stage.iterdir()) == []


def test_a_long_temporary_directory_does_not_break_the_socket(
    project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = project / ("d" * 120)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    result = run("demo", "--dir", str(project), "--json")
    assert result.code == 0
    assert json.loads(result.out)["is_good"] is True
    assert list(deep.iterdir()) == []


def test_the_recorded_demo_is_the_one_that_runs() -> None:
    """``make recording`` renews it; it shows what the tests above find, and names no machine."""
    picture = (Path(__file__).parents[2] / "docs" / "demo.svg").read_text("utf-8")
    document = ET.fromstring(picture)  # noqa: S314 - likewise
    svg = "{http://www.w3.org/2000/svg}"
    rows: dict[str, dict[float, str]] = {}
    for text in document.iter(f"{svg}text"):
        if "y" in text.attrib and text.get("clip-path"):
            row = rows.setdefault(text.attrib["y"], {})
            row[float(text.attrib["x"])] = "".join(text.itertext()).replace("\xa0", " ")
    shown = "\n".join("".join(row[x] for x in sorted(row)) for row in rows.values())
    assert shown.startswith("$ make demo")
    assert VERDICT.search(shown)
    for told in ("agent killed", "daemon restarted", "0 doubled, 0 missing", "~/agent-journal"):
        assert told in shown
    assert "http" not in picture.replace("http://www.w3.org/", ""), "it loads nothing"
