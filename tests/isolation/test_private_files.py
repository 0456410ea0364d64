"""Modes and owners: what a daemon makes is its user's alone, and it takes nothing that is not."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_journal.errors import ConfigError
from agent_journal.service.app import App
from agent_journal.service.config import Config
from agent_journal.testing.daemon import DaemonError, RunningDaemon
from integration.observed import noted, wait_until

OTHER = 61_001
UMASKS = [0o000, 0o022, 0o077, 0o777]

# The daemon below a umask: what it inherits must not matter.
UNDER = "import os, sys; os.umask(int(sys.argv[1], 8)); os.execv(sys.executable, sys.argv[2:])"


def under(umask: int) -> list[str]:
    command = [sys.executable, "-c", UNDER, f"{umask:o}", sys.executable]
    return [*command, "-m", "agent_journal"]


def mode_of(path: Path) -> str:
    return f"{stat.S_IMODE(path.lstat().st_mode):04o}"


def modes_below(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): mode_of(path) for path in directory.rglob("*")}


@pytest.mark.parametrize("umask", UMASKS, ids="{:04o}".format)
def test_what_it_makes_is_its_user_s_alone(tmp_path: Path, umask: int) -> None:
    """Whatever umask it was started with, and the programs of agents have the usual one."""
    made = tmp_path / "made"
    agent = made / "agent"
    script = f"umask > {agent}; sleep 60"
    daemon = RunningDaemon(
        tmp_path, database=made / "deep" / "journal.db", argv=under(umask),
        config='[resume]\nstart_with = "process"\nbackoff_seconds_initial = 0\n',
    )  # fmt: skip
    with daemon:
        command = {"argv": ["/bin/sh", "-c", script], "cwd": "/"}
        attached = {"op": "attach", "agent_id": "a", "command": command}
        killed = [sys.executable, "-c", ATTACH, str(daemon.socket), repr(attached)]
        subprocess.run(killed, check=True, timeout=30)
        wait_until(lambda: agent.exists() and agent.read_text().strip(), "the agent is started")
        attempt = made / "deep" / "attempts" / str(os.geteuid()) / "a" / "2"
        wait_until((attempt / "process.json").exists, "its keeper keeps it")
        modes = modes_below(made)
        assert agent.read_text().strip() == "0022"
        assert {modes["deep"], mode_of(made)} == {"0700"}
        directories = {name for name in modes if (made / name).is_dir()}
        assert {modes[name] for name in directories} == {"0700"}
        files = {name for name in modes.keys() - directories if name != "agent"}
        assert {"deep/journal.db", "deep/journal.db-wal", "deep/journal.db.lock"} <= files
        assert {modes[name] for name in files} == {"0600"}, modes
        assert mode_of(daemon.socket) == "0600"
        assert mode_of(tmp_path / "journal.sock.lock") == "0600"
        daemon.request({"op": "cancel", "agent_id": "a"})
        os.killpg(int((attempt / "process.json").read_text().split('"pid": ')[1].split(",")[0]), 9)


ATTACH = """
import ast, json, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(json.dumps(ast.literal_eval(sys.argv[2])).encode() + b"\\n")
assert json.loads(connection.makefile().readline())["ok"]
"""


@pytest.mark.parametrize("umask", UMASKS, ids="{:04o}".format)
@pytest.mark.parametrize(
    ("mode", "directory"), [("0600", "0700"), ("0660", "0711"), ("0666", "0711")]
)
def test_the_socket_is_as_open_as_the_configuration_says(
    tmp_path: Path, umask: int, mode: str, directory: str
) -> None:
    place = tmp_path / "run"
    daemon = RunningDaemon(tmp_path, config=f'[access]\nsocket_mode = "{mode}"\n',
                           argv=under(umask))  # fmt: skip
    daemon._command += ["--socket", str(place / "s")]
    daemon.socket = place / "s"
    with daemon:
        assert (mode_of(daemon.socket), mode_of(place)) == (mode, directory)
        assert mode_of(tmp_path / "journal.db") == "0600"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory that is nobody else's."""
    place = tmp_path / "place"
    place.mkdir(mode=0o700)
    return place


def refused(tmp_path: Path, place: Path, name: str = "journal.db") -> str:
    """Run a daemon whose journal is in *place*; return why it does not start."""
    app = App(Config(), tmp_path / "none.toml", socket_path=tmp_path / "s", database=place / name)
    before = os.umask(0o022)
    try:
        asyncio.run(asyncio.wait_for(app.run(), 10))
    except ConfigError as error:
        return str(error)
    except TimeoutError:
        pass
    finally:
        os.umask(before)
    pytest.fail("it was started")


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o707, 0o702], ids="{:04o}".format)
def test_a_journal_is_not_kept_where_others_can_write(
    tmp_path: Path, place: Path, mode: int
) -> None:
    """Its own directory or not: another could put a write-ahead log of his own there."""
    place.chmod(mode)
    assert "can be written to by others" in refused(tmp_path, place)
    assert [*place.iterdir()] == [], "and nothing was made there"


