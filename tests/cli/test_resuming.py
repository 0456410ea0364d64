"""With a real daemon: crashes are resumed, and what a person says reaches the agent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_journal.testing.daemon import RunningDaemon
from cli.fake_daemon import Result, Run
from waiting import until

CLI = [sys.executable, "-P", "-m", "agent_journal.cli"]
CONFIG = """
[resume]
start_with = "process"
attempts_max = 3
backoff_seconds_initial = 0.05
backoff_seconds_max = 0.1
"""


@pytest.fixture
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon(config=CONFIG) as running:
        yield running


@pytest.fixture
def ask(daemon: RunningDaemon, run: Run) -> Callable[..., Result]:
    def ask(*argv: str) -> Result:
        return run("-s", str(daemon.socket), *argv)

    return ask


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], list[str]]:
    """Return the command line of a shell script, which may keep files beside itself."""

    def script(text: str) -> list[str]:
        path = tmp_path / "work.sh"
        path.write_text(f"#!/bin/sh\ncd {tmp_path}\n{text}\n")
        path.chmod(0o755)
        return [str(path)]

    return script


@pytest.fixture
def run_line(daemon: RunningDaemon) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def run_line(*argv: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*CLI, "-s", str(daemon.socket), "run", *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run_line
    for process in started:
        process.kill()
        process.communicate()


def in_state(ask: Callable[..., Result], *states: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        [agent] = ask("describe", "a", "--json").objects
        return agent if agent["state"] in states else None

    agent: dict[str, Any] = until(found)
    return agent


def test_a_crash_is_resumed_with_the_same_line(
    ask: Callable[..., Result], run_line: Callable[..., Any], script: Callable[[str], list[str]]
) -> None:
    """The daemon runs what was typed again, in its directory, until it succeeds."""
    work = script(
        'echo "$AGENT_JOURNAL_ATTEMPT $1" >> seen; [ -e twice ] && exit 0\n'
        "if [ -e once ]; then touch twice; fi; touch once; exit 3"
    )
    process = run_line("--id", "a", "--kind", "k", "--", *work, "x y")
    assert process.wait(30) == 3
    agent = in_state(ask, "completed")
    assert (agent["kind"], agent["attempts"]) == ("k", 3)
    assert (Path(work[0]).parent / "seen").read_text() == "1 x y\n2 x y\n3 x y\n"
    attempts = [item for item in ask("show", "a", "--json").objects if item["type"] == "attempt"]
    assert [attempt["launched"] for attempt in attempts] == [False, True, True]
    assert attempts[1]["exit_code"] == 3
    assert "is completed" in ask("why", "a").out


def test_a_program_that_always_fails_is_parked_and_why_tells_its_last_words(
    ask: Callable[..., Result], run_line: Callable[..., Any], script: Callable[[str], list[str]]
) -> None:
    work = script("echo 'the key is wrong' >&2; exit 7")
    assert run_line("--id", "a", "--", *work).wait(30) == 7
    in_state(ask, "parked")
    told = ask("why", "a")
    assert "a was parked" in told.out
    assert "the key is wrong" in told.out
    assert told.lines[-1] == "try: agent-journal resume a"
    Path(work[0]).write_text("#!/bin/sh\nexit 0\n")
    assert ask("resume", "a").code == 0
    in_state(ask, "completed")


def test_a_killed_wrapper_is_a_crash_and_the_program_never_runs_twice(
    ask: Callable[..., Result], run_line: Callable[..., Any], script: Callable[[str], list[str]]
) -> None:
    """Invariant: a child never outlives the one who started it."""
    work = script(
        "exec 9>> lock; flock -n 9 || { echo 'two at once' >> seen; exit 9; }\n"
        'echo "began $AGENT_JOURNAL_ATTEMPT" >> seen\n'
        '[ "$AGENT_JOURNAL_ATTEMPT" = 1 ] && exec sleep 60\n'
        "exit 0"
    )
    seen = Path(work[0]).parent / "seen"
    process = run_line("--id", "a", "--", *work)
    until(lambda: seen.exists() and "began 1" in seen.read_text())
    process.kill()
    in_state(ask, "completed")
    assert seen.read_text() == "began 1\nbegan 2\n"


def test_cancel_reaches_a_program_that_knows_nothing_of_us(
    ask: Callable[..., Result], run_line: Callable[..., Any], script: Callable[[str], list[str]]
) -> None:
    process = run_line("--id", "a", "--", *script("echo ready; exec sleep 60"))
    assert process.stdout.readline() == "ready\n"
    assert ask("cancel", "a", "--reason", "enough").code == 0
    assert process.wait(30) == 128 + signal.SIGTERM
    assert "a was ended: cancelled (enough)" in process.stderr.read()
    assert in_state(ask, "cancelled")["attempts"] == 1


def test_a_parked_program_is_ended_and_resume_starts_it_again(
    ask: Callable[..., Result], run_line: Callable[..., Any], script: Callable[[str], list[str]]
) -> None:
    work = script("[ -e again ] && exit 0; touch again; echo ready; exec sleep 60")
    process = run_line("--id", "a", "--", *work)
    assert process.stdout.readline() == "ready\n"
    assert ask("park", "a", "--reason", "lunch").code == 0
    assert process.wait(30) == 128 + signal.SIGTERM
    assert in_state(ask, "parked")["reason"] == "lunch"
    assert ask("resume", "a").code == 0
    assert in_state(ask, "completed")["attempts"] == 1  # counted anew since the resume
    attempts = [item for item in ask("show", "a", "--json").objects if item["type"] == "attempt"]
    assert [attempt["launched"] for attempt in attempts] == [False, True]


def test_a_second_start_is_told_who_has_the_agent(
    ask: Callable[..., Result], run_line: Callable[..., Any], script: Callable[[str], list[str]]
) -> None:
    first = run_line("--id", "a", "--", *script("echo ready; exec sleep 60"))
    assert first.stdout.readline() == "ready\n"
    second = run_line("--id", "a", "--", "true")
    assert second.wait(30) == 5
    assert str(first.pid) in second.stderr.read()
    third = run_line("--id", "a", "--take-over", "--", "true")
    assert third.wait(30) == 0
    assert first.wait(30) == 128 + signal.SIGTERM
    assert in_state(ask, "completed")["attempts"] == 2


def test_the_program_may_record_what_it_likes(
    ask: Callable[..., Result], run_line: Callable[..., Any], script: Callable[[str], list[str]]
) -> None:
    """An attached agent takes appends only with its epoch, which the program is given."""
    cli = " ".join(CLI)
    work = script(f'{cli} append "$AGENT_JOURNAL_AGENT_ID" \'{{"Noted": 1}}\' >&2')
    process = run_line("--id", "a", "--", *work)
    assert process.wait(30) == 0, process.stderr.read()
    names = [next(iter(entry["event"])) for entry in ask("read", "a", "--json").objects]
    assert names == ["AttemptStarted", "Noted", "Terminated"]
    assert ask("append", "a", '{"Noted": 2}').code == 5


def test_the_daemon_may_be_killed_meanwhile(
    daemon: RunningDaemon,
    ask: Callable[..., Result],
    run_line: Callable[..., Any],
    script: Callable[[str], list[str]],
) -> None:
    """The owner is alive, so it stays the owner; its end is recorded by the next daemon."""
    work = script("echo ready; while [ ! -e go ]; do sleep 0.05; done")
    process = run_line("--id", "a", "--", *work)
    assert process.stdout.readline() == "ready\n"
    daemon.kill()
    daemon.start()
    assert in_state(ask, "running")["attempts"] == 1
    (Path(work[0]).parent / "go").touch()
    assert process.wait(30) == 0
    assert in_state(ask, "completed")["attempts"] == 1


def test_an_end_while_the_daemon_is_down_is_recorded_when_it_is_back(
    daemon: RunningDaemon,
    ask: Callable[..., Result],
    run_line: Callable[..., Any],
    script: Callable[[str], list[str]],
) -> None:
    """Hours of work are not done again because a restart took a while."""
    work = script("echo ready; while [ ! -e go ]; do sleep 0.05; done; touch gone; exec >&-")
    process = run_line("--id", "a", "--", *work)
    assert process.stdout.readline() == "ready\n"
    daemon.kill()
    (Path(work[0]).parent / "go").touch()
    until((Path(work[0]).parent / "gone").exists)
    time.sleep(0.5)  # so that it meets nobody at first
    assert process.poll() is None
    daemon.start()
    assert process.wait(30) == 0
    assert in_state(ask, "completed")["attempts"] == 1


# Asks before it sends; dies once in the sending, of which nobody knows then whether it was done.
AGENT = """
import os, sys
from agent_journal.client import connect

