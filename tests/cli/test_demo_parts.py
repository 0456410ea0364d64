"""The demo's parts: its tools, its model, its policy, and the one who judges."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent_journal.cli import demo_agent, demo_tools
from agent_journal.cli.demo_agent import Policy
from agent_journal.cli.demo_ledger import (
    Acknowledgement,
    Ledger,
    Verdict,
    held_against,
    read_ledger,
)
from agent_journal.cli.demo_model import Action, Observation, decide
from agent_journal.cli.demo_outside import Outside, judge, read_outside
from agent_journal.cli.demo_report import Outage, Report
from agent_journal.cli.demo_tools import ToolError, Workspace
from agent_journal.cli.timeline import tell
from agent_journal.client import Entry, connect
from agent_journal.testing.daemon import RunningDaemon
from cli.fake_daemon import FakeDaemon, agent
from cli.stories import BEGIN, Story, wire


def known(agent_id: str, sequence: int, **fields: Any) -> Acknowledgement:
    values = {
        "agent_id": agent_id,
        "sequence": sequence,
        "position": 100 * sequence + len(agent_id),
        "iteration": 0,
        "event": {"Worked": {"number": sequence}},
        "duplicate": False,
        "asked": float(sequence),
        "answered": sequence + 0.5,
    }
    return Acknowledgement(**{**values, **fields})


def recorded(of: Acknowledgement, **fields: Any) -> Entry:
    values = {
        "agent_id": of.agent_id,
        "sequence": of.sequence,
        "position": of.position,
        "iteration": of.iteration,
        "event": of.event,
        "timestamp": datetime(2026, 1, 2, tzinfo=UTC),
    }
    return Entry(**{**values, **fields})


LEDGER = [known("a", 0), known("bb", 0), known("a", 1), known("bb", 1), known("a", 2)]
JOURNAL = [recorded(k) for k in sorted(LEDGER, key=lambda k: (k.agent_id, k.sequence))]


def faults(verdict: Verdict) -> dict[str, int]:
    names = ("lost", "altered", "doubled", "misplaced", "unacknowledged")
    return {name: count for name in names if (count := getattr(verdict, name))}


def judged(journal: Sequence[Entry], ledger: Sequence[Acknowledgement] = LEDGER) -> Verdict:
    return held_against(ledger, journal)


def test_a_journal_with_everything_in_it_is_good() -> None:
    verdict = judged(JOURNAL)
    assert verdict.is_good
    assert str(verdict) == "5 acknowledged, 5 found, 0 lost, 0 doubled"


def test_a_lost_entry_is_seen() -> None:
    verdict = judged(JOURNAL[:2] + JOURNAL[3:])
    assert faults(verdict) == {"lost": 1}
    assert not verdict.is_good
    assert str(verdict) == "5 acknowledged, 4 found, 1 lost, 0 doubled"


def test_a_whole_lost_agent_is_seen() -> None:
    assert faults(judged(JOURNAL[:3])) == {"lost": 2}


def test_a_gap_in_the_middle_is_lost_and_out_of_order() -> None:
    assert faults(judged([JOURNAL[0], JOURNAL[2], *JOURNAL[3:]])) == {"lost": 1, "misplaced": 1}


def test_a_doubled_entry_is_seen() -> None:
    again = JOURNAL[2].__replace__(sequence=3, position=999)
    verdict = judged([*JOURNAL[:3], again, *JOURNAL[3:]])
    assert faults(verdict) == {"doubled": 1, "unacknowledged": 1}
    assert not verdict.is_good


def test_an_acknowledgement_of_the_same_place_for_two_is_seen() -> None:
    verdict = judged(JOURNAL, [*LEDGER, known("a", 2, event={"Worked": {"number": 3}})])
    assert verdict.doubled == 1
    assert not verdict.is_good


@pytest.mark.parametrize(
    "change", [{"event": {"Worked": {"number": 9}}}, {"iteration": 1}, {"position": 555}], ids=str
)
def test_an_altered_entry_is_seen(change: dict[str, Any]) -> None:
    verdict = judged([*JOURNAL[:2], JOURNAL[2].__replace__(**change), *JOURNAL[3:]])
    assert verdict.altered == 1
    assert not verdict.is_good
    assert "1 altered" in str(verdict)


def test_entries_out_of_order_are_seen() -> None:
    swapped = [JOURNAL[1], JOURNAL[0], *JOURNAL[2:]]
    assert judged(swapped).misplaced > 0
    falling = [JOURNAL[0].__replace__(position=500), *JOURNAL[1:]]
    assert judged(falling).misplaced == 1
    assert judged(JOURNAL, [LEDGER[2], LEDGER[0], *LEDGER[3:], LEDGER[1]]).misplaced > 0


def test_what_nobody_was_told_about_is_no_fault_but_told() -> None:
    more = recorded(known("a", 3))
    verdict = judged([*JOURNAL[:3], more, *JOURNAL[3:]])
    assert verdict.is_good
    assert str(verdict).endswith("1 recorded without an acknowledgement")


def test_an_empty_ledger_proves_nothing() -> None:
    assert not judged([], []).is_good


def test_a_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    assert read_ledger(path) == []
    with Ledger(path) as ledger:
        for acknowledgement in LEDGER:
            ledger.write(acknowledgement)
    with Ledger(path) as ledger:
        ledger.write(LEDGER[0])
        ledger.close()
    assert read_ledger(path) == [*LEDGER, LEDGER[0]]


KILLED_US = int((BEGIN + timedelta(seconds=5.5)).timestamp() * 1e6)
OUTAGE = Outage(
    agent_pid=3,
    killed_pid=1,
    killed_us=KILLED_US,
    killed_at=2.2,
    restarted_pid=2,
    restarted_us=KILLED_US + 200_000,
    restarted_at=2.4,
)


def serve(fake: FakeDaemon, story: Story, entries: Sequence[Entry]) -> None:
    """Let the fake daemon hold *story* of the demo's agent and *entries* of a writer."""
    written = wire(entries)
    told = wire(story.entries)
    fake.on("agents", {"agents": [agent("demo-agent"), agent("demo-writer-1")], "more": False})

    def read(request: dict[str, Any]) -> dict[str, Any]:
        found = told if request["agent_id"] == "demo-agent" else written
        return {"entries": found, "next_sequence": len(found), "more": False}

    fake.on("read", read)


