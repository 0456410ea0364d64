"""Who may do what, as the kernel tells who it is: what only more than two uids can show.

``protocol/test_other_uids.py`` has the rules themselves; here are the ways round
them: forms of ``uid``, groups, keys, streams, retries.  To be another uid at the
other end of a socket takes root; what does not is tested as anybody.
"""

from __future__ import annotations

import ctypes
import grp
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from agent_journal.testing.daemon import RawConnection, RunningDaemon
from integration.observed import error_of, noted, wait_until

ALICE, BOB, CAROL = 60_001, 60_002, 60_003
OVERFLOW = 65_534
OPEN = '[access]\nsocket_mode = "0666"\n'

As = Callable[..., RawConnection]


@contextmanager
def identity(uid: int, gid: int, groups: list[int]) -> Iterator[None]:
    """Be somebody else for as long as it takes to connect."""
    before = os.getgroups()
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


@pytest.fixture
def admins() -> grp.struct_group:
    """Return a group of this host that is nobody's here."""
    return next(group for group in grp.getgrall() if group.gr_gid not in (0, os.getgid()))


@pytest.fixture
def daemon() -> Iterator[RunningDaemon]:
    """Return a daemon of root's that lets everybody in."""
    if os.geteuid() != 0:
        pytest.skip("not root: what other uids may do was not checked")
    with RunningDaemon(config=OPEN) as running:
        running.directory.chmod(0o711)
        yield running


@pytest.fixture
def connect(daemon: RunningDaemon) -> Iterator[As]:
    opened = []

    def connect(uid: int, gid: int = 60_000, groups: list[int] | None = None) -> RawConnection:
        with identity(uid, gid, groups or []):
            opened.append(daemon.connect())
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def code_of(reply: dict[str, Any]) -> str:
    return str(error_of(reply)["code"])


def configure(daemon: RunningDaemon, text: str) -> None:
    behind = len(daemon.log)
    daemon.configuration.write_text(text)
    daemon.reload()
    daemon.wait_for_log("config_reloaded", behind=behind)


@pytest.mark.parametrize("whom", [ALICE, 0, 4_000_000_000, "*"])
def test_only_an_administrator_may_name_another(connect: As, whom: int | str) -> None:
    """Whether there is anything of theirs or not, and whatever is asked: nothing is told."""
    alice, bob = connect(ALICE), connect(BOB)
    assert alice.request(noted(key="k"))["ok"]
    requests: list[dict[str, object]] = [
        {"op": op, **members}
        for op in ("read", "describe", "compact", "append", "tail", "agents", "stats")
        for members in ({"agent_id": "a", "event": {"A": 1}}, {"agent_id": "b", "event": {"A": 1}})
    ]
    requests += [
        noted(key="k"),
        noted("other", key="k"),
        noted(expected_sequence=7),
        noted(epoch=3),
        {"op": "append", "agent_id": "a", "entries": [{"event": {"A": 1}}]},
        {"op": "compact", "agent_id": "a", "force": True},
        {"op": "tail", "last": 1, "follow": False},
    ]
    for request in requests:
        reply = bob.request({**request, "uid": whom})
        wanted = "invalid" if whom == "*" and request["op"] in NOT_OF_ALL else "forbidden"
        assert code_of(reply) == wanted, (request, reply)
    (entry,) = alice.request({"op": "read", "agent_id": "a"})["entries"]
    assert entry["sequence"] == 0
    missing = bob.request({"op": "describe", "agent_id": "a"})
    assert code_of(missing) == "not_found", "and nothing came into being in one's own either"


NOT_OF_ALL = frozenset({"read", "describe", "compact", "append"})


def test_all_namespaces_at_once_can_be_looked_at_and_not_be_written(connect: As) -> None:
    alice, root = connect(ALICE), connect(0)
    assert alice.request(noted())["ok"]
    for op in sorted(NOT_OF_ALL):
        request = {"op": op, "agent_id": "a", "event": {"A": 1}, "uid": "*"}
        assert code_of(root.request(request)) == "invalid", op


