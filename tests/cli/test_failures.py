"""Every error code has an exit code and a next step."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from agent_journal.cli.daemon_commands import how_to_stop
from agent_journal.cli.failures import FAILURES, ExitCode, failure_of
from agent_journal.client import DaemonNotRunningError, ProtocolError
from agent_journal.client._core import NotAnsweringError
from agent_journal.errors import ERRORS, ConfigError, JournalError
from cli.fake_daemon import FakeDaemon, Run, refused

EXPECTED = {
    "malformed": 2,
    "invalid": 2,
    "unknown_op": 2,
    "unsupported_protocol": 1,
    "frame_too_large": 2,
    "forbidden": 5,
    "not_found": 4,
    "sequence_conflict": 5,
    "key_conflict": 5,
    "stale_epoch": 5,
    "agent_attached": 5,
    "agent_finished": 5,
    "agent_unfinished": 5,
    "parked": 5,
    "overloaded": 75,
    "too_many_connections": 75,
    "shutting_down": 75,
    "storage_full": 75,
    "damaged": 6,
    "storage_failed": 1,
    "connection_lost": 75,
    "daemon_not_running": 3,
    "not_answering": 75,
    "protocol_error": 1,
}


def test_every_code_is_in_the_table() -> None:
    known = {*ERRORS, DaemonNotRunningError.code, NotAnsweringError.code, ProtocolError.code}
    assert set(FAILURES) == known == set(EXPECTED)


@pytest.mark.parametrize("code", sorted(set(ERRORS) - {"connection_lost"}))
def test_an_error_of_the_daemon_is_two_lines_and_an_exit_code(
    fake: FakeDaemon, ask: Run, code: str
) -> None:
    error = ERRORS[code]
    fields = {"retryable": error.retryable, "outcome": error.outcome}
    fake.on("describe", refused(code, f"it is {code}", **fields))
    result = ask("describe", "report-42")
    assert result.code == EXPECTED[code]
    assert result.out == ""
    assert result.what == f"it is {code} ({code})"
    assert not re.search(r"[{}]", result.hint.replace("""'{"op":"hello"}'""", ""))


def test_an_id_that_is_none_is_looked_for_in_the_list(fake: FakeDaemon, ask: Run) -> None:
    malformed = refused("invalid", "agent_id is none", field="agent_id")
    fake.on("describe", malformed)
    fake.on("append", malformed)
    assert ask("describe", "a b").hint == "agent-journal ls lists the ones you have"
    assert ask("append", "a b", '{"Noted": 1}').hint == "agent-journal append --help"


def test_hints_name_the_agent(fake: FakeDaemon, ask: Run) -> None:
    fake.on("compact", refused("agent_unfinished", "the agent has not ended"))
    assert "agent-journal compact report-42 --force" in ask("compact", "report-42").hint


def test_the_error_of_a_newer_daemon_is_shown_as_it_is(fake: FakeDaemon, ask: Run) -> None:
    fake.on("stats", refused("bewitched", "a spell lies on it", retryable=False))
    result = ask("stats")
    assert result.code == ExitCode.FAILED
    assert result.what == "a spell lies on it (bewitched)"


def test_no_daemon(run: Run, short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    result = run("agents", "-s", str(short_dir / "none.sock"))
    assert result.code == 3
    assert str(short_dir / "none.sock") in result.what
    # To be pasted: the program is named where this shell finds it.
    program = Path(sys.executable).with_name("agent-journald")
    assert result.hint == f"{program} --socket {short_dir}/none.sock &  # or another --socket"


def test_no_daemon_where_one_is_looked_for(
    run: Run, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Path(sys.executable).with_name("agent-journald")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_dir))
    monkeypatch.setenv("HOME", str(short_dir))
    monkeypatch.setenv("PATH", "/usr/bin")
    assert run("ls").hint == f"{program} &"
    monkeypatch.setenv("PATH", f"/usr/bin:{program.parent}")
    assert run("ls").hint == "agent-journald &"
    (short_dir / "systemd/private").mkdir(parents=True)
    assert run("ls").hint == "agent-journald &"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(short_dir))
    (short_dir / "systemd/user").mkdir()
    (short_dir / "systemd/user/agent-journald.socket").touch()
    assert run("ls").hint == "systemctl --user start agent-journald.socket"


def test_a_daemon_is_stopped_by_who_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = "0::/user.slice/user-7.slice/user@7.service/app.slice/agent-journald.service\n"
    units = "agent-journald.socket agent-journald.service"
    assert how_to_stop(str(os.getpid())) == f"kill -TERM {os.getpid()}"
    monkeypatch.setattr(Path, "read_text", lambda *_: groups)
    assert how_to_stop("7") == f"systemctl --user stop {units}"
    monkeypatch.setattr(Path, "read_text", lambda *_: "0::/system.slice/agent-journald.service\n")
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    assert how_to_stop("7") == f"sudo systemctl stop {units}"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert how_to_stop("7") == f"systemctl stop {units}"


def test_a_socket_path_that_is_too_long(run: Run) -> None:
    result = run("ping", "-s", "/nowhere/" + "x" * 200)
    assert result.code == 2
    assert "cannot be a socket's path" in result.what


def test_a_peer_that_hangs_up_is_try_again(fake: FakeDaemon, ask: Run) -> None:
    def hang_up(_request: object) -> object:
        raise OSError

    fake.on("append", hang_up)
    result = ask("append", "a", '{"Started": {}}', "--key", "k1")
    assert result.code == 75
    assert "connection_lost" in result.what
    assert "--key k1" in result.hint


def test_what_an_error_says_cannot_harm_the_terminal(fake: FakeDaemon, ask: Run) -> None:
    fake.on("stats", refused("invalid", "bad\x1b[2J\nname"))
    assert ask("stats").what == "bad\\x1b[2J\\nname (invalid)"


def test_errors_of_the_configuration_and_of_the_system() -> None:
    bad = failure_of(ConfigError("no such key"), command="demo", agent=None)
    assert (bad.exit_code, bad.what) == (78, "no such key")
    missing = FileNotFoundError(2, "No such file", "/x/y")
    assert failure_of(missing, command="demo", agent=None).what == "/x/y: No such file"
    denied = PermissionError(13, "Permission denied", "/x/y")
    assert "ls -l" in failure_of(denied, command="read", agent=None).hint


def test_a_programming_error_is_not_dressed_up() -> None:
    with pytest.raises(KeyError):
        failure_of(KeyError("x"), command="read", agent=None)
    assert failure_of(JournalError("odd"), command="read", agent=None).exit_code == 1