def resumed() -> Story:
    """Two steps, a third that a kill cut off, and an attempt that goes on."""
    story = Story().attempt(1).step("one").step("two").began("three", "idempotent").ended(1)
    return story.attempt(2, launched=True).step("three").step("four").add("Terminated", result="42")


def seen_outside(*lines: str) -> list[dict[str, Any]]:
    """Return what the outside has seen: ``asked one 1`` for step one in attempt 1."""
    words = [line.split() for line in lines]
    return [
        {"what": what, "step": step, "key": f"i-{step}", "attempt": int(attempt), "pid": 1}
        for what, step, attempt in words
    ]


ALL_DONE = [
    *("asked one 1", "done one 1", "asked two 1", "done two 1", "asked three 1", "done three 1"),
    *("asked three 2", "asked four 2", "done four 2"),
]


def test_steps_that_were_done_once_are_good() -> None:
    verdict = judge(tell(resumed().entries, is_owned=False), seen_outside(*ALL_DONE))
    assert verdict.is_good
    assert (verdict.steps, verdict.once, verdict.in_flight) == (4, 4, 1)
    assert (verdict.executed_before, verdict.replayed, verdict.executed_after) == (2, 2, 2)


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ([*ALL_DONE, "done three 2"], {"doubled": 1, "once": 3}),
        ([line for line in ALL_DONE if line != "done two 1"], {"missing": 1, "once": 3}),
        ([*ALL_DONE, "asked one 2"], {"run_again": 1}),
        ([*ALL_DONE, "asked five 2", "done five 2"], {"unrecorded": 1}),
        ([], {"missing": 4, "once": 0}),
    ],
    ids=str,
)
def test_what_was_not_done_once_is_seen(lines: list[str], wrong: dict[str, int]) -> None:
    verdict = judge(tell(resumed().entries, is_owned=False), seen_outside(*lines))
    assert not verdict.is_good
    assert {name: getattr(verdict, name) for name in wrong} == wrong