def test_nor_where_a_group_can(tmp_path: Path, place: Path) -> None:
    foreign = next((gid for gid in os.getgroups() if gid != os.getegid()), None)
    if os.geteuid() == 0:
        foreign = 54_321
    if foreign is None:
        pytest.skip("this user is in one group: a directory of another group was not checked")
    os.chown(place, -1, foreign)
    place.chmod(0o770)
    assert "can be written to by others" in refused(tmp_path, place)


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750], ids="{:04o}".format)
def test_others_may_look_at_the_directory(tmp_path: Path, place: Path, mode: int) -> None:
    place.chmod(mode)
    with RunningDaemon(tmp_path, database=place / "journal.db") as daemon:
        assert daemon.request(noted())["ok"]
    assert mode_of(place) == f"{mode:04o}", "what is not the daemon's to change is left"


def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("not root: what belongs to another user was not checked")


def test_a_directory_of_another_s_is_refused(tmp_path: Path, place: Path) -> None:
    as_root()
    os.chown(place, OTHER, -1)
    assert f"belongs to uid {OTHER}" in refused(tmp_path, place)


def test_a_link_of_another_s_to_a_directory_is_refused(tmp_path: Path, place: Path) -> None:
    """He could have it lead elsewhere the next time."""
    as_root()
    link = tmp_path / "link"
    link.symlink_to(place)
    os.lchown(link, OTHER, -1)
    assert f"belongs to uid {OTHER}" in refused(tmp_path, link)


@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal", "-sums"])
class TestFilesThatAreThere:
    """The database's, and those that SQLite and the daemon take for parts of it."""

    def test_another_s_is_refused(self, tmp_path: Path, place: Path, end: str) -> None:
        as_root()
        (place / f"journal.db{end}").touch()
        os.chown(place / f"journal.db{end}", OTHER, -1)
        assert f"belongs to uid {OTHER}, and this daemon" in refused(tmp_path, place)

    def test_one_with_a_second_name_is_refused(self, tmp_path: Path, place: Path, end: str) -> None:
        (place / "other").touch()
        (place / f"journal.db{end}").hardlink_to(place / "other")
        assert "a hard link" in refused(tmp_path, place)

    def test_what_is_no_file_is_refused(self, tmp_path: Path, place: Path, end: str) -> None:
        os.mkfifo(place / f"journal.db{end}")
        assert "is not a file" in refused(tmp_path, place)


