"""Another's agent and one that nobody has are the same to who asks: to the byte, and in the work.

Each operation is asked twice, in two daemons with the same past: about an agent of
Alice's, and about one that there is not.  Only the id differs, also in what the
store is asked meanwhile, so there is nothing that a clock could tell apart either.
"""

from __future__ import annotations

from typing import Any

import pytest

from agent_journal.wire import Request
from helpers import ALICE, BOB, Message, Service, append, settled, terminated

THEIRS, NOBODYS = "secret-1", "secret-2"  # of one length, and in one place among others
TEXT = "Mark-of-Alice"


async def past(service: Service) -> None:
    """Have Alice do everything that leaves a trace."""
    alice = service.connect(ALICE, pid=1)
    name = {"agent_id": THEIRS}
    step = {"key": "s", "name": TEXT, "effect": "unsafe", "input_hash": "9f2c"}
    await alice.ask({"op": "attach", **name, "kind": TEXT})
    await alice.ask(
        append(THEIRS, TEXT, key="k", epoch=1),
        {"op": "append", **name, "event": {"StepStarted": step}, "epoch": 1},
        {"op": "signal", **name, "name": TEXT, "payload": TEXT, "key": "k"},
        {"op": "fork", **name, "at_sequence": 2, "as": f"{THEIRS}-fork"},
        append(f"{THEIRS}-done", TEXT),
        terminated(f"{THEIRS}-done", TEXT),
        append(f"{THEIRS}-gone", TEXT),
        {"op": "compact", "agent_id": f"{THEIRS}-gone", "force": True},
        {"op": "park", "agent_id": f"{THEIRS}-fork", "reason": TEXT},
    )
    bob = service.connect(BOB, pid=2)
    await bob.ask(append("own", key="k"), {"op": "attach", "agent_id": "held"})


AGENT = {"agent_id": "ID", "state": "running", "created_at": "2026-01-01T00:00:00Z", "entries": 1}
ENTRY = {"sequence": 0, "timestamp": "2026-01-01T00:00:00Z", "event": {"A": 1}, "key": "k"}

ASKED: list[Message] = [
    append("ID"),
    append("ID", key="k"),
    append("ID", event=TEXT, key="k"),
    append("ID", epoch=1),
    append("ID", epoch=1, expected_sequence=1),
    append("ID", expected_sequence=0),
    append("ID", expected_sequence=3),
    {"op": "append", "agent_id": "ID", "entries": [{"event": {TEXT: 1}, "key": "k"}]},
    terminated("ID"),
    {"op": "read", "agent_id": "ID"},
    {"op": "read", "agent_id": "ID", "from_sequence": 99},
    {"op": "describe", "agent_id": "ID"},
    {"op": "agents", "after": "ID"},
    {"op": "agents", "after": 0},
    {"op": "agents", "prefix": "ID"},
    {"op": "agents", "prefix": "", "after": "ID"},
    {"op": "agents", "order": "newest", "after": "ID"},
    {"op": "agents", "kind": TEXT},
    {"op": "agents", "state": "parked"},
    {"op": "compact", "agent_id": "ID"},
    {"op": "compact", "agent_id": "ID", "force": True},
    {"op": "forget", "agent_id": "ID"},
    {"op": "forget", "agent_id": "ID", "force": True},
    {"op": "forget", "agent_id": "ID", "force": True, "wait": False},
    {"op": "tail", "follow": False, "from_position": 0},
    {"op": "tail", "agent_id": "ID", "follow": False},
    {"op": "tail", "agent_id": "ID", "follow": False, "last": 3},
    {"op": "tail", "agent_id": "ID", "follow": False, "from_position": 2},
    {"op": "tail", "agent_id": "ID"},
    {"op": "attach", "agent_id": "ID"},
    {"op": "attach", "agent_id": "ID", "take_over": True},
    {"op": "attach", "agent_id": "ID", "launcher": "theirs"},
    {"op": "detach", "agent_id": "ID", "epoch": 1},
    {"op": "signal", "agent_id": "ID", "name": TEXT, "payload": TEXT, "key": "k"},
    {"op": "decide", "agent_id": "ID", "step": "s", "rerun": True},
    {"op": "fork", "agent_id": "ID", "at_sequence": 1, "as": "mine"},
    {"op": "fork", "agent_id": "own", "at_sequence": 1, "as": "ID"},
    {"op": "park", "agent_id": "ID"},
    {"op": "resume", "agent_id": "ID"},
    {"op": "cancel", "agent_id": "ID"},
    {"op": "export", "agent_id": "ID"},
    {"op": "import", "agent": AGENT, "entries": [ENTRY]},
    {"op": "import", "agent": {**AGENT, "epoch": 1}, "entries": [{**ENTRY, "sequence": 1}]},
    {"op": "stats"},
    {"op": "ping"},
    {"op": "hello"},
    {"op": "verify"},
    {"op": "backup"},
    {"op": "vacuum", "states": ["completed"]},
    {"op": "disk_usage"},
    {"op": "close"},
]
FORMS = ["ID", "ID-fork", "ID-done", "ID-gone"]


