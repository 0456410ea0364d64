"""Who one is in a user namespace, in a pid namespace, and on a connection that was given away.

A user namespace is unshared by hand: that takes no privilege where the kernel allows
it, and where it does not the skip says what was not tried.
"""

from __future__ import annotations

import array
import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_journal.errors import ConfigError
from agent_journal.service import user_namespace
from agent_journal.service.user_namespace import check_namespace, named_uids
from agent_journal.testing.daemon import RawConnection, RunningDaemon
from integration.observed import error_of, noted
from isolation.real_users import become

ALICE, BOB, DAEMONS = 61_001, 61_002, 61_009
OVERFLOW = 65_534
OPEN = '[access]\nsocket_mode = "0666"\n'

CLONE_NEWUSER = 0x1000_0000  # unshare(2)
PR_SET_DUMPABLE = 4  # prctl(2)

HOST = "0 0 4294967295\n"
CONTAINER = "0 1000 1\n1 100000 65535\n"  # of a rootless container
SHIFTED = "0 100000 65536\n"
PRIVATE_USERS = "0 0 1\n998 998 1\n"  # of a service with PrivateUsers=yes
SINGLE = "1000 1000 1\n"  # of a user's own sandbox


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (HOST, 2**32 - 1),
        (CONTAINER, 65_536),
        (SHIFTED, 65_536),
        (PRIVATE_USERS, 1),
        (SINGLE, 0),
        ("", 0),
        ("65536 0 10\n0 5 10\n10 100 3\n", 13),
    ],
    ids=str,
)
def test_the_map_tells_who_has_a_name_here(tmp_path: Path, text: str, count: int) -> None:
    (tmp_path / "map").write_text(text)
    assert named_uids(tmp_path / "map") == count


def test_a_kernel_without_user_namespaces_names_everybody(tmp_path: Path) -> None:
    assert named_uids(tmp_path / "none") == 2**32 - 1


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        yield listener


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o606], ids="{:04o}".format)
@pytest.mark.parametrize("text", [HOST, CONTAINER, SHIFTED, PRIVATE_USERS, SINGLE], ids=str)
def test_it_starts_where_those_who_may_connect_can_be_told_apart(
    tmp_path: Path, listener: socket.socket, text: str, mode: int
) -> None:
    uid_map = tmp_path / "map"
    uid_map.write_text(text)
    (tmp_path / "s").chmod(mode)
    if text == HOST:
        assert check_namespace(listener, uid_map=uid_map) is None
    elif text in {CONTAINER, SHIFTED} or mode == 0o600:
        warning = check_namespace(listener, uid_map=uid_map)
        assert warning is not None
        assert "are refused" in warning
    else:
        with pytest.raises(ConfigError, match="PrivateUsers="):
            check_namespace(listener, uid_map=uid_map)


def test_a_socket_without_a_file_is_open_to_all(tmp_path: Path) -> None:
    (tmp_path / "map").write_text(SINGLE)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0agent-journal-test-{os.getpid()}")
        with pytest.raises(ConfigError):
            check_namespace(listener, uid_map=tmp_path / "map")


