"""Exactly who may act for others, by what the kernel says of him and the configuration of now."""

from __future__ import annotations

import grp
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from agent_journal.model import Uid
from agent_journal.service import peer as peers
from agent_journal.service.config import Access
from agent_journal.service.peer import Peer
from agent_journal.wire import Request
from helpers import ALICE, BOB, ROOT, Client, Message, Service, append, code_of, settled

ADMINS = 4_000_100_000
NOGROUP = 4_000_165_534
GROUPS = {"admins": ADMINS, "nogroup": NOGROUP}


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a host with two groups, the second of which is what the kernel can't name."""

    def getgrnam(name: str) -> Any:
        return grp.struct_group((name, "x", GROUPS[name], []))

    monkeypatch.setattr(peers.grp, "getgrnam", getgrnam)
    monkeypatch.setattr(peers, "overflow_gid", lambda: NOGROUP)


def peer(uid: int, gid: int = 60_000, groups: Iterable[int] = ()) -> Peer:
    return Peer(uid=Uid(uid), gid=gid, pid=1, groups=frozenset(groups))


@pytest.mark.parametrize(
    ("who", "group", "may"),
    [
        (peer(0), "", True),
        (peer(os.geteuid()), "", True),
        (peer(ALICE), "", False),
        (peer(ALICE, 0, [0]), "", False),  # root's group is not root
        (peer(ALICE, ADMINS), "", False),
        (peer(ALICE, ADMINS), "admins", True),
        (peer(ALICE, 60_000, [5, ADMINS]), "admins", True),
        (peer(ALICE, 60_000, [5]), "admins", False),
        (peer(ADMINS), "admins", False),  # a uid is not a gid
        (peer(ALICE, ADMINS), "there-is-none", False),
        (peer(ALICE, NOGROUP), "nogroup", False),
        (peer(ALICE, 60_000, [NOGROUP]), "nogroup", False),
    ],
    ids=range(12),
)
def test_an_administrator_is_root_the_daemon_s_own_uid_or_in_the_group(
    who: Peer, group: str, *, may: bool
) -> None:
    """Of a gid that the kernel gives to every group that it can't name, nobody is."""
    assert who.is_admin(group) is may


def admit(service: Service, group: str) -> None:
    """Take over another configuration, as a reload does."""
    service.context.config = replace(service.context.config, access=Access(admin_group=group))


def member(service: Service, uid: Uid = BOB) -> Client:
    """Return a connection of somebody who is in the group."""
    client = service.connect(uid)
    client.session._caller.peer = peer(uid, ADMINS)
    return client


ON_OTHERS: list[Message] = [
    {"op": "append", "agent_id": "a", "event": {"A": 1}},
    {"op": "append", "agent_id": "a", "entries": [{"event": {"A": 1}}]},
    {"op": "append", "agent_id": "new", "event": {"A": 1}, "key": "k"},
    {"op": "read", "agent_id": "a"},
    {"op": "describe", "agent_id": "a"},
    {"op": "agents"},
    {"op": "agents", "after": "a"},
    {"op": "tail", "follow": False},
    {"op": "tail", "agent_id": "a", "last": 1, "follow": False},
    {"op": "stats"},
    {"op": "attach", "agent_id": "b"},
    {"op": "detach", "agent_id": "a", "epoch": 1},
    {"op": "signal", "agent_id": "a", "name": "n"},
    {"op": "decide", "agent_id": "a", "step": "s", "rerun": True},
    {"op": "fork", "agent_id": "a", "at_sequence": 0, "as": "c"},
    {"op": "park", "agent_id": "a"},
    {"op": "resume", "agent_id": "a"},
    {"op": "cancel", "agent_id": "a"},
    {"op": "export", "agent_id": "a"},
    {
        "op": "import",
        "agent": {
            "agent_id": "z",
            "state": "running",
            "entries": 1,
            "created_at": "2026-01-01T00:00:00Z",
        },
        "entries": [{"sequence": 0, "timestamp": "2026-01-01T00:00:00Z", "event": {"A": 1}}],
    },
    {"op": "compact", "agent_id": "a", "force": True},
    {"op": "forget", "agent_id": "a", "force": True},
]


