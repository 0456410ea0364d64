"""``verify-replay``: changed code against a recorded journal; nothing is done, nothing kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_journal.cli.replay_check import Recorded, ReplayCheck
from agent_journal.testing.daemon import RunningDaemon
from cli.fake_daemon import FakeDaemon, Result, Run, refused
from cli.stories import Story, wire
from waiting import until

# Adds up; what its steps touch is in a file, and what it is like is told by its arguments.
PROGRAM = """
import os, sys
from pathlib import Path
from agent_journal.client import connect

options = dict(word.split("=", 1) for word in sys.argv[1:])

def effect(name, value):
    with Path(os.environ["EFFECTS"]).open("a") as effects:
        effects.write(name + chr(10))
    return value

def act(name, value):
    return effect(name, value)

def other(name, value):
    return effect(name, value)

with connect() as journal, journal.agent(
    options.get("id", "calc"), suspend_after_s=0
) as agent:
    agent.now("begin")
    total = 0
    for number in range(int(options.get("steps", 3))):
        if options.get("stop") == str(number):
            os._exit(9)
        if options.get("skip") == str(number):
            continue
        function = other if options.get("other") == str(number) else act
        value = 70 if options.get("value") == str(number) else number
        total += agent.step(f"s{number}", function, f"step {number}", value)
        agent.append({"Noted": {"total": total}})
    if options.get("wait"):
        agent.wait_for(options["wait"])
    if options.get("crash"):
        raise ValueError("boom")
    agent.finish(total + int(options.get("plus", 0)))
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the command line of the program; what it did is in the file ``effects``."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    monkeypatch.setenv("EFFECTS", str(tmp_path / "effects"))
    return [sys.executable, str(path)]


@pytest.fixture
def effects(tmp_path: Path) -> Callable[[], list[str]]:
    def effects() -> list[str]:
        path = tmp_path / "effects"
        return path.read_text().splitlines() if path.exists() else []

    return effects


@pytest.fixture
def verify(
    tmp_path: Path, program: list[str], run: Run
) -> Callable[[list[str], list[str]], Result]:
    """Record a run with the first options, and check how one with the second replays it."""

    def verify(before: list[str], now: list[str], *options: str) -> Result:
        with RunningDaemon(config="[resume]\nenabled = false\n") as daemon:
            environ = {**os.environ, "AGENT_JOURNAL_SOCKET": str(daemon.socket)}
            subprocess.run([*program, *before], env=environ, check=False, capture_output=True)
            read = ["-s", str(daemon.socket), "read", "calc", "--json"]
            if any(word.startswith("stop=") for word in before):
                until(lambda: '"AttemptEnded"' in run(*read).out)  # the daemon's own last word
            journal = tmp_path / "calc.ndjson"
            journal.write_text(run(*read).out)
            (tmp_path / "effects").unlink()
            line = ["-s", str(daemon.socket), "verify-replay", "calc", *options]
            result = run(*line, "--", *program, *now)
            assert run(*read).out == journal.read_text()  # nothing was written
        # And the same without a daemon, from a file.
        line = ["-s", "/nowhere", "verify-replay", "calc", *options, "--from", str(journal)]
        assert run(*line, "--", *program, *now).out == result.out
        return result

    return verify


def test_the_same_program_agrees_and_does_nothing(
    verify: Callable[..., Result], effects: Callable[[], list[str]]
) -> None:
    """Invariant: nothing that the program appends is recorded anywhere."""
    result = verify([], [])
    assert result.code == 0
    assert result.lines == [
        "agrees: calc, 4 recorded steps",
        "replayed to the end, with the same result; nothing was recorded",
    ]
    assert effects() == []


def test_an_unfinished_agent_agrees_up_to_its_first_new_step(
    verify: Callable[..., Result], effects: Callable[[], list[str]]
) -> None:
    result = verify(["stop=2"], [])
    assert result.code == 0
    assert "replayed to step s2, the first that is not recorded" in result.out
    assert effects() == []  # s2 was refused before it was run


def test_a_program_that_ends_where_the_record_does_agrees(verify: Callable[..., Result]) -> None:
    result = verify(["stop=2"], ["steps=2"])
    assert result.code == 0
    assert "the end of the record; there the program has finished" in result.out


