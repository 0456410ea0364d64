"""What the units say about the daemon's end, held against how it really ends.

``Restart=`` is obeyed here as systemd.service(5) has it, by a few lines: real
systemd does it in ``test_under_systemd``, where one can be booted.
"""

from __future__ import annotations

import shlex
import signal
from pathlib import Path

import pytest

from agent_journal.__main__ import EXIT_CONFIG, EXIT_IO, EXIT_TEMPORARY
from agent_journal.testing.daemon import DaemonError, RunningDaemon
from integration.test_disk_full import strace
from integration.test_units import run, settings

UNITS = ["agent-journald.service", "user/agent-journald.service"]


def is_restarted(unit: str, status: int) -> bool:
    """Tell whether systemd starts the service again, by its unit, after this exit status."""
    service = settings(unit)
    assert service["Restart"] == ["on-failure"]
    prevented = {int(one) for one in " ".join(service["RestartPreventExitStatus"]).split()}
    ended_cleanly = status in {0, -signal.SIGHUP, -signal.SIGINT, -signal.SIGTERM, -signal.SIGPIPE}
    return not ended_cleanly and status not in prevented


def brake_s(unit: str, status: int, tmp_path: Path) -> str:
    """Return how long the end takes, by what the unit runs after it."""
    (command,) = settings(unit)["ExecStopPost"]
    shell, option, script = shlex.split(command.replace("$$", "$"))
    sleep = tmp_path / "sleep"
    sleep.write_text('#!/bin/sh\nprintf "%s" "$1"\n')
    sleep.chmod(0o755)
    return run(shell, option, script, PATH=str(tmp_path), EXIT_STATUS=str(status)).stdout


def test_the_daemon_ends_with_what_the_units_know(tmp_path: Path) -> None:
    for unit in UNITS:
        ends = {status: is_restarted(unit, status) for status in (0, 1, -signal.SIGKILL)}
        assert ends == {0: False, 1: True, -signal.SIGKILL: True}
        for status in (EXIT_IO, EXIT_TEMPORARY, EXIT_CONFIG):
            assert brake_s(unit, status, tmp_path), "else a waiting client makes it a loop"
            assert f"{status} " in (Path(__file__).parents[2] / "systemd" / UNITS[0]).read_text()


@pytest.mark.parametrize("unit", UNITS)
def test_a_bad_configuration_waits_for_a_person(unit: str, tmp_path: Path) -> None:
    daemon = RunningDaemon(tmp_path, config="[limits]\nread_entries_max = 0\n")
    with pytest.raises(DaemonError):
        daemon.start()
    assert daemon.exit_code == EXIT_CONFIG
    assert not is_restarted(unit, EXIT_CONFIG)
    daemon.configuration.write_text("")
    with daemon:
        assert daemon.request({"op": "ping"})["ok"], "it is all that was wrong"


@pytest.mark.parametrize("unit", UNITS)
def test_a_journal_that_another_has_is_tried_again(unit: str, tmp_path: Path) -> None:
    with RunningDaemon(tmp_path) as first:
        (tmp_path / "second").mkdir()
        second = RunningDaemon(tmp_path / "second", database=first.database)
        with pytest.raises(DaemonError):
            second.start()
        assert second.exit_code == EXIT_TEMPORARY
        assert is_restarted(unit, EXIT_TEMPORARY)
        assert first.stop() == 0
        with second:
            assert second.request({"op": "ping"})["ok"]


def test_a_disk_that_failed_is_tried_again(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path) as daemon:
        daemon.request({"op": "append", "agent_id": "a", "event": {"A": 1}})
        daemon.kill()
    failing = RunningDaemon(tmp_path, argv=strace(tmp_path, "fdatasync:error=EIO"))
    with pytest.raises(DaemonError):
        failing.start()
    assert failing.exit_code == EXIT_IO
    assert all(is_restarted(unit, EXIT_IO) for unit in UNITS)
    with RunningDaemon(tmp_path) as daemon:  # on a disk that works again
        assert daemon.request({"op": "describe", "agent_id": "a"})["agent"]["entries"] == 1


@pytest.mark.parametrize("unit", UNITS)
def test_a_crash_is_followed_by_a_start_and_a_stop_by_none(unit: str, tmp_path: Path) -> None:
    with RunningDaemon(tmp_path) as daemon:
        assert daemon.request({"op": "append", "agent_id": "a", "event": {"A": 1}})["ok"]
        assert is_restarted(unit, daemon.stop(signal.SIGKILL))
        daemon.start()
        assert daemon.request({"op": "describe", "agent_id": "a"})["agent"]["entries"] == 1
        assert not is_restarted(unit, daemon.stop())