def test_every_operation_is_asked() -> None:
    ops = {kind.__struct_config__.tag for kind in Request.__args__}
    assert ops == {request["op"] for request in ASKED}


def about(value: Any, agent_id: str) -> Any:
    """Return a request about *agent_id*."""
    if isinstance(value, dict):
        return {key: about(item, agent_id) for key, item in value.items()}
    if isinstance(value, list):
        return [about(item, agent_id) for item in value]
    return agent_id if value == "ID" else value


async def answered(request: Message, name: str, agent_id: str) -> tuple[bytes, object]:
    """Return what Bob is answered about *agent_id*, and the work that it made."""
    async with Service() as service:
        service.resumer.launchers = set()
        await past(service)
        service.store.calls.clear()
        bob = service.connect(BOB, pid=2)
        bob.send(about({**request, "id": 1}, name.replace("ID", agent_id)))
        await settled()
        if "follow" not in request and request["op"] != "close":
            bob.send({"op": "read", "agent_id": name.replace("ID", agent_id), "id": 2})
            await settled()
        reply = bytes(bob.sink.written)
        work = dict(service.store.calls), len(service.store.batches), bob.sink.writes
    return reply, work


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("request_", ASKED, ids=range(len(ASKED)))
async def test_who_asks_cannot_tell_whether_another_has_it(request_: Message, name: str) -> None:
    theirs, work = await answered(request_, name, THEIRS)
    nobodys, other_work = await answered(request_, name, NOBODYS)
    assert theirs.replace(THEIRS.encode(), b"ID") == nobodys.replace(NOBODYS.encode(), b"ID")
    assert work == other_work
    assert TEXT.encode() not in theirs or TEXT in str(request_)


async def test_what_others_write_wakes_nobody() -> None:
    """A stream is not sent to, nor its connection written to, for what its reader may not see."""
    async with Service() as service:
        await past(service)
        bob = service.connect(BOB, pid=3)
        await bob.ask({"op": "tail", "id": 1}, {"op": "ping", "id": 2})
        writes = bob.sink.writes
        alice = service.connect(ALICE, pid=4)
        for number in range(20):
            await alice.ask(append(f"more-{number}", TEXT))
        assert bob.sink.writes == writes


async def test_a_user_s_full_memory_of_heads_is_no_other_user_s_loss() -> None:
    """What is forgotten to make room is found again: answers do not change."""
    async with Service(heads_max=4) as service:
        bob, alice = service.connect(BOB), service.connect(ALICE)
        await bob.ask(append("own", key="k"))
        for number in range(40):
            await alice.ask(append(f"a-{number}"))
            (reply,) = await bob.ask(append("own", key="k"))
            assert (reply["sequence"], reply["duplicate"]) == (0, True)
