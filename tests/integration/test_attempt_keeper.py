"""The keeper of an attempt: what it starts, what it keeps, and that the end is learnt."""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_journal.service import attempt_keeper
from agent_journal.service.attempt_output import (
    STDERR_BYTES_MAX,
    Outcome,
    ProcessFile,
    outcome_of,
    process_of,
)
from integration.observed import wait_until

KEEPER = [sys.executable, "-I", "-S", attempt_keeper.__file__]


class Keepers:
    """Starts keepers in one directory, and leaves no process behind."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._processes: list[ProcessFile] = []

    def start(self, argv: list[str], **members: Any) -> ProcessFile | None:
        """Return who was started, when that is known; the keeper goes on by itself."""
        spec = {
            "argv": argv, "cwd": str(self.directory), "env": {"PATH": os.environ["PATH"]},
            "output_bytes": 4096, "sequence": 7, **members,
        }  # fmt: skip
        (self.directory / "spec").write_bytes(marshal.dumps(spec))
        command = [*KEEPER, str(self.directory), "--detach"]
        leaked = os.dup(0)
        done = subprocess.run(
            command, capture_output=True, check=True, timeout=20, pass_fds=[leaked]
        )
        os.close(leaked)
        assert done.stdout == done.stderr == b""
        process = process_of(self.directory)
        if process is not None:
            self._processes.append(process)
        return process

    def python(self, code: str, **members: Any) -> ProcessFile:
        process = self.start([sys.executable, "-c", code], **members)
        assert process is not None
        return process

    def outcome(self) -> Outcome:
        """Wait for the end, and return how it was."""
        wait_until((self.directory / "status.json").exists, "the end is written down")
        found = outcome_of(self.directory)
        assert found is not None
        return found

    def output(self, name: str = "stdout") -> str:
        return (self.directory / name).read_text()

    def close(self) -> None:
        for process in self._processes:
            for pid in (process.pid, process.keeper_pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def keepers(tmp_path: Path) -> Iterator[Keepers]:
    keepers = Keepers(tmp_path)
    yield keepers
    keepers.close()


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended; one that nobody has waited for has, too."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] == "Z"


class TestEnds:
    def test_an_exit_status_is_written_down(self, keepers: Keepers) -> None:
        keepers.python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
        assert keepers.outcome() == Outcome(how="exited", exit_code=3, stderr="err")
        assert keepers.output() == "out\n"

    def test_a_signal_is_written_down_by_its_name(self, keepers: Keepers) -> None:
        process = keepers.python("import time; time.sleep(600)")
        os.kill(process.pid, signal.SIGKILL)
        assert keepers.outcome() == Outcome(how="signalled", signal="SIGKILL")

    @pytest.mark.parametrize(
        ("argv", "cwd", "problem"),
        [
            (["no-such-program"], "/", "No such file"),
            (["/etc/passwd"], "/", "Permission denied"),
            (["true"], "/no/such/directory", "/no/such/directory"),
            (["a\0b"], "/", "null"),
        ],
        ids=["missing", "not executable", "directory", "nul"],
    )
    def test_what_can_not_be_started_is_said(
        self, keepers: Keepers, argv: list[str], cwd: str, problem: str
    ) -> None:
        assert keepers.start(argv, cwd=cwd, env={"PATH": "/usr/bin:/bin"}) is None
        outcome = keepers.outcome()
        assert outcome.how == "launch_failed"
        assert problem in outcome.stderr

    def test_one_that_nobody_wants_any_more_starts_nothing(self, keepers: Keepers) -> None:
        """A daemon that came later took its task away, before or while it was read."""
        (keepers.directory / "spec").touch()
        command = [*KEEPER, str(keepers.directory)]
        (keepers.directory / "spec").unlink()
        done = subprocess.run(command, capture_output=True, check=False, timeout=20)
        assert (done.returncode, done.stderr) == (0, b"")
        assert not [*keepers.directory.iterdir()]

    def test_of_a_keeper_and_a_daemon_that_want_the_same_task_one_gets_it(
        self, keepers: Keepers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever removes it: the keeper says who it is before, and starts nothing behind."""
        spec = {"argv": ["true"], "cwd": "/", "env": {}, "output_bytes": 4096, "sequence": 7}
        (keepers.directory / "spec").write_bytes(marshal.dumps(spec))
        seen: list[set[str]] = []

        def taken(path: str) -> None:
            if path.endswith("spec"):
                seen.append({one.name for one in keepers.directory.iterdir()})
                raise FileNotFoundError(path)
            os.remove(path)  # noqa: PTH107 - unlink is what is replaced here

        monkeypatch.setattr(attempt_keeper.os, "unlink", taken)
        assert attempt_keeper.claimed(str(keepers.directory)) is None
        assert seen == [{"spec", "keeper.json"}]
        assert {one.name for one in keepers.directory.iterdir()} == {"spec"}

    def test_nothing_of_either_stays_behind(self, keepers: Keepers) -> None:
        process = keepers.python("pass")
        keepers.outcome()
        wait_until(lambda: is_gone(process.keeper_pid), "the keeper has ended")
        assert is_gone(process.pid)
        assert {path.name for path in keepers.directory.iterdir()} == {
            "process.json", "status.json", "stdout", "stderr",
        }  # fmt: skip

    def test_a_child_that_holds_the_output_open_does_not_hide_the_end(
        self, keepers: Keepers
    ) -> None:
        keepers.python(
            "import os, signal\n"
            "if os.fork():\n    print(os.getpid(), flush=True); os._exit(5)\n"
            "signal.alarm(20); signal.pause()"
        )
        assert keepers.outcome().exit_code == 5


