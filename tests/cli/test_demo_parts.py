"""The demo's parts: its tools, its model, its policy, and the one who judges."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent_journal.cli import demo_tools
from agent_journal.cli.demo_agent import Agent, Policy
from agent_journal.cli.demo_ledger import (
    Acknowledgement,
    Ledger,
    Verdict,
    held_against,
    read_ledger,
)
from agent_journal.cli.demo_model import Action, Observation, decide
from agent_journal.cli.demo_report import Outage, Report
from agent_journal.cli.demo_tools import ToolError, Workspace
from agent_journal.client import Entry
from cli.fake_daemon import FakeDaemon, agent


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
    again = replace(JOURNAL[2], sequence=3, position=999)
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
    verdict = judged([*JOURNAL[:2], replace(JOURNAL[2], **change), *JOURNAL[3:]])
    assert verdict.altered == 1
    assert not verdict.is_good
    assert "1 altered" in str(verdict)


def test_entries_out_of_order_are_seen() -> None:
    swapped = [JOURNAL[1], JOURNAL[0], *JOURNAL[2:]]
    assert judged(swapped).misplaced > 0
    falling = [replace(JOURNAL[0], position=500), *JOURNAL[1:]]
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


OUTAGE = Outage(
    killed_pid=1,
    killed_us=1_767_312_000_500_000,
    killed_at=2.2,
    restarted_pid=2,
    restarted_us=1_767_312_001_500_000,
    restarted_at=2.4,
)


def serve(fake: FakeDaemon, entries: Sequence[Entry]) -> None:
    """Let the fake daemon hold *entries* of the demo's agent."""
    lines = [
        {
            "sequence": e.sequence,
            "position": e.position,
            "agent_id": e.agent_id,
            "iteration": e.iteration,
            "event": e.event,
            "timestamp": e.timestamp.isoformat(),
        }
        for e in entries
    ]
    fake.on("agents", {"agents": [agent("demo-agent")], "more": False})
    fake.on("read", {"entries": lines, "next_sequence": len(lines), "more": False})


@pytest.fixture
def ledger_file(tmp_path: Path) -> Path:
    path = tmp_path / "agent.ledger"
    with Ledger(path) as ledger:
        for sequence in range(4):
            ledger.write(known("demo-agent", sequence, duplicate=sequence == 2))
    return path


def entries_of(path: Path) -> list[Entry]:
    moments = [datetime(2026, 1, 2, 0, 0, second, tzinfo=UTC) for second in range(4)]
    acknowledged = zip(read_ledger(path), moments, strict=True)
    return [recorded(known, timestamp=moment) for known, moment in acknowledged]


def test_the_report_of_a_whole_journal(
    fake: FakeDaemon, ledger_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(fake, entries_of(ledger_file))
    report = Report(fake.path, [ledger_file], OUTAGE)
    report.print()
    out = capsys.readouterr().out
    assert report.is_good
    assert "1 agent: 4 acknowledged, 4 found, 0 lost, 0 doubled" in out
    assert "1 append was unanswered at the kill" in out
    assert "1 had been recorded already, 0 had not" in out
    # The entry of second 1 lies between the kill and the restart.
    order = [line.split()[0] for line in out.splitlines()[3:9]]
    assert order == ["0", "──", "1", "──", "2", "3"]


def test_the_report_of_a_journal_that_lost_an_entry(
    fake: FakeDaemon, ledger_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(fake, entries_of(ledger_file)[:3])
    report = Report(fake.path, [ledger_file], OUTAGE)
    report.print()
    report.print_json()
    out = capsys.readouterr().out
    assert not report.is_good
    assert "4 acknowledged, 3 found, 1 lost, 0 doubled" in out
    verdict = json.loads(out.splitlines()[-1])
    assert verdict["lost"] == 1
    assert verdict["is_good"] is False


def test_the_report_shows_rules_behind_the_last_entry_too(
    fake: FakeDaemon, ledger_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(fake, entries_of(ledger_file)[:1])
    Report(fake.path, [ledger_file], OUTAGE).print()
    out = capsys.readouterr().out
    assert out.count("── ") == 2


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


class Notebook:
    """Stands in for the journal: the agent's events in memory."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, dict[str, Any]]] = []

    def record(self, iteration: int, event: dict[str, Any]) -> Acknowledgement:
        self.entries.append((iteration, event))
        return known("demo-agent", len(self.entries) - 1)


@pytest.mark.parametrize("is_empty", [False, True], ids=["project", "empty"])
def test_the_loop_goes_through_its_phases_to_an_answer(
    project: Path,
    tmp_path: Path,
    is_empty: bool,  # noqa: FBT001
) -> None:
    root = tmp_path / "empty" if is_empty else project
    root.mkdir(exist_ok=True)
    notebook = Notebook()
    Agent(notebook, Workspace(root), think_s=0).run(root)  # type: ignore[arg-type]
    names = [next(iter(event)) for _, event in notebook.entries]
    phases = ["ReasoningComplete", "PolicyEvaluated", "ToolsDispatched", "ObservationsCollected"]
    rounds = notebook.entries[-1][0] - 1
    assert rounds == 5
    assert names == ["Started", *phases * rounds, "ReasoningComplete", "Terminated"]
    denied = [e["PolicyEvaluated"]["denied"] for _, e in notebook.entries if "PolicyEvaluated" in e]
    assert [item["tool"] for items in denied for item in items] == ["write_file"]
    terminated = notebook.entries[-1][1]["Terminated"]
    assert terminated["reason"] == "Completed"
    assert ("4 files" in terminated["answer"]) is not is_empty
    assert "SUMMARY.md was not written" in terminated["answer"]
    assert not (root / "SUMMARY.md").exists()
    assert json.dumps([event for _, event in notebook.entries]).encode()
