"""A daemon from its start to its end: its files, its signals, and what it refuses to serve."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent_journal.store.page_sums import sums_path
from agent_journal.testing.daemon import DaemonError, RawConnection, RunningDaemon
from integration.observed import error_of, line_of, noted, wait_until

PAGE_BYTES_OFFSET = 16  # in the header of an SQLite file

DATA_REQUESTS: list[dict[str, object]] = [
    noted(agent_id="a1"),
    noted(agent_id="new"),
    {"op": "append", "agent_id": "new", "entries": [{"event": {"A": 1}}]},
    {"op": "read", "agent_id": "a1"},
    {"op": "describe", "agent_id": "a1"},
    {"op": "agents"},
    {"op": "compact", "agent_id": "a1", "force": True},
    {"op": "tail", "from_position": 0, "follow": False},
    {"op": "tail", "last": 5},
]


# Damaged and foreign files


def fill(daemon: RunningDaemon) -> None:
    """Write enough for every part of the file to have pages of its own, and stop."""
    with daemon:
        with daemon.connect() as connection:
            for index in range(4000):
                connection.send_line(noted("x" * 100, agent_id=f"a{index % 40}", id=index))
                if index % 100 == 99:
                    connection.replies(100)
        assert daemon.stop() == 0


def overwrite(database: Path, page: int, data: bytes, *, at: int = 0) -> None:
    """Put *data* into a page of the file, counted from 1."""
    with database.open("r+b") as file:
        file.seek(PAGE_BYTES_OFFSET)
        size = int.from_bytes(file.read(2), "big")
        file.seek((page - 1) * size + at)
        file.write(data)


def root_pages(database: Path) -> dict[str, int]:
    connection = sqlite3.connect(database)
    try:
        return dict(connection.execute("SELECT name, rootpage FROM sqlite_master WHERE rootpage"))
    finally:
        connection.close()


@pytest.mark.parametrize("part", ["header", "log", "agents", "runs", "marks"])
def test_a_damaged_journal_is_refused_and_not_crashed_on(tmp_path: Path, part: str) -> None:
    """The daemon stays and says "damaged": one that exits is started again for ever."""
    daemon = RunningDaemon(tmp_path)
    fill(daemon)
    page = 1 if part == "header" else root_pages(daemon.database)[part]
    overwrite(daemon.database, page, b"\0" * 16)
    damaged = daemon.database.read_bytes()
    with daemon:
        refused = 0
        for request in DATA_REQUESTS:
            with daemon.connect() as connection:
                reply = connection.request(request)
                if not reply.get("ok") and "entry" not in reply:
                    error = error_of(reply)
                    assert error["code"] == "damaged", (request, error)
                    assert not error["retryable"]
                    refused += 1
                # And on this very connection:
                if request["op"] != "tail":
                    assert connection.request({"op": "ping"})["ok"]
        assert refused == len(DATA_REQUESTS), "it was known from the start that it is damaged"
        for op in ("ping", "hello", "stats"):
            assert daemon.request({"op": op})["ok"]
        assert daemon.stop() == 0
    assert daemon.database.read_bytes() == damaged, "what is damaged is evidence"


@pytest.mark.parametrize("part", ["agents_by_state", "keys", "doomed"])
def test_damage_that_is_found_while_serving_ends_nothing_but_the_service(
    tmp_path: Path, part: str
) -> None:
    """Some pages are first looked at by a commit, or by housekeeping."""
    daemon = RunningDaemon(tmp_path)
    fill(daemon)
    overwrite(daemon.database, root_pages(daemon.database)[part], b"\0" * 16)
    with daemon:
        codes = set()
        for index in range(40):
            with daemon.connect() as connection:
                agent_id = f"new{index}"
                entries = [{"event": {"A": 1}, "key": f"k{place}"} for place in range(300)]
                for request in (
                    {"op": "append", "agent_id": agent_id, "entries": entries},
                    noted(agent_id=f"a{index}", event={"Terminated": {}}),
                    {"op": "compact", "agent_id": agent_id, "force": True},
                ):
                    reply = connection.request(request)
                    codes.add("ok" if reply["ok"] else error_of(reply)["code"])
        assert codes <= {"ok", "damaged", "not_found"}
        assert "damaged" in codes
        for op in ("ping", "hello", "stats"):
            assert daemon.request({"op": op})["ok"]
        assert daemon.exit_code is None


def test_what_may_have_been_a_journal_is_damaged_and_left_alone(tmp_path: Path) -> None:
    """Some disks make zeros of what they lose."""
    daemon = RunningDaemon(tmp_path)
    daemon.database.write_bytes(b"\0" * 8192)
    with daemon:
        assert error_of(daemon.request(noted()))["code"] == "damaged"
        assert daemon.stop() == 0
    assert daemon.database.read_bytes() == b"\0" * 8192


@pytest.mark.parametrize("beside", ["-wal", "-sums", ".lock", "pages"])
def test_a_journal_that_lost_its_first_page_is_damaged(tmp_path: Path, beside: str) -> None:
    """Any one of its other parts tells that it is a journal."""
    daemon = RunningDaemon(tmp_path)
    fill(daemon)
    overwrite(daemon.database, 1, os.urandom(8192))
    for suffix in ("-wal", "-shm", "-sums", ".lock"):
        if suffix != beside:
            daemon.database.with_name(daemon.database.name + suffix).unlink(missing_ok=True)
    if beside != "pages":
        os.truncate(daemon.database, 8192)
        daemon.database.with_name(daemon.database.name + beside).touch()
    with daemon:
        assert error_of(daemon.request(noted()))["code"] == "damaged"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"To whom it may concern\n", "no SQLite database"),
        (b"\rA thesis, in lines.\n" * 100_000, "no SQLite database"),
        (os.urandom(1_000_000), "no SQLite database"),
        (None, "an SQLite database of another program"),
    ],
    ids=["short", "text", "random", "foreign"],
)
def test_a_file_of_somebodys_own_is_refused_before_it_is_touched(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    daemon = RunningDaemon(tmp_path)
    if content is None:
        connection = sqlite3.connect(daemon.database)
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
        connection.close()
        content = daemon.database.read_bytes()
    daemon.database.write_bytes(content)
    daemon.database.chmod(0o644)
    with pytest.raises(DaemonError, match="is not a journal") as refused:
        daemon.start()
    assert said in str(refused.value)
    assert daemon.exit_code == 78
    assert daemon.database.read_bytes() == content
    assert stat.S_IMODE(daemon.database.stat().st_mode) == 0o644
    made = {path.name for path in tmp_path.iterdir()}
    assert made <= {"journal.db", "config.toml", "daemon.log"}


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("PRAGMA user_version=1000", "newer"),
        ("CREATE TABLE bookmarks (url TEXT)", "not a journal"),
    ],
    ids=["newer", "foreign"],
)
def test_a_database_of_others_is_refused_for_good(
    tmp_path: Path, statement: str, said: str
) -> None:
    daemon = RunningDaemon(tmp_path)
    if "user_version" in statement:
        fill(daemon)
    connection = sqlite3.connect(daemon.database)
    connection.execute(statement)
    connection.commit()
    connection.close()
    sums_path(daemon.database).unlink(missing_ok=True)  # it is of use to its own version only
    before = daemon.database.read_bytes()
    with pytest.raises(DaemonError, match=said):
        daemon.start()
    assert daemon.exit_code == 78
    assert daemon.database.read_bytes() == before
    assert not daemon.socket.exists()


# Where things are, and who may touch them

STRANGER = 60_001
SOMEBODY_ELSE = 60_002

# Becomes an ordinary user when all is imported: the interpreter may lie where only root reads.
AS_A_USER = """
import os, sys
import encodings.ascii, encodings.idna
from agent_journal.__main__ import main
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(60000, 60000, 60000)
    os.setresuid(60001, 60001, 60001)