@pytest.mark.parametrize(
    "story",
    [
        Story().attempt(1).step("one").step("two"),
        Story().attempt(1).step("one").began("two").ended(1).attempt(2).step("two"),
        Story().attempt(1).began("one").ended(1).attempt(2, launched=True).step("one").step("two"),
    ],
    ids=["no second attempt", "not by the daemon", "nothing to replay"],
)
def test_a_play_in_which_nothing_was_resumed_proves_nothing(story: Story) -> None:
    lines = seen_outside("asked one 1", "done one 1", "asked two 1", "done two 1")
    assert not judge(tell(story.entries, is_owned=False), lines).is_good


def test_an_effect_is_done_once_for_its_key(tmp_path: Path) -> None:
    path = tmp_path / "outside"
    with Outside(path, attempt=1) as outside:
        assert outside.do("one", "k", lambda: {"result": 1}) == ({"result": 1}, True)
    with path.open("ab") as file:
        file.write(b'{"what": "done", "step": "cut off by a k')
    path.write_bytes(path.read_bytes()[: path.read_bytes().rindex(b"{")])
    with Outside(path, attempt=2) as outside:
        assert outside.do("one", "k", lambda: {"result": 2}) == ({"result": 1}, False)
        assert outside.do("two", "other", lambda: {"result": 3}) == ({"result": 3}, True)
    lines = read_outside(path)
    assert [(line["what"], line["step"], line["attempt"]) for line in lines] == [
        ("asked", "one", 1),
        ("done", "one", 1),
        ("asked", "one", 2),
        ("asked", "two", 2),
        ("done", "two", 2),
    ]


def test_a_line_that_a_kill_cut_off_did_not_happen(tmp_path: Path) -> None:
    path = tmp_path / "outside"
    path.write_bytes(b'{"what": "asked"}\n{"what": "do')
    assert read_outside(path) == [{"what": "asked"}]
    assert read_outside(tmp_path / "none") == []


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Return a writer's ledger, and what the outside has seen."""
    ledger_file = tmp_path / "writers.ledger"
    with Ledger(ledger_file) as ledger:
        for sequence in range(4):
            ledger.write(known("demo-writer-1", sequence, duplicate=sequence == 2))
    outside = tmp_path / "outside.ndjson"
    outside.write_text("".join(json.dumps(line) + "\n" for line in seen_outside(*ALL_DONE)))
    return ledger_file, outside


def entries_of(path: Path) -> list[Entry]:
    return [recorded(acknowledged) for acknowledged in read_ledger(path)]


