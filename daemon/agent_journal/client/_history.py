"""What an agent's entries say of its steps; reads them in order, knows no program.

    (nothing) ──StepStarted──► in doubt ──StepCompleted──► completed
                                  │  ▲  └──StepFailed─────► failed
                      Decided rerun  StepStarted
                                  ▼  │
                                 to run

``Decided`` with a result or an error ends a step as its own entry would.  A
value that was only noted (a time, a received signal) has a ``StepCompleted``
and no start.  Entries that do not have a step's form are somebody's own and
are passed over.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

ABSENT: Final[Any] = object()  # where None is a value


class Effect(StrEnum):
    """What a step may have done when nobody knows whether it ended; the mildest first."""

    READ_ONLY = "read_only"
    IDEMPOTENT = "idempotent"
    RECONCILABLE = "reconcilable"
    UNSAFE = "unsafe"

    @property
    def may_run_again(self) -> bool:
        """Tell whether a second time does no harm."""
        return self in {Effect.READ_ONLY, Effect.IDEMPOTENT}


class Status(StrEnum):
    """How far a step has come."""

    NEW = "new"  # nothing is recorded
    IN_DOUBT = "in doubt"
    TO_RUN = "to run"  # a person said that it is to run again
    COMPLETED = "completed"
    FAILED = "failed"


# What a newer client says is read with care: as unsafe.
_EFFECTS: Final[Mapping[str | None, Effect]] = {effect.value: effect for effect in Effect}

_WAITS: Final = frozenset({"sleep", "wait_for"})

# To look a member up in its class is slow, and these are looked up for each entry.
_NEW, _IN_DOUBT, _COMPLETED = Status.NEW, Status.IN_DOUBT, Status.COMPLETED
_UNSAFE: Final = Effect.UNSAFE

# In the order in which they are met: it is compared by identity first, and not hashed.
DONE: Final = (Status.COMPLETED, Status.FAILED)

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Record:
    """One step, as far as it is recorded."""

    __slots__ = (
        "effect",
        "error",
        "extra",
        "idempotency_key",
        "input",
        "input_hash",
        "input_start",
        "key",
        "name",
        "result",
        "sequence",
        "status",
    )

    def __init__(
        self,
        key: str,
        name: str | None = None,
        input_hash: str | None = None,
        sequence: int = 0,  # of its first entry
    ) -> None:
        self.key = key
        self.name = name
        self.input_hash = input_hash
        self.sequence = sequence
        self.input: Any = ABSENT  # the input itself, where it was short
        self.input_start: str | None = None  # how its text begins, where it was long
        self.effect = _UNSAFE
        self.idempotency_key: str | None = None
        self.status = _NEW
        self.result: Any = None
        self.error = NOTHING
        self.extra = NOTHING  # wake_at, signal_sequence, timed_out


@dataclass(frozen=True, slots=True)
class Signal:
    """One ``Signalled`` entry."""

    sequence: int
    name: str
    payload: Any


class History:
    """All steps of one agent, and the signals that it got."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.next_sequence = 0
        self._signals: dict[int, Signal] = {}
        self._lock = threading.Lock()
        self._received: set[int] = set()  # sequences of signals that a wait_for has

    def take(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Read *entries*, the fields of replies, behind those that were read."""
        take_of = _TAKES.get
        for entry in entries:
            sequence = entry["sequence"]
            if sequence < self.next_sequence:
                continue
            self.next_sequence = sequence + 1
            for name, payload in entry["event"].items():
                take = take_of(name)
                if take is not None and type(payload) is dict:
                    take(self, sequence, payload)

    def take_signals(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Read only the signals of *entries*: the rest is what this process wrote itself."""
        for entry in entries:
            if entry["sequence"] >= self.next_sequence:
                self.next_sequence = entry["sequence"] + 1
                payload = entry["event"].get("Signalled")
                if isinstance(payload, dict):
                    self._signalled(entry["sequence"], payload)

    def next_signal(self, name: str) -> Signal | None:
        """Return the first signal called *name* that nobody received, and mark it received."""
        with self._lock:
            for sequence, signal in self._signals.items():
                if signal.name == name and sequence not in self._received:
                    self._received.add(sequence)
                    return signal
        return None

    def give_back(self, signal: Signal) -> None:
        """Unmark *signal*: that it was received could not be recorded."""
        self._received.discard(signal.sequence)

    def signal_at(self, sequence: int) -> Signal | None:
        """Return the signal that stands at *sequence*."""
        return self._signals.get(sequence)

    def _started(self, sequence: int, payload: dict[str, Any]) -> None:
        record = self._record(sequence, payload)
        if record is None:
            return
        member = payload.get
        record.status = _IN_DOUBT
        effect = member("effect")
        record.effect = _EFFECTS.get(effect, _UNSAFE) if type(effect) is str else _UNSAFE
        idempotency_key = member("idempotency_key")
        if type(idempotency_key) is str and idempotency_key:
            record.idempotency_key = idempotency_key
        record.input = given = member("input", ABSENT)
        if given is ABSENT:
            record.input_start = _text(payload, "input_start")

    def _completed(self, sequence: int, payload: dict[str, Any]) -> None:
        record = self._record(sequence, payload)
        if record is None:
            return
        record.status = _COMPLETED
        record.result = payload.pop("result", None)
        if record.name in _WAITS:
            record.extra = payload
            received = payload.get("signal_sequence")
            if isinstance(received, int):
                self._received.add(received)

    def _failed(self, sequence: int, payload: dict[str, Any]) -> None:
        record = self._record(sequence, payload)
        if record is not None:
            record.status = Status.FAILED
            record.error = _error(payload.get("error"))

    def _decided(self, _: int, payload: dict[str, Any]) -> None:
        key = payload.get("step")
        record = self.records.get(key) if isinstance(key, str) else None
        if record is None:
            return
        if payload.get("rerun") is True:
            record.status = Status.TO_RUN
        elif "error" in payload:
            record.status = Status.FAILED
            record.error = _error(payload["error"])
        elif "result" in payload:
            record.status = Status.COMPLETED
            record.result = payload["result"]

    def _signalled(self, sequence: int, payload: dict[str, Any]) -> None:
        name = payload.get("name")
        if isinstance(name, str):
            with self._lock:
                self._signals[sequence] = Signal(sequence, name, payload.get("payload"))

    def _record(self, sequence: int, payload: dict[str, Any]) -> Record | None:
        """Return the record of the step that *payload* is of, if it is of one."""
        key = payload.get("key")
        if type(key) is not str:
            return None
        record = self.records.get(key)
        if record is None:
            record = self.records[key] = Record(
                key, _text(payload, "name"), _text(payload, "input_hash"), sequence
            )
        elif record.name is None:
            record.name, record.input_hash = _text(payload, "name"), _text(payload, "input_hash")
        return record


_TAKES: Final = {
    "StepStarted": History._started,  # noqa: SLF001 - the table of what the class reads
    "StepCompleted": History._completed,  # noqa: SLF001
    "StepFailed": History._failed,  # noqa: SLF001
    "Decided": History._decided,  # noqa: SLF001
    "Signalled": History._signalled,  # noqa: SLF001
}


def _text(payload: Mapping[str, Any], name: str) -> str | None:
    value = payload.get(name)
    return value if type(value) is str else None  # of JSON, so it is no other kind of text


def _error(value: object) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    return {"type": "Error", "message": str(value)}