def test_a_stream_shows_ones_own_alone_while_all_write(connect: As) -> None:
    tails = {uid: connect(uid) for uid in (ALICE, BOB)}
    of_all, of_bob = connect(0), connect(0)
    for uid, connection in tails.items():
        connection.send_line({"op": "tail", "from_position": 0, "id": uid})
    of_all.send_line({"op": "tail", "from_position": 0, "uid": "*"})
    of_bob.send_line({"op": "tail", "from_position": 0, "uid": BOB, "agent_id": "a"})
    writers = {uid: connect(uid) for uid in (ALICE, BOB, CAROL)}
    for index in range(30):
        for uid, connection in writers.items():
            assert connection.request(noted(f"{uid} {index}"))["sequence"] == index
    shown = {uid: tails[uid].replies(30) for uid in tails}
    shown[BOB + 1000] = of_bob.replies(30)
    for uid, lines in shown.items():
        owner = BOB if uid > CAROL else uid
        texts = [line["entry"]["event"]["Noted"] for line in lines]
        assert texts == [f"{owner} {index}" for index in range(30)]
        assert not any("uid" in line["entry"] for line in lines if uid < CAROL)
    everything = [line["entry"] for line in of_all.replies(90)]
    assert {entry["uid"] for entry in everything} == {ALICE, BOB, CAROL}
    positions = [entry["position"] for entry in everything]
    assert positions == sorted(set(positions)), "one order holds for all"


def test_keys_and_sequences_are_ones_own(connect: As) -> None:
    for uid in (ALICE, BOB):
        connection = connect(uid)
        assert connection.request(noted(str(uid), key="k", expected_sequence=0))["sequence"] == 0
        assert "duplicate" in connection.request(noted(str(uid), key="k"))
    root = connect(0)
    again = root.request(noted(str(ALICE), key="k", uid=ALICE))
    assert again["duplicate"], "an administrator repeats in the place of its owner"
    assert code_of(root.request(noted(str(BOB), key="k", uid=ALICE))) == "key_conflict"


def test_a_compaction_is_of_one_namespace(connect: As) -> None:
    connections = {uid: connect(uid) for uid in (ALICE, BOB)}
    for connection in connections.values():
        for index in range(5):
            assert connection.request(noted(str(index)))["ok"]
    removed = connections[ALICE].request({"op": "compact", "agent_id": "a", "force": True})
    assert removed["removed"] == 5
    assert len(connections[BOB].request({"op": "read", "agent_id": "a"})["entries"]) == 5
    root = connect(0)
    assert root.request({"op": "compact", "agent_id": "a", "force": True, "uid": BOB})["ok"]
    assert connections[BOB].request({"op": "read", "agent_id": "a"})["entries"] == []


def test_lists_and_counters_are_ones_own(connect: As) -> None:
    alice, bob, root = connect(ALICE), connect(BOB), connect(0)
    for index in range(3):
        assert alice.request(noted(agent_id=f"alice-{index}"))["ok"]
        assert bob.request(noted(agent_id=f"bob-{index}"))["ok"]
    listed = alice.request({"op": "agents", "limit": 2})
    assert [agent["agent_id"] for agent in listed["agents"]] == ["alice-0", "alice-1"]
    assert listed["more"]
    rest = alice.request({"op": "agents", "limit": 2, "after": "alice-1"})
    assert [agent["agent_id"] for agent in rest["agents"]] == ["alice-2"]
    assert not rest["more"], "that others have agents behind it is not told"
    assert code_of(alice.request({"op": "agents", "after": "bob-0"})) == "not_found"
    assert alice.request({"op": "stats"})["connections"] == 1
    assert root.request({"op": "stats", "uid": "*"})["connections"] == 3
    assert root.request({"op": "stats", "uid": ALICE})["connections"] == 1


@pytest.mark.parametrize("how", ["first", "supplementary", "one of many", "one of very many"])
def test_members_of_the_admin_group_act_for_all(
    daemon: RunningDaemon, connect: As, admins: grp.struct_group, how: str
) -> None:
    """By the groups that they had when they connected, of which the kernel tells."""
    alice = connect(ALICE)
    assert alice.request(noted())["ok"]
    gid = admins.gr_gid
    count = {"first": 0, "supplementary": 0, "one of many": 40, "one of very many": 1000}[how]
    others = list(range(70_000, 70_000 + count))
    admin = connect(BOB, gid, others) if how == "first" else connect(BOB, 60_000, [*others, gid])
    other = connect(BOB, 60_000, others)

    def may(connection: RawConnection) -> bool:
        reply = connection.request({"op": "describe", "agent_id": "a", "uid": ALICE})
        if not reply["ok"]:
            assert code_of(reply) == "forbidden"
        return bool(reply["ok"])

    assert not may(admin), "there is no admin group yet"
    configure(daemon, f'{OPEN}admin_group = "{admins.gr_name}"\n')
    assert may(admin), "the option is live, also for who is connected"
    assert not may(other)
    listed = admin.request({"op": "agents", "uid": "*"})["agents"]
    assert [agent["uid"] for agent in listed] == [ALICE]
    assert admin.request(noted(uid=ALICE))["sequence"] == 1
    assert code_of(admin.request({"op": "describe", "agent_id": "a"})) == "not_found"
    configure(daemon, OPEN)
    assert not may(admin), "and so is its end"