@pytest.mark.parametrize("whom", [ALICE, 0, 77, 2**32 - 1])
async def test_every_op_is_forbidden_to_who_is_none(whom: int) -> None:
    """In the same words, whoever is named and whatever he has."""
    async with Service() as service:
        alice, bob = service.connect(ALICE), service.connect(BOB)
        await alice.ask(append(), {"op": "attach", "agent_id": "a"})
        replies = [await bob.ask_one({**request, "uid": whom}) for request in ON_OTHERS]
        assert {code_of(reply) for reply in replies} == {"forbidden"}
        assert len({reply["error"]["message"] for reply in replies}) == 1
        assert await service.events("a") == ["Noted", "AttemptStarted"]
        assert await service.events("a", BOB) == []


@pytest.mark.parametrize("op", ["verify", "backup", "vacuum", "disk_usage"])
async def test_what_is_about_the_whole_journal_is_not_for_the_group(op: str) -> None:
    """A copy of all is more than acting for each: root and the daemon's own uid have it anyway."""
    async with Service() as service:
        admit(service, "admins")
        for client in (service.connect(ALICE), member(service)):
            assert code_of(await client.ask_one({"op": op})) == "forbidden"
        assert code_of(await service.connect(ROOT).ask_one({"op": op})) != "forbidden"


async def test_every_op_acts_in_the_place_of_whom_an_administrator_names() -> None:
    async with Service() as service:
        admit(service, "admins")
        alice, bob = service.connect(ALICE), member(service)
        await alice.ask(append(), {"op": "attach", "agent_id": "a"})
        for request in ON_OTHERS:
            replies = await bob.ask({**request, "uid": ALICE})
            assert code_of(replies[-1]) != "forbidden", request
        own = await bob.ask({"op": "agents"})
        assert own == [{"ok": True, "agents": [], "more": False}], "nothing of it was his own"


def test_every_op_that_takes_a_uid_is_among_them() -> None:
    named = {kind.__struct_config__.tag for kind in Request.__args__
             if "uid" in kind.__struct_fields__}  # fmt: skip
    assert named == {request["op"] for request in ON_OTHERS}


async def test_the_group_s_end_is_the_end_of_what_its_members_may() -> None:
    async with Service() as service:
        alice, bob = service.connect(ALICE), member(service)
        await alice.ask(append())
        request = {"op": "read", "agent_id": "a", "uid": ALICE}
        assert code_of(await bob.ask_one(request)) == "forbidden"
        admit(service, "admins")
        assert code_of(await bob.ask_one(request)) is None
        admit(service, "")
        assert code_of(await bob.ask_one(request)) == "forbidden"


@pytest.mark.parametrize("whom", ["*", ALICE])
async def test_a_stream_of_others_ends_with_the_right_to_it(whom: object) -> None:
    """Also where it began before: what was recorded after the reload is not shown."""
    async with Service() as service:
        admit(service, "admins")
        alice, bob, root = service.connect(ALICE), member(service), service.connect(ROOT)
        for client in (bob, root):
            await client.ask({"op": "tail", "uid": whom, "id": 1})
        await alice.ask(append())
        assert [len(client.replies) for client in (bob, root)] == [1, 1]
        admit(service, "")
        await alice.ask(append(event="Secret"))
        (end,) = bob.replies
        assert code_of(end) == "forbidden"
        assert [line["entry"]["event"] for line in root.replies] == [{"Secret": 1}]
        assert await bob.ask_one({"op": "ping", "id": 2}) == {"id": 2, "ok": True}
        await settled()


async def test_a_stream_of_one_s_own_goes_on_through_every_reload() -> None:
    async with Service() as service:
        alice = service.connect(ALICE)
        await alice.ask({"op": "tail", "id": 1, "uid": ALICE})
        for group in ("admins", "", "nogroup"):
            admit(service, group)
            await service.connect(ALICE).ask(append())
            assert len(alice.replies) == 1


def test_the_overflow_gid_is_the_kernel_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    real: Callable[[], int] = peers.overflow_gid
    assert real() > 0
