"""An event in one line, for tables.

The events of a reasoning loop are shown by what a reader looks for in them: the
thought, the tools, what was denied, what came back.  Their payloads are the
agent's own, so each is looked at with suspicion: where it is not of the shape
that we know, and for all other events, the value's own keys are shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Final

DETAIL_LENGTH_MAX: Final = 2000  # characters; more than a screen is wide
CALLS_SHOWN_MAX: Final = 100


def event_name(event: Mapping[str, object]) -> str:
    """Return the name of *event*, its only key."""
    return next(iter(event), "")


def event_style(name: str) -> str:
    """Return the style that an event's name is painted in."""
    return _STYLES.get(name, "")


def detail(event: Mapping[str, object], *, is_whole: bool = False) -> str:
    """Return what *event* reports as one line: as much as a screen shows, or all of it."""
    limit = None if is_whole else DETAIL_LENGTH_MAX
    name = event_name(event)
    value = event.get(name)
    if isinstance(value, dict):
        line = None
        if known := _KNOWN.get(name):
            line = known(value)
        elif telling := _WITH_VALUES.get(name):
            line = telling(value, limit)
        if line is not None:
            return _cut(line, limit)
    return any_value(value, limit)


def any_value(value: object, limit: int | None = DETAIL_LENGTH_MAX) -> str:
    """Return any JSON value as one line of *limit* characters at the most."""
    if not isinstance(value, dict):
        return _text(value, limit) if value is not None else ""
    return _joined((f"{key}={_text(item, limit)}" for key, item in value.items()), " ", limit)


def _text(value: object, limit: int | None) -> str:
    """Return a value as JSON; a string that cannot be misread stands without quotes."""
    if isinstance(value, str) and value and not set(value[:limit]) & set(' "=\\{}[]'):
        return _cut(value, limit)
    encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)
    return _joined(encoder.iterencode(value), "", limit)


def _joined(parts: Iterator[str], separator: str, limit: int | None) -> str:
    """Join *parts* until there is more than a line can show; an event may have megabytes."""
    found: list[str] = []
    length = 0
    for part in parts:
        found.append(part)
        length += len(part)
        if limit is not None and length > limit:
            break
    return _cut(separator.join(found), limit)


def _cut(text: str, limit: int | None) -> str:
    return text if limit is None or len(text) <= limit else f"{text[: limit - 1]}…"


def _started(value: Mapping[str, object]) -> str | None:
    return _sentence(value, "goal")


def _reasoning(value: Mapping[str, object]) -> str | None:
    thought = _sentence(value, "thought")
    tools = _names(value, "actions")
    if thought is None:
        return None
    return f"{thought} → {tools}" if tools else thought


def _policy(value: Mapping[str, object]) -> str | None:
    allowed, denied = value.get("allowed"), value.get("denied")
    if not isinstance(allowed, list) or not isinstance(denied, list):
        return None
    denials = [
        f"{item.get('tool')} ({item.get('reason')})" for item in denied if isinstance(item, dict)
    ]
    # First what a reader must not miss where the line is cut.
    told = f"{len(denied)} denied: {', '.join(denials)}; " if denied else ""
    return f"{told}{len(allowed)} allowed"


def _dispatched(value: Mapping[str, object]) -> str | None:
    return _names(value, "calls")


def _observations(value: Mapping[str, object], limit: int | None) -> str | None:
    observations = value.get("observations")
    if not isinstance(observations, list):
        return None
    seen = [
        f"{item.get('tool')}: {_sentence(item, 'error') or any_value(item.get('result'), limit)}"
        for item in observations
        if isinstance(item, dict)
    ]
    return " | ".join(seen) or None


def _terminated(value: Mapping[str, object], limit: int | None) -> str | None:
    reason = value.get("reason")
    if not isinstance(reason, str):
        return None
    told = _sentence(value, "answer") or _sentence(value, "message")
    for name in ("result", "error"):
        if told is None and value.get(name) is not None:
            told = any_value(value[name], limit)
    return f"{reason}: {told}" if told else reason


def _attempt_started(value: Mapping[str, object]) -> str | None:
    number = value.get("attempt")
    who = "launched" if value.get("launched") is True else "attached"
    pid = f", pid {value['pid']}" if value.get("pid") else ""
    command = value.get("command")
    words = [str(word) for word in command] if isinstance(command, list) else [str(command or "")]
    return f"attempt {number} {who}{pid}: {' '.join(words)}".removesuffix(": ")


def _attempt_ended(value: Mapping[str, object]) -> str | None:
    how, number = value.get("how"), value.get("attempt")
    told = value.get("exit_code", value.get("signal"))
    return f"attempt {number} {how}" + ("" if told is None else f" ({told})")


def _step(value: Mapping[str, object], limit: int | None) -> str | None:
    key = _sentence(value, "key")
    if key is None:
        return None
    if isinstance(error := value.get("error"), dict):
        return f"{key}: {error.get('type')}: {error.get('message')}"
    if "result" in value:
        return f"{key} = {any_value(value['result'], limit)}"
    return f"{key} ({value.get('effect')})" if "effect" in value else key


def _reason(value: Mapping[str, object]) -> str | None:
    return _sentence(value, "reason")


def _sentence(value: Mapping[str, object], key: str) -> str | None:
    sentence = value.get(key)
    return sentence if isinstance(sentence, str) and sentence else None


def _names(value: Mapping[str, object], key: str) -> str | None:
    items = value.get(key)
    if not isinstance(items, list):
        return None
    names = [str(item["tool"]) for item in items if isinstance(item, dict) and "tool" in item]
    counts = {name: names.count(name) for name in dict.fromkeys(names[:CALLS_SHOWN_MAX])}
    return ", ".join(f"{name} x{n}" if n > 1 else name for name, n in counts.items()) or None


_KNOWN: Final[Mapping[str, Callable[[Mapping[str, object]], str | None]]] = {
    "Started": _started,
    "ReasoningComplete": _reasoning,
    "PolicyEvaluated": _policy,
    "ToolsDispatched": _dispatched,
    "AttemptStarted": _attempt_started,
    "AttemptEnded": _attempt_ended,
    "Parked": _reason,
    "Unparked": _reason,
    "Cancelled": _reason,
}

# Those that show a value of any size, of which no more is looked at than is shown.
_WITH_VALUES: Final[Mapping[str, Callable[[Mapping[str, object], int | None], str | None]]] = {
    "ObservationsCollected": _observations,
    "Terminated": _terminated,
    "StepStarted": _step,
    "StepCompleted": _step,
    "StepFailed": _step,
}

_STYLES: Final[Mapping[str, str]] = {
    "Started": "green",
    "ReasoningComplete": "cyan",
    "PolicyEvaluated": "yellow",
    "ToolsDispatched": "magenta",
    "ObservationsCollected": "blue",
    "RecoveryTriggered": "yellow",
    "StepLimitReached": "red",
    "StepStarted": "magenta",
    "StepCompleted": "blue",
    "StepFailed": "red",
    "Terminated": "green",
    "AttemptStarted": "bold",
    "AttemptEnded": "yellow",
    "Parked": "alarm",
    "Unparked": "green",
    "Cancelled": "alarm",
    "Signalled": "cyan",
    "Decided": "cyan",
    "Forked": "cyan",
}
