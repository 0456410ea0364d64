"""What the daemon holds when everybody has gone: every container, and which bound holds it.

All that is reachable from the daemon's parts is looked at, by whatever name: a list,
dictionary or queue that somebody adds is found here, and fails until it is empty at
rest or somebody says below what bounds it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import msgspec

# What may hold something at rest, and why that does not grow with time.
BOUNDED: Final = {
    "Heads._namespaces": "one for each uid that ever wrote",
    "Namespace.heads": "HEADS_MAX, of all uids together",
    "Head.keys": "KEYS_MAX for each head",
    "Head.keys_before": "KEYS_MAX for each head",
    "Metrics.refused": "one for each code of an error",
    "Metrics.attempts_ended": "one for each way to end",
    "Outbreaks._by_signature": "SIGNATURES_MAX",
    "_Crashes.seen": "agents that crashed alike within resume.outbreak_seconds",
    "Outbreaks._probing": "one for each outbreak",
    "LaunchQueue._signatures": "one for each agent that crashed and has not ended",
    "LaunchQueue._held": "agents of an outbreak",
    "Schedule._entries": "an alarm or so for each unfinished agent, and the daemon's own",
    "Schedule._heap": "twice as many and 64",
    "Server.buffer": "one for the whole daemon",
    "Batch.entries": "the last batch, commit.batch_entries_max",
    "Batch.changes": "the last batch, commit.batch_entries_max",
    "Supervisor._environ": "the daemon's environment",
    "Committer._batch": "the last batch",
}

_CONTAINERS: Final = (dict, list, set, deque, bytearray)


def _members(thing: object) -> Iterator[tuple[str, object]]:
    if isinstance(thing, msgspec.Struct):
        for name in thing.__struct_fields__:
            yield name, getattr(thing, name)
        return
    for kind in type(thing).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if hasattr(thing, name):
                yield name, getattr(thing, name)
    yield from getattr(thing, "__dict__", {}).items()


def _is_ours(thing: object) -> bool:
    module = type(thing).__module__
    return module.startswith("agent_journal.service") and "config" not in module


def _class(thing: object) -> str:
    """Return the name of the daemon's own class, where the simulation has one above it."""
    kinds = type(thing).__mro__
    return next(kind.__name__ for kind in kinds if kind.__module__.startswith("agent_journal"))


def census(*parts: object) -> dict[str, int]:
    """Return how much each container of the daemon's holds, by class and name."""
    found: dict[str, int] = {}
    seen: set[int] = set()
    left: list[Any] = [*parts]
    while left:
        thing = left.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        for name, value in _members(thing):
            if isinstance(value, _CONTAINERS):
                where = f"{_class(thing)}.{name}"
                found[where] = found.get(where, 0) + len(value)
                inside = value.values() if isinstance(value, dict) else value
                left += [one for one in inside if _is_ours(one)]
                if isinstance(value, dict):
                    left += [one for one in value if _is_ours(one)]
            elif _is_ours(value):
                left.append(value)
    return found


def left_behind(*parts: object) -> dict[str, int]:
    """Return the containers that hold something and of which nobody said what bounds them."""
    return {
        where: count for where, count in census(*parts).items() if count and where not in BOUNDED
    }