def test_the_report_of_a_whole_play(
    fake: FakeDaemon, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    serve(fake, resumed(), entries_of(files[0]))
    report = Report(fake.path, *files, OUTAGE)
    report.print()
    out = capsys.readouterr().out
    assert report.is_good
    assert out.splitlines()[-4:] == [
        "in flight at the kill: 1 step, asked for again with the same idempotency key",
        "effects outside the journal: 4 steps, 4 done exactly once, 0 doubled, 0 missing",
        "writers: 1 append was unanswered at the kill and repeated; 1 had been recorded, 0 had not",
        "all 1 writers: 4 acknowledged, 4 found, 0 lost, 0 doubled",
    ]
    assert "attempt 1 executed 2 steps; attempt 2 was handed 2 of them back and executed 2" in out
    assert "its answer: 42" in out
    # The kill and the restart stand between the entries of their seconds.
    order = [line.split()[0] for line in out.splitlines()[3:15]]
    assert order == [*("──", "1", "3", "5"), *("──", "──", "──"), *("──", "──", "8", "10", "12")]


def test_the_report_of_a_play_in_which_something_was_lost(
    fake: FakeDaemon, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    serve(fake, resumed(), entries_of(files[0])[:3])
    report = Report(fake.path, *files, OUTAGE)
    report.print()
    report.print_json()
    out = capsys.readouterr().out
    assert not report.is_good
    assert "4 acknowledged, 3 found, 1 lost, 0 doubled" in out
    verdict = json.loads(out.splitlines()[-1])
    assert verdict["lost"] == 1
    assert verdict["resume"]["once"] == 4
    assert verdict["is_good"] is False


def test_the_report_of_a_play_in_which_a_step_was_done_twice(
    fake: FakeDaemon, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with files[1].open("a") as outside:
        outside.write(json.dumps(seen_outside("done one 2")[0]) + "\n")
    serve(fake, resumed(), entries_of(files[0]))
    report = Report(fake.path, *files, OUTAGE)
    report.print()
    assert not report.is_good
    assert "4 steps, 3 done exactly once, 1 doubled, 0 missing" in capsys.readouterr().out


def test_the_report_shows_rules_behind_the_last_entry_too(
    fake: FakeDaemon, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    story = Story().attempt(1)
    serve(fake, story, [])
    Report(fake.path, *files, OUTAGE).print()
    assert capsys.readouterr().out.count("── ") == 4


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a directory with a bit of everything."""
    root = tmp_path / "project"
    (root / "sub").mkdir(parents=True)
    (root / "big.py").write_text("def f():\n    pass  # TODO\n" * 10)
    (root / "small.py").write_text("x = 1\n")
    (root / "sub" / "read.md").write_text("# Title \x1b[2J\nTODO\n")
    (root / "empty.py").touch()
    (root / ".hidden").write_text("TODO\n")
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "x.py").write_text("TODO\n")
    (root / "link.py").symlink_to(root / "big.py")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe.py")
    with (Path(os.fsdecode(os.fsencode(root) + b"/\xff.py"))).open("w") as unnameable:
        unnameable.write("x")
    return root


def test_the_tools_look_at_the_files(project: Path) -> None:
    tools = Workspace(project)
    assert tools.call("list_files", {}) == {
        "files": 4,
        "directories": 1,
        "bytes": sum(p.stat().st_size for p in [project / "big.py", project / "small.py"])
        + (project / "sub" / "read.md").stat().st_size,
        "by_suffix": {".py": 3, ".md": 1},
        "is_complete": True,
    }
    found = tools.call("largest_files", {"suffix": ".py", "count": 2})
    assert found == {"files": ["big.py", "small.py"]}
    assert tools.call("count_lines", {"path": "big.py"}) == {"path": "big.py", "lines": 20}
    assert tools.call("count_lines", {"path": "empty.py"})["lines"] == 0
    assert tools.call("search", {"word": "TODO", "suffix": ".py"}) == {
        "word": "TODO",
        "lines": 10,
        "files_searched": 3,
    }
    head = tools.call("read_head", {"path": "sub/read.md", "count": 1})
    assert head["head"] == "# Title \x1b[2J"


@pytest.mark.parametrize(
    "path", ["nope", "link.py", "pipe.py", ".hidden", "../secret", "/etc/hostname", "sub"]
)
def test_the_tools_open_nothing_but_regular_files_below(project: Path, path: str) -> None:
    (project.parent / "secret").write_text("x")
    with pytest.raises(ToolError, match="there is no file"):
        Workspace(project).call("count_lines", {"path": path})


def test_a_file_that_became_something_else_is_an_error_and_no_trap(project: Path) -> None:
    tools = Workspace(project)
    tools.call("list_files", {})
    (project / "big.py").unlink()
    (project / "big.py").symlink_to("/etc/hostname")
    (project / "small.py").unlink()
    os.mkfifo(project / "small.py")
    with pytest.raises(ToolError):
        tools.call("count_lines", {"path": "big.py"})
    assert tools.call("count_lines", {"path": "small.py"})["lines"] == 0
    assert tools.call("search", {"word": "x", "suffix": ".py"})["files_searched"] == 2


def test_the_tools_do_not_write(project: Path) -> None:
    with pytest.raises(ToolError, match="there is no tool"):
        Workspace(project).call("write_file", {"path": "x", "text": ""})


def test_a_huge_directory_is_looked_at_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_tools, "ENTRIES_MAX", 10)
    for directory in "abc":
        (tmp_path / directory).mkdir()
        for number in range(6):
            (tmp_path / directory / str(number)).touch()
    listing = Workspace(tmp_path).call("list_files", {})
    assert listing["files"] == 12
    assert listing["is_complete"] is False


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all: unreadable files not checked")
def test_unreadable_files_are_observed_as_such(project: Path) -> None:
    (project / "big.py").chmod(0)
    (project / "sub").chmod(0)
    try:
        tools = Workspace(project)
        assert tools.call("list_files", {})["is_complete"] is False
        assert tools.call("search", {"word": "x", "suffix": ".py"})["files_searched"] == 2
        with pytest.raises(ToolError, match="Permission denied"):
            tools.call("count_lines", {"path": "big.py"})
    finally:
        (project / "sub").chmod(0o700)


def test_the_policy_denies_what_writes_and_what_leads_out() -> None:
    policy = Policy(["read_head"])
    assert policy.denial(Action("read_head", {"path": "a..b/c"})) is None
    assert "only tools that read" in str(policy.denial(Action("write_file")))
    assert "leads out" in str(policy.denial(Action("read_head", {"path": "a/../../b"})))


def test_the_model_depends_on_nothing_but_what_it_observed() -> None:
    assert decide([]) == decide([])
    listing = {"files": 2, "bytes": 10, "by_suffix": {".png": 5, ".rs": 2}, "is_complete": True}
    looked = [Observation("list_files", listing)]
    decision = decide(looked)
    assert decision.thought == "2 files, of which 2 are .rs."
    assert decision.actions[1] == Action("search", {"word": "fn ", "suffix": ".rs"})
    assert decide([*looked, Observation("largest_files", {"files": ["m.rs"]})]).actions == [
        Action("read_head", {"path": "m.rs", "count": 1})
    ]


@pytest.mark.parametrize("is_empty", [False, True], ids=["project", "empty"])
def test_the_loop_goes_through_its_phases_to_an_answer(
    project: Path,
    tmp_path: Path,
    is_empty: bool,  # noqa: FBT001
) -> None:
    root = tmp_path / "empty" if is_empty else project
    root.mkdir(exist_ok=True)
    outside = tmp_path / "outside"
    arguments = ["--outside", str(outside), "--directory", str(root)]
    with RunningDaemon(config="[resume]\nenabled = false\n") as daemon:
        assert demo_agent.main(["--socket", str(daemon.socket), *arguments]) == 0
        with connect(daemon.socket) as journal:
            timeline = tell(journal.read("demo-agent"), is_owned=False)
            assert journal.describe("demo-agent").state == "completed"
    thoughts = [run for run in timeline.runs if run.name == "model"]
    assert [run.iteration for run in thoughts] == [1, 2, 3, 4, 5, 6]
    assert {*timeline.count()} <= {"done", "failed"}
    assert sum(timeline.tokens()) > 0
    moments = [moment.name for moment in timeline.moments]
    assert moments == ["Started", *["PolicyEvaluated"] * 5, "Terminated"]
    policies: Any = [m.payload for m in timeline.moments if m.name == "PolicyEvaluated"]
    assert [d["tool"] for policy in policies for d in policy["denied"]] == ["write_file"]
    terminated: Any = timeline.last_moment("Terminated")
    assert terminated.payload["reason"] == "Completed"
    assert ("4 files" in terminated.payload["result"]) is not is_empty
    assert "SUMMARY.md was not written" in terminated.payload["result"]
    assert not (root / "SUMMARY.md").exists()
    done = [line["step"] for line in read_outside(outside) if line["what"] == "done"]
    assert done == [run.key for run in timeline.runs]
