"""``run``: a program that knows nothing of the journal, as an agent."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent_journal.cli.child import executable
from agent_journal.cli.run import derived_id
from cli.fake_daemon import FakeDaemon, Run, agent, entry, refused

CLI = [
    sys.executable,
    "-P",
    "-c",
    "from agent_journal.cli import program; program()",
]
NOTHING_MORE = threading.Event()


def silent_tail(_request: object) -> Iterator[dict[str, object]]:
    """Follow a journal in which nothing happens."""
    yield {"entry": entry(0, {"AttemptStarted": {"attempt": 1}})}
    NOTHING_MORE.wait(30)


@pytest.fixture
def attachable(fake: FakeDaemon) -> Iterator[FakeDaemon]:
    attached = {
        "epoch": 7,
        "attempt": 1,
        "state": "running",
        "next_sequence": 1,
        "resumed": False,
    }
    fake.on("attach", attached)
    fake.on("describe", {"agent": agent("a", next_sequence=1)})
    fake.on("tail", [{"position": 11}], silent_tail)
    fake.on("append", {"sequence": 1, "position": 11, "count": 1})
    fake.on("detach", {})
    NOTHING_MORE.clear()
    yield fake
    NOTHING_MORE.set()


@pytest.fixture
def start(attachable: FakeDaemon) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``agent-journal run …`` against the fake daemon."""
    started: list[subprocess.Popen[str]] = []

    def start(*argv: str, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*CLI, "-s", str(attachable.path), "--wait", "0", "run", *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_program_that_succeeds_completes_its_agent(
    attachable: FakeDaemon, start: Callable[..., Any]
) -> None:
    code, out, err = ended(start("--id", "a", "--kind", "k", "--", "echo", "-s", "--kind"))
    assert (code, out, err) == (0, "-s --kind\n", "")
    [attach] = attachable.of("attach")
    command = attach.pop("command")
    assert attach == {"op": "attach", "agent_id": "a", "kind": "k"}
    assert command["cwd"] == str(Path.cwd())
    assert command["env"]["PATH"] == os.environ["PATH"]
    again = ["run", "--id", "a", "--kind", "k", "--", "echo", "-s", "--kind"]
    assert command["argv"][-len(again) :] == again
    [append] = attachable.of("append")
    assert append["event"] == {"Terminated": {"reason": "Completed", "exit_code": 0}}
    assert append["epoch"] == 7
    assert append["key"]


def test_the_recorded_line_runs_the_agent_again(
    attachable: FakeDaemon, start: Callable[..., Any], tmp_path: Path
) -> None:
    """A resume runs the recorded line, in the recorded directory, and nothing of ours is typed."""
    (tmp_path / "json.py").write_text("raise SystemExit('a stranger was imported')")
    assert ended(start("--", "sh", "-c", "pwd", cwd=tmp_path))[0] == 0
    [attach] = attachable.of("attach")
    command = attach["command"]
    again = subprocess.run(
        command["argv"],
        cwd=command["cwd"],
        env={**command["env"], "AGENT_JOURNAL_SOCKET": str(attachable.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (again.stdout, again.returncode) == (f"{tmp_path}\n", 0)
    assert attachable.of("attach")[1]["agent_id"] == attach["agent_id"]


@pytest.mark.parametrize(
    ("script", "code", "how"),
    [
        ("exit 3", 3, "exited with 3"),
        ("exit 143", 143, "exited with 143"),
        ("kill -KILL $$", 137, "died of SIGKILL"),
        ("kill -TERM $$", 143, "died of SIGTERM"),
        ("kill -40 $$", 168, "died of signal 40"),
    ],
)
def test_a_crash_is_passed_through_and_records_nothing(
    attachable: FakeDaemon, start: Callable[..., Any], script: str, code: int, how: str
) -> None:
    """The daemon sees the owner gone; a word of ours would only be in its way."""
    ends, _, err = ended(start("--id", "a", "--", "sh", "-c", script))
    assert ends == code
    assert err == (
        f"agent-journal: a {how}; the daemon starts it again soon, agent-journal cancel a ends it\n"
    )
    assert attachable.of("append") == attachable.of("detach") == []


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled", "parked"])
def test_of_an_agent_that_has_ended_nobody_says_that_it_goes_on(
    attachable: FakeDaemon, start: Callable[..., Any], state: str
) -> None:
    attachable.on("describe", {"agent": agent("a", state=state)})
    assert ended(start("--id", "a", "--", "false")) == (1, "", "")


def test_what_the_daemon_started_says_nothing_behind_the_programs_last_words(
    attachable: FakeDaemon, start: Callable[..., Any]
) -> None:
    environ = {**os.environ, "AGENT_JOURNAL_AGENT_ID": "a"}
    assert ended(start("--id", "a", "--", "false", env=environ)) == (1, "", "")


def test_a_crash_without_a_daemon_ends_at_once(
    attachable: FakeDaemon, start: Callable[..., Any]
) -> None:
    process = start("--id", "a", "--", "sh", "-c", "echo ready; read _; exit 3", stdin=-1)
    assert line_of(process) == "ready"
    attachable.close()
    attachable.path.unlink()
    _, err = process.communicate("\n", timeout=30)
    assert process.returncode == 3
    assert "a exited with 3; the daemon starts it again" in err


def test_the_program_knows_its_agent(attachable: FakeDaemon, start: Callable[..., Any]) -> None:
    _, out, _ = ended(start("--id", "a", "--", "env"))
    environ = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
    assert environ["AGENT_JOURNAL_AGENT_ID"] == "a"
    assert environ["AGENT_JOURNAL_ATTEMPT"] == "1"
    assert environ["AGENT_JOURNAL_EPOCH"] == "7"
    assert environ["AGENT_JOURNAL_SOCKET"] == str(attachable.path)


def test_secrets_are_recorded_only_when_named(
    attachable: FakeDaemon, start: Callable[..., Any]
) -> None:
    environ = {**os.environ, "KEPT": "1", "TOLD": "2"}
    assert ended(start("--env", "TOLD", "--", "true", env=environ))[0] == 0
    command = attachable.of("attach")[0]["command"]
    assert command["env"]["TOLD"] == "2"
    assert "KEPT" not in command["env"]
    assert command["argv"][-4:-2] == ["--env", "TOLD"]


def test_the_help_teaches_to_record_no_secret(run: Run) -> None:
    text = " ".join(run("run", "--help").out.split())
    assert "record with its value, so no secret" in text
    assert not re.search("KEY|TOKEN|SECRET", text)


def test_an_id_is_made_up_and_told(attachable: FakeDaemon, start: Callable[..., Any]) -> None:
    _, _, err = ended(start("--", "true"))
    agent_id = attachable.of("attach")[0]["agent_id"]
    assert re.fullmatch(r"true-[0-9a-f]{8}", agent_id)
    assert err == f"agent-journal: this is agent {agent_id}\n"


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["./nightly.sh", "x"], "nightly.sh"),
        (["python3.11", "-u", "-m", "report", "--all"], "report"),
        (["bash", "-x", "/a/b c/work.sh"], "work"),
        (["/usr/bin/env", "node", "agent.mjs"], "agent"),
        (["..."], "agent"),
        (["x" * 300], "x" * 60),
    ],
    ids=str,
)
def test_an_id_says_which_program_it_is(argv: Sequence[str], name: str) -> None:
    derived = derived_id(argv)
    assert derived.rpartition("-")[0] == name
    assert derived != derived_id(argv)


@pytest.mark.parametrize(
    ("argv", "code", "what"),
    [
        ([], 2, "there is no program to run"),
        (["--"], 2, "there is no program to run"),
        (["true"], 2, "unrecognized arguments: true"),
        (["--", "no-such-program"], 127, "no-such-program: no such program"),
        (["--", "/nowhere/x"], 127, "/nowhere/x: no such program"),
        (["--", "/etc/passwd"], 126, "/etc/passwd: Permission denied"),
        (["--", "/etc"], 126, "/etc: Is a directory"),
        (["--", "/etc/passwd/x"], 126, "/etc/passwd/x: Not a directory"),
    ],
    ids=str,
)
def test_a_program_that_is_not_there_is_no_agent(
    fake: FakeDaemon, ask: Run, argv: list[str], code: int, what: str
) -> None:
    result = ask("run", *argv)
    assert result.code == code
    assert what in result.what
    assert fake.requests == []


def test_a_path_with_folders_that_cannot_be_looked_into_is_searched_all_the_same() -> None:
    found = executable("sh", {"PATH": f"{'x' * 5000}:/nowhere::/etc/passwd:/bin:/usr/bin"})
    assert found in {"/bin/sh", "/usr/bin/sh"}
    assert executable("/bin/sh", {}) == "/bin/sh"
    with pytest.raises(FileNotFoundError):
        executable("sh", {"PATH": "/nowhere:/etc/passwd"})


def test_a_file_without_the_right_to_run_it_is_found_where_no_program_is(tmp_path: Path) -> None:
    (tmp_path / "sh").write_text("#!/bin/sh\n")
    assert executable("sh", {"PATH": f"{tmp_path}:/bin"}) == "/bin/sh"
    with pytest.raises(PermissionError):
        executable("sh", {"PATH": f"/nowhere:{tmp_path}"})


def test_a_program_that_cannot_be_executed_is_not_tried_again(
    attachable: FakeDaemon, start: Callable[..., Any], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("no program")
    broken.chmod(0o755)
    code, _, err = ended(start("--id", "a", "--", str(broken)))
    assert code == 126
    assert "Exec format error" in err
    [append] = attachable.of("append")
    assert append["event"]["Terminated"]["reason"] == "NotStarted"


def test_a_daemon_that_runs_no_commands_of_ours_still_records(
    attachable: FakeDaemon, start: Callable[..., Any]
) -> None:
    attached = {"epoch": 7, "attempt": 1, "state": "running", "next_sequence": 1, "resumed": False}
    attachable.on("attach", refused("forbidden", "not of your uid"), attached)
    code, _, err = ended(start("--id", "a", "--", "false"))
    assert code == 1
    assert "after a crash, run this line again" in err
    assert "starts it again" not in err
    assert ["command" in request for request in attachable.of("attach")] == [True, False]


def test_a_launcher_of_the_daemons_may_be_named(
    attachable: FakeDaemon, start: Callable[..., Any]
) -> None:
    assert ended(start("--id", "a", "--launcher", "nightly", "--", "true"))[0] == 0
    assert attachable.of("attach") == [{"op": "attach", "agent_id": "a", "launcher": "nightly"}]


def test_a_live_owner_is_not_disturbed(attachable: FakeDaemon, start: Callable[..., Any]) -> None:
    attachable.on("attach", refused("agent_attached", "process 12 has it", epoch=3, pid=12))
    code, out, err = ended(start("--id", "a", "--", "echo", "started"))
    assert (code, out) == (5, "")
    assert "process 12 has it" in err
    assert "--take-over" not in str(attachable.requests)


def test_a_signal_to_us_reaches_the_program(
    attachable: FakeDaemon, start: Callable[..., Any]
) -> None:
    script = "trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    process = start("--id", "a", "--", "sh", "-c", script)
    assert line_of(process) == "ready"
    process.send_signal(signal.SIGTERM)
    code, out, _ = ended(process)
    assert (code, out) == (5, "got it\n")
    assert attachable.of("detach") == []  # no wish of a person's: it is to be run again


def test_ctrl_c_reaches_the_program_once_and_leaves_the_agent_waiting(
    attachable: FakeDaemon,
) -> None:
    """The terminal sends it to both; passed on as well it would arrive twice."""
    script = (
        "import signal, sys, time\n"
        "count = [0]\n"
        "def got(*_): count[0] += 1\n"
        "signal.signal(signal.SIGINT, got)\n"
        "print('ready', flush=True)\n"
        "while not count[0]: time.sleep(0.01)\n"
        "time.sleep(0.2)\n"
        "print('interrupts:', count[0], flush=True)\n"
        "sys.exit(130)\n"
    )
    line = [
        *CLI,
        "-s",
        str(attachable.path),
        "run",
        "--id",
        "a",
        "--",
        sys.executable,
        "-c",
        script,
    ]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(line[0], line)  # noqa: S606 - no shell
    shown = b""
    while b"ready" not in shown:
        shown += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            break
        if not data:
            break
        shown += data
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130
    assert b"interrupts: 1" in shown
    assert b"agent-journal resume a" in shown
    assert attachable.of("detach") == [{"op": "detach", "agent_id": "a", "epoch": 7}]


def test_the_program_does_not_outlive_us(attachable: FakeDaemon, start: Callable[..., Any]) -> None:
    """Invariant: a child never outlives the one who started it; it would run twice."""
    process = start("--id", "a", "--", "sh", "-c", "echo $$; exec sleep 60")
    child = int(line_of(process))
    assert is_alive(child)
    process.kill()
    process.wait()
    deadline = threading.Event()
    for _ in range(500):
        if not is_alive(child):
            break
        deadline.wait(0.01)
    assert not is_alive(child)


@pytest.mark.parametrize(
    ("event", "word"),
    [
        ({"Cancelled": {"reason": "enough"}}, "cancelled (enough)"),
        ({"Parked": {}}, "parked"),
        ({"AttemptStarted": {"attempt": 2, "epoch": 8}}, "another process took it over"),
    ],
    ids=str,
)
def test_a_word_from_outside_ends_the_program(
    attachable: FakeDaemon, start: Callable[..., Any], event: dict[str, object], word: str
) -> None:
    spoken = threading.Event()

    def tail(_request: object) -> Iterator[dict[str, object]]:
        yield {"entry": entry(0, {"AttemptStarted": {"attempt": 1}})}  # our own
        spoken.wait(30)
        yield {"entry": entry(1, event)}

    attachable.on("tail", [{"position": 10}], tail)
    process = start("--id", "a", "--", "sh", "-c", "echo ready; exec sleep 60")
    assert line_of(process) == "ready"
    spoken.set()
    code, _, err = ended(process)
    assert code == 143
    assert err == f"agent-journal: a was ended: {word}\n"
    assert attachable.of("append") == attachable.of("detach") == []


def test_an_end_that_somebody_recorded_before_us_is_fine(
    attachable: FakeDaemon, start: Callable[..., Any]
) -> None:
    attachable.on("append", refused("agent_finished", "a has ended", state="completed"))
    assert ended(start("--id", "a", "--", "true"))[0] == 0


def test_an_end_that_cannot_be_recorded_is_told(
    attachable: FakeDaemon, start: Callable[..., Any]
) -> None:
    """A success that is not in the journal would be run again: it is not passed on as one."""
    attachable.on("append", refused("stale_epoch", "epoch 7 is over", current=8))
    code, _, err = ended(start("--id", "a", "--", "true"))
    assert code == 5
    assert "epoch 7 is over" in err


def test_the_attempt_is_told(attachable: FakeDaemon, start: Callable[..., Any]) -> None:
    attached = {"epoch": 8, "attempt": 2, "state": "running", "next_sequence": 4, "resumed": True}
    attachable.on("attach", attached)
    assert ended(start("--id", "a", "--", "true"))[2] == "agent-journal: a, attempt 2\n"
    assert json.dumps(attachable.requests)
