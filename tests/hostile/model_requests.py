"""Requests for the model: well formed, of every operation, and often at the wrong moment.

*chance* is anything that has ``random.Random``'s methods: a seeded one where speed
counts, hypothesis's where a failure is to be made small.
"""

from __future__ import annotations

import json
import random
from typing import Any, Final

from hostile.model import Model, rendered
from hostile.model_answers import Request

AGENT_IDS: Final = ("a", "a", "a", "b", "b", "c", "fork-1", "fork-2")
EVENTS: Final = (
    '{"Noted":1}',
    '{"Noted":1}',
    '{"Noted":2}',
    '{"Noted":1.0}',
    '{"Noted":{"a":1,"b":[1E+2,123456789012345678901234567890]}}',
    '{"Noted":{"b":[1E+2,123456789012345678901234567890],"a":1}}',
    '{"Noted":"\\u0061 \\ud83d\\ude00 é"}',
    '{ "Noted":\t[ 1 , "x y" ] }',
    '{"StepStarted":{"key":"s1","name":"n","input_hash":"h","effect":"unsafe"}}',
    '{"StepStarted":{"key":"s1","step":"s2"}}',
    '{\t"StepStarted":{"key":"s2"}}',
    '{"Step\\u0053tarted":{"key":"s2"}}',
    '{"StepCompleted":{"key":"s1","name":"n","input_hash":"h","result":null}}',
    '{"StepFailed":{"key":"s2","error":{"type":"T","message":"m"}}}',
    '{"StepStarted":7}',
    '{"StepStarted":{"key":7}}',
    '{"Signalled ":{"name":"n"}}',
)
ENDS: Final = (
    '{"Terminated":{"reason":"Completed"}}',
    '{"Terminated":{"reason":"no more"}}',
    '{"Terminated":null}',
    '{"Termin\\u0061ted":{"reason":7}}',
)
TIMES: Final = (
    "2026-01-05T09:00:00Z",
    "1999-12-31T23:59:59.5+01:00",
    "2023-11-14T22:13:20.000001Z",
)
KEYS: Final = ("k1", "k2", "k3", "é" * 128, "signal:k1")
SIGNALS: Final = ("n", "m")
VALUES: Final = ("1", "null", '{"by":"ada"}', '{"by" : "ada"}', "[1.0]")
OPERATIONS: Final = (
    *["append"] * 14,
    *["attach"] * 4,
    *["detach"] * 2,
    *["signal"] * 2,
    *["read"] * 2,
    *["describe"] * 2,
    *("agents", "tail", "compact", "decide", "decide", "fork", "park", "resume", "cancel"),
    *("ping", "hello", "stats"),
)
RAW: Final = frozenset({"event", "payload", "result", "error"})


def compose(chance: random.Random, model: Model, number: int) -> Request:
    """Return a request of a client's, made with what the model knows in mind."""
    peer = model.peers[number]
    op = chance.choice(OPERATIONS)
    request: Request = {"op": op}
    if chance.random() < 0.9:
        request["id"] = chance.choice([1, 2, -7, "x", "", "é", 2**63 - 1])
    uid = peer.uid
    if op not in ("ping", "hello") and chance.random() < (0.4 if model.is_admin(peer) else 0.05):
        uids = sorted({*model.namespaces, *(other.uid for other in model.peers.values())})
        uid = request["uid"] = chance.choice(uids)
        if op in ("agents", "tail", "stats") and chance.random() < 0.5:
            request["uid"] = "*"
    if op not in ("agents", "tail", "ping", "hello", "stats"):
        request["agent_id"] = chance.choice(AGENT_IDS)
    maker = globals().get(f"_{op}")
    if maker is not None:
        maker(chance, model, uid, request)
    return request


def encoded(chance: random.Random, request: Request) -> bytes:
    """Return a request as a line, in one of the forms that say the same."""
    members = [f'"{name}":{_value(name, value)}' for name, value in request.items()]
    if chance.random() < 0.1:
        members.append(chance.choice(['"unknown":{"x":[1e999]}', '"id ":7', '"x":"\\u0000"']))
    if chance.random() < 0.1:
        chance.shuffle(members)
    comma = chance.choice([",", ",", " ,\t"])
    return ("{" + comma.join(members) + "}" + chance.choice(["", "", "\r"])).encode()


def _value(name: str, value: Any) -> str:
    if name in RAW and type(value) is str:
        return value
    if name == "entries":
        entries = [
            "{" + ",".join(f'"{key}":{_value(key, inner)}' for key, inner in one.items()) + "}"
            for one in value
        ]
        return "[" + ",".join(entries) + "]"
    return json.dumps(value, ensure_ascii=False)


def _maybe(chance: random.Random, request: Request, name: str, odds: float, value: Any) -> None:
    if chance.random() < odds:
        request[name] = value


def _near(chance: random.Random, value: int) -> int:
    return max(0, value + chance.choice([0, 0, 0, 0, -1, -1, 1, -2]))


