"""An agent's life as one table.

    (first entry) ──► running ──Terminated Completed──► completed
                         │
                         └─────Terminated, any other──► failed

A terminal agent takes no more entries.  Compacting it empties it, and an empty
agent may begin again: its next entry is its first.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from .errors import AgentFinishedError
from .model import TERMINAL, AgentState


class Change(StrEnum):
    """What an entry means for its agent's state."""

    RECORDED = "recorded"
    COMPLETED = "completed"
    FAILED = "failed"


TRANSITIONS: Final[Mapping[AgentState, Mapping[Change, AgentState]]] = {
    AgentState.RUNNING: {
        Change.RECORDED: AgentState.RUNNING,
        Change.COMPLETED: AgentState.COMPLETED,
        Change.FAILED: AgentState.FAILED,
    },
    AgentState.COMPLETED: {},
    AgentState.FAILED: {},
}


def advance(state: AgentState, change: Change) -> AgentState:
    """Return the state that *change* leads to from *state*.

    Raises:
        AgentFinishedError: the agent has ended.
    """
    try:
        return TRANSITIONS[state][change]
    except KeyError:
        raise AgentFinishedError(
            f"the agent is {state} and takes no more entries; "
            "compact it to begin again under the same id, or use another id",
            state=state.value,
        ) from None


def is_terminal(state: AgentState) -> bool:
    """Tell whether an agent in *state* has ended."""
    return state in TERMINAL
