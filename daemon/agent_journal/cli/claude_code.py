"""What a Claude Code hook is told, as entries of the session's agent; no I/O.

A hook gets one JSON object: ``hook_event_name``, ``session_id`` and what belongs to
the event (code.claude.com/docs/en/hooks).  A tool call becomes a step, found by its
``tool_use_id``, so ``show``, ``why`` and ``tail`` treat it as any other step: begun
and not ended is in doubt.  What is not known here is recorded under its own name,
for events are added often.

Each tool call's entries have keys, so a hook that ran twice recorded once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from ..value import Value

# In every hook's input; said once, by the entry that begins the session.
_COMMON: Final = frozenset({"session_id", "hook_event_name", "transcript_path", "cwd"})

# Tools that change nothing: after a crash they may be called again.
_READING: Final = frozenset(
    {"BashOutput", "Glob", "Grep", "LS", "NotebookRead", "Read", "ToolSearch", "WebFetch"}
    | {"WebSearch"}
)

_NAMES: Final = {
    "SessionStart": "Started",
    "UserPromptSubmit": "PromptSubmitted",
    "Stop": "TurnEnded",
    "SubagentStart": "SubagentStarted",
    "SubagentStop": "SubagentEnded",
    "PreCompact": "ContextCompacting",
    "SessionEnd": "SessionEnded",
}

# The events worth recording, and whether Claude Code matches them by tool.
EVENTS: Final = {
    "SessionStart": False,
    "UserPromptSubmit": False,
    "PreToolUse": True,
    "PostToolUse": True,
    "PostToolUseFailure": True,
    "SubagentStop": False,
    "PreCompact": False,
    "Stop": False,
    "SessionEnd": False,
}


class NotAHookError(ValueError):
    """What came is not the input of a hook; says what is missing."""


class Recorded(Value, kw_only=True):
    """One entry to be recorded."""

    agent_id: str
    event: Mapping[str, Any]
    key: str | None = None
    begins_turn: bool = False  # a prompt: the next iteration
    is_tool_call: bool = False  # the tool has not been called yet


def recorded(
    told: Mapping[str, Any], *, prefix: str, bytes_max: int, finish: bool = False
) -> Recorded:
    """Return what to record of a hook's input.

    Inputs and results longer than *bytes_max* of JSON are cut.  With *finish*
    the end of the session ends the agent.

    Raises:
        NotAHookError: it has no event's name, or no session.
    """
    hook, session = _text(told, "hook_event_name"), _text(told, "session_id")
    agent_id = f"{prefix}{session}"
    if hook in {"PreToolUse", "PostToolUse", "PostToolUseFailure"}:
        return _of_tool(hook, agent_id, told, bytes_max)
    payload = {
        name: _bounded(value, bytes_max)
        for name, value in told.items()
        if name not in _COMMON or (hook == "SessionStart" and name != "hook_event_name")
    }
    if hook == "SessionEnd" and finish:
        ended = {"reason": "Completed", "session_ended": told.get("reason")}
        return Recorded(agent_id=agent_id, event={"Terminated": ended})
    name = _NAMES.get(hook, hook)
    return Recorded(
        agent_id=agent_id, event={name: payload}, begins_turn=hook == "UserPromptSubmit"
    )


def _of_tool(hook: str, agent_id: str, told: Mapping[str, Any], bytes_max: int) -> Recorded:
    step, tool = _text(told, "tool_use_id"), _text(told, "tool_name")
    given = told.get("tool_input")
    payload: dict[str, Any] = {
        "key": step,
        "name": tool,
        "input_hash": hashlib.sha256(_canonical(given).encode()).hexdigest()[:32],
    }
    if "agent_id" in told:  # Claude Code's name for a subagent
        payload["subagent"] = {"id": told["agent_id"], "type": told.get("agent_type")}
    if hook == "PreToolUse":
        payload["effect"] = "read_only" if tool in _READING else "unsafe"
        payload["idempotency_key"] = step
        payload["input"] = _bounded(given, bytes_max)
        event = {"StepStarted": payload}
        return Recorded(agent_id=agent_id, event=event, key=f"{step}:begin", is_tool_call=True)
    if "duration_ms" in told:
        payload["duration_ms"] = told["duration_ms"]
    if hook == "PostToolUse":
        payload["result"] = _bounded(told.get("tool_response"), bytes_max)
        return Recorded(agent_id=agent_id, event={"StepCompleted": payload}, key=f"{step}:end")
    kind = "Interrupted" if told.get("is_interrupt") else "ToolError"
    message = told.get("error", told.get("error_message", ""))
    payload["error"] = {"type": kind, "message": _bounded(message, bytes_max)}
    return Recorded(agent_id=agent_id, event={"StepFailed": payload}, key=f"{step}:end")


def settings(command: str) -> dict[str, Any]:
    """Return what stands in Claude Code's settings.json to have *command* run as its hook."""
    hook = {"type": "command", "command": command, "timeout": 10}
    return {
        "hooks": {
            event: [{**({"matcher": "*"} if has_tool else {}), "hooks": [hook]}]
            for event, has_tool in EVENTS.items()
        }
    }


def _text(told: Mapping[str, Any], name: str) -> str:
    value = told.get(name)
    if not isinstance(value, str) or not value:
        raise NotAHookError(f'a hook\'s input has "{name}", a text; this has {value!r:.80}')
    return value


def _canonical(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _bounded(value: object, bytes_max: int) -> object:
    """Return *value*, or where it is too long, its beginning and its size."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    size = len(text.encode(errors="surrogatepass"))
    if size <= bytes_max:
        return value
    start = text.encode(errors="surrogatepass")[:bytes_max].decode(errors="ignore")
    return {"cut": start, "bytes": size}
