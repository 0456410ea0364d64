"""A recorded journal that answers a program as the daemon would, and compares; no I/O.

The program attaches, reads what is recorded, and goes through it: for each step
whose end is recorded it gets the result and calls nothing.  So the first step
that it wants to *begin* is where the record ends, or where program and record
part.  That append is refused in a way that stops the client, and nothing behind
it happens.

What of the record says how it ended is kept back: the last entry of an agent
that has finished, and the intents of steps that are in doubt.  Otherwise a
client would refuse to go on before it has shown what it wants.  Where an entry
was kept back, another stands that nobody looks for, so that sequences stay.

Invariant: nothing that the program appends is recorded anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .. import __version__
from ..client._history import DONE, History, Record
from ..client._mismatch import differences
from ..model import PROTOCOL_VERSION
from .details import any_value

WITHHELD: Final = '{"Withheld":null}'
PAGE_MAX: Final = 1000
FRAME_BYTES_MAX: Final = 1 << 26  # nothing is kept, so there is no need to be strict
DIFFERENCES_SHOWN: Final = 12

# Words that are not for replay: each would change something.
STEERING: Final = frozenset(
    {"resume", "cancel", "signal", "decide", "fork", "compact", "tail", "stats", "agents"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where program and record part, with both sides."""

    what: str
    recorded: object
    now: object

    def lines(self) -> list[str]:
        """Return it for people."""
        lines = [f"{self.what}:"]
        lines.append(f"  recorded: {_shown(self.recorded)}")
        lines.append(f"  now:      {_shown(self.now)}")
        recorded, now = self.recorded, self.now
        if isinstance(recorded, Mapping) and isinstance(now, Mapping) and {*recorded} & {*now}:
            found = list(differences(dict(recorded), dict(now)))
            lines.extend(f"    {line}" for line in found[:DIFFERENCES_SHOWN])
        return lines