class TestSurroundings:
    def test_no_shell_sees_the_arguments(self, keepers: Keepers) -> None:
        keepers.start(["printf", "%s|", "$HOME", "a b", "*", "; exit 9"])
        assert keepers.outcome().exit_code == 0
        assert keepers.output() == "$HOME|a b|*|; exit 9|"

    def test_it_gets_the_environment_and_the_directory_that_were_asked_for(
        self, keepers: Keepers
    ) -> None:
        code = "import os, json; print(json.dumps([os.getcwd(), dict(os.environ)]))"
        directory = keepers.directory / "ä b"
        directory.mkdir()
        env = {"PATH": os.environ["PATH"], "WORD": "ä", "LC_ALL": "C.UTF-8"}
        keepers.python(code, env=env, cwd=str(directory))
        keepers.outcome()
        assert json.loads(keepers.output()) == [str(directory), env]

    def test_its_path_is_the_one_of_the_environment_that_it_gets(self, keepers: Keepers) -> None:
        program = keepers.directory / "bin" / "agent-of-mine"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\necho mine\n")
        program.chmod(0o755)
        keepers.start([program.name], env={"PATH": str(program.parent)})
        assert keepers.outcome().exit_code == 0
        assert keepers.output() == "mine\n"

    def test_it_has_nothing_of_the_daemon_s(self, keepers: Keepers) -> None:
        """No open files, no ignored signals, no terminal, an ordinary umask and limit."""
        code = (
            "import os, resource, signal\n"
            "print(sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:3])\n"
            "print(os.listdir('/proc/self/fd').__len__())\n"
            "print(os.getsid(0) == os.getpid() == os.getpgid(0))\n"
            "print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)\n"
            "print(signal.getsignal(signal.SIGHUP) == signal.SIG_DFL)\n"
            "print(oct(os.umask(0)), resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= 1024)\n"
            "print(os.readlink('/proc/self/fd/0'))\n"
        )
        before = os.umask(0o077)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
        try:
            keepers.python(code)
        finally:
            os.umask(before)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        keepers.outcome()
        assert keepers.output().splitlines() == [
            "[0, 1, 2]", "4", "True", "True", "True", "0o22 True", "/dev/null",
        ]  # fmt: skip

    def test_what_it_writes_is_for_its_owner_alone(self, keepers: Keepers) -> None:
        keepers.python("print(1)")
        keepers.outcome()
        for path in keepers.directory.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path

    def test_signals_to_the_unit_leave_the_keeper_to_see_the_end(self, keepers: Keepers) -> None:
        """A unit that is stopped sends them to all in it; the keeper tells how that went."""
        process = keepers.python("import time; time.sleep(600)")
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            os.kill(process.keeper_pid, number)
        os.kill(process.pid, signal.SIGTERM)
        assert keepers.outcome() == Outcome(how="signalled", signal="SIGTERM")


class TestOutput:
    def test_the_files_do_not_grow_without_bound_and_keep_the_end(self, keepers: Keepers) -> None:
        code = (
            "import os\n"
            "for number in range(20_000):\n    os.write(1, b'line %05d\\n' % number)\n"
            "os.write(2, b'x' * 1_000_000 + b'\\nthe end\\n')"
        )
        keepers.python(code, output_bytes=8192)
        outcome = keepers.outcome()
        kept = keepers.output()
        assert 4096 <= len(kept) <= 8192
        assert kept.endswith("line 19998\nline 19999\n")
        numbers = [int(line[5:]) for line in kept.splitlines()[1:]]
        assert numbers == [*range(20_000 - len(numbers), 20_000)], "nothing is missing at the end"
        assert len(keepers.output("stderr")) <= 8192
        assert outcome.stderr.endswith("the end")

    def test_the_end_of_stderr_fits_into_an_entry_and_drives_no_terminal(
        self, keepers: Keepers
    ) -> None:
        code = (
            "import os\n"
            "os.write(2, b'first\\n' + b'y' * 5000 + b'\\n')\n"
            "os.write(2, b'\\x1b[31mred\\x1b[0m \\x1b]0;title\\x07')\n"
            "os.write(2, b'\\xff\\x00bell\\x07\\r\\nlast\\n')"
        )
        keepers.python(code, output_bytes=65536)
        stderr = keepers.outcome().stderr
        assert stderr.splitlines()[-2:] == ["red \ufffdbell", "last"]
        assert "first" not in stderr
        assert len(stderr.encode()) <= STDERR_BYTES_MAX

    def test_an_agent_that_writes_in_small_pieces_loses_nothing(self, keepers: Keepers) -> None:
        code = "import os\nfor number in range(1000):\n    os.write(1, b'.')"
        keepers.python(code)
        keepers.outcome()
        assert keepers.output() == "." * 1000


def test_a_keeper_that_systemd_starts_says_when_the_agent_runs(keepers: Keepers) -> None:
    """``Type=notify``: systemd-run comes back when process.json is there."""
    path = keepers.directory / "notify.sock"
    spec = {
        "argv": ["true"], "cwd": "/", "env": {"PATH": os.environ["PATH"]}, "output_bytes": 4096,
        "sequence": 7,
    }  # fmt: skip
    (keepers.directory / "spec").write_bytes(marshal.dumps(spec))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(path))
        notified.settimeout(20)
        keeper = subprocess.Popen(
            [*KEEPER, str(keepers.directory)], env={**os.environ, "NOTIFY_SOCKET": str(path)}
        )
        assert notified.recv(100) == b"READY=1"
        process = process_of(keepers.directory)
        assert process is not None
        assert process.keeper_pid == keeper.pid
        assert keeper.wait(20) == 0
    assert keepers.outcome().exit_code == 0
