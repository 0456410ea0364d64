"""``hook claude-code``: the inputs of a session's hooks become the story of an agent.

The samples have the fields that Claude Code's reference names for each event.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_journal.cli.claude_code import EVENTS, NotAHookError, recorded
from agent_journal.client import connect
from agent_journal.testing.daemon import RunningDaemon
from cli.fake_daemon import FakeDaemon, Result, Run, refused

LINES = (Path(__file__).parent / "samples" / "claude_code.ndjson").read_text().splitlines()
SAMPLES: list[dict[str, Any]] = [json.loads(line) for line in LINES]
AGENT = f"claude-{SAMPLES[0]['session_id']}"

Hook = Callable[..., Result]


def sample(hook: str, **fields: object) -> dict[str, Any]:
    [first, *_] = [told for told in SAMPLES if told["hook_event_name"] == hook]
    return {**first, **fields}


@pytest.fixture
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as daemon:
        yield daemon


@pytest.fixture
def hook(daemon: RunningDaemon, run: Run) -> Hook:
    """Run the hook on an input."""

    def hook(told: object, *options: str) -> Result:
        line = ["-s", str(daemon.socket), "hook", "claude-code", *options]
        return run(*line, stdin=told if isinstance(told, str) else json.dumps(told))

    return hook


def test_a_session_is_an_agent_and_its_tool_calls_are_steps(
    daemon: RunningDaemon, hook: Hook, run: Run
) -> None:
    for told in SAMPLES:
        result = hook(told)
        assert (result.code, result.out, result.err) == (0, "", "")  # the tool reads what it says
    with connect(daemon.socket) as journal:
        entries = list(journal.read(AGENT))
        assert journal.describe(AGENT).state == "running"  # it may be resumed
    assert [(entry.name, entry.iteration) for entry in entries] == [
        ("Started", 0),
        ("PromptSubmitted", 1),
        ("StepStarted", 1),
        ("StepFailed", 1),
        ("StepStarted", 1),
        ("StepCompleted", 1),
        ("StepStarted", 1),
        ("SubagentEnded", 1),
        ("ContextCompacting", 1),
        ("TurnEnded", 1),
        ("SessionEnded", 1),
    ]
    began, failed, reads, has_read, edits = [e.payload for e in entries if "Step" in e.name]
    assert isinstance(began, dict)
    assert isinstance(failed, dict)
    assert began["key"] == failed["key"] == "toolu_01AAAAAAAAAAAAAAAAAAAAAA"
    assert began["input_hash"] == failed["input_hash"]
    assert (began["name"], began["effect"]) == ("Bash", "unsafe")
    assert failed["error"] == {
        "type": "ToolError",
        "message": "Command exited with non-zero status code 2",
    }
    assert isinstance(reads, dict)
    assert isinstance(has_read, dict)
    assert reads["effect"] == "read_only"
    assert has_read["result"]["file"]["content"] == "print(1 +)\n"
    assert has_read["duration_ms"] == 12
    assert isinstance(edits, dict)
    assert edits["subagent"] == {"id": "a1b2c3", "type": "general-purpose"}
    shown = run("-s", str(daemon.socket), "show", AGENT).out
    assert "steps: 1 running, 1 done, 1 failed" in shown  # nobody said that the edit ended


def test_a_hook_that_runs_twice_recorded_once(daemon: RunningDaemon, hook: Hook) -> None:
    for told in [sample("PreToolUse"), sample("PreToolUse"), *2 * [sample("PostToolUse")]]:
        assert hook(told).code == 0
    with connect(daemon.socket) as journal:
        assert [e.name for e in journal.read(AGENT)] == ["StepStarted", "StepCompleted"]


def test_with_finish_the_agent_ends_with_the_session(daemon: RunningDaemon, hook: Hook) -> None:
    hook(sample("SessionStart"))
    assert hook(sample("SessionEnd"), "--finish").code == 0
    with connect(daemon.socket) as journal:
        assert journal.describe(AGENT).state == "completed"
    late = hook(sample("Stop"))
    assert late.code == 1  # and not 2, which would keep the session from stopping
    assert "completed" in late.err


def test_a_long_result_is_cut(daemon: RunningDaemon, hook: Hook) -> None:
    hook(sample("PostToolUse", tool_response={"stdout": "é" * 100_000}), "--bytes-max", "1000")
    with connect(daemon.socket) as journal:
        [entry] = journal.read(AGENT)
    payload = entry.payload
    assert isinstance(payload, dict)
    assert payload["result"]["bytes"] > 200_000
    assert payload["result"]["cut"].startswith('{"stdout": "éé')
    assert len(payload["result"]["cut"].encode()) in {999, 1000}


@pytest.mark.parametrize(
    "told",
    [
        "",
        "{",
        "[]",
        "7",
        "{}",
        "\xff",
        '{"hook_event_name":"Stop"}',
        '{"session_id":"a"}',
        json.dumps(sample("PreToolUse", tool_use_id=None)),
        json.dumps(sample("Stop", session_id=7)),
    ],
)
def test_what_is_no_hook_input_is_said_and_stops_nothing(
    fake: FakeDaemon, ask: Run, told: str
) -> None:
    result = ask("hook", "claude-code", stdin=told)
    assert result.code == 1
    assert "no input of a hook" in result.err
    assert not fake.of("append")


def test_without_a_daemon_the_tool_goes_on(run: Run) -> None:
    result = run("-s", "/nowhere", "hook", "claude-code", stdin=LINES[2])
    assert result.code == 1
    assert result.out == ""
    assert "no journal daemon" in result.err


def test_with_required_a_call_that_cannot_be_recorded_is_not_made(run: Run) -> None:
    result = run("-s", "/nowhere", "hook", "claude-code", "--required", stdin=LINES[2])
    assert result.code == 2
    assert "the journal cannot record this call" in result.err
    behind = run("-s", "/nowhere", "hook", "claude-code", "--required", stdin=LINES[3])
    assert behind.code == 1  # it has been made


def test_a_refusal_of_the_daemon_stops_nothing(fake: FakeDaemon, ask: Run) -> None:
    fake.on("describe", refused("not_found"))
    fake.on("append", refused("invalid", field="agent_id"))
    assert ask("hook", "claude-code", stdin=LINES[9]).code == 1


def test_the_settings_name_every_event_that_is_recorded(run: Run) -> None:
    result = run("hook", "claude-code", "--settings", "--required")
    hooks = json.loads(result.out)["hooks"]
    assert (
        hooks.keys()
        == EVENTS.keys()
        == {told["hook_event_name"] for told in SAMPLES} | {"PostToolUse"}
    )
    [before] = hooks["PreToolUse"]
    assert before["matcher"] == "*"
    assert before["hooks"][0]["command"] == "agent-journal hook claude-code --required"
    assert "matcher" not in hooks["Stop"][0]


def test_an_event_that_is_not_known_keeps_its_name() -> None:
    told = {**sample("Stop"), "hook_event_name": "TaskCreated", "task": {"id": 7}}
    entry = recorded(told, prefix="", bytes_max=100)
    assert entry.event["TaskCreated"]["task"] == {"id": 7}
    assert "cwd" not in entry.event["TaskCreated"]


def test_a_hook_of_a_tool_says_which_call() -> None:
    with pytest.raises(NotAHookError, match="tool_name"):
        recorded(sample("PreToolUse", tool_name=""), prefix="", bytes_max=100)
