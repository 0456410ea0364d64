"""What to try where the first word is no command: what the word means elsewhere, or the nearest.

Nearness alone suggests nothing that ends, removes or replaces: ``restart`` is much like
``restore``, and a suggestion is typed without a thought.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Final

# What people type who know other tools.  More than one word is a sentence of its own.
ELSEWHERE: Final[Mapping[str, str]] = {
    "ps": "ls",
    "list": "ls",
    "status": "ls",
    "jobs": "ls",
    "rm": "forget",
    "remove": "forget",
    "delete": "forget",
    "del": "forget",
    "kill": "cancel",
    "abort": "cancel",
    "terminate": "cancel",
    "end": "cancel",
    "stop": "agent-journal cancel ends an agent for good, agent-journal park until it is resumed",
    "pause": "park",
    "suspend": "park",
    "hold": "park",
    "start": "agent-journal resume starts an agent again, agent-journal run begins one",
    "restart": "resume",
    "retry": "resume",
    "continue": "resume",
    "unpark": "resume",
    "exec": "run",
    "new": "run",
    "create": "run",
    "cat": "read",
    "get": "read",
    "events": "read",
    "logs": "log",
    "history": "log",
    "journal": "log",
    "follow": "tail",
    "watch": "tail",
    "info": "describe",
    "inspect": "describe",
    "send": "signal",
    "approve": "signal",
    "clone": "fork",
    "copy": "fork",
    "check": "verify",
    "fsck": "verify",
    "health": "doctor",
    "gc": "vacuum",
    "prune": "vacuum",
    "clean": "vacuum",
    "du": "disk-usage",
    "df": "disk-usage",
    "dump": "export",
    "load": "import",
    "monitor": "top",
    "version": "--version",
}

DESTRUCTIVE: Final = frozenset(
    {"accept-loss", "cancel", "compact", "forget", "restore", "uninstall", "vacuum"}
)
NEAR_ENOUGH: Final = 0.6
SURELY_MEANT: Final = 0.8  # a letter too many, or two in the wrong order


def hint_for(word: str, commands: Iterable[str]) -> str:
    """Return what to try in place of *word*."""
    if told := ELSEWHERE.get(word):
        return told if " " in told else f"agent-journal {told}"
    every = set(commands)
    harmless = difflib.get_close_matches(word, every - DESTRUCTIVE, n=1, cutoff=NEAR_ENOUGH)
    harmful = difflib.get_close_matches(word, every & DESTRUCTIVE, n=1, cutoff=SURELY_MEANT)
    nearest = difflib.get_close_matches(word, [*harmless, *harmful], n=1)
    if not nearest:
        return "agent-journal --help"
    return f"agent-journal {nearest[0]}" + (" --help" if nearest == harmful else "")
