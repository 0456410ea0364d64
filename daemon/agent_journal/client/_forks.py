"""A fork is run by the program of the agent that it was forked from, which may name that one.

So who was started for a fork, and asks for the agent that it comes from, means the
fork.  Where that comes from is told by its entries: ``Forked`` is among them, and among
those that were copied to a fork of a fork.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..errors import NotFoundError
from ._command import launched_agent
from ._holding import PAGES_AHEAD, HistoryPages
from ._programs import AskAhead, Program

# From which agents the one was forked that this process was started for.
_sources: dict[tuple[str, str | None], set[str]] = {}


def meant(agent_id: str) -> Program[str]:
    """Return the id of the agent that this process means by *agent_id*."""
    launched = launched_agent()
    if launched is None or launched == agent_id:
        return agent_id
    place = launched, os.environ.get("AGENT_JOURNAL_SOCKET")
    if place not in _sources:
        _sources[place] = yield from _sources_of(launched)
    return launched if agent_id in _sources[place] else agent_id


def _sources_of(agent_id: str) -> Program[set[str]]:
    found: set[str] = set()

    def take(entries: list[Mapping[str, Any]]) -> None:
        for entry in entries:
            forked = entry["event"].get("Forked")
            if isinstance(forked, dict) and isinstance(forked.get("from"), str):
                found.add(forked["from"])

    try:
        yield AskAhead(HistoryPages(agent_id, 0, take).next_request, PAGES_AHEAD)
    except NotFoundError:
        return set()  # it has not begun
    return found
