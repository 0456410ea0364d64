"""One user of the journal, who does everything that there is to do, and tries what is not his.

An actor draws requests from a seed of its own and from what it was answered, and
from nothing else.  So in two worlds in which it is answered the same it asks the
same, and the first difference between them is what it could learn of others.

What it writes carries its *mark*, which nobody else ever sends: a mark in another's
reply is a leak.  Names, keys and kinds that many use at once carry none: those are
what can be mixed up.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, Final

Message = dict[str, Any]

SHARED_NAMES: Final = ("a", "b", "c", "report-42", "x:y@z")
SHARED_KEYS: Final = ("k1", "k2", "step-7", "0191-k")
SHARED_STEPS: Final = ("s1", "send-1")
SHARED_SIGNALS: Final = ("go", "approval")
STATES: Final = ("running", "waiting", "interrupted", "parked", "completed", "cancelled")
POSITIONS: Final = frozenset({"position", "first_position", "begins_at"})
TIMED: Final = frozenset({"uptime_seconds", "commit_ms_p50", "commit_ms_p99", "commit_ms_max"})
OWN: Final = frozenset({"bytes_in_flight"})  # of requests in which positions are written
REAL: Final = frozenset({"timestamp", "created_at", "updated_at", "wake_at", "pid"})


def mark_of(uid: int) -> str:
    """Return what only *uid* writes."""
    return f"Mark{uid}Q"


class Actor:
    """What one uid asks, and what it makes of the answers."""

    def __init__(self, uid: int, others: list[int], seed: str, *, has_clock: bool = True) -> None:
        self.uid = uid
        self.mark = mark_of(uid)
        self.random = random.Random(f"{seed}/{uid}")  # noqa: S311 - not for secrets
        self.seen: list[str] = []  # what it was answered, as far as others must not matter
        self._others = others
        self._has_clock = has_clock  # a clock that stands still, so that times can be compared
        self._positions: dict[int, int] = {}  # of its own entries, in the order of their showing
        self._epochs: dict[str, int] = {}
        self._sequences: dict[str, int] = {}
        self._exported: Message = {}
        self._last: Message = {}
        self._asked = 0

    # What it asks

    def next_request(self) -> Message:
        """Return the next thing that it wants."""
        draw = self.random
        self._asked += 1
        if self._last and draw.random() < 0.05:
            return {**self._last, "id": self._asked}  # a retry
        make = draw.choices(_MAKERS, _WEIGHTS)[0]
        request: Message = {"id": self._asked, **make(self)}
        if draw.random() < 0.08:
            request["uid"] = draw.choice([self.uid, *self._others, 0, "*", 4_000_000_000])
        self._last = request
        return request

    def _name(self) -> str:
        draw = self.random.random()
        if draw < 0.6:
            return self.random.choice(SHARED_NAMES)
        if draw < 0.75:
            return f"{self.mark}-{self.random.randrange(3)}"
        if draw < 0.9:  # the ids that another would have, if marks could be guessed
            return f"guess-{self.random.choice(self._others)}"
        return f"guess-{self.uid}"

    def _event(self) -> Message:
        draw = self.random.random()
        if draw < 0.08:
            reason = self.random.choice(["Completed", f"because {self.mark}"])
            return {"Terminated": {"reason": reason}}
        if draw < 0.25:
            step = {"key": self.random.choice(SHARED_STEPS), "name": self.mark, "effect": "unsafe"}
            return {"StepStarted": {**step, "input_hash": "9f2c"}}
        if draw < 0.30:
            return {"Forked": {"from": self.mark}}  # the daemon's alone
        return {"Noted": {"text": self.mark * self.random.randrange(1, 4), "n": self._asked % 3}}

    def _fence(self, name: str) -> Message:
        """Return members that say what the writer believes, which may be wrong."""
        draw = self.random.random()
        epoch = self._epochs.get(name, 0)
        fields: Message = {"epoch": epoch} if epoch and draw < 0.9 else {}
        if draw < 0.1:
            fields["epoch"] = self.random.randrange(4)
        if self.random.random() < 0.25:
            near = self._sequences.get(name, 0)
            fields["expected_sequence"] = max(near + self.random.choice([-1, 0, 0, 1]), 0)
        return fields

    def _key(self) -> Message:
        if self.random.random() < 0.4:
            return {"key": self.random.choice([*SHARED_KEYS, self.mark, f"k-{self._asked:05}"])}
        return {}

    def _append(self) -> Message:
        name = self._name()
        request = {"op": "append", "agent_id": name, **self._fence(name)}
        if self.random.random() < 0.2:
            entries = [{"event": self._event()} for _ in range(self.random.randrange(1, 4))]
            return {**request, "entries": entries}
        iteration = self.random.randrange(4)
        return {**request, "event": self._event(), "iteration": iteration, **self._key()}

    def _read(self) -> Message:
        fields = {"from_sequence": self.random.randrange(6), "limit": self.random.randrange(1, 6)}
        return {"op": "read", "agent_id": self._name(), **fields}

    def _describe(self) -> Message:
        return {"op": "describe", "agent_id": self._name()}

    def _agents(self) -> Message:
        request: Message = {"op": "agents", "limit": self.random.choice([1, 2, 100])}
        draw = self.random.random()
        if draw < 0.2:
            request["state"] = self.random.choice(STATES)
        elif draw < 0.4:
            request["kind"] = self.random.choice(["report", self.mark])
        if self.random.random() < 0.25:
            request["prefix"] = self.random.choice(["", "guess-", self._name()[:3]])
        elif self.random.random() < 0.25:
            request["order"] = "newest"
        if draw < 0.5:
            request["after"] = self._name()
        elif draw < 0.7 and self._positions:
            request["after"] = self._position()
        return request

    def _position(self) -> int:
        """Return a position that it knows; from the beginning where it knows none."""
        known = list(self._positions)
        return (
            self.random.choice(known)
            if known and self.random.random() < 0.8
            else min(known, default=0)
        )

    def _tail(self) -> Message:
        request: Message = {"op": "tail", "follow": False}
        if self.random.random() < 0.5:
            request["agent_id"] = self._name()
        if self.random.random() < 0.5:
            return {**request, "last": self.random.randrange(4)}
        return {**request, "from_position": self._position()}

    def _compact(self) -> Message:
        force = self.random.random() < 0.4
        return {"op": "compact", "agent_id": self._name(), "force": force}

    def _attach(self) -> Message:
        request: Message = {"op": "attach", "agent_id": self._name()}
        draw = self.random.random()
        if draw < 0.3:
            request["kind"] = self.random.choice(["report", self.mark])
        elif draw < 0.5:
            # What a real daemon starts would tell of itself when it likes.
            own = ["everybodys", f"of-{self.uid}"] if self._has_clock else []
            others = f"of-{self.random.choice(self._others)}"
            request["launcher"] = self.random.choice([*own, others, "nobodys"])
        elif draw < 0.6:
            cwd = f"/home/{self.mark}"
            request["command"] = {"argv": ["/bin/true", self.mark], "cwd": cwd, "env": {}}
        request["take_over"] = self.random.random() < 0.5
        return request

    def _detach(self) -> Message:
        name = self._name()
        request: Message = {"op": "detach", "agent_id": name, "epoch": self._epochs.get(name, 1)}
        if self.random.random() < 0.5:
            request["wait_for"] = [self.random.choice(SHARED_SIGNALS)]
        if self.random.random() < 0.3:
            request["wake_at"] = "2036-01-01T00:00:00Z"
        return request

    def _signal(self) -> Message:
        name = self.random.choice([*SHARED_SIGNALS, self.mark])
        request = {"op": "signal", "agent_id": self._name(), "name": name}
        return {**request, "payload": {"from": self.mark}, **self._key()}

    def _decide(self) -> Message:
        step = self.random.choice(SHARED_STEPS)
        request: Message = {"op": "decide", "agent_id": self._name(), "step": step}
        return {**request, **self.random.choice([{"rerun": True}, {"result": self.mark}, {}])}

    def _fork(self) -> Message:
        at = self.random.randrange(5)
        return {"op": "fork", "agent_id": self._name(), "at_sequence": at, "as": self._name()}

    def _steer(self) -> Message:
        op = self.random.choice(["park", "resume", "cancel"])
        return {"op": op, "agent_id": self._name(), "reason": self.mark}

    def _export(self) -> Message:
        fields = {"from_sequence": self.random.randrange(3), "limit": self.random.randrange(1, 9)}
        return {"op": "export", "agent_id": self._name(), **fields}

    def _import(self) -> Message:
        """Return an import of what was exported, under another name."""
        found = self._exported
        if not found:
            return self._export()
        name = self._name()
        agent = {**found["agent"], "agent_id": name}
        entries = [{key: value for key, value in entry.items() if key != "agent_id"}
                   for entry in found["entries"]]  # fmt: skip
        return {"op": "import", "agent": agent, "entries": entries}

    def _small(self) -> Message:
        ops = ["stats", "hello", "ping", "fetch", "verify", "backup"]
        return {"op": self.random.choice(ops)}

    # What it is answered

    def take(self, line: bytes) -> None:
        """Learn from a reply, and keep what of it must not depend on others."""
        reply = json.loads(line)
        self._learn(reply)
        self.seen.append(json.dumps(self._own_part(reply), sort_keys=True))

    def _learn(self, reply: Message) -> None:
        name = self._last.get("agent_id", "")
        if reply.get("id") != self._asked or not reply.get("ok") or "uid" in self._last:
            return
        if self._last["op"] == "export":
            self._exported = reply
        if "epoch" in reply:
            self._epochs[name] = reply["epoch"]
        if "next_sequence" in reply and self._last["op"] != "fork":
            self._sequences[name] = reply["next_sequence"]
        elif "sequence" in reply:
            self._sequences[name] = reply["sequence"] + reply.get("count", 1)
        elif "removed" in reply:
            self._sequences[name] = 0

    def _own_part(self, value: Any, name: str = "") -> Any:
        """Return *value* without what others may move: positions, of which the order stays."""
        if isinstance(value, dict):
            if "ok" in value and "position" in value and "count" not in value:
                value = {**value, "position": "the end of the journal"}  # of a tail
            return {key: self._own_part(item, key) for key, item in value.items()}
        if isinstance(value, list):
            return [self._own_part(item) for item in value]
        if name in POSITIONS and isinstance(value, int):
            return f"position {self._positions.setdefault(value, len(self._positions))}"
        if name in TIMED or name in OWN or (name in REAL and not self._has_clock):
            return name
        return value

    def order(self) -> list[int]:
        """Return the positions that it saw, each by when it saw it first, in journal order."""
        return [self._positions[position] for position in sorted(self._positions)]


_WEIGHTED: Final[dict[Callable[[Actor], Message], int]] = {
    Actor._append: 34,
    Actor._read: 8,
    Actor._describe: 6,
    Actor._agents: 7,
    Actor._tail: 6,
    Actor._compact: 4,
    Actor._attach: 10,
    Actor._detach: 5,
    Actor._signal: 6,
    Actor._decide: 4,
    Actor._fork: 4,
    Actor._steer: 5,
    Actor._export: 3,
    Actor._import: 3,
    Actor._small: 4,
}
_MAKERS: Final = list(_WEIGHTED)
_WEIGHTS: Final = list(_WEIGHTED.values())
