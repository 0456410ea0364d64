"""What a person asks of an agent, and says to it: ``show why resume park cancel decide …``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent_journal.cli.explanation import Explanation, explain
from agent_journal.cli.timeline import tell
from agent_journal.clock import Clock
from cli.fake_daemon import FakeDaemon, Run, agent, refused
from cli.stories import Story, killed_twice, page

COMMAND = {"argv": ["python", "agent.py"], "cwd": "/"}


@pytest.mark.parametrize(
    ("argv", "op", "sent", "reply", "out"),
    [
        (
            ["resume", "a", "--reason", "mended"],
            "resume",
            {"reason": "mended"},
            {"state": "interrupted"},
            (
                "a may go on (now interrupted), but no command is recorded to start it: "
                "start its program with AGENT_JOURNAL_AGENT_ID=a\n"
            ),
        ),
        (["resume", "a"], "resume", {}, {"state": "running"}, "a is running already\n"),
        (
            ["park", "a", "--uid", "7"],
            "park",
            {"uid": 7},
            {"state": "parked"},
            "a is parked; agent-journal resume a lets it go on\n",
        ),
        (
            ["cancel", "a"],
            "cancel",
            {},
            {"state": "cancelled"},
            "a is cancelled; what it recorded can still be read\n",
        ),
        (
            ["decide", "a", "send", "--rerun"],
            "decide",
            {"step": "send", "rerun": True},
            {"sequence": 4},
            "send will be run again; agent-journal resume a lets it go on\n",
        ),
        (
            ["decide", "a", "send", "--error", "mailbox full"],
            "decide",
            {"step": "send", "error": {"type": "DecidedError", "message": "mailbox full"}},
            {"sequence": 4},
            "send counts as failed; agent-journal resume a lets it go on\n",
        ),
        (
            ["signal", "a", "approval", "--key", "k"],
            "signal",
            {"name": "approval", "key": "k"},
            {"sequence": 1234, "duplicate": True},
            "approval was recorded before as sequence 1,234 of a\n",
        ),
        (
            ["fork", "a", "--at", "1", "--as", "b"],
            "fork",
            {"at_sequence": 1, "as": "b"},
            {"agent_id": "b", "next_sequence": 2},
            (
                "b begins with 1 entry of a; "
                "start its program with AGENT_JOURNAL_AGENT_ID=b, and it goes on\n"
            ),
        ),
        (
            ["fork", "a", "--at", "17", "--as", "b"],
            "fork",
            {"at_sequence": 17, "as": "b"},
            {"agent_id": "b", "next_sequence": 18},
            (
                "b begins with 17 entries of a; "
                "start its program with AGENT_JOURNAL_AGENT_ID=b, and it goes on\n"
            ),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_word_is_sent_and_answered(  # noqa: PLR0913, PLR0917 - the columns of a table
    fake: FakeDaemon,
    ask: Run,
    argv: list[str],
    op: str,
    sent: dict[str, object],
    reply: dict[str, object],
    out: str,
) -> None:
    fake.on(op, reply)
    fake.on("describe", {"agent": agent("b")})
    result = ask(*argv)
    assert (result.code, result.out, result.err) == (0, out, "")
    assert fake.of(op) == [{"op": op, "agent_id": "a", **sent}]
    [told] = ask(*argv, "--json").objects
    assert told.items() >= reply.items()


def test_one_that_the_daemon_can_start_is_to_be_resumed(fake: FakeDaemon, ask: Run) -> None:
    fake.on("resume", {"state": "interrupted"})
    fake.on("describe", {"agent": agent("a", command=COMMAND)})
    expected = "a is to be resumed (now interrupted); agent-journal why a tells more\n"
    assert ask("resume", "a").out == expected


def test_a_fork_that_the_daemon_can_start_says_how(fake: FakeDaemon, ask: Run) -> None:
    fake.on("fork", {"agent_id": "b", "next_sequence": 2})
    fake.on("describe", {"agent": agent("b", command=COMMAND)})
    assert (
        "; agent-journal resume b lets it go on" in ask("fork", "a", "--at", "1", "--as", "b").out
    )


@pytest.mark.parametrize(
    ("state", "wait_for", "note"),
    [
        ("waiting", ["approval"], "a waits for approval, not for aproval: it goes on waiting\n"),
        ("waiting", ["x", "y"], "a waits for x or y, not for aproval: it goes on waiting\n"),
        ("waiting", ["approval", "aproval"], ""),
        ("waiting", [], ""),
        ("running", ["approval"], ""),
    ],
    ids=str,
)
def test_a_signal_that_the_agent_does_not_wait_for_is_taken_and_noted(
    fake: FakeDaemon, ask: Run, state: str, wait_for: list[str], note: str
) -> None:
    fake.on("signal", {"sequence": 3})
    fake.on("describe", {"agent": agent("a", state=state, wait_for=wait_for)})
    result = ask("signal", "a", "aproval")
    assert (result.code, result.err) == (0, note)
    assert result.out == "aproval recorded as sequence 3 of a\n"
    assert [request["name"] for request in fake.of("signal")] == ["aproval"]


def test_the_help_of_park_says_what_becomes_of_a_running_attempt(run: Run) -> None:
    text = " ".join(run("park", "--help").out.split())
    assert "its next append is refused" in text
    assert "The step that it is in is in doubt then." in text


def test_a_signal_without_a_key_gets_one_and_may_be_repeated(fake: FakeDaemon, run: Run) -> None:
    def hang_up(_request: object) -> object:
        raise OSError

    fake.on("signal", hang_up, {"sequence": 3})
    result = run("-s", str(fake.path), "--wait", "5", "signal", "a", "go")
    assert result.out == "go recorded as sequence 3 of a\n"
    first, second = fake.of("signal")
    assert first == second
    assert first["key"].startswith("signal-")


@pytest.mark.parametrize(
    ("argv", "op", "field"),
    [
        (["decide", "a", "send", "--result"], "decide", "result"),
        (["signal", "a", "approval"], "signal", "payload"),
    ],
)
def test_json_is_sent_as_it_was_typed(
    fake: FakeDaemon, ask: Run, argv: list[str], op: str, field: str
) -> None:
    lines: list[str] = []
    fake.received = lines.append
    fake.on(op, {"sequence": 1})
    assert ask(*argv, '{"n":1.10, "big":1e400}').code == 0
    assert f'"{field}":{{"n":1.10, "big":1e400}}' in "".join(lines)


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["signal", "a", "go", "{'a': 1}"], "the payload is not JSON"),
        (["signal", "a", "go", "NaN"], "NaN is no JSON value"),
        (["decide", "a", "s", "--result", "done"], "the result is not JSON"),
        (["decide", "a", "s", "--result", "[" * 100_000], "nested too deeply"),
        (["decide", "a", "s"], "required"),
        (["decide", "a", "s", "--rerun", "--error", "x"], "not allowed"),
        (["fork", "a", "--as", "b"], "--at"),
        (["fork", "a", "--at", "-1", "--as", "b"], "-1"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_a_word_that_makes_no_sense_is_not_sent(
    fake: FakeDaemon, ask: Run, argv: list[str], problem: str
) -> None:
    result = ask(*argv)
    assert result.code == 2
    assert problem in result.what
    assert fake.requests == []


@pytest.mark.parametrize(
    ("code", "exit_code", "hint"),
    [
        ("not_found", 4, "agent-journal ls lists the ones you have"),
        ("agent_attached", 5, "agent-journal why a"),
        ("agent_finished", 5, "another agent id"),
        ("parked", 5, "agent-journal why a"),
    ],
)
def test_a_refused_word_has_its_exit_code(
    fake: FakeDaemon, ask: Run, code: str, exit_code: int, hint: str
) -> None:
    fake.on("decide", refused(code, "no"))
    result = ask("decide", "a", "send", "--rerun")
    assert result.code == exit_code
    assert hint in result.hint


def shown(fake: FakeDaemon, story: Story, **fields: object) -> None:
    fake.on("describe", {"agent": agent("a", **fields)})
    fake.on("read", page(story))


def test_show_tells_the_story(fake: FakeDaemon, ask: Run) -> None:
    shown(fake, killed_twice(), state="interrupted", attempts=2)
    result = ask("show", "a")
    assert result.code == 0
    lines = result.lines
    assert lines[0].split() == [
        *("SEQ", "TIME", "ITER", "STEP", "STATE", "TOOK", "TOKENS", "REPLAYED", "DETAIL")
    ]
    assert "attempt 1: attached, pid 101 ─" in lines[1]
    assert lines[2].split()[4:] == ["plan", "done", "1.0", "s", "100+20", "in", "2", "n=3"]
    assert lines[3].split()[4:] == ["search", "interrupted"]
    assert "attempt 1: killed by SIGKILL after 4.0 s" in lines[4]
    assert "attempt 2: launched by the daemon, pid 102, 1 step replayed" in lines[5]
    assert "ValueError: no luck" in lines[7]
    assert "in doubt" in lines[8]
    assert "attempt 2: exited with 3" in lines[9]
    assert lines[-4:] == [
        "a is interrupted; steps: 2 done, 1 failed, 1 in doubt",
        "tokens: 100 in, 20 out",
        "2 attempts; 3 runs of steps, 1 replay",
        "try: agent-journal why a",
    ]


def test_show_json_has_an_object_a_line(fake: FakeDaemon, ask: Run) -> None:
    shown(fake, killed_twice().add("Parked", reason="no"), state="parked", attempts=2)
    objects = ask("show", "a", "--json").objects
    assert [item["type"] for item in objects] == [
        *("attempt", "step", "step", "attempt", "step", "step", "step", "event", "summary")
    ]
    assert objects[-1]["steps"] == {"done": 2, "failed": 1, "in_doubt": 1}


def test_show_of_a_stranger(fake: FakeDaemon, ask: Run) -> None:
    fake.on("describe", refused("not_found", "there is no agent a"))
    assert ask("show", "a").code == ask("why", "a").code == 4


def why(story: Story, **fields: Any) -> Explanation:
    described = agent("a", **fields)
    return explain(described, tell(story.entries, is_owned=fields["state"] == "running"), Clock())


def test_why_of_what_runs_well() -> None:
    told = why(Story().attempt(1).began("plan"), state="running", owner={"pid": 7, "alive": True})
    assert "process 7 is alive" in told.text
    assert "It is in step plan for" in told.text
    assert told.tries == ["agent-journal tail a"]


def test_why_of_what_nobody_attached_to() -> None:
    assert "nobody attached" in why(Story().add("Started"), state="running").text


def test_why_of_a_death_of_just_now() -> None:
    told = why(Story().attempt(1), state="running", owner={"pid": 7, "alive": False})
    assert "process 7 is gone" in told.text


@pytest.mark.parametrize(
    ("fields", "said", "tries"),
    [
        (
            {"wait_for": ["approval"], "command": COMMAND},
            "waits for the signal approval, and has given up its process. It is resumed then",
            ["agent-journal signal a approval", "agent-journal resume a"],
        ),
        (
            {"wait_for": ["x", "y"], "wake_at": "2099-01-02T03:04:05Z"},
            "waits for a signal of x, y or until 2099-01-02 03:04:05 (in ",
            ["agent-journal signal a x", "AGENT_JOURNAL_AGENT_ID=a CMD"],
        ),
        ({"launcher": "nightly"}, "waits for somebody to resume it", ["agent-journal resume a"]),
        ({}, "its program has to be started by hand", ["AGENT_JOURNAL_AGENT_ID=a CMD"]),
    ],
    ids=str,
)
def test_why_of_what_waits(fields: dict[str, Any], said: str, tries: list[str]) -> None:
    told = why(Story().attempt(1).ended(1, "detached"), state="waiting", **fields)
    assert said in told.text
    assert told.tries == tries


def test_why_of_a_crash_names_the_next_attempt() -> None:
    due = {"next_attempt_at": "2099-01-02T03:04:05Z", "command": COMMAND}
    told = why(killed_twice(), state="interrupted", **due)
    assert "attempt 2 exited with 3" in told.text
    assert "The next attempt follows at 2099-01-02 03:04:05 (in " in told.text
    assert told.stderr == ["Traceback", "boom"]
    assert "Step send is in doubt" in told.text
    assert "agent-journal decide a send --rerun" in told.tries


def test_why_of_a_crash_without_a_command() -> None:
    told = why(Story().attempt(1).step("x").ended(1), state="interrupted")
    assert "No command was recorded" in told.text
    assert told.tries == ["AGENT_JOURNAL_AGENT_ID=a CMD"]


def test_why_of_a_park() -> None:
    story = killed_twice().add("Parked", reason="gave up after 5 attempts", stderr="one\ntwo\n")
    incident = {"attempts": 5, "steps": 2, "tokens": 1500}
    told = why(story, state="parked", reason="gave up after 5 attempts", incident=incident)
    assert ": gave up after 5 attempts." in told.text
    assert "5 attempts, 2 steps, 1,500 tokens" in told.text
    assert told.stderr == ["one", "two"]
    assert told.tries[0] == "agent-journal decide a send --rerun"
    assert told.tries[-1] == "agent-journal resume a"


def test_why_of_a_park_after_a_decision_says_so() -> None:
    story = killed_twice().add("Parked", reason="in doubt").add("Decided", step="send", rerun=True)
    told = why(story, state="parked", reason="in doubt", incident={"attempts": 1, "tokens": 0})
    assert "Since then somebody decided: step=send rerun=true." in told.text
    assert "This incident has taken 1 attempt." in told.text
    assert told.tries == ["agent-journal resume a"]


def test_why_of_a_step_that_may_run_again_asks_for_no_decision() -> None:
    story = Story().attempt(1).began("look", "read_only").ended(1)
    told = why(story, state="interrupted", command=COMMAND)
    assert told.tries == ["agent-journal resume a"]


def test_why_of_what_is_being_resumed() -> None:
    story = Story().attempt(1).ended(1).attempt(2, launched=True)
    told = why(story, state="resuming")
    assert "attempt 2 was launched as process 102" in told.text
    assert "has not attached yet" in told.text


@pytest.mark.parametrize(
    ("state", "event", "said"),
    [
        ("completed", {"reason": "Completed", "answer": "42"}, "is completed (Completed: 42)"),
        ("failed", {"reason": "Denied"}, "is failed (Denied)"),
    ],
)
def test_why_of_what_has_ended(state: str, event: dict[str, Any], said: str) -> None:
    told = why(Story().attempt(1).add("Terminated", **event), state=state)
    assert said in told.text
    assert ("nothing left to do" in told.text) is (state == "completed")
    assert ("agent-journal fork a --at 1 --as a-2" in told.tries) is (state == "failed")


def test_why_of_a_state_of_the_future() -> None:
    assert why(Story(), state="hibernating", reason="cold").text == "a is hibernating: cold."


def test_why_prints_what_to_try(fake: FakeDaemon, ask: Run) -> None:
    story = killed_twice().add("Parked", reason="no\x1b[2J", stderr="a\x1b[2Jb")
    shown(fake, story, state="parked", reason="no\x1b[2J")
    result = ask("why", "a")
    assert result.code == 0
    assert "\x1b" not in result.out
    assert "its last words:\n  a\\x1b[2Jb\n" in result.out
    assert result.lines[-1] == "try: agent-journal resume a"
    [told] = ask("why", "a", "--json").objects
    assert told["state"] == "parked"
    assert told["try"][-1] == "agent-journal resume a"
    assert json.dumps(told)
