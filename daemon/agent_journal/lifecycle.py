"""An agent's life as one table.

    first entry or attach ──► running ──Terminated Completed──► completed
                               ▲ │ │ └──Terminated, any other──► failed
             attach of anybody │ │ └──detach──► waiting ──launch──┐
                               │ └─owner gone─► interrupted       │
                               │                 ▲   └──launch────┤
                               │   attempt ended │                ▼
                               └─────────────────┴──────────── resuming

    any unfinished one ──park──► parked ──resume──► interrupted
    any unfinished one ──cancel──► cancelled

(Who attaches may come from waiting and interrupted as well, and to running in
another's place.)

Two rules stand behind it.  A state changes in the transaction that records the
entry which tells of it.  And only ``running`` has somebody who writes: whoever
attaches gets there, whoever is gone or gave up takes the agent out of it.

A terminal agent takes no more entries.  Compacting it empties it, and an empty
agent may begin again: its next entry, or the next attach, is its first.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from .errors import AgentFinishedError, AgentUnfinishedError, JournalError, ParkedError
from .model import TERMINAL, AgentState


class Change(StrEnum):
    """What happens to an agent, as far as it matters for its state."""

    RECORDED = "recorded"  # an entry of a client's
    COMPLETED = "completed"
    FAILED = "failed"
    ATTACHED = "attached"
    DETACHED = "detached"
    LOST = "lost"  # the owner is gone, or the attempt ended that was launched
    LAUNCHED = "launched"
    TOLD = "told"  # signalled, or a step of it decided
    PARKED = "parked"
    UNPARKED = "unparked"
    UNPARKED_HELD = "unparked while its owner lives"
    UNPARKED_NEW = "unparked before anybody attached"
    CANCELLED = "cancelled"


_RUNNING: Final = AgentState.RUNNING
_WAITING: Final = AgentState.WAITING
_INTERRUPTED: Final = AgentState.INTERRUPTED
_RESUMING: Final = AgentState.RESUMING
_PARKED: Final = AgentState.PARKED
_CANCELLED: Final = AgentState.CANCELLED

TRANSITIONS: Final[Mapping[AgentState, Mapping[Change, AgentState]]] = {
    _RUNNING: {
        Change.RECORDED: _RUNNING,
        Change.COMPLETED: AgentState.COMPLETED,
        Change.FAILED: AgentState.FAILED,
        Change.ATTACHED: _RUNNING,  # first of all, again, or in another's place
        Change.DETACHED: _WAITING,
        Change.LOST: _INTERRUPTED,
        Change.TOLD: _RUNNING,
        Change.PARKED: _PARKED,
        Change.CANCELLED: _CANCELLED,
    },
    _WAITING: {
        Change.RECORDED: _RUNNING,  # nobody ever attached to it: a fork, or unparked
        Change.COMPLETED: AgentState.COMPLETED,
        Change.FAILED: AgentState.FAILED,
        Change.ATTACHED: _RUNNING,
        Change.LAUNCHED: _RESUMING,
        Change.TOLD: _WAITING,
        Change.PARKED: _PARKED,
        Change.CANCELLED: _CANCELLED,
    },
    _INTERRUPTED: {
        Change.ATTACHED: _RUNNING,
        Change.LAUNCHED: _RESUMING,
        Change.TOLD: _INTERRUPTED,
        Change.PARKED: _PARKED,
        Change.CANCELLED: _CANCELLED,
    },
    _RESUMING: {
        Change.ATTACHED: _RUNNING,
        Change.LOST: _INTERRUPTED,
        Change.TOLD: _RESUMING,
        Change.PARKED: _PARKED,
        Change.CANCELLED: _CANCELLED,
    },
    _PARKED: {
        Change.LOST: _PARKED,  # its owner was alive when it was parked
        Change.TOLD: _PARKED,
        Change.UNPARKED: _INTERRUPTED,
        Change.UNPARKED_HELD: _RUNNING,
        Change.UNPARKED_NEW: _WAITING,
        Change.CANCELLED: _CANCELLED,
    },
    AgentState.COMPLETED: {},
    AgentState.FAILED: {},
    AgentState.CANCELLED: {},
}


def leads_to(state: AgentState, change: Change) -> AgentState | None:
    """Return the state that *change* leads to from *state*, if it may happen there."""
    return TRANSITIONS[state].get(change)


def advance(state: AgentState, change: Change, agent_id: str) -> AgentState:
    """Return the state that *change* leads to from *state*; *agent_id* is for who is refused.

    Raises:
        AgentFinishedError: the agent has ended.
        ParkedError: it waits for a person.
        AgentUnfinishedError: it goes on, but this can't happen to it now.
    """
    state_after = leads_to(state, change)
    if state_after is None:
        raise _refusal(state, change, agent_id)
    return state_after


def _refusal(state: AgentState, change: Change, agent_id: str) -> JournalError:
    if is_terminal(state):
        return AgentFinishedError(
            f"{agent_id} is {state} and takes no more entries; compact it to begin again "
            "under the same id, or use another id",
            state=state.value,
        )
    if state is _PARKED:
        return ParkedError(
            f"{agent_id} is parked and waits for a person; "
            "see why with describe, then let it go on with resume, or end it with cancel"
        )
    return AgentUnfinishedError(
        f"{agent_id} is {state} and can't be {change} now; look at it with describe",
        state=state.value,
    )


def is_terminal(state: AgentState) -> bool:
    """Tell whether an agent in *state* has ended."""
    return state in TERMINAL
