"""An agent's story as OpenTelemetry spans, in the JSON of OTLP.

Pure.  The agent is the root, an attempt a child of it, an iteration a child of the
attempt, a step a child of its iteration; where an agent has no attempts, or counts
no iterations, that level is missing.  Every other entry is an event of the span
that it falls into.

Ids are made of who the agent is and of sequences, which never change: to export an
agent again, with more entries or from another host that it moved to, gives the same
spans again and not others.

A step that was replayed was run once, so there is one span of it, in the attempt
that ran it; it says in which attempts its result was handed back.  A span that has
not ended is exported up to the last entry, and says so.

What an agent sends and gets may be secret, so payloads stay in the journal; of an
error the type and message are told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from .. import __version__
from .timeline import Attempt, Ending, Moment, Run, StepState, Timeline, begin_of, tokens_of
from .timestamps import parsed

SCOPE: Final = "agent-journal"
PREFIX: Final = "agent_journal."

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_INTERNAL: Final = 1  # SPAN_KIND_INTERNAL
_ERROR: Final = 2  # STATUS_CODE_ERROR
_INT64_MAX: Final = 2**63 - 1
_LOSSES: Final = frozenset({"lost", "signalled", "launch_failed"})

Json = dict[str, Any]
Agent = Mapping[str, Any]


@dataclass(slots=True)
class Span:
    """A span that is being put together."""

    kind: str
    sequence: int
    name: str
    start: datetime
    parent: Span | None = None
    end: datetime | None = None
    attributes: dict[str, object] = field(default_factory=dict)
    events: list[Json] = field(default_factory=list)
    error: str | None = None

    def reach(self, moment: datetime) -> None:
        """Have it be there at *moment*, and so all that it is in.

        Timestamps may be a client's own and run backwards.
        """
        self.start = min(self.start, moment)
        if self.end is None or moment > self.end:
            self.end = moment
        if self.parent is not None:
            self.parent.reach(moment)


def spans(agent: Agent, timeline: Timeline) -> Iterator[Json]:
    """Yield the spans of an agent, the root first."""
    trace = _trace_id(agent)
    for span in _Teller(agent, timeline).spans:
        yield _span_json(trace, span)


def export(resource: Json, some: list[Json]) -> Json:
    """Return *some* spans as one message of OTLP."""
    scope = {"name": SCOPE, "version": __version__}
    return {
        "resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": some}]}]
    }


def resource_of(agent: Agent, *, service: str | None, host: str) -> Json:
    """Return what all spans of an agent have in common."""
    name = service or agent.get("kind") or SCOPE
    return {"attributes": _attributes({"service.name": name, "host.name": host})}


class _Teller:
    """Goes through a timeline once."""

    def __init__(self, agent: Agent, timeline: Timeline) -> None:
        self._timeline = timeline
        self._root = _root(agent, timeline)
        self.spans = [self._root]
        self._attempt: Attempt | None = None
        self._attempt_span = self._root
        self._iteration: tuple[int, Span] | None = None
        for item in timeline.items:
            match item:
                case Attempt():
                    self._begin_attempt(item)
                case Ending():
                    pass  # told with its attempt
                case Run():
                    self._add_step(item)
                case Moment():
                    self._add_event(item)

    def _begin_attempt(self, attempt: Attempt) -> None:
        self._attempt, self._iteration = attempt, None
        name = f"attempt {attempt.number}"
        span = Span("attempt", attempt.sequence, name, attempt.started_at, self._root)
        span.attributes = {
            "attempt": attempt.number,
            "launched": attempt.launched,
            "replayed_steps": attempt.replayed,
            "ended_how": attempt.how,
            "exit_code": attempt.exit_code,
            "signal": attempt.signal,
            "open": attempt.how is None or None,
        }
        if attempt.how in _LOSSES or attempt.exit_code:
            span.error = f"attempt {attempt.number}: {attempt.how}"
        span.reach(attempt.started_at)
        span.reach(attempt.ended_at or attempt.started_at)
        self._attempt_span = span
        self.spans.append(span)

    def _parent(self, item: Run | Moment) -> Span:
        """Return the span that an item is in: of its iteration, if it has one."""
        is_here = self._attempt is not None and item.attempt == self._attempt.number
        holder = self._attempt_span if is_here else self._root
        if not item.iteration:
            return holder
        if self._iteration is None or self._iteration[0] != item.iteration:
            name = f"iteration {item.iteration}"
            span = Span("iteration", item.sequence, name, begin_of(item), holder)
            span.attributes = {"iteration": item.iteration}
            span.reach(span.start)
            self._iteration = item.iteration, span
            self.spans.append(span)
        return self._iteration[1]

    def _add_step(self, run: Run) -> None:
        parent = self._parent(run)
        start = begin_of(run)
        if run.started_at is None and run.duration_ms is not None:
            start -= timedelta(milliseconds=run.duration_ms)
        span = Span("step", run.sequence, run.name, start, parent)
        taken, given = tokens_of(run.usage)
        span.attributes = {
            "step.key": run.key,
            "step.effect": run.effect,
            "step.state": run.state.value,
            "attempt": run.attempt or None,
            "iteration": run.iteration or None,
            "replayed": bool(run.replayed_in),
            "replayed_in_attempts": run.replayed_in or None,
            "gen_ai.usage.input_tokens": taken or None,
            "gen_ai.usage.output_tokens": given or None,
        }
        if run.state is StepState.FAILED:
            kind, span.error = _error(run.error)
            span.attributes["error.type"] = kind
        elif run.state is StepState.IN_DOUBT:
            span.error = "in doubt: it may have happened"
        span.reach(start)
        span.reach(run.ended_at or self._until(run, start))
        self.spans.append(span)

    def _until(self, run: Run, start: datetime) -> datetime:
        """Return until when a run without an end went on, as far as is known."""
        if run.state is StepState.RUNNING:
            return max(start, self._root.end or start)
        here = self._attempt
        return start if here is None or here.ended_at is None else max(start, here.ended_at)

    def _add_event(self, moment: Moment) -> None:
        span = self._parent(moment)
        span.events.append(
            {
                "timeUnixNano": nanoseconds(moment.timestamp),
                "name": moment.name,
                "attributes": _attributes({"sequence": moment.sequence}),
            }
        )
        span.reach(moment.timestamp)


def _root(agent: Agent, timeline: Timeline) -> Span:
    begins = [begin_of(item) for item in timeline.items]
    start = min(begins, default=parsed(agent["created_at"]))
    span = Span("agent", 0, f"agent {agent['agent_id']}", start)
    span.attributes = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.id": agent["agent_id"],
        "gen_ai.agent.name": agent.get("kind"),
        "uid": agent["uid"],
        "state": agent["state"],
        "reason": agent.get("reason"),
        "entries": timeline.entries,
        "attempts": len(timeline.attempts),
        "replays": timeline.replays(),
        "open": agent["state"] not in {"completed", "failed", "cancelled"} or None,
    }
    if agent["state"] == "failed":
        span.error = str(agent.get("reason") or "failed")
    span.reach(max([parsed(agent["updated_at"]), *begins]))
    return span


def _error(error: object) -> tuple[str, str]:
    """Return the type and message of a step's error."""
    fields = error if isinstance(error, Mapping) else {}
    kind = str(fields.get("type") or "_OTHER")
    return kind, str(fields.get("message") or kind)