def test_a_program_that_waits_where_the_record_ends_agrees(verify: Callable[..., Result]) -> None:
    result = verify(["stop=2"], ["steps=2", "wait=approval"])
    assert result.code == 0
    assert 'where the program waits for wait_for=["approval"]' in result.out


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ([], ["other=1"], ["step 's1' is recorded", "name: recorded 'act', now 'other'"]),
        ([], ["value=2"], ["step 's2' is recorded", "recorded 2, now 70"]),
        ([], ["skip=1"], ["does not ask for steps that are recorded", '["s1"]']),
        ([], ["steps=4"], ["the recorded run ended, and the program wants to run step s3"]),
        ([], ["plus=5"], ["the program ends otherwise", "result: recorded 3, now 8"]),
        ([], ["wait=more"], ["the recorded run ended, and the program"]),
        ([], ["crash=1"], ["ended with 1 before it came to the end", "ValueError: boom"]),
        ([], ["stop=1"], ["ended with 9 before it came to the end"]),
        (["stop=2"], ["other=1"], ["step 's1' is recorded", "now 'other'"]),
    ],
    ids=str,
)
def test_a_changed_program_differs_and_both_sides_are_told(
    verify: Callable[..., Result],
    effects: Callable[[], list[str]],
    before: list[str],
    now: list[str],
    told: list[str],
) -> None:
    result = verify(before, now)
    assert result.code == 1
    assert result.err == ""
    assert result.lines[0] == f"differs: calc, {4 if not before else 3} recorded steps"
    for text in told:
        assert text in result.out
    assert effects() == []


def test_json_tells_it_to_programs(verify: Callable[..., Result]) -> None:
    [told] = verify([], ["plus=5"], "--json").objects
    assert told["agrees"] is False
    [difference] = told["differences"]
    assert difference["recorded"] == {"reason": "Completed", "result": 3}
    assert difference["now"] == {"reason": "Completed", "result": 8}


def journal_file(path: Path, story: Story) -> Path:
    file = path / "journal.ndjson"
    file.write_text("".join(json.dumps(entry) + "\n" for entry in wire(story.entries)))
    return file


def check_of(story: Story) -> ReplayCheck:
    entries = [
        Recorded(
            sequence=entry["sequence"],
            event=entry["event"],
            text=json.dumps(entry),
            event_text=json.dumps(entry["event"]),
        )
        for entry in wire(story.entries)
    ]
    return ReplayCheck("a", entries)


def asked(check: ReplayCheck, op: str, **fields: object) -> dict[str, Any]:
    request = {"id": 1, "op": op, "agent_id": "a", **fields}
    reply: dict[str, Any] = json.loads(check.answer(json.dumps(request).encode()))
    return reply


def begin(key: str, name: str | None = None, input_hash: str | None = None) -> dict[str, Any]:
    payload = {"key": key, "name": name or key, "input_hash": input_hash or f"h-{key}"}
    return {"StepStarted": payload}


DOUBTFUL = Story().attempt(1).step("one", 1).began("two").ended(1)
FINISHED = Story().attempt(3).step("one", 1).add("Terminated", reason="Completed", result=1)


def test_an_attach_is_the_next_attempt() -> None:
    reply = asked(check_of(FINISHED), "attach", kind="k", command={"argv": ["x"]})
    assert reply == {
        "id": 1,
        "ok": True,
        "epoch": 4,
        "attempt": 4,
        "state": "running",
        "next_sequence": 4,
        "resumed": True,
    }


def test_what_says_how_it_ended_is_kept_back_and_sequences_stay() -> None:
    entries = asked(check_of(FINISHED), "read")["entries"]
    assert [entry["sequence"] for entry in entries] == [0, 1, 2, 3]
    assert [next(iter(entry["event"])) for entry in entries] == [
        *("AttemptStarted", "StepStarted", "StepCompleted", "Withheld")
    ]
    entries = asked(check_of(DOUBTFUL), "read")["entries"]
    assert [next(iter(entry["event"])) for entry in entries][3:] == ["Withheld", "AttemptEnded"]