def _shown(value: object) -> str:
    return "nothing" if value is None else any_value(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One entry, as text and as what it says."""

    sequence: int
    event: Mapping[str, Any]
    text: str  # byte for byte as the daemon gave it
    event_text: str


class ReplayCheck:
    """Answers requests out of a recorded journal, and notes what becomes of the replay."""

    def __init__(self, agent_id: str, entries: Sequence[Recorded]) -> None:
        self.agent_id = agent_id
        self.has_attached = False
        self.end: str | None = None  # how far they agree, once the end is reached
        self.differences: list[Difference] = []
        self.others: set[str] = set()  # agents that were asked for in this one's place
        self._history = History()
        self._history.take([{"sequence": e.sequence, "event": e.event} for e in entries])
        self._ending: Any = _payload_of(entries, "Terminated")
        self._texts = [self._served(entry) for entry in entries]
        self._next_sequence = len(self._texts)
        attempts = [_natural(entry.event, "AttemptStarted", "attempt") for entry in entries]
        epochs = [_natural(entry.event, "AttemptStarted", "epoch") for entry in entries]
        self.attempt = max(attempts, default=0) + 1
        self.epoch = max(epochs, default=0) + 1

    @property
    def is_over(self) -> bool:
        """Tell whether it is known how this ends; whatever comes then is refused."""
        return self.end is not None or bool(self.differences)

    @property
    def steps(self) -> int:
        """Return how many finished steps are recorded."""
        return sum(record.status in DONE for record in self._history.records.values())

    def answer(self, line: bytes) -> str:
        """Return the reply to one line, without its newline."""
        try:
            request = json.loads(line)
            op, request_id = request["op"], request.get("id")
        except (ValueError, TypeError, KeyError, AttributeError):
            return _refusal(None, "malformed", "this is no request")
        agent_id = request.get("agent_id", self.agent_id)
        if agent_id != self.agent_id:
            self.others.add(str(agent_id))
            message = f"only {self.agent_id} is here: this is a check of its replay"
            return _refusal(request_id, "not_found", message)
        reply = self._reply(op, request)
        if isinstance(reply, _Refused):
            return _refusal(request_id, reply.code, reply.message, **reply.details)
        return f'{{"id":{json.dumps(request_id)},"ok":true{reply}}}'

    def _reply(self, op: object, request: Mapping[str, Any]) -> str | _Refused:
        match op:
            case "hello":
                reply = _members(
                    server="agent-journal verify-replay",
                    version=__version__,
                    protocol=PROTOCOL_VERSION,
                    boot_id="replay",
                    limits={"frame_bytes_max": FRAME_BYTES_MAX},
                )
            case "ping" | "close":
                reply = ""
            case "attach":
                self.has_attached = True
                reply = _members(
                    epoch=self.epoch,
                    attempt=self.attempt,
                    state="running",
                    next_sequence=self._next_sequence,
                    resumed=bool(self._texts),
                )
            case "describe":
                reply = _members(agent=self._described())
            case "read":
                reply = self._page(request)
            case "append":
                return self._append(request)
            case "detach" | "park":
                return self._given_up(str(op), request)
            case _ if op in STEERING:
                message = f"{op} would change something, and this is a check of a replay"
                return _Refused("forbidden", message)
            case _:
                return _Refused(
                    "unknown_op", f"there is no operation {op!r} in a check of a replay"
                )
        return reply

    def _described(self) -> dict[str, object]:
        began = json.loads(self._texts[0])["timestamp"] if self._texts else "1970-01-01T00:00:00Z"
        return {
            "agent_id": self.agent_id,
            "kind": None,
            "state": "running",
            "uid": 0,
            "entries": len(self._texts),
            "latest_sequence": max(self._next_sequence - 1, 0),
            "next_sequence": self._next_sequence,
            "last_completed_iteration": 0,
            "epoch": self.epoch,
            "attempts": self.attempt,
            "created_at": began,
            "updated_at": began,
            "first_position": 0,
        }

    def _page(self, request: Mapping[str, Any]) -> str:
        begin = _natural({"": request}, "", "from_sequence")
        limit = _natural({"": request}, "", "limit") or PAGE_MAX
        end = min(begin + min(limit, PAGE_MAX), len(self._texts))
        entries = ",".join(self._texts[begin:end])
        more = json.dumps(end < len(self._texts))
        return f',"entries":[{entries}],"next_sequence":{max(begin, end)},"more":{more}'

    def _append(self, request: Mapping[str, Any]) -> str | _Refused:
        entries = request.get("entries") or [request]
        for entry in entries:
            event = entry.get("event") if isinstance(entry, Mapping) else None
            if not isinstance(event, Mapping) or len(event) != 1:
                return _Refused("invalid", '"event" must be one object with one key', field="event")
            if not self.is_over:
                self._judge(event)
        if self.is_over and not self._is_accepted:
            message = "the recorded journal ends here; a check of a replay records nothing"
            return _Refused("stale_epoch", message, current=self.epoch + 1)
        sequence = self._next_sequence
        self._next_sequence += len(entries)  # so the client believes that they are recorded
        return _members(sequence=sequence, position=sequence, count=len(entries))

    _is_accepted = False  # the program came to its own end, and may leave in peace

    def _judge(self, event: Mapping[str, Any]) -> None:
        ((name, payload),) = event.items()
        if name == "Terminated":
            self._judge_end(payload if isinstance(payload, Mapping) else {})
        elif name in {"StepStarted", "StepCompleted", "StepFailed"} and isinstance(
            payload, Mapping
        ):
            self._judge_step(payload)
        # Any other event is the program's own, and it may record what it likes.

    def _judge_step(self, payload: Mapping[str, Any]) -> None:
        key = str(payload.get("key"))
        now = {name: payload.get(name) for name in ("name", "input_hash")}
        record = self._history.records.get(key)
        if record is None:
            if self._ending is None:
                self.end = f"step {key}, the first that is not recorded"
            else:
                what = f"the recorded run ended, and the program wants to run step {key}"
                self._differ(what, {"Terminated": self._ending}, {"key": key, **now})
        elif record.status in DONE:
            what = f"step {key} is recorded, and the program runs it again"
            self._differ(what, _known(record), now)
        elif _known(record) == now:
            self.end = f"step {key}, which is in doubt"
        else:
            what = f"step {key} was begun as another one"
            self._differ(what, _known(record), now)

    def _judge_end(self, payload: Mapping[str, Any]) -> None:
        now = dict(payload)
        unasked = [key for key in now.pop("unasked", None) or () if self._is_done(str(key))]
        began = [r.key for r in self._history.records.values() if r.status not in DONE]
        if unasked:
            what = "the program does not ask for steps that are recorded"
            self._differ(what, unasked, None)
        elif self._ending is None and began:
            what = "the program ends without the step that was begun"
            self._differ(what, began[0], {"Terminated": now})
        elif self._ending is None:
            self.end = "the end of the record; there the program has finished"
        elif self._ending == now:
            self.end = "the end, with the same result"
        else:
            self._differ("the program ends otherwise", self._ending, now)
        self._is_accepted = True

    def _is_done(self, key: str) -> bool:
        record = self._history.records.get(key)
        return record is not None and record.status in DONE

    def _given_up(self, op: str, request: Mapping[str, Any]) -> str:
        if not self.is_over:
            waits = {name: request[name] for name in ("wake_at", "wait_for") if name in request}
            if self._ending is None:
                told = f" for {any_value(waits)}" if waits else ""
                self.end = f"where the program waits{told}" if op == "detach" else "where it parks"
            else:
                self._differ(
                    "the recorded run ended, and the program waits",
                    {"Terminated": self._ending},
                    waits or op,
                )
        self._is_accepted = True
        return ',"state":"waiting"' if op == "detach" else ',"state":"parked"'

    def _differ(self, what: str, recorded: object, now: object) -> None:
        self.differences.append(Difference(what=what, recorded=recorded, now=now))

    def _served(self, entry: Recorded) -> str:
        """Return an entry's text, with another event where it is kept back."""
        ((name, payload),) = entry.event.items()
        key = payload.get("key") if isinstance(payload, Mapping) else None
        record = self._history.records.get(key) if isinstance(key, str) else None
        is_open = name == "StepStarted" and record is not None and record.status not in DONE
        if name != "Terminated" and not is_open:
            return entry.text
        begin = entry.text.rindex(entry.event_text)
        return entry.text[:begin] + WITHHELD + entry.text[begin + len(entry.event_text) :]


class _Refused:
    """What a refusal says."""

    def __init__(self, code: str, message: str, **details: object) -> None:
        self.code = code
        self.message = message
        self.details = details


def _known(record: Record) -> dict[str, object]:
    return {"name": record.name, "input_hash": record.input_hash}


def _payload_of(entries: Sequence[Recorded], name: str) -> object:
    return next((entry.event[name] for entry in reversed(entries) if name in entry.event), None)


def _natural(event: Mapping[str, Any], name: str, field: str) -> int:
    payload = event.get(name)
    value = payload.get(field) if isinstance(payload, Mapping) else None
    return value if isinstance(value, int) and value >= 0 else 0


def _members(**fields: object) -> str:
    return f",{json.dumps(fields)[1:-1]}"


def _refusal(request_id: object, code: str, message: str, **details: object) -> str:
    error = {
        "code": code,
        "message": message,
        "retryable": False,
        "outcome": "not_recorded",
        **details,
    }
    return json.dumps({"id": request_id, "ok": False, "error": error})
