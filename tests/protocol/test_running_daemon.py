"""RunningDaemon tells a daemon that answers from one that does not, whatever is started.

What is started here is a peer of a few lines that only knows lines and signals.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent_journal.testing.daemon import DaemonError, RunningDaemon

PEER = """
import os, signal, socket, sys, threading

if os.path.exists("refuse"):
    sys.exit("there is no room")
path = sys.argv[sys.argv.index("--socket") + 1]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
signal.signal(signal.SIGHUP, lambda *_: print("reloaded", flush=True))
if os.path.exists(path):
    os.unlink(path)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()

def talk(connection):
    with connection, connection.makefile("rb") as lines:
        for line in lines:
            connection.sendall(b'{"ok":true,"bytes":%d}\\n' % len(line))

while True:
    threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()
"""


@pytest.fixture
def peer(tmp_path: Path) -> Sequence[str]:
    script = tmp_path / "peer.py"
    script.write_text(PEER)
    return [sys.executable, str(script)]


def test_a_daemon_is_killed_and_started_again(peer: Sequence[str], tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, argv=peer) as daemon:
        first = daemon.pid
        daemon.kill()
        assert daemon.exit_code == -signal.SIGKILL
        daemon.start()
        assert daemon.pid != first
        assert daemon.request({"op": "ping"}) == {"ok": True, "bytes": 15}
        assert daemon.stop() == 7


def test_a_daemon_that_exits_is_reported_with_what_it_printed(
    peer: Sequence[str], tmp_path: Path
) -> None:
    (tmp_path / "refuse").touch()
    with pytest.raises(DaemonError, match=r"exited with 1 [\s\S]*there is no room"):
        RunningDaemon(tmp_path, argv=peer).start()


def test_a_daemon_that_answers_in_place_of_ours_is_not_taken_for_it(
    peer: Sequence[str], tmp_path: Path
) -> None:
    with RunningDaemon(tmp_path, argv=peer):
        (tmp_path / "refuse").touch()
        with pytest.raises(DaemonError, match="exited with 1"):
            RunningDaemon(tmp_path, argv=peer).start()


def test_below_a_wrapper_it_is_the_daemon_that_is_killed(
    peer: Sequence[str], tmp_path: Path
) -> None:
    wrapper = ["sh", "-c", '"$@"; echo "the daemon ended with $?"', "sh", *peer]
    with RunningDaemon(tmp_path, argv=wrapper) as daemon:
        daemon.kill()
        assert daemon.exit_code == 0
        assert "the daemon ended with 137" in daemon.log


def test_an_exchange_larger_than_all_buffers_is_answered_whole(
    peer: Sequence[str], tmp_path: Path
) -> None:
    """It is sent and read at once: neither side waits for the other for ever."""
    with RunningDaemon(tmp_path, argv=peer) as daemon:
        replies = daemon.exchange({"id": number} for number in range(50_000))
        assert len(replies) == 50_000
        assert daemon.exchange(b'{"id":1}\n') == [{"ok": True, "bytes": 9}]


def test_the_log_is_waited_for(peer: Sequence[str], tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, argv=peer) as daemon:
        daemon.reload()
        behind = len(daemon.wait_for_log("reloaded"))
        daemon.stop()
        with pytest.raises(DaemonError, match="was not logged"):
            daemon.wait_for_log("reloaded", behind=behind)


def test_a_socket_whose_path_would_be_too_long_is_put_elsewhere(
    peer: Sequence[str], tmp_path: Path
) -> None:
    directory = tmp_path / ("x" * 100)
    directory.mkdir()
    with RunningDaemon(directory, argv=peer) as daemon:
        assert daemon.request({"op": "ping"})["ok"]
        assert daemon.database.parent == directory
        socket = daemon.socket
    assert not socket.parent.exists()


def test_the_callers_environment_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_JOURNAL_SOCKET", "/somewhere")
    monkeypatch.setenv("NOTIFY_SOCKET", "/somewhere")
    argv = [sys.executable, "-c", "import os, sys; sys.exit(str(sorted(os.environ)))"]
    with pytest.raises(DaemonError) as problem:
        RunningDaemon(tmp_path, argv=argv, env={"AGENT_JOURNAL_EXTRA": "1"}).start()
    assert "AGENT_JOURNAL_EXTRA" in str(problem.value)
    assert "SOCKET'" not in str(problem.value)
