"""What each answer promised, and which of the journal's contents keep the promise.

A journal's contents follow each other in one order, that of its commits, so what
was answered by a moment is one number: how far the contents must have come.  It
is found answer by answer, and never goes back on a connection, so that answers
are kept in their order.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agent_journal.model import AgentId, Uid
from agent_journal.testing.inspection import Inspection, Name
from crash.power.trace import Answered, Trace

Fields = dict[str, Any]
Holds = Callable[[Inspection, Inspection], bool]
"""Tells whether a promise is kept by contents, given those before it was asked for."""


@dataclass(frozen=True, slots=True)
class Promise:
    """An answer: that it left, and how to see what it promised."""

    request: int  # its id
    index: int  # of the event that completed its line
    connection: str
    text: str
    holds: Holds


class Floor:
    """For each moment, the contents that the journal must have reached."""

    def __init__(self, promises: Sequence[Promise], contents: Sequence[Inspection]) -> None:
        self.unkept: list[Promise] = []
        self.moments = {one.request: one.index for one in promises}  # by request
        self._moments: list[int] = []
        self._floors: list[int] = []
        self._reasons: list[Promise] = []
        reached: dict[str, int] = {}
        highest = 0
        for promise in promises:
            before = at = reached.get(promise.connection, 0)
            while at < len(contents) and not promise.holds(contents[at], contents[before]):
                at += 1
            if at == len(contents):
                self.unkept.append(promise)
                continue
            reached[promise.connection] = at
            if at > highest:
                highest = at
                self._moments.append(promise.index)
                self._floors.append(at)
                self._reasons.append(promise)

    def at(self, index: int) -> tuple[int, Promise | None]:
        """Return what was promised by event *index*, and the answer that did."""
        found = bisect_right(self._moments, index) - 1
        return (self._floors[found], self._reasons[found]) if found >= 0 else (0, None)


def promises_of(trace: Trace, own_uid: int) -> list[Promise]:
    """Return all answers that promise something, in the order in which they left."""
    found = []
    for index, event in trace.changes():
        if isinstance(event, Answered):
            for line in event.lines:
                reply = json.loads(line)
                if isinstance(reply.get("id"), int) and reply["ok"]:
                    request = trace.requests[reply["id"]]
                    agent_id = request.get("agent_id") or f"{request['kind']}-"
                    name = Uid(request.get("uid", own_uid)), AgentId(agent_id)
                    holds = _promise(name, request, reply)
                    # Agents are one connection's in all lives: a descriptor is not.
                    connection = f"{name[0]} {name[1].partition('-')[0]}"
                    text = f"{json.dumps(request)[:300]} answered {line[:200].decode()}"
                    found.append(Promise(reply["id"], index, connection, text, holds))
    return found


def _promise(name: Name, request: Fields, reply: Fields) -> Holds:
    op = request["op"]
    if op == "append":
        return lambda now, _: _is_appended(now, name, request, reply)
    if op == "read":
        return lambda now, _: _is_shown(now, name, reply)
    if op == "compact":
        return lambda now, before: _is_compacted(now, before, name)
    if op == "forget":
        return lambda now, _: name not in now.agents
    if op == "vacuum":
        return lambda now, _: not _has_ended(now, name)
    return _promise_of_state(op, name, request, reply)


def _promise_of_state(op: str, name: Name, request: Fields, reply: Fields) -> Holds:
    match op:
        case "attach":
            return lambda now, _: _record(now, name, "epoch") >= reply["epoch"]
        case "detach":
            return lambda now, _: _record(now, name, "state") == "waiting"
        case "signal":
            return lambda now, _: len(now.entries.get(name, ())) > reply["sequence"]
        case "fork":
            fork, wanted = (name[0], AgentId(request["as"])), reply["next_sequence"]
            return lambda now, _: len(now.entries.get(fork, ())) >= wanted
        case "park" | "resume" | "cancel":
            return lambda now, _: _record(now, name, "state") == reply["state"]
        case _:
            raise AssertionError(f"nobody has said what {op} promises")


def _record(now: Inspection, name: Name, field: str) -> Any:
    record = now.agents.get(name)
    return -1 if record is None else getattr(record, field)


def _has_ended(now: Inspection, begin: Name) -> bool:
    """Tell whether there is an agent that has ended, and whose id begins so."""
    uid, text = begin
    return any(
        record.state == "completed" and name[0] == uid and name[1].startswith(text)
        for name, record in now.agents.items()
    )


def _is_appended(now: Inspection, name: Name, request: Fields, reply: Fields) -> bool:
    wanted = request.get("entries") or [request]
    first = reply["sequence"]
    found = now.entries.get(name, [])[first : first + len(wanted)]
    positions = [entry.position for entry in found]
    return (
        [json.loads(entry.event) for entry in found] == [one["event"] for one in wanted]
        and [entry.iteration for entry in found] == [one["iteration"] for one in wanted]
        and (
            "duplicate" in reply or positions == [*range(positions[0], positions[0] + len(wanted))]
        )
        and positions[0] == reply["position"]
    )


def _is_shown(now: Inspection, name: Name, reply: Fields) -> bool:
    found = now.entries.get(name, [])
    shown = reply["entries"]
    return len(found) >= len(shown) and all(
        entry.sequence == one["sequence"]
        and entry.position == one["position"]
        and json.loads(entry.event) == one["event"]
        for entry, one in zip(found, shown, strict=False)
    )


def _is_compacted(now: Inspection, before: Inspection, name: Name) -> bool:
    """Tell whether an agent's history is another than before."""
    old, new = before.agents.get(name), now.agents.get(name)
    if new is None:
        return False
    return not now.entries[name] or (old is not None and old.number != new.number)
