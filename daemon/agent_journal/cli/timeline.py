"""An agent's story, told from its entries: attempts, the steps in them, and what came from outside.

Pure: entries in, a ``Timeline`` out.  What the journal tells is not always what
one would like to know, so this says what is taken from where:

- A step's **run** is what lies between a ``StepStarted`` and its end.  A key may
  have several: the process died within the first, and a later attempt ran the
  step again.
- A run without an end is **running** while its attempt lives, and **in doubt**
  once that has ended; when the step is run again, or its outcome is found out,
  the old run was merely **interrupted**.
- A value that was recorded without ``StepStarted`` (a time, a random number, a
  received signal) was never run, only **recorded**.
- A finished step was **executed** in the attempt that recorded it.  It was
  **replayed** in each later attempt that went on behind it, that is, recorded
  something of its own.  Of an attempt that died before, nobody can tell.

Payloads are anybody's, so each is looked at with suspicion, as in ``details``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol

from ..model import DAEMON_EVENTS
from ..value import Record, Value


class Recorded(Protocol):
    """What this needs of an entry."""

    @property
    def sequence(self) -> int:
        """Its place within the agent."""

    @property
    def timestamp(self) -> datetime:
        """When it was received."""

    @property
    def iteration(self) -> int:
        """The turn of the agent's loop."""

    @property
    def event(self) -> Mapping[str, object]:
        """One object with one key, the event's name."""


class StepState(StrEnum):
    """What became of a run of a step."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    IN_DOUBT = "in doubt"
    INTERRUPTED = "interrupted"
    RECORDED = "recorded"


class Run(Record, kw_only=True):
    """One run of a step."""

    key: str
    name: str
    effect: str | None
    attempt: int
    iteration: int
    sequence: int  # of the first entry that tells of it
    usage: Mapping[str, Any]
    replayed_in: list[int]
    ended_sequence: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_ms: float | None = None
    state: StepState = StepState.RUNNING
    result: object = None
    error: object = None

    @property
    def is_open(self) -> bool:
        """Tell whether its outcome is not recorded."""
        return self.state in {StepState.RUNNING, StepState.IN_DOUBT}

    @property
    def was_executed(self) -> bool:
        """Tell whether it was run to an end."""
        return self.state in {StepState.DONE, StepState.FAILED}


class Attempt(Record, kw_only=True):
    """One process's try."""

    number: int
    sequence: int
    started_at: datetime
    launched: bool = False  # by the daemon
    pid: int | None = None
    command: object = None
    known_before: int = 0  # steps that could be replayed
    went_on: bool = False  # recorded something, hence all of these were replayed
    ended_at: datetime | None = None
    how: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    stderr: str | None = None
    executed: int = 0

    @property
    def replayed(self) -> int | None:
        """Return how many steps it replayed, ``None`` where the journal does not tell."""
        return self.known_before if self.went_on or not self.known_before else None


class Ending(Value, kw_only=True):
    """The end of an attempt, where it stands in the journal."""

    attempt: Attempt
    sequence: int


class Moment(Value, kw_only=True):
    """Any other entry: a signal, a decision, a park, an event of the agent's own."""

    name: str
    payload: object
    attempt: int
    sequence: int
    timestamp: datetime
    iteration: int
    event: Mapping[str, object]


Item = Run | Attempt | Ending | Moment

# A client's own word on steps.
STEP_EVENTS: Final = frozenset({"StepStarted", "StepCompleted", "StepFailed"})