def test_entries_are_served_byte_for_byte_in_pages() -> None:
    text = r'{"sequence": 0, "agent_id": "a", "event": {"X": [1.10, 1e400, "\u00e9"]}}'
    event = {"X": None}
    recorded = Recorded(sequence=0, event=event, text=text, event_text='{"X": ')
    check = ReplayCheck("a", [recorded, recorded])
    reply = check.answer(b'{"op":"read","limit":1}')
    assert reply == f'{{"id":null,"ok":true,"entries":[{text}],"next_sequence":1,"more":true}}'
    assert '"more":false' in check.answer(b'{"op":"read","from_sequence":1}')
    assert '"entries":[]' in check.answer(b'{"op":"read","from_sequence":7}')


def test_a_step_in_doubt_is_the_end_if_it_is_the_same() -> None:
    check = check_of(DOUBTFUL)
    reply = asked(check, "append", event=begin("two"), epoch=2)
    assert reply["error"]["code"] == "stale_epoch"  # which stops a client
    assert check.end == "step two, which is in doubt"
    assert check.differences == []


def test_a_step_in_doubt_that_is_another_one_now_differs() -> None:
    check = check_of(DOUBTFUL)
    asked(check, "append", event=begin("two", input_hash="other"))
    [difference] = check.differences
    assert difference.recorded == {"name": "two", "input_hash": "h-two"}
    assert difference.now == {"name": "two", "input_hash": "other"}
    assert "    input_hash: recorded 'h-two', now 'other'" in difference.lines()


def test_an_end_without_the_step_that_was_begun_differs() -> None:
    check = check_of(DOUBTFUL)
    assert asked(check, "append", event={"Terminated": {"reason": "Completed"}})["ok"] is True
    assert "without the step that was begun" in check.differences[0].what


def test_a_client_that_does_not_look_at_the_record_is_found_out() -> None:
    """One that runs a recorded step again would do so in earnest, too."""
    check = check_of(DOUBTFUL)
    assert asked(check, "append", event=begin("one"))["ok"] is False
    assert "is recorded, and the program runs it again" in check.differences[0].what


def test_a_step_that_a_person_decided_is_done() -> None:
    story = Story().attempt(1).began("one").ended(1).add("Decided", step="one", result=7)
    check = check_of(story)
    assert "StepStarted" in asked(check, "read")["entries"][1]["event"]
    asked(check, "append", event=begin("two"))
    assert check.end == "step two, the first that is not recorded"


def test_nothing_behind_the_end_is_accepted() -> None:
    check = check_of(DOUBTFUL)
    asked(check, "append", event=begin("two"))
    for event in (begin("three"), {"Noted": 1}, {"Terminated": {"reason": "Failed"}}):
        assert asked(check, "append", event=event)["ok"] is False
    assert check.differences == []


def test_events_of_the_program_are_answered_and_not_recorded() -> None:
    check = check_of(DOUBTFUL)
    entries = [{"event": {"A": 1}}, {"event": {"B": 2}}]
    assert asked(check, "append", entries=entries)["sequence"] == 5
    assert asked(check, "append", event={"C": 1})["sequence"] == 7
    assert len(asked(check, "read")["entries"]) == 5


@pytest.mark.parametrize(
    "op", ["resume", "cancel", "signal", "decide", "fork", "compact", "tail", "stats", "agents"]
)
def test_what_would_change_something_is_refused(op: str) -> None:
    assert asked(check_of(FINISHED), op)["error"]["code"] == "forbidden"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"no json", "malformed"),
        (b"[]", "malformed"),
        (b"{}", "malformed"),
        (b'{"op":"levitate"}', "unknown_op"),
        (b'{"op":"read","agent_id":"b"}', "not_found"),
        (b'{"op":"append","agent_id":"a"}', "invalid"),
        (b'{"op":"append","event":{"A":1,"B":2}}', "invalid"),
        (b'{"op":"append","entries":[7]}', "invalid"),
    ],
    ids=str,
)
def test_a_request_that_makes_no_sense_is_refused(line: bytes, code: str) -> None:
    reply = json.loads(check_of(FINISHED).answer(line))
    assert reply["error"]["code"] == code