os.umask(0)
sys.exit(main())
"""


@pytest.fixture
def uid() -> int:
    """Return who runs the daemon where no root does."""
    return STRANGER if os.geteuid() == 0 else os.geteuid()


@pytest.fixture
def home(uid: int) -> Iterator[Path]:
    """Return the home of that user, and an empty one."""
    path = Path(tempfile.mkdtemp(prefix="home-"))
    os.chown(path, uid, -1)
    yield path
    shutil.rmtree(path)


@contextmanager
def as_a_user(home: Path, path: Path, **environ: str) -> Iterator[RawConnection]:
    """Run the daemon without a word on where things are; connect to it at *path*."""
    environ = {"HOME": str(home), **import_path(), **environ}
    command = [sys.executable, "-c", AS_A_USER]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, env=environ, cwd="/", stderr=log, stdout=log)
    try:

        def is_there() -> bool:
            assert process.poll() is None, (home / "log").read_text()
            with contextlib.suppress(OSError), RawConnection(path) as connection:
                return bool(connection.request({"op": "ping"})["ok"])
            return False

        wait_until(is_there, f"the daemon answers at {path}")
        with RawConnection(path) as connection:
            yield connection
        process.terminate()
        assert process.wait(20) == 0
        assert not path.exists(), "its socket goes with it"
    finally:
        process.kill()
        process.wait()


def named_directories(home: Path, uid: int) -> tuple[Path, Path, dict[str, str]]:
    """Make a runtime and a state directory for *uid*; return them, and what names them."""
    runtime, state = home / "runtime", home / "state"
    for path in (runtime, state):
        path.mkdir(mode=0o700)
        os.chown(path, uid, -1)
    return runtime, state, {"XDG_RUNTIME_DIR": str(runtime), "XDG_STATE_HOME": str(state)}


def check_private(path: Path, uid: int) -> None:
    """See that nobody but *uid* can reach anything at or below *path*."""
    for found in (path, *path.rglob("*")):
        status = found.lstat()
        assert status.st_uid == uid, found
        assert stat.S_IMODE(status.st_mode) & 0o077 == 0, (found, oct(status.st_mode))


def test_without_any_configuration_a_user_has_a_journal_of_their_own(home: Path, uid: int) -> None:
    """Where the XDG directories are named, it uses them."""
    runtime, state, environ = named_directories(home, uid)
    with as_a_user(home, runtime / "agent-journal" / "journal.sock", **environ) as connection:
        assert connection.request(noted())["ok"]
        for path in (runtime / "agent-journal", state / "agent-journal"):
            check_private(path, uid)
        made = {path.name for path in (state / "agent-journal").iterdir()}
        assert {"journal.db", "journal.db-wal", "journal.db.lock"} <= made


def test_without_any_directories_named_it_uses_home_and_a_private_place(
    home: Path, uid: int
) -> None:
    place = default_place(uid)
    if place.exists():
        pytest.skip(f"{place} is there, and may be in use: the default place was not tried")
    try:
        with as_a_user(home, place / "journal.sock") as connection:
            assert connection.request(noted())["ok"]
            check_private(place, uid)
            check_private(home / ".local" / "state", uid)
            assert (home / ".local" / "state" / "agent-journal" / "journal.db").exists()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def test_a_place_that_may_not_be_written_to_is_not_the_disks_fault(home: Path, uid: int) -> None:
    """No restart would help, so it is said, and the daemon ends as with a wrong option."""
    runtime, state, environ = named_directories(home, uid)
    with as_a_user(home, runtime / "agent-journal" / "journal.sock", **environ) as connection:
        assert connection.request(noted())["ok"]
    place = state / "agent-journal"
    place.chmod(0o500)
    done = subprocess.run(
        [sys.executable, "-c", AS_A_USER],
        env={"HOME": str(home), **import_path(), **environ},
        cwd="/",
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )
    place.chmod(0o700)
    assert done.returncode == 78, done.stderr
    assert f"{place}, mode 0500: uid {uid} may make no files there" in done.stderr
    assert "kernel" not in done.stderr


def test_a_place_that_another_has_prepared_is_not_used(home: Path, uid: int) -> None:
    """Anybody may make a directory in /tmp, under anybody's name."""
    if os.geteuid() != 0:
        pytest.skip("not root: another user's directory was not tried")
    place = default_place(uid)
    place.mkdir(mode=0o777)
    try:
        place.chmod(0o777)
        os.chown(place, SOMEBODY_ELSE, -1)
        done = subprocess.run(
            [sys.executable, "-c", AS_A_USER],
            env={"HOME": str(home), **import_path()},
            cwd="/",
            check=False,
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert done.returncode == 78
        assert str(place) in done.stderr
        assert str(SOMEBODY_ELSE) in done.stderr
        assert list(place.iterdir()) == []
    finally:
        shutil.rmtree(place)


def default_place(uid: int) -> Path:
    """Return where the socket of a user is who has no directory for it."""
    return Path(f"/tmp/agent-journal-{uid}")  # noqa: S108 - what is promised


def import_path() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777], ids=oct)
def test_what_it_makes_is_private_under_any_umask(tmp_path: Path, umask: int) -> None:
    code = (
        f"import os, sys; os.umask({umask});"
        "os.execv(sys.executable, [sys.executable, '-m', 'agent_journal', *sys.argv[1:]])"
    )
    database = tmp_path / "not" / "there" / "journal.db"
    daemon = RunningDaemon(tmp_path, database=database, argv=[sys.executable, "-c", code])
    with daemon:
        assert daemon.request(noted())["ok"]
        for path in (tmp_path / "not", daemon.socket, tmp_path / "journal.sock.lock"):
            check_private(path, os.geteuid())
        assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(database.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(database.stat().st_mode) == 0o600
        assert daemon.stop() == 0


# One daemon for a journal, and one for a socket


def run_daemon(directory: Path, **paths: Path) -> tuple[int, str]:
    """Run a daemon that is expected to refuse; return its exit code and what it said."""
    given = {"database": directory / "other.db", "socket": directory / "other.sock", **paths}
    options = [word for name, path in given.items() for word in (f"--{name}", str(path))]
    done = subprocess.run(
        [sys.executable, "-m", "agent_journal", *options, "--config", os.devnull],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("shared", ["database", "socket", "both"])
def test_a_second_daemon_is_refused_and_told_of_the_first(tmp_path: Path, shared: str) -> None:
    with RunningDaemon(tmp_path) as daemon:
        assert daemon.request(noted())["ok"]
        paths = {"database": daemon.database, "socket": daemon.socket}
        if shared != "both":
            paths = {shared: paths[shared]}
        code, said = run_daemon(tmp_path, **paths)
        assert code == 75
        assert f"pid {daemon.pid}" in said
        assert daemon.request(noted())["sequence"] == 1, "the first has not noticed"
        daemon.kill()
        daemon.start()  # a lock dies with its holder
        assert daemon.request(noted())["sequence"] == 2


@pytest.mark.parametrize("is_busy", [False, True], ids=["accepting", "not accepting"])
def test_the_socket_of_another_program_is_not_taken_away(tmp_path: Path, *, is_busy: bool) -> None:
    path = tmp_path / "theirs.sock"
    with socket.socket(socket.AF_UNIX) as theirs, contextlib.ExitStack() as waiting:
        theirs.bind(str(path))
        theirs.listen(0)
        if is_busy:  # until its backlog is full
            with contextlib.suppress(BlockingIOError):
                while True:
                    client = waiting.enter_context(socket.socket(socket.AF_UNIX))
                    client.setblocking(False)  # noqa: FBT003 - socket's own signature
                    client.connect(str(path))
        before = path.stat()
        code, said = run_daemon(tmp_path, socket=path)
        assert code == 75
        assert str(path) in said
        after = path.stat()
        assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
        if not is_busy:
            theirs.settimeout(20)
            theirs.accept()[0].close()  # the daemon's question whether somebody is there
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                theirs.accept()[0].close()


def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as former:
        former.bind(str(tmp_path / "journal.sock"))
        former.listen()
    with RunningDaemon(tmp_path) as daemon:
        assert daemon.request(noted())["ok"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may connect without any right: not checked")
def test_a_socket_that_nobody_may_connect_to_yet_is_replaced(tmp_path: Path) -> None:
    """A daemon that was killed before it let anybody in has left one."""
    path = tmp_path / "journal.sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        path.chmod(0)
    with RunningDaemon(tmp_path) as daemon:
        assert daemon.request({"op": "ping"})["ok"]


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_not_removed(tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "important", tmp_path / "target"
    target.write_text("important")
    if kind == "file":
        path.write_text("important")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(target)
    code, said = run_daemon(tmp_path, socket=path)
    assert code == 78
    assert str(path) in said
    assert path.is_dir() if kind == "directory" else path.read_text() == "important"
    assert path.is_symlink() == (kind == "link")


# Signals


class Caller(threading.Thread):
    """Appends as fast as it is answered, until the end of the connection."""

    def __init__(self, daemon: RunningDaemon, name: str) -> None:
        super().__init__(daemon=True)
        self.agent_id = name
        self.connection = daemon.connect()
        self.acknowledged: list[dict[str, Any]] = []
        self.refused: list[dict[str, Any]] = []

    def run(self) -> None:
        sender = threading.Thread(target=self._send, daemon=True)
        sender.start()
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                reply = self.connection.reply()
                (self.acknowledged if reply["ok"] else self.refused).append(reply)
        sender.join()
        self.connection.close()

    def _send(self) -> None:
        line = line_of(noted("x" * 200, agent_id=self.agent_id))
        with contextlib.suppress(OSError):
            while True:
                self.connection.send(line * 50)


def check_kept(daemon: RunningDaemon, caller: Caller) -> None:
    """See that what a caller was told is there, where it was told, and nothing is missing."""
    found: list[dict[str, Any]] = []
    more = True
    with daemon.connect() as connection:
        while more:
            request = {"op": "read", "agent_id": caller.agent_id, "from_sequence": len(found)}
            page = connection.request(request)
            found += page["entries"]
            more = page["more"]
    assert [entry["sequence"] for entry in found] == [*range(len(found))]
    places = [(entry["sequence"], entry["position"]) for entry in found]
    told = [(reply["sequence"], reply["position"]) for reply in caller.acknowledged]
    assert places[: len(told)] == told


def wal_of(daemon: RunningDaemon) -> Path:
    return daemon.database.with_name("journal.db-wal")


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM, signal.SIGINT]],
    ids=["SIGTERM", "SIGINT", "one of each"],
)
def test_what_was_acknowledged_survives_a_stop(
    tmp_path: Path, signals: list[signal.Signals]
) -> None:
    """In the middle of a load: everybody is answered or sees the end, and nothing is lost."""
    with RunningDaemon(tmp_path) as daemon:
        callers = [Caller(daemon, f"c{number}") for number in range(6)]
        tail, idle = daemon.connect(), daemon.connect()
        tail.send_line({"op": "tail", "last": 0})
        assert idle.request({"op": "ping"})["ok"]
        for caller in callers:
            caller.start()
        drained: list[dict[str, Any]] = []
        reader = threading.Thread(target=lambda: drained.extend(tail.rest()), daemon=True)
        reader.start()
        wait_until(lambda: min(len(c.acknowledged) for c in callers) > 500, "a load is on")
        os.kill(daemon.pid, signal.SIGSTOP)  # so that both signals are there at once
        for number in signals:
            os.kill(daemon.pid, number)
        os.kill(daemon.pid, signal.SIGCONT)
        assert daemon.wait() == 0
        for thread in (*callers, reader):
            thread.join(20)
            assert not thread.is_alive(), "somebody was left waiting"
        assert idle.rest() == []
        for connection in (tail, idle):
            connection.close()
        for caller in callers:
            assert {error_of(reply)["code"] for reply in caller.refused} <= {"shutting_down"}
        assert ('in_a_hurry": true' in daemon.log) == (len(signals) > 1)
        if len(signals) == 1:
            wal = wal_of(daemon)
            assert not wal.exists() or wal.stat().st_size == 0, "the next start finds it folded in"
        assert not daemon.socket.exists()
        daemon.start()
        for caller in callers:
            check_kept(daemon, caller)


def test_a_stop_is_not_held_up_by_those_who_do_not_read(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path) as daemon, contextlib.ExitStack() as opened:
        with daemon.connect() as connection:
            connection.send(line_of(noted("x" * 3000)) * 300)
            connection.replies(300)
        for request in ({"op": "tail", "from_position": 0}, {"op": "read", "agent_id": "a"}):
            silent = opened.enter_context(daemon.connect())
            silent.send(line_of(request) * 3)
        opened.enter_context(daemon.connect()).send(b'{"op":"append","agent_id":"half')
        assert daemon.stop() == 0
        daemon.start()
        assert daemon.request({"op": "describe", "agent_id": "a"})["agent"]["entries"] == 300


def test_a_journal_that_was_killed_is_folded_together_before_it_is_served(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path) as daemon:
        with daemon.connect() as connection:
            for _ in range(20):
                connection.send(b"".join(line_of(noted(agent_id=f"a{n}")) for n in range(500)))
                connection.replies(500)
        daemon.kill()
        left = wal_of(daemon).stat().st_size
        assert left > 100_000, "there is something to recover"
        daemon.start()
        # Nothing but what housekeeping may have written since.
        assert wal_of(daemon).stat().st_size < left
        for number in (0, 499):
            entries = daemon.request({"op": "read", "agent_id": f"a{number}"})["entries"]
            assert [entry["sequence"] for entry in entries] == [*range(20)]
        assert daemon.request(noted(agent_id="a0"))["sequence"] == 20


# Configuration


def test_a_file_that_is_saved_takes_effect_and_a_bad_one_does_not(tmp_path: Path) -> None:
    def limit() -> object:
        return daemon.request({"op": "hello"})["limits"]["read_entries_max"]

    def save(text: str, logged: str, *, by_signal: bool) -> str:
        behind = len(daemon.log)
        new = tmp_path / "new.toml"
        new.write_text(text)
        new.replace(daemon.configuration)  # as editors do it
        if by_signal:
            daemon.reload()
        return daemon.wait_for_log(logged, behind=behind)[behind:]

    with RunningDaemon(tmp_path) as daemon, daemon.connect() as connection:
        assert limit() == 10_000
        for by_signal in (False, True):
            save("[limits]\nread_entries_max = 7\n", "config_reloaded", by_signal=by_signal)
            assert limit() == 7
            said = save("[limits]\nread_entries_max = 0\nframes = 1\n", "config_problem_found",
                        by_signal=by_signal)  # fmt: skip
            assert "config_rejected" in said
            assert "read_entries_max" in said
            assert limit() == 7
            save("[limits]\nread_entries_max = 8\n", "config_reloaded", by_signal=by_signal)
            assert limit() == 8
        said = save('socket = "/elsewhere.sock"\n', "config_reloaded", by_signal=True)
        assert "needs_restart" in said
        assert limit() == 10_000
        assert connection.request(noted())["ok"], "who was there has noticed nothing"


def test_a_daemon_does_not_start_with_a_bad_file(tmp_path: Path) -> None:
    daemon = RunningDaemon(tmp_path, config="[limits]\nread_entries_max = 0\n")
    with pytest.raises(DaemonError, match="read_entries_max"):
        daemon.start()
    assert daemon.exit_code == 78
    assert not daemon.database.exists()


# Socket activation

ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="journal")
os.execv(sys.executable, [sys.executable, "-m", "agent_journal", *sys.argv[2:]])
"""


@contextmanager
def activated(directory: Path, listener: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    """Start the daemon as systemd does, on a socket that is not its own."""
    options = ["--database", str(directory / "journal.db"), "--config", os.devnull]
    command = [sys.executable, "-c", ACTIVATED, str(listener.fileno()), *options]
    process = subprocess.Popen(command, pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_socket_that_is_handed_over_is_served_and_left_in_place(tmp_path: Path) -> None:
    """Clients wait in it while nobody serves it, from one daemon to the next."""
    path = tmp_path / "given.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o640)
        listener.listen(10)
        for index in range(3):
            with RawConnection(path) as early:
                early.send_line(noted(str(index), id=index))
                with activated(tmp_path, listener) as process:
                    reply = early.reply()
                    assert (reply["id"], reply["sequence"]) == (index, index)
                    process.terminate()
                    assert process.wait(20) == 0
            assert stat.S_IMODE(path.stat().st_mode) == 0o640, "it is the service manager's"
