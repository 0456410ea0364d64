"""Who may do what: another uid's agents do not exist, and only an administrator may ask for them.

The examples in PROTOCOL.md are played by one uid and cannot show this.  To be
another uid at the other end of a socket it is enough to be it while connecting,
which takes root.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from agent_journal.testing.daemon import RawConnection, RunningDaemon
from protocol.patterns import Matcher

ALICE, BOB, NOBODY = 60_001, 60_002, 65_534

As = Callable[[int], RawConnection]

FORBIDDEN = {"code": "forbidden", "message": "$string", "retryable": False}
FORBIDDEN |= {"outcome": "not_recorded"}
NOT_FOUND = {**FORBIDDEN, "code": "not_found"}


@contextmanager
def euid(uid: int) -> Iterator[None]:
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def connect_as() -> Iterator[As]:
    """Return what connects as a uid, to a daemon of root's that lets everybody in."""
    if os.geteuid() != 0:
        pytest.skip("not root: what other uids may do was not checked")
    with RunningDaemon(config='[access]\nsocket_mode = "0666"\n') as daemon:
        daemon.directory.chmod(0o711)

        def connect(uid: int) -> RawConnection:
            with euid(uid):
                return daemon.connect()

        yield connect


def answer(connection: RawConnection, pattern: object, **request: object) -> None:
    Matcher().match(pattern, connection.request({"id": 1, **request}))


def refused(error: object) -> dict[str, object]:
    return {"id": 1, "ok": False, "error": error}


APPENDED = {"id": 1, "ok": True, "sequence": 0, "position": "$integer", "count": 1}


def test_two_uids_use_one_id_for_two_agents(connect_as: As) -> None:
    with connect_as(ALICE) as alice, connect_as(BOB) as bob:
        answer(alice, APPENDED, op="append", agent_id="a", event={"Alice": 1}, key="k")
        answer(bob, APPENDED, op="append", agent_id="a", event={"Bob": 1}, key="k")
        for connection, uid, name in ((alice, ALICE, "Alice"), (bob, BOB, "Bob")):
            pattern = {"entries": [{"event": {name: 1}, "...": 0}], "...": 0}
            answer(connection, pattern, op="read", agent_id="a")
            answer(connection, pattern, op="read", agent_id="a", uid=uid)


def test_anothers_agent_is_not_found_by_anything(connect_as: As) -> None:
    with connect_as(ALICE) as alice, connect_as(BOB) as bob:
        answer(alice, APPENDED, op="append", agent_id="a", event={"Alice": 1})
        for op in ("read", "describe", "compact"):
            answer(bob, refused(NOT_FOUND), op=op, agent_id="a")
        answer(bob, refused(NOT_FOUND), op="agents", after="a")
        answer(bob, {"id": 1, "ok": True, "agents": [], "more": False}, op="agents")
        end = {"id": 1, "ok": True, "position": "$integer"}
        answer(bob, end, op="tail", from_position=0, follow=False)
        answer(bob, end, op="tail", agent_id="a", last=5, follow=False)


def test_only_an_administrator_may_name_another_uid(connect_as: As) -> None:
    with connect_as(ALICE) as alice, connect_as(BOB) as bob:
        answer(alice, APPENDED, op="append", agent_id="a", event={"Alice": 1})
        for op in ("read", "describe", "compact"):
            answer(bob, refused(FORBIDDEN), op=op, agent_id="a", uid=ALICE)
        answer(bob, refused(FORBIDDEN), op="append", agent_id="a", event={"A": 1}, uid=ALICE)
        for op in ("agents", "tail", "stats"):
            answer(bob, refused(FORBIDDEN), op=op, uid=ALICE)
            answer(bob, refused(FORBIDDEN), op=op, uid="*")
        answer(alice, {"agent": {"entries": 1, "...": 0}, "...": 0}, op="describe", agent_id="a")


def test_an_administrator_acts_in_the_place_of_any_uid_and_sees_all(connect_as: As) -> None:
    with connect_as(ALICE) as alice, connect_as(BOB) as bob, connect_as(0) as root:
        answer(alice, APPENDED, op="append", agent_id="a", event={"Alice": 1})
        answer(bob, APPENDED, op="append", agent_id="a", event={"Bob": 1})
        answer(root, refused(NOT_FOUND), op="read", agent_id="a")
        second = {**APPENDED, "sequence": 1}
        answer(root, second, op="append", agent_id="a", event={"Root": 1}, uid=ALICE)
        answer(alice, {"agent": {"entries": 2, "uid": ALICE, "...": 0}, "...": 0},
               op="describe", agent_id="a")  # fmt: skip
        everybody = [{"agent_id": "a", "uid": uid, "...": 0} for uid in (ALICE, BOB)]
        answer(root, {"agents": everybody, "...": 0}, op="agents", uid="*")
        root.send_line({"id": 1, "op": "tail", "uid": "*", "from_position": 0, "follow": False})
        shown = [(line["entry"]["uid"], line["entry"]["event"]) for line in root.replies(3)]
        assert shown == [(ALICE, {"Alice": 1}), (BOB, {"Bob": 1}), (ALICE, {"Root": 1})]


def test_anothers_agent_is_neither_held_nor_steered(connect_as: As) -> None:
    with connect_as(ALICE) as alice, connect_as(BOB) as bob, connect_as(0) as root:
        attached = {"id": 1, "ok": True, "epoch": 1, "...": 0}
        answer(alice, attached, op="attach", agent_id="a")
        requests = (
            {"op": "detach", "epoch": 1},
            {"op": "signal", "name": "n"},
            {"op": "decide", "step": "s", "rerun": True},
            {"op": "fork", "at_sequence": 0, "as": "b"},
            {"op": "resume"},
            {"op": "park"},
            {"op": "cancel"},
        )
        for request in requests:
            answer(bob, refused(NOT_FOUND), **request, agent_id="a")
            answer(bob, refused(FORBIDDEN), **request, agent_id="a", uid=ALICE)
        answer(bob, refused(FORBIDDEN), op="attach", agent_id="a", uid=ALICE)
        answer(bob, attached, op="attach", agent_id="a")
        held = {"code": "agent_attached", "epoch": 1, "pid": "$integer", "...": 0}
        answer(root, refused(held), op="attach", agent_id="a", uid=ALICE)
        parked = {"id": 1, "ok": True, "state": "parked"}
        answer(root, parked, op="park", agent_id="a", uid=ALICE)
        running = {"agent": {"state": "running", "...": 0}, "...": 0}
        answer(bob, running, op="describe", agent_id="a")


def test_only_the_daemons_own_uid_is_started_by_its_command(connect_as: As) -> None:
    command = {"argv": ["/bin/true"], "cwd": "/"}
    with connect_as(ALICE) as alice, connect_as(0) as root:
        request = {"op": "attach", "agent_id": "a", "command": command}
        answer(alice, refused(FORBIDDEN), **request)
        answer(root, refused(FORBIDDEN), **request, uid=ALICE)
        answer(alice, refused(NOT_FOUND), op="describe", agent_id="a")
        answer(root, {"id": 1, "ok": True, "epoch": 1, "...": 0}, **request)


def test_a_peer_that_the_kernel_cannot_name_is_refused(connect_as: As) -> None:
    with connect_as(NOBODY) as nobody:
        (reply,) = nobody.rest()
    Matcher().match({"id": None, "ok": False, "error": FORBIDDEN}, reply)
