"""What docs/PROTOCOL.md says of one line, whatever it is: written from it, not from the daemon.

A ``Verdict`` holds the codes that the reply may have (``ok`` is one of them) and
the id that it must echo.  Only a line's form is judged, not what the journal holds
at that moment, so for a good line several replies are possible; for a bad one there
is one, where the document leaves no choice.

JSON is parsed by the standard library's parser, and what that takes beside RFC 8259
is refused here; the daemon uses another one.
"""

from __future__ import annotations

import calendar
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

NUMBER_MAX: Final = 2**63 - 1
ITERATION_MAX: Final = 4_294_967_295
DEPTH_SURE: Final = 400  # "nesting too deep to be parsed" does not say how deep

Form = bool | None  # None: the document leaves it open

ANY_MOMENT: Final = frozenset({"overloaded", "storage_full"})
OF_AN_AGENT: Final = frozenset({"forbidden", "not_found"})

# What a reply to a good line can be, by what the document says of the operation.
POSSIBLE: Final[Mapping[str, frozenset[str]]] = {
    "hello": frozenset({"ok", "unsupported_protocol"}),
    "ping": frozenset({"ok"}),
    "close": frozenset({"ok"}),
    "stats": frozenset({"ok", "forbidden"}),
    "append": frozenset(
        {
            *("ok", "forbidden", "sequence_conflict", "key_conflict", "stale_epoch"),
            *("agent_finished", "parked"),
        }
    ),
    "read": OF_AN_AGENT | {"ok"},
    "describe": OF_AN_AGENT | {"ok"},
    "agents": OF_AN_AGENT | {"ok", "invalid"},
    "compact": OF_AN_AGENT | {"ok", "agent_unfinished"},
    "tail": OF_AN_AGENT | {"ok", "invalid"},
    "attach": frozenset(
        {"ok", "forbidden", "invalid", "agent_attached", "parked", "agent_finished"}
    ),
    "detach": OF_AN_AGENT
    | {"ok", "stale_epoch", "agent_finished", "agent_unfinished", "parked", "invalid"},
    "signal": OF_AN_AGENT | {"ok", "key_conflict", "agent_finished"},
    "decide": OF_AN_AGENT | {"ok", "invalid", "agent_attached", "agent_finished"},
    "fork": OF_AN_AGENT | {"ok", "invalid"},
    "resume": OF_AN_AGENT | {"ok", "agent_finished"},
    "park": OF_AN_AGENT | {"ok", "agent_finished"},
    "cancel": OF_AN_AGENT | {"ok", "agent_finished"},
    "export": OF_AN_AGENT | {"ok", "invalid"},
    "import": frozenset(
        {
            *("ok", "invalid", "forbidden", "sequence_conflict", "key_conflict"),
            *("agent_finished", "agent_attached", "agent_unfinished", "parked"),
        }
    ),
    # A journal in memory, as these tests have, knows not all of these.
    "verify": frozenset({"ok", "invalid", "forbidden", "damaged", "unknown_op"}),
    "backup": frozenset({"ok", "invalid", "forbidden", "unknown_op"}),
    "forget": OF_AN_AGENT | {"ok", "agent_unfinished"},
    "vacuum": frozenset({"ok", "invalid", "forbidden", "unknown_op"}),
    "disk_usage": frozenset({"ok", "forbidden"}),
}

DAEMONS_OWN: Final = frozenset(
    [
        "AttemptStarted",
        "AttemptEnded",
        "Parked",
        "Unparked",
        "Cancelled",
        "Signalled",
        "Decided",
        "Forked",
    ]
)
STATES: Final = frozenset(
    ["running", "waiting", "interrupted", "resuming", "parked", "completed", "failed", "cancelled"]
)

_AGENT_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")
_TIMESTAMP: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:Z|[+-](\d\d):(\d\d))", re.ASCII
)