def test_the_daemons_own_uid_acts_for_all(tmp_path: Path) -> None:
    """It could read the file, so there is nothing to be refused."""
    with RunningDaemon(tmp_path) as daemon, daemon.connect() as connection:
        assert connection.request(noted(uid=12345))["ok"]
        assert code_of(connection.request({"op": "describe", "agent_id": "a"})) == "not_found"
        for uid in (12345, "*"):
            listed = connection.request({"op": "agents", "uid": uid})["agents"]
            assert [agent["uid"] for agent in listed] == [12345]
        connection.send_line({"op": "tail", "uid": "*", "from_position": 0, "follow": False})
        assert connection.reply()["entry"]["uid"] == 12345


def test_a_socket_for_its_owner_lets_nobody_else_in(daemon: RunningDaemon) -> None:
    daemon.stop()
    daemon.configuration.write_text("")
    daemon.start()
    with identity(ALICE, 60_000, []), pytest.raises(PermissionError):
        daemon.connect()


def test_a_socket_for_a_group_lets_that_group_in(
    daemon: RunningDaemon, connect: As, admins: grp.struct_group
) -> None:
    daemon.stop()
    daemon.configuration.write_text(
        f'[access]\nsocket_mode = "0660"\nsocket_group = "{admins.gr_name}"\n'
    )
    daemon.start()
    assert connect(ALICE, 60_000, [admins.gr_gid]).request(noted())["ok"]
    with pytest.raises(PermissionError):
        connect(ALICE)


def test_whoever_the_kernel_can_not_name_is_refused_and_not_mixed_up(
    daemon: RunningDaemon, connect: As
) -> None:
    before = connect(0).request({"op": "stats", "uid": "*"})["connections"]
    for _ in range(3):
        connection = connect(OVERFLOW)
        (reply,) = connection.rest()
        assert error_of(reply)["code"] == "forbidden"
    with (
        identity(OVERFLOW, 60_000, []),
        daemon.connect() as speaks_first,
        suppress(BrokenPipeError),  # it was refused before
    ):
        speaks_first.send_line(noted())
    root = connect(0)

    def all_gone() -> bool:
        return bool(root.request({"op": "stats", "uid": "*"})["connections"] <= before + 1)

    wait_until(all_gone, "the refused are not kept")
    assert root.request({"op": "agents", "uid": "*"})["agents"] == []


def test_from_inside_a_user_namespace_one_is_who_one_is_outside(daemon: RunningDaemon) -> None:
    """Root of a container is not root: the kernel tells them apart."""
    received, sent = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = repr(as_root_inside(daemon))
        except BaseException as error:  # noqa: BLE001 - the parent is to hear of it
            said = f"raised {error!r}"
        os.write(sent, said.encode())
        os._exit(0)
    os.close(sent)
    with open(received, "rb") as pipe:  # noqa: PTH123 - it has no path
        said = pipe.read().decode()
    os.waitpid(child, 0)
    if said.startswith("OSError"):
        pytest.skip(f"a client in a user namespace was not tried: {said}")
    assert said == repr([0, "recorded", "forbidden"])
    (agent,) = daemon.request({"op": "agents", "uid": ALICE})["agents"]
    assert agent["agent_id"] == "inside"


def as_root_inside(daemon: RunningDaemon) -> object:
    """Become Alice, then root of a user namespace of hers; return what the daemon makes of it."""
    libc = ctypes.CDLL(None, use_errno=True)
    os.setgroups([])
    os.setresgid(60_000, 60_000, 60_000)
    os.setresuid(ALICE, ALICE, ALICE)
    libc.prctl(PR_SET_DUMPABLE, 1)  # or /proc/self would be root's
    if libc.unshare(CLONE_NEWUSER) != 0:
        return OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/uid_map").write_bytes(b"0 %d 1\n" % ALICE)
    appended = daemon.request(noted(agent_id="inside"))
    listed = daemon.request({"op": "agents", "uid": 0})
    return [os.getuid(), "recorded" if appended["ok"] else appended, code_of(listed)]


PR_SET_DUMPABLE = 4  # prctl(2)
CLONE_NEWUSER = 0x1000_0000  # unshare(2)