def test_nobody_is_no_user_to_run_it(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the kernel can't name would be the daemon's own uid, which is an administrator's."""
    monkeypatch.setattr(user_namespace, "overflow_uid", os.geteuid)
    with pytest.raises(ConfigError, match="run it as a user of its own"):
        check_namespace(listener)


# --- a daemon in a user namespace ----------------------------------------------------


def unshared(*arguments: str) -> list[str]:
    """Return how the daemon is run in a user namespace of its own."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed: a daemon in a user namespace was not tried")
    command = ["unshare", "--user", *arguments, "--"]
    tried = subprocess.run([*command, "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"no user namespaces here ({tried.stderr!r}): a daemon in one was not tried")
    return [*command, sys.executable, "-m", "agent_journal"]


def test_a_daemon_for_others_does_not_start_where_they_have_no_uid(tmp_path: Path) -> None:
    daemon = RunningDaemon(tmp_path, config=OPEN, argv=unshared("--map-current-user"))
    with pytest.raises(Exception, match="could not tell them apart"):
        daemon.start()
    assert daemon.exit_code == 78
    daemon.close()


def test_a_daemon_for_its_own_user_starts_and_says_who_is_refused(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, argv=unshared("--map-current-user")) as daemon:
        assert daemon.request(noted())["ok"]
        assert "users_not_all_named" in daemon.log


def test_a_daemon_that_is_nobody_does_not_start(tmp_path: Path) -> None:
    """Without a map it is the overflow uid itself."""
    daemon = RunningDaemon(tmp_path, argv=unshared())
    with pytest.raises(Exception, match="exited with 78"):
        daemon.start()
    daemon.close()


def test_whom_a_container_s_daemon_can_t_name_it_refuses() -> None:
    """It is told apart from those that it can, and gets none of what they have."""
    if os.geteuid() != 0:
        pytest.skip("not root: a daemon with a map of many uids was not tried")
    unshared("--map-root-user")
    daemon = RunningDaemon(config=OPEN, argv=[sys.executable, "-c", MAPPED])
    daemon.directory.chmod(0o711)
    with daemon:
        assert "users_not_all_named" in daemon.log
        assert as_user(ALICE, lambda: daemon.request(noted()))["ok"]
        described = as_user(ALICE, lambda: daemon.request({"op": "describe", "agent_id": "a"}))
        assert described["agent"]["uid"] == ALICE
        outside = as_user(2_000_000, lambda: connected(daemon))
        assert error_of(outside)["code"] == "forbidden"
        assert f"uid {OVERFLOW}" in error_of(outside)["message"]


# Map so many uids that a container has, as its root would be.
MAPPED = f"""
import ctypes, os, sys
ready, mapped = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    ctypes.CDLL(None).unshare({CLONE_NEWUSER})
    os.write(ready[1], b"x")
    os.read(mapped[0], 1)
    os.execv(sys.executable, [sys.executable, "-m", "agent_journal", *sys.argv[1:]])
os.read(ready[0], 1)
for kind in ("uid", "gid"):
    with open(f"/proc/{{child}}/{{kind}}_map", "w") as file:
        file.write("0 0 65536")
os.write(mapped[1], b"x")
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256)
"""


# --- clients -------------------------------------------------------------------------


def as_user(uid: int, ask: Callable[[], Any], *, inside: bool = False) -> Any:
    """Return what *ask* returns in a process of *uid*, which may be root of a namespace of its."""
    received, sent = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            become(uid)
            if inside:
                _become_root_inside(uid)
            said = json.dumps(ask())
        except NotImplementedError as error:
            said = json.dumps({"skip": str(error)})
        except BaseException:  # noqa: BLE001 - the parent is to hear of it
            said = json.dumps({"failed": traceback.format_exc()})
        with open(sent, "w") as pipe:  # noqa: PTH123 - it has no path
            pipe.write(said)
        os._exit(0)
    os.close(sent)
    with open(received) as pipe:  # noqa: PTH123 - it has no path
        said = json.load(pipe)
    os.waitpid(child, 0)
    if isinstance(said, dict) and "skip" in said:
        pytest.skip(f"a client in a user namespace was not tried: {said['skip']}")
    assert not (isinstance(said, dict) and "failed" in said), said["failed"]
    return said


def _become_root_inside(uid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_DUMPABLE, 1)  # or /proc/self would be root's
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise NotImplementedError(f"unshare: {os.strerror(ctypes.get_errno())}")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1\n")
    Path("/proc/self/gid_map").write_text(f"0 {uid} 1\n")


def connected(daemon: RunningDaemon) -> dict[str, Any]:
    """Return what a connection is told before it has asked anything."""
    with daemon.connect() as connection:
        return connection.reply()


@pytest.fixture
def daemon() -> Iterator[RunningDaemon]:
    """Return a daemon that everybody can connect to, and whose own uid is not root's."""
    if os.geteuid() != 0:
        pytest.skip("not root: what other uids are answered was not checked")
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed: what other uids are answered was not checked")
    place = Path(tempfile.mkdtemp(prefix="agent-journal-"))
    os.chown(place, DAEMONS, DAEMONS)
    ids = [f"--reuid={DAEMONS}", f"--regid={DAEMONS}", "--clear-groups"]
    argv = ["setpriv", *ids, sys.executable, "-m", "agent_journal"]
    daemon = RunningDaemon(place, config=OPEN, argv=argv)
    place.chmod(0o711)
    daemon.configuration.chmod(0o644)
    try:
        with daemon:
            yield daemon
    finally:
        shutil.rmtree(place)


def test_root_of_a_namespace_is_who_made_it(daemon: RunningDaemon) -> None:
    def ask() -> list[object]:
        with daemon.connect() as connection:
            return [os.getuid(), connection.request(noted("inside")),
                    connection.request({"op": "agents", "uid": "*"}),
                    connection.request({"op": "agents", "uid": BOB})]  # fmt: skip

    uid, recorded, everybodys, bobs = as_user(ALICE, ask, inside=True)
    assert (uid, recorded["ok"]) == (0, True)
    assert error_of(everybodys)["code"] == error_of(bobs)["code"] == "forbidden"
    described = as_user(ALICE, lambda: daemon.request({"op": "describe", "agent_id": "inside"}))
    assert described.get("agent", {}).get("uid", described) == described