class _Number(str):
    """A number with a fraction or an exponent, as it was written."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may be answered to a line."""

    codes: frozenset[str]
    id: int | str | None = None
    has_id_only_if_read: bool = False  # a huge integer may be echoed, or be null
    op: str | None = None
    begins_stream: bool = False

    def allows(self, reply: Mapping[str, Any]) -> bool:
        """Tell whether *reply* is one that the document knows for this line."""
        if reply.get("ok") is True:
            code = "ok"
            if self.id is None and "id" in reply:
                return False
        else:
            code = reply["error"]["code"]
            if "id" not in reply:
                return False
        echoed = reply.get("id")
        is_echo = echoed == self.id and type(echoed) is type(self.id)
        if not is_echo and not (self.has_id_only_if_read and echoed is None):
            return False
        return code in self.codes


MALFORMED: Final = Verdict(frozenset({"malformed"}))
TOO_LARGE: Final = Verdict(frozenset({"frame_too_large"}))


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _integer(text: str) -> object:
    return int(text) if len(text) < 4000 else _Number(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(pairs)


_parse: Final = json.JSONDecoder(
    parse_constant=_no_constant,
    parse_float=_Number,
    parse_int=_integer,
).decode


def judge(  # noqa: PLR0911 - so many ways to be wrong
    line: bytes, frame_bytes_max: int = 4 * 1024 * 1024
) -> Verdict:
    """Return what may be answered to *line*, which has no newline."""
    if len(line) > frame_bytes_max:
        return TOO_LARGE
    try:
        text = line.decode("utf-8", "strict")
        if text[:1] == "\ufeff":
            return MALFORMED
        request = _parse(text)
        if "\\" in text and _half_pair(text):
            return MALFORMED
    except (RecursionError, ValueError):
        return MALFORMED
    if type(request) is not dict:
        return MALFORMED
    verdict = _judge_request(request)
    if line.count(b"[") + line.count(b"{") > DEPTH_SURE:
        return Verdict(
            verdict.codes | {"malformed"},
            verdict.id,
            has_id_only_if_read=True,
            op=verdict.op,
            begins_stream=verdict.begins_stream,
        )
    return verdict


_SURROGATE: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u([dD][89a-fA-F][0-9a-fA-F]{2})")
_PAIR: Final = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")


def _half_pair(text: str) -> bool:
    """Tell whether a string in *text*, which is JSON, holds half of a surrogate pair."""
    if "\\ud" not in text and "\\uD" not in text:
        return False
    plain = text.replace("\\\\", "")  # so that a backslash is always an escape's
    return bool(re.search(r"\\u[dD][89a-fA-F]", _PAIR.sub("", plain)))


def _judge_request(request: dict[str, Any]) -> Verdict:
    echo = request.get("id")
    is_id = echo is None or type(echo) is int or type(echo) is str
    is_huge = type(echo) is int and not -(2**63) <= echo <= NUMBER_MAX
    is_huge = is_huge or (type(echo) is _Number and echo.lstrip("-").isdigit())
    op = request.get("op")
    if type(op) is not str:
        codes = {"invalid"}
    elif op not in MEMBERS:
        codes = {"unknown_op"}
    else:
        codes = _judge_members(op, request)
        if not is_id:
            codes = {"invalid"}
    known_id = echo if is_id and (type(echo) is not _Number or not is_huge) else None
    return Verdict(
        frozenset(codes | {"invalid"} if is_huge else codes),
        known_id,
        has_id_only_if_read=is_huge,
        op=op if type(op) is str else None,
        begins_stream=op == "tail" and request.get("follow", True) is True and "ok" in codes,
    )


def _judge_members(op: str, request: dict[str, Any]) -> set[str]:
    """Return the codes with which a known operation may be answered."""
    possible = {*POSSIBLE[op]} | (ANY_MOMENT if op not in ("ping", "hello", "close") else set())
    forms = [
        (form(request[name]) if name in request else presence)
        for name, (form, presence) in MEMBERS[op].items()
    ]
    if op in MORE:
        forms.append(MORE[op](request))
    if False in forms:
        refused = {"invalid", "overloaded"}
        return refused if request.get("uid") is None else refused | {"forbidden"}
    return possible | {"invalid"} if None in forms else possible


# The form of each member: True and False by the document, None where it leaves it open.


def _of(kind: type) -> Callable[[Any], Form]:
    return lambda value: type(value) is kind


def _or_null(form: Callable[[Any], Form]) -> Callable[[Any], Form]:
    return lambda value: True if value is None else form(value)


def _states(value: Any) -> Form:
    return type(value) is list and all(type(one) is str and one in STATES for one in value)


def _number(value: Any) -> Form:
    return type(value) is int and 0 <= value <= NUMBER_MAX


def _limit(value: Any) -> Form:
    return None if value == 0 and type(value) is int else _number(value)


def _iteration(value: Any) -> Form:
    return type(value) is int and 0 <= value <= ITERATION_MAX


def _agent_id(value: Any) -> Form:
    return type(value) is str and bool(_AGENT_ID.fullmatch(value))


def _key(value: Any) -> Form:
    return type(value) is str and 1 <= len(value.encode()) <= 256 and value[0] != "\0"


def _uid(value: Any) -> Form:
    return value is None or (type(value) is int and 0 <= value < 2**32)


def _uid_or_all(value: Any) -> Form:
    return value == "*" or _uid(value)


def _open_object(value: Any) -> Form:
    return None if type(value) is dict else False


def _open_array(value: Any) -> Form:
    return None if type(value) is list else False


def _text(value: Any) -> Form:
    """Look at a string of which the document says no more: it need not take every one."""
    if type(value) is not str:
        return False
    return True if 0 < len(value) <= 100 and "\0" not in value else None


def _timestamp(value: Any) -> Form:  # noqa: PLR0911 - so many ways to be wrong
    if type(value) is not str:
        return False
    found = _TIMESTAMP.fullmatch(value)
    if not found:
        # RFC 3339 lets the letters be small; people put a space between, and leave out a colon.
        usual = re.sub(r"([+-]\d\d)(\d\d)$", r"\1:\2", value.upper().replace(" ", "T"))
        return None if _TIMESTAMP.fullmatch(usual) else False
    year, month, day, hour, minute, second = (int(found[n]) for n in range(1, 7))
    if not 1 <= month <= 12 or not 1 <= day <= calendar.monthrange(max(year, 1), month)[1]:
        return False
    if hour > 23 or minute > 59 or second > 60:
        return False
    if found[7] is not None and (int(found[7]) > 23 or int(found[8]) > 59):
        return False
    if second == 60 or not 1 < year < 9999:
        return None  # a leap second, and the ends of time, which an offset may pass
    return True


def _event(value: Any) -> Form:
    if type(value) is not dict or len(value) != 1:
        return False
    return next(iter(value)) not in DAEMONS_OWN


def _entries(value: Any) -> Form:
    if value is None:
        return None
    if type(value) is not list or not value:
        return False
    keys = [entry.get("key") for entry in value if type(entry) is dict]
    keys = [key for key in keys if key is not None]
    forms = [_entry(entry) for entry in value]
    if False in forms or any(type(key) is not str for key in keys):
        return False
    if any("Terminated" in entry["event"] for entry in value[:-1]):
        return False
    if len(set(keys)) < len(keys):
        return False
    return None if None in forms else True


def _entry(value: Any) -> Form:
    if type(value) is not dict or not _event(value.get("event")):
        return False
    forms = [
        form(value[name])
        for name, form in (
            ("iteration", _iteration),
            ("timestamp", _or_null(_timestamp)),
            ("key", _or_null(_key)),
        )
        if name in value
    ]
    return False if False in forms else None if None in forms else True


def _names(value: Any) -> Form:
    if type(value) is not list:
        return False
    forms = [_text(name) for name in value]
    return False if False in forms else None if None in forms or len(value) > 16 else True


def _after(value: Any) -> Form:
    return value is None or type(value) is str or _number(value)


def _append(request: dict[str, Any]) -> Form:
    """One form or the other."""
    entries = request.get("entries")
    alone = {"event", "iteration", "timestamp", "key"} & request.keys()
    if entries is None:
        return bool(_event(request.get("event")))
    if not alone:
        return True
    return False if "event" in request or request.get("key") is not None else None


def _decide(request: dict[str, Any]) -> Form:
    ways = (request.get("rerun") is True) + ("result" in request) + ("error" in request)
    return ways == 1


def _tail(request: dict[str, Any]) -> Form:
    return request.get("from_position") is None or request.get("last") is None


_OWN: Final = {"agent_id": (_agent_id, False), "uid": (_uid, True)}
_OPTIONAL_NUMBER: Final = (_or_null(_number), True)
_REASON: Final = {
    "reason": (_or_null(lambda value: type(value) is str and (len(value) <= 1000 or None)), True)
}

# For each operation its members: the form of each, and whether it may be missing.
MEMBERS: Final[Mapping[str, Mapping[str, tuple[Callable[[Any], Form], Form]]]] = {
    "hello": {"protocol": (_or_null(_of(int)), True)},
    "ping": {},
    "close": {},
    "stats": {"uid": (_uid_or_all, True)},
    "append": {
        **_OWN,
        "iteration": (_iteration, True),
        "timestamp": (_or_null(_timestamp), True),
        "key": (_or_null(_key), True),
        "expected_sequence": _OPTIONAL_NUMBER,
        "epoch": _OPTIONAL_NUMBER,
        "entries": (_entries, True),
    },
    "read": {**_OWN, "from_sequence": (_number, True), "limit": (_limit, True)},
    "describe": _OWN,
    "agents": {
        "state": (_or_null(lambda value: type(value) is str and value in STATES), True),
        "kind": (_or_null(_of(str)), True),
        "after": (_after, True),
        "limit": (_limit, True),
        # "Left out" where there is a prefix, and then it may be null as well.
        "order": (lambda value: None if value is None else value in ("oldest", "newest"), True),
        "prefix": (_or_null(_text), True),
        "uid": (_uid_or_all, True),
    },
    "compact": {**_OWN, "force": (_of(bool), True)},
    "tail": {
        "agent_id": (_or_null(_agent_id), True),
        "from_position": _OPTIONAL_NUMBER,
        "last": _OPTIONAL_NUMBER,
        "before_position": _OPTIONAL_NUMBER,
        "follow": (_of(bool), True),
        "uid": (_uid_or_all, True),
    },
    "attach": {
        **_OWN,
        "kind": (_or_null(_of(str)), True),
        "launcher": (_or_null(_of(str)), True),
        "command": (_or_null(_of(dict)), True),
        "take_over": (_of(bool), True),
    },
    "detach": {
        **_OWN,
        "epoch": (_number, False),
        "wake_at": (_or_null(_timestamp), True),
        "wait_for": (_or_null(_names), True),
        "seen_sequence": _OPTIONAL_NUMBER,
    },
    "signal": {**_OWN, "name": (_text, False), "key": (_or_null(_key), True)},
    "decide": {**_OWN, "step": (_text, False), "rerun": (_of(bool), True)},
    "fork": {**_OWN, "at_sequence": (_number, False), "as": (_agent_id, False)},
    "resume": {**_OWN, **_REASON},
    "park": {**_OWN, **_REASON},
    "cancel": {**_OWN, **_REASON},
    "export": {**_OWN, "from_sequence": (_number, True), "limit": (_limit, True)},
    "import": {
        "agent": (_open_object, False),
        "entries": (_open_array, False),
        "uid": (_uid, True),
    },
    "verify": {"cursor": (_or_null(_of(str)), True)},
    "backup": {"cursor": (_or_null(_of(str)), True)},
    "forget": {**_OWN, "force": (_of(bool), True), "wait": (_of(bool), True)},
    "vacuum": {
        "ended_before": (_or_null(_timestamp), True),
        "bytes_max": _OPTIONAL_NUMBER,
        "states": (_or_null(_states), True),
        "kind": (_or_null(_of(str)), True),
        "dry_run": (_of(bool), True),
    },
    "disk_usage": {},
}

MORE: Final[Mapping[str, Callable[[dict[str, Any]], Form]]] = {
    "append": _append,
    "decide": _decide,
    "tail": _tail,
}