# Ids


def _trace_id(agent: Agent) -> str:
    told = f"{agent['uid']}\0{agent['agent_id']}\0{agent['created_at']}"
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def _span_id(trace: str, span: Span) -> str:
    return hashlib.sha256(f"{trace}\0{span.kind}\0{span.sequence}".encode()).hexdigest()[:16]


# JSON


def _span_json(trace: str, span: Span) -> Json:
    told: Json = {
        "traceId": trace,
        "spanId": _span_id(trace, span),
        "name": span.name,
        "kind": _INTERNAL,
        "startTimeUnixNano": nanoseconds(span.start),
        "endTimeUnixNano": nanoseconds(span.end or span.start),
        "attributes": _attributes({**span.attributes, "sequence": span.sequence}),
    }
    if span.parent is not None:
        told["parentSpanId"] = _span_id(trace, span.parent)
    if span.events:
        told["events"] = span.events
    if span.error is not None:
        told["status"] = {"code": _ERROR, "message": span.error}
    return told


def nanoseconds(moment: datetime) -> str:
    """Return a time as OTLP writes it: 64 bits are too many for a number of JSON."""
    return str((moment - _EPOCH) // timedelta(microseconds=1) * 1000)


def _attributes(values: Mapping[str, object]) -> list[Json]:
    """Return attributes, less those that have no value; names of our own with our prefix."""
    return [
        {
            "key": name if "." in name and not name.startswith("step.") else PREFIX + name,
            "value": told,
        }
        for name, value in values.items()
        if (told := _value(value)) is not None
    ]


def _value(value: object) -> Json | None:
    match value:
        case None:
            return None
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)} if abs(value) <= _INT64_MAX else None
        case list():
            return {"arrayValue": {"values": [_value(one) for one in value]}}
        case _:
            return {"stringValue": str(value)}
