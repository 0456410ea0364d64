"""What the journal is made of: names, numbers and states, no behaviour.

An agent is named by the uid that owns it and the id that its owner gave it.
An entry's *sequence* is its place within its agent, its *position* the place
in the whole journal in commit order; the two are never mixed.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, NewType

Uid = NewType("Uid", int)
AgentId = NewType("AgentId", str)
Sequence = NewType("Sequence", int)
Position = NewType("Position", int)
Micros = NewType("Micros", int)  # microseconds since 1970, UTC

PROTOCOL_VERSION: Final = 1

AGENT_ID_BYTES_MAX: Final = 128
KEY_BYTES_MAX: Final = 256
ITERATION_MAX: Final = 2**32 - 1
SEQUENCE_MAX: Final = 2**63 - 1

OVERFLOW_UID: Final = Uid(65534)  # what the kernel says of a uid it cannot name here

_AGENT_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}", re.ASCII)


def is_agent_id(text: str) -> bool:
    """Tell whether *text* may name an agent."""
    return _AGENT_ID.fullmatch(text) is not None


class AgentState(StrEnum):
    """Where an agent is in its life; ``lifecycle`` says what leads where."""

    RUNNING = "running"
    WAITING = "waiting"
    INTERRUPTED = "interrupted"
    RESUMING = "resuming"
    PARKED = "parked"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL: Final = frozenset({AgentState.COMPLETED, AgentState.FAILED, AgentState.CANCELLED})
UNFINISHED: Final = frozenset(AgentState) - TERMINAL

# Events that only the daemon writes: an agent's journal says what was done to
# the agent, and a client that could append these could forge that.
DAEMON_EVENTS: Final = frozenset(
    {
        "AttemptStarted",
        "AttemptEnded",
        "Parked",
        "Unparked",
        "Cancelled",
        "Signalled",
        "Decided",
        "Forked",
    }
)