def send(who):
    with open("sent", "a") as sent:
        sent.write(who + chr(10))
    if not os.path.exists("sent before"):
        open("sent before", "w").close()
        os.kill(os.getpid(), 9)
    return "sent"

with connect() as journal, journal.agent("a", suspend_after_s=0, in_doubt="park") as agent:
    approval = agent.wait_for("approval")
    agent.finish([approval["by"], agent.step("send", send, approval["by"])])
"""


def test_a_person_answers_finds_out_and_decides(
    daemon: RunningDaemon, ask: Callable[..., Result], tmp_path: Path
) -> None:
    """What ``why`` says to type is what brings the agent to its end."""
    (tmp_path / "agent.py").write_text(AGENT)
    line = [sys.executable, "agent.py"]
    environ = {**os.environ, "AGENT_JOURNAL_SOCKET": str(daemon.socket)}
    done = subprocess.run(line, cwd=tmp_path, env=environ, capture_output=True, check=False)
    assert done.returncode == 75  # it gave itself up
    told = ask("why", "a")
    assert "a waits for the signal approval" in " ".join(told.lines)
    assert "try: agent-journal signal a approval" in told.lines
    assert ask("signal", "a", "approval", '{"by": "Ada"}').code == 0
    in_state(ask, "parked")
    told = ask("why", "a")
    assert "Step send is in doubt" in " ".join(told.lines)
    assert "try: agent-journal decide a send --rerun" in told.lines
    assert (tmp_path / "sent").read_text() == "Ada\n"  # so it was done
    assert ask("decide", "a", "send", "--result", '"by hand"').code == 0
    assert "Since then somebody decided" in " ".join(ask("why", "a").lines)
    assert ask("resume", "a").code == 0
    in_state(ask, "completed")
    assert (tmp_path / "sent").read_text() == "Ada\n"
    [terminated] = [e for e in ask("read", "a", "--json").objects if "Terminated" in e["event"]]
    assert terminated["event"]["Terminated"]["result"] == ["Ada", "by hand"]
    objects = ask("show", "a", "--json").objects
    assert [item["how"] for item in objects if item.get("how")][:1] == ["detached"]
    assert objects[-1]["steps"].keys() <= {"done", "recorded"}


def test_a_fork_goes_on_where_the_other_stood(
    daemon: RunningDaemon, ask: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "sent before").touch()
    (tmp_path / "agent.py").write_text(AGENT.replace('agent("a",', "agent("))
    environ = {**os.environ, "AGENT_JOURNAL_SOCKET": str(daemon.socket)}
    line = [sys.executable, "agent.py"]
    first = {**environ, "AGENT_JOURNAL_AGENT_ID": "first"}
    subprocess.run(line, cwd=tmp_path, env=first, capture_output=True, check=False)
    [described] = ask("describe", "first", "--json").objects
    assert described["state"] == "waiting"
    at = str(described["next_sequence"])
    told = ask("fork", "first", "--at", at, "--as", "a").out
    assert told.endswith("; agent-journal resume a lets it go on\n")
    assert ask("signal", "a", "approval", '{"by": "Bob"}').code == 0
    assert ask("resume", "a").code == 0
    in_state(ask, "completed")
    assert (tmp_path / "sent").read_text() == "Bob\n"
    assert "forked: from=first" in ask("show", "a").out
    [described] = ask("describe", "first", "--json").objects
    assert described["state"] == "waiting"