def _append(chance: random.Random, model: Model, uid: int, request: Request) -> None:
    agent = model.agents.get((uid, request["agent_id"]))
    if agent is not None and agent.epoch and chance.random() < 0.8:
        request["epoch"] = _near(chance, agent.epoch)
    elif chance.random() < 0.1:
        request["epoch"] = chance.choice([None, 0, 1])
    count = len(agent.entries) if agent else 0
    _maybe(chance, request, "expected_sequence", 0.3, _near(chance, count))
    if chance.random() < 0.25:
        request["entries"] = [_entry(chance) for _ in range(chance.choice([1, 2, 2, 3]))]
        _make_keys_differ(request["entries"])
        if chance.random() < 0.1:
            request["entries"][-1]["event"] = chance.choice(ENDS)
        return
    request |= _entry(chance)
    if chance.random() < 0.06:
        request["event"] = chance.choice(ENDS)


def _entry(chance: random.Random) -> Request:
    entry: Request = {"event": chance.choice(EVENTS)}
    _maybe(chance, entry, "iteration", 0.3, chance.choice([0, 1, 5, 4294967295]))
    _maybe(chance, entry, "timestamp", 0.2, chance.choice([*TIMES, None]))
    _maybe(chance, entry, "key", 0.3, chance.choice([*KEYS, None]))
    return entry


def _make_keys_differ(entries: list[Request]) -> None:
    used: set[str] = set()
    for one in entries:
        if one.get("key") in used:
            del one["key"]
        elif one.get("key") is not None:
            used.add(one["key"])


def _read(chance: random.Random, model: Model, uid: int, request: Request) -> None:
    agent = model.agents.get((uid, request["agent_id"]))
    _maybe(chance, request, "from_sequence", 0.5, _near(chance, len(agent.entries) if agent else 0))
    _maybe(chance, request, "limit", 0.5, chance.choice([1, 2, 1000, 2**63 - 1]))


def _agents(chance: random.Random, model: Model, uid: int, request: Request) -> None:
    states = ["running", "waiting", "parked", "completed", "interrupted"]
    _maybe(chance, request, "state", 0.3, chance.choice([*states, None]))
    _maybe(chance, request, "kind", 0.2, chance.choice(["k", "l", None]))
    _maybe(chance, request, "limit", 0.4, chance.choice([1, 2, 3, 10_000]))
    known = [agent.first.position for agent in model.agents.values() if agent.first]
    places = [place for place in known if place is not None]
    _maybe(chance, request, "after", 0.4, chance.choice([*AGENT_IDS, 0, *places]))


def _tail(chance: random.Random, model: Model, uid: int, request: Request) -> None:
    request["follow"] = False
    _maybe(chance, request, "agent_id", 0.4, chance.choice(AGENT_IDS))
    _maybe(
        chance, request, "from_position", 0.4, chance.choice([0, 3, max(model.seen_position, 0)])
    )
    _maybe(chance, request, "last", 0.4, chance.choice([0, 1, 3, 100]))


def _compact(chance: random.Random, model: Model, uid: int, request: Request) -> None:
    _maybe(chance, request, "force", 0.3, chance.choice([True, False]))


def _attach(chance: random.Random, model: Model, uid: int, request: Request) -> None:
    _maybe(chance, request, "kind", 0.3, chance.choice(["k", "l", None]))
    _maybe(chance, request, "take_over", 0.3, chance.choice([True, False]))
    if not model.namespaces:  # a real daemon would run it
        _maybe(chance, request, "command", 0.2, {"argv": ["/bin/true", "x"], "cwd": "/"})
    _maybe(chance, request, "launcher", 0.03, "nobody")


def _detach(chance: random.Random, model: Model, uid: int, request: Request) -> None:
    agent = model.agents.get((uid, request["agent_id"]))
    request["epoch"] = _near(chance, agent.epoch) if agent else 1
    names = chance.choice([["n"], ["n", "m"], [], None])
    _maybe(chance, request, "wait_for", 0.6, names)
    _maybe(chance, request, "wake_at", 0.3, chance.choice([*TIMES, "2200-01-01T00:00:00Z"]))
    count = len(agent.entries) if agent else 0
    _maybe(chance, request, "seen_sequence", 0.5, _near(chance, count))


def _signal(chance: random.Random, model: Model, uid: int, request: Request) -> None:
    request["name"] = chance.choice(SIGNALS)
    _maybe(chance, request, "payload", 0.7, chance.choice(VALUES))
    _maybe(chance, request, "key", 0.4, chance.choice(KEYS))


def _decide(chance: random.Random, model: Model, uid: int, request: Request) -> None:
    request["step"] = chance.choice(["s1", "s2", "s3"])
    match chance.choice(["rerun", "result", "error"]):
        case "rerun":
            request["rerun"] = True
        case way:
            request[way] = chance.choice(VALUES)


def _fork(chance: random.Random, model: Model, uid: int, request: Request) -> None:
    agent = model.agents.get((uid, request["agent_id"]))
    count = len(agent.entries) if agent else 0
    request["at_sequence"] = chance.choice([0, 1, count, max(count - 1, 0), count + 1])
    request["as"] = chance.choice(["fork-1", "fork-2", "b", "c"])


def _park(chance: random.Random, model: Model, uid: int, request: Request) -> None:
    _maybe(chance, request, "reason", 0.5, chance.choice(["the figures are wrong", None]))


_resume = _cancel = _park


def _hello(chance: random.Random, model: Model, uid: int, request: Request) -> None:
    _maybe(chance, request, "protocol", 0.8, chance.choice([1, 1, None, 2, -1]))


__all__ = ["compose", "encoded", "rendered"]