@pytest.mark.parametrize("end", ["-wal", "-shm", "-sums", ".lock"])
def test_a_link_in_the_place_of_a_part_is_not_followed(
    tmp_path: Path, place: Path, end: str
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (place / f"journal.db{end}").symlink_to(precious)
    refused(tmp_path, place)
    assert precious.read_text() == "precious"


def test_files_that_others_could_read_become_private(tmp_path: Path) -> None:
    """A database that was copied back with another mode would have its log be as open."""
    with RunningDaemon(tmp_path) as daemon:
        assert daemon.request(noted())["ok"]
        daemon.kill()
        for path in tmp_path.glob("journal.db*"):
            path.chmod(0o666)
        daemon.start()
        assert daemon.request(noted())["sequence"] == 1
        modes = {path.name: mode_of(path) for path in tmp_path.glob("journal.db*")}
        assert {*modes.values()} == {"0600"}, modes
        assert "file_was_open_to_others" in daemon.log


class TestALinkToTheDatabase:
    """The journal is where the link leads: its log is there, its lock, and its disk."""

    def test_it_is_followed_and_locked_where_it_leads(self, tmp_path: Path, place: Path) -> None:
        link = tmp_path / "journal.db"
        link.symlink_to(place / "real.db")
        with RunningDaemon(tmp_path, database=link) as daemon:
            assert daemon.request(noted())["ok"]
            names = {path.name for path in place.iterdir()}
            assert {"real.db", "real.db-wal", "real.db.lock"} <= names
            second = RunningDaemon(database=place / "real.db")
            with pytest.raises(DaemonError):
                second.start()
            assert second.exit_code == 75
            assert f"pid {daemon.pid}" in second.log
            second.close()

    def test_it_leads_to_a_place_where_others_can_write(self, tmp_path: Path, place: Path) -> None:
        place.chmod(0o777)
        (tmp_path / "journal.db").symlink_to(place / "real.db")
        assert "can be written to by others" in refused(tmp_path, tmp_path)

    def test_it_leads_nowhere(self, tmp_path: Path) -> None:
        (tmp_path / "journal.db").symlink_to(tmp_path / "other.db")
        (tmp_path / "other.db").symlink_to(tmp_path / "journal.db")
        assert "circle" in refused(tmp_path, tmp_path)


class TestTheSocketSDirectory:
    """It may be one like /tmp, in which nobody can touch what is another's."""

    @pytest.fixture
    def shared(self, tmp_path: Path) -> Path:
        shared = tmp_path / "shared"
        shared.mkdir()
        shared.chmod(0o1777)
        return shared

    @pytest.fixture
    def daemon(self, tmp_path: Path, shared: Path) -> Iterator[RunningDaemon]:
        daemon = RunningDaemon(tmp_path)
        daemon._command += ["--socket", str(shared / "s")]
        daemon.socket = shared / "s"
        yield daemon
        daemon.close()

    @staticmethod
    def fails(daemon: RunningDaemon, exit_code: int) -> str:
        with pytest.raises(DaemonError):
            daemon.start()
        assert daemon.exit_code == exit_code, daemon.log
        assert "Traceback" not in daemon.log
        return daemon.log

    def test_it_is_used(self, daemon: RunningDaemon) -> None:
        daemon.start()
        assert daemon.request(noted())["ok"]

    def test_without_the_sticky_bit_it_is_not(self, daemon: RunningDaemon, shared: Path) -> None:
        shared.chmod(0o777)
        assert "can be written to by others" in self.fails(daemon, 78)

    def test_a_file_in_the_place_of_the_socket_stays(
        self, daemon: RunningDaemon, shared: Path
    ) -> None:
        (shared / "s").write_text("precious")
        assert "is no socket" in self.fails(daemon, 78)
        assert (shared / "s").read_text() == "precious"

    def test_a_link_in_the_place_of_the_socket_is_not_followed(
        self, daemon: RunningDaemon, tmp_path: Path, shared: Path
    ) -> None:
        (shared / "s").symlink_to(tmp_path / "elsewhere")
        assert "is no socket" in self.fails(daemon, 78)
        assert not (tmp_path / "elsewhere").exists()

    def test_a_link_in_the_place_of_the_lock_is_not_followed(
        self, daemon: RunningDaemon, tmp_path: Path, shared: Path
    ) -> None:
        precious = tmp_path / "precious"
        precious.write_text("precious")
        (shared / "s.lock").symlink_to(precious)
        self.fails(daemon, 78)
        assert precious.read_text() == "precious"

    def test_nor_is_a_second_name_of_another_file_written_to(
        self, daemon: RunningDaemon, tmp_path: Path, shared: Path
    ) -> None:
        precious = tmp_path / "precious"
        precious.write_text("precious")
        (shared / "s.lock").hardlink_to(precious)
        assert "a hard link" in self.fails(daemon, 78)
        assert precious.read_text() == "precious"

    def test_a_lock_of_another_s_is_refused(self, daemon: RunningDaemon, shared: Path) -> None:
        as_root()
        (shared / "s.lock").touch(mode=0o666)
        os.chown(shared / "s.lock", OTHER, -1)
        assert f"belongs to uid {OTHER}" in self.fails(daemon, 78)

    def test_somebody_listens_there(self, daemon: RunningDaemon, shared: Path) -> None:
        """Another's program, say: its socket is not taken away."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(shared / "s"))
            listener.listen()
            assert "listens on" in self.fails(daemon, 75)
        assert (shared / "s").is_socket()


def test_a_lock_that_was_removed_and_made_anew_is_locked_anew(tmp_path: Path) -> None:
    """Who takes a lock makes sure that its name still leads to what it locked."""
    from agent_journal.service import places  # noqa: PLC0415 - only here

    path = tmp_path / "lock"
    first = places.Lock(path, "it")
    path.unlink()
    second = places.Lock(path, "it")
    with pytest.raises(places.AlreadyRunningError):
        places.Lock(path, "it")
    first.close()
    with pytest.raises(places.AlreadyRunningError):
        places.Lock(path, "it")
    second.close()


def test_the_lock_is_lost_between_opening_and_locking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then what is locked is nobody's any more, and another file is the lock."""
    from agent_journal.service import places  # noqa: PLC0415 - only here

    path = tmp_path / "lock"
    real, removed = places._lock, []

    def removed_first(descriptor: int, what: str) -> None:
        if not removed:
            path.unlink()
            removed.append(True)
        real(descriptor, what)

    monkeypatch.setattr(places, "_lock", removed_first)
    held = places.Lock(path, "it")
    with pytest.raises(places.AlreadyRunningError):
        places.Lock(path, "it")
    held.close()