class Timeline:
    """All that happened, in the order of the journal."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.attempts: list[Attempt] = []
        self.latest: dict[str, Run] = {}  # by the step's key
        self.reruns: set[str] = set()  # in doubt, and a person said: again
        self.entries = 0

    @property
    def runs(self) -> Iterator[Run]:
        """Every run of every step."""
        return (item for item in self.items if isinstance(item, Run))

    @property
    def moments(self) -> Iterator[Moment]:
        """Every entry that is not about an attempt or a step."""
        return (item for item in self.items if isinstance(item, Moment))

    @property
    def in_doubt(self) -> list[Run]:
        """The steps of which nobody knows whether they took effect."""
        return [
            run
            for run in self.latest.values()
            if run.state is StepState.IN_DOUBT and run.key not in self.reruns
        ]

    @property
    def running(self) -> list[Run]:
        """The steps that a living attempt is in."""
        return [run for run in self.latest.values() if run.state is StepState.RUNNING]

    def count(self) -> Counter[StepState]:
        """Return how many steps are in each state; a step that was run twice counts once."""
        return Counter(run.state for run in self.latest.values())

    def tokens(self) -> tuple[int, int]:
        """Return what all runs took in and gave out."""
        usages = [tokens_of(run.usage) for run in self.runs]
        return sum(taken for taken, _ in usages), sum(given for _, given in usages)

    def replays(self) -> int:
        """Return how often a recorded step was handed back in place of a run."""
        return sum(len(run.replayed_in) for run in self.runs)

    def last_moment(self, *names: str) -> Moment | None:
        """Return the latest entry of one of these names."""
        return next((m for m in reversed(list(self.moments)) if m.name in names), None)


def tell(entries: Iterable[Recorded], *, is_owned: bool) -> Timeline:
    """Return the story of *entries*, all of one agent, in sequence order.

    *is_owned* says that the latest attempt is alive, so that its open steps are
    running and not in doubt.
    """
    teller = _Teller()
    for entry in entries:
        teller.take(entry)
    if not is_owned:
        teller.interrupt_open_runs()
    teller.find_replays()
    return teller.timeline


def begin_of(item: Item) -> datetime:
    """Return when what *item* tells of began."""
    match item:
        case Attempt():
            return item.started_at
        case Ending(attempt=attempt):
            return attempt.ended_at or attempt.started_at
        case Moment():
            return item.timestamp
        case Run():
            began = item.started_at or item.ended_at
            assert began is not None  # noqa: S101 - every run is told by an entry
            return began


def tokens_of(usage: Mapping[str, Any]) -> tuple[int, int]:
    """Return the tokens taken in and given out, as far as they are told."""
    taken = usage.get("input_tokens", usage.get("prompt_tokens"))
    given = usage.get("output_tokens", usage.get("completion_tokens"))
    return _natural(taken) or 0, _natural(given) or 0


class _Teller:
    """Goes through the entries once, knowing which attempt it is in."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self._attempt: Attempt | None = None

    def take(self, entry: Recorded) -> None:
        self.timeline.entries += 1
        name = next(iter(entry.event), "")
        payload = entry.event.get(name)
        fields = payload if isinstance(payload, Mapping) else {}
        # What the daemon records itself is no sign of life of an attempt.
        if self._attempt is not None and name not in DAEMON_EVENTS:
            self._attempt.went_on = True
        if name == "AttemptStarted":
            self._begin_attempt(entry, fields)
        elif name == "AttemptEnded":
            self._end_attempt(entry, fields)
        elif name in STEP_EVENTS and isinstance(fields.get("key"), str):
            if name == "StepStarted":
                self._begin_run(entry, fields)
            else:
                self._end_run(entry, fields, is_failed=name == "StepFailed")
        else:
            if name == "Decided":
                self._decide(entry, fields)
            self.timeline.items.append(
                Moment(
                    name=name,
                    payload=payload,
                    attempt=self._number,
                    sequence=entry.sequence,
                    timestamp=entry.timestamp,
                    iteration=entry.iteration,
                    event=entry.event,
                )
            )

    @property
    def _number(self) -> int:
        return self._attempt.number if self._attempt else 0

    def _begin_attempt(self, entry: Recorded, fields: Mapping[str, Any]) -> None:
        self.interrupt_open_runs()
        finished = sum(not run.is_open for run in self.timeline.latest.values())
        self._attempt = Attempt(
            number=_natural(fields.get("attempt")) or self._number + 1,
            sequence=entry.sequence,
            started_at=entry.timestamp,
            launched=fields.get("launched") is True,
            pid=_natural(fields.get("pid")),
            command=fields.get("command"),
            known_before=finished,
        )
        self.timeline.attempts.append(self._attempt)
        self.timeline.items.append(self._attempt)

    def _end_attempt(self, entry: Recorded, fields: Mapping[str, Any]) -> None:
        number = _natural(fields.get("attempt"))
        attempts = self.timeline.attempts
        attempt = next((a for a in reversed(attempts) if a.number == number), None)
        if attempt is None:  # of a history whose beginning is not here
            attempt = Attempt(
                number=number or 0, sequence=entry.sequence, started_at=entry.timestamp
            )
        attempt.ended_at = entry.timestamp
        attempt.how = _text(fields.get("how"))
        attempt.exit_code = _natural(fields.get("exit_code"))
        attempt.signal = _text(fields.get("signal"))
        attempt.stderr = _text(fields.get("stderr"))
        if attempt is self._attempt:
            self.interrupt_open_runs()
        self.timeline.items.append(Ending(attempt=attempt, sequence=entry.sequence))

    def _begin_run(self, entry: Recorded, fields: Mapping[str, Any]) -> None:
        key = fields["key"]
        earlier = self.timeline.latest.get(key)
        if earlier is not None and earlier.is_open:
            earlier.state = StepState.INTERRUPTED
        self._new_run(entry, fields).started_at = entry.timestamp
        self.timeline.reruns.discard(key)

    def _end_run(self, entry: Recorded, fields: Mapping[str, Any], *, is_failed: bool) -> None:
        run = self.timeline.latest.get(fields["key"])
        if run is None or run.state is not StepState.RUNNING:
            if run is not None and run.state is StepState.IN_DOUBT:
                run.state = StepState.INTERRUPTED  # somebody found out what became of it
                is_value = False
            else:
                is_value = not is_failed
            run = self._new_run(entry, fields)
            run.state = StepState.RECORDED if is_value else StepState.DONE
        else:
            run.state = StepState.DONE
            if self._attempt is not None:
                self._attempt.executed += 1
        if is_failed:
            run.state = StepState.FAILED
        run.ended_at, run.ended_sequence = entry.timestamp, entry.sequence
        run.duration_ms = _duration_ms(run, fields)
        usage = fields.get("usage")
        run.usage = usage if isinstance(usage, Mapping) else {}
        run.result, run.error = fields.get("result"), fields.get("error")

    def _new_run(self, entry: Recorded, fields: Mapping[str, Any]) -> Run:
        run = Run(
            key=fields["key"],
            name=_text(fields.get("name")) or fields["key"],
            effect=_text(fields.get("effect")),
            attempt=self._number,
            iteration=entry.iteration,
            sequence=entry.sequence,
            usage={},
            replayed_in=[],
        )
        self.timeline.latest[run.key] = run
        self.timeline.items.append(run)
        return run

    def _decide(self, entry: Recorded, fields: Mapping[str, Any]) -> None:
        run = self.timeline.latest.get(str(fields.get("step")))
        if run is None or not run.is_open:
            return
        if fields.get("rerun") is True:
            self.timeline.reruns.add(run.key)
            return
        is_failed = "error" in fields
        run.state = StepState.FAILED if is_failed else StepState.DONE
        run.result, run.error = fields.get("result"), fields.get("error")
        run.ended_at, run.ended_sequence = entry.timestamp, entry.sequence

    def interrupt_open_runs(self) -> None:
        """Whoever ran them is gone: nobody knows what became of them."""
        for run in self.timeline.running:
            run.state = StepState.IN_DOUBT

    def find_replays(self) -> None:
        """Note for each finished run in which attempts it was handed back."""
        went_on = [attempt for attempt in self.timeline.attempts if attempt.went_on]
        for run in self.timeline.runs:
            ended = run.ended_sequence
            if ended is not None and not run.is_open and run.state is not StepState.INTERRUPTED:
                run.replayed_in = [a.number for a in went_on if a.sequence > ended]


def _duration_ms(run: Run, fields: Mapping[str, Any]) -> float | None:
    told = fields.get("duration_ms")
    if isinstance(told, int | float) and not isinstance(told, bool) and told >= 0:
        return float(told)
    if run.started_at is None or run.ended_at is None:
        return None
    return max((run.ended_at - run.started_at).total_seconds() * 1000, 0.0)


def _natural(value: object) -> int | None:
    is_natural = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if is_natural and isinstance(value, int) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