@pytest.mark.parametrize("op", ["hello", "ping", "describe", "close"])
def test_what_a_client_asks_besides_is_answered(op: str) -> None:
    assert asked(check_of(FINISHED), op)["ok"] is True


def test_a_program_that_does_not_attach_is_no_verdict(run: Run, tmp_path: Path) -> None:
    journal = journal_file(tmp_path, FINISHED)
    result = run("verify-replay", "a", "--from", str(journal), "--", "sh", "-c", "echo hello")
    assert result.code == 1
    assert "did not attach as a: hello" in result.what
    assert "$AGENT_JOURNAL_AGENT_ID" in result.hint


def test_a_program_with_an_id_of_its_own_is_told(
    run: Run, tmp_path: Path, program: list[str]
) -> None:
    journal = journal_file(tmp_path, FINISHED)
    result = run("verify-replay", "a", "--from", str(journal), "--", *program, "id=calc")
    assert result.code == 1
    assert "(it asked for calc)" in result.what


def test_a_program_that_will_not_stop_is_ended(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client may be deaf to the refusal; the check ends all the same, and so does the program."""
    monkeypatch.setattr("agent_journal.cli.replay_program.GRACE_S", 0.2)
    stubborn = (
        "import os, signal, socket, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.connect(os.environ['AGENT_JOURNAL_SOCKET'])\n"
        'agent = chr(34) + os.environ["AGENT_JOURNAL_AGENT_ID"] + chr(34)\n'
        's.sendall(b\'{"op":"attach"}\\n\')\n'
        's.sendall(b\'{"op":"append","event":{"StepStarted":{"key":"x"}}}\\n\')\n'
        "while True: time.sleep(1)\n"
    )
    journal = journal_file(tmp_path, DOUBTFUL)
    line = ["verify-replay", "a", "--from", str(journal), "--", sys.executable, "-c", stubborn]
    result = run(*line)
    assert result.code == 0
    assert "step x, the first that is not recorded" in result.out


def test_nothing_is_left_behind(run: Run, tmp_path: Path) -> None:
    journal = journal_file(tmp_path, FINISHED)
    line = ["verify-replay", "a", "--from", str(journal), "--", "sh", "-c"]
    result = run(*line, "stat -c %a $(dirname $AGENT_JOURNAL_SOCKET)")
    assert result.what.endswith(": 700")  # nobody else gets in
    result = run(*line, "echo $AGENT_JOURNAL_SOCKET >&2; exit 4")
    socket = Path(result.what.rpartition(" ")[2])
    assert socket.name == "journal.sock"
    assert not socket.parent.exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "nothing is recorded of a"),
        ("{}\n", "this is no entry"),
        ('{"sequence":1,"agent_id":"a","event":{"A":1}}\n', "entries are missing"),
        ('{"sequence":0,"agent_id":"b","event":{"A":1}}\n', "nothing is recorded of a"),
    ],
    ids=str,
)
def test_a_file_that_is_no_journal_is_told(
    run: Run, tmp_path: Path, text: str, problem: str
) -> None:
    file = tmp_path / "x.ndjson"
    file.write_text(text)
    result = run("verify-replay", "a", "--from", str(file), "--", "true")
    assert result.code in {1, 4}
    assert problem in result.what


@pytest.mark.parametrize(
    ("argv", "code", "what"),
    [
        (["a"], 2, "there is no program"),
        (["a", "--"], 2, "there is no program"),
        (["a", "--", "no-such-program"], 127, "no such program"),
        (["a", "--from", "/nowhere/x", "--", "true"], 1, "/nowhere/x"),
    ],
    ids=str,
)
def test_a_wrong_command_line_is_told(run: Run, argv: list[str], code: int, what: str) -> None:
    result = run("verify-replay", *argv)
    assert result.code == code
    assert what in result.what


def test_a_stranger_is_told(fake: FakeDaemon, ask: Run) -> None:
    fake.on("read", refused("not_found", "there is no agent a"))
    assert ask("verify-replay", "a", "--", "true").code == 4