@pytest.mark.parametrize("uid", [0, DAEMONS])
def test_root_and_the_daemon_s_own_uid_may_all(daemon: RunningDaemon, uid: int) -> None:
    assert as_user(ALICE, lambda: daemon.request(noted()))["ok"]
    reply = as_user(uid, lambda: daemon.request({"op": "agents", "uid": "*"}))
    assert [agent["uid"] for agent in reply["agents"]] == [ALICE]


def test_whom_the_kernel_calls_nobody_is_refused(daemon: RunningDaemon) -> None:
    assert error_of(as_user(OVERFLOW, lambda: connected(daemon)))["code"] == "forbidden"


def test_one_is_whom_one_acts_as(daemon: RunningDaemon) -> None:
    """The effective uid counts: a program of Bob's that is set-uid Alice's is Alice."""

    def ask() -> object:
        os.setresuid(BOB, ALICE, ALICE)
        return daemon.request({**noted(), "op": "attach"})

    assert as_user(0, ask)["ok"]
    listed = as_user(0, lambda: daemon.request({"op": "agents", "uid": "*"}))["agents"]
    assert [agent["uid"] for agent in listed] == [ALICE]


def test_a_connection_is_of_whom_made_it_whoever_uses_it(daemon: RunningDaemon) -> None:
    """Who gives his connection away, by a fork or a message, gives away what he may."""

    def ask() -> object:
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            become(BOB)
            _, data, _, _ = theirs.recvmsg(1, socket.CMSG_SPACE(4))
            given = array.array("i", data[0][2])[0]
            os.write(given, b'{"op":"describe","agent_id":"a"}\n')
            os.write(given, b'{"op":"agents","uid":"*"}\n')
            os._exit(0)
        become(ALICE)
        with daemon.connect() as connection:
            connection.request(noted())
            descriptors = array.array("i", [connection.socket.fileno()])
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
            ours.sendmsg([b"x"], rights)
            os.waitpid(child, 0)
            return connection.replies(2)

    described, listed = as_user(0, ask)
    assert described["agent"]["uid"] == ALICE, "not Bob, who asked"
    assert error_of(listed)["code"] == "forbidden"


def test_descriptors_that_are_sent_are_not_taken(daemon: RunningDaemon) -> None:
    """Nor does a connection end of them, or the daemon run out."""

    def ask() -> object:
        with daemon.connect() as connection, tempfile.TemporaryFile() as file:
            descriptors = array.array("i", [file.fileno()] * 50)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
            for _ in range(50):
                connection.socket.sendmsg([b'{"op":"ping"}\n'], rights)
            return connection.replies(50)

    before = len([*Path(f"/proc/{daemon.pid}/fd").iterdir()])
    assert as_user(ALICE, ask) == [{"ok": True}] * 50
    as_user(ALICE, lambda: daemon.request({"op": "ping"}))
    assert len([*Path(f"/proc/{daemon.pid}/fd").iterdir()]) <= before + 2


def test_an_owner_that_cannot_be_seen_is_held_by_its_connection() -> None:
    """In another pid namespace a client has no pid: nobody else's is taken for it."""
    if os.geteuid() != 0:
        pytest.skip("not root: a daemon in a pid namespace of its own was not tried")
    argv = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*argv, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no pid namespaces here: a daemon in one was not tried")
    with tempfile.TemporaryDirectory(prefix="agent-journal-") as place:
        socket_path = Path(place) / "s"
        command = [*argv, sys.executable, "-m", "agent_journal", "--socket", str(socket_path),
                   "--database", f"{place}/j.db", "--config", f"{place}/none.toml"]  # fmt: skip
        Path(f"{place}/none.toml").touch()
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                _try_unseen(socket_path)
            finally:
                process.kill()


def _try_unseen(path: Path) -> None:
    from integration.observed import wait_until  # noqa: PLC0415 - only here

    wait_until(path.exists, "the daemon listens")
    attach = {"op": "attach", "agent_id": "a"}
    with RawConnection(path) as other:
        with RawConnection(path) as owner:
            assert owner.request(attach)["epoch"] == 1
            described = owner.request({"op": "describe", "agent_id": "a"})
            assert described["agent"]["owner"] == {"pid": 0, "alive": True}
            held = error_of(other.request(attach))
            assert (held["code"], held["pid"]) == ("agent_attached", 0)

        def is_free() -> bool:
            agent = other.request({"op": "describe", "agent_id": "a"})["agent"]
            return str(agent["state"]) == "interrupted"

        wait_until(is_free, "its connection was all that held it")
