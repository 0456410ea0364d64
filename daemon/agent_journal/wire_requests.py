"""The requests with which agents are held, steered and moved, and the journal is looked after.

What is not said of a member's form in its type, such as what names an agent, is
checked by the operation, which can say more about it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from .model import ITERATION_MAX, SEQUENCE_MAX, AgentState

Count = Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)]
Timestamp = Annotated[datetime, Meta(tz=True)]
NumericUid = Annotated[int, Meta(ge=0, le=2**32 - 1)]

Text = Annotated[str, Meta(min_length=1, max_length=256)]
Reason = Annotated[str, Meta(max_length=4096)]
Names = Annotated[list[Text], Meta(max_length=64)]


class CommandFields(Struct):
    """How a client wants to be started again."""

    argv: list[str]
    cwd: str
    env: dict[str, str] = field(default_factory=dict)


class Attach(Struct, tag_field="op", tag="attach"):
    """Become the one that writes for an agent."""

    agent_id: str
    kind: str | None = None
    launcher: str | None = None
    command: CommandFields | None = None
    take_over: bool = False
    id: int | str | None = None
    uid: NumericUid | None = None


class Detach(Struct, tag_field="op", tag="detach"):
    """Give an agent up without finishing it."""

    agent_id: str
    epoch: Count
    wake_at: Timestamp | None = None
    wait_for: Names | None = None
    seen_sequence: Count | None = None
    id: int | str | None = None
    uid: NumericUid | None = None


class Signal(Struct, tag_field="op", tag="signal"):
    """Tell an agent something that it may wait for."""

    agent_id: str
    name: Text
    payload: Raw | UnsetType = UNSET
    key: str | None = None
    id: int | str | None = None
    uid: NumericUid | None = None


class Decide(Struct, tag_field="op", tag="decide"):
    """Say what became of a step in doubt."""

    agent_id: str
    step: Text
    rerun: bool = False
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    id: int | str | None = None
    uid: NumericUid | None = None


class Fork(Struct, tag_field="op", tag="fork"):
    """Begin an agent with the first entries of another."""

    agent_id: str
    at_sequence: Count
    new_agent_id: str = field(name="as")
    id: int | str | None = None
    uid: NumericUid | None = None


class Resume(Struct, tag_field="op", tag="resume"):
    """Have an agent go on now, parked or not."""

    agent_id: str
    reason: Reason | None = None
    id: int | str | None = None
    uid: NumericUid | None = None


class Park(Struct, tag_field="op", tag="park"):
    """Have an agent wait for a person."""

    agent_id: str
    reason: Reason | None = None
    id: int | str | None = None
    uid: NumericUid | None = None


class Cancel(Struct, tag_field="op", tag="cancel"):
    """End an agent."""

    agent_id: str
    reason: Reason | None = None
    id: int | str | None = None
    uid: NumericUid | None = None


HoldingRequest = Attach | Detach | Signal | Decide | Fork | Resume | Park | Cancel


class Export(Struct, tag_field="op", tag="export"):
    """Give out all that is kept of an agent, page by page."""

    agent_id: str
    from_sequence: Count = 0
    limit: Annotated[int, Meta(ge=1, le=SEQUENCE_MAX)] = 1000
    id: int | str | None = None
    uid: NumericUid | None = None


class ImportedAgent(Struct):
    """An agent as ``export`` gave it out."""

    agent_id: str
    state: AgentState
    created_at: Timestamp
    entries: Annotated[int, Meta(ge=1, le=SEQUENCE_MAX)]
    kind: str | None = None
    epoch: Count = 0
    attempts: Count = 0
    reason: str | None = None
    attachment: Raw | UnsetType = UNSET


class ImportedEntry(Struct, gc=False):
    """An entry as ``export`` gave it out."""

    sequence: Count
    timestamp: Timestamp
    event: Raw
    iteration: Annotated[int, Meta(ge=0, le=ITERATION_MAX)] = 0
    key: str | None = None


class Import(Struct, tag_field="op", tag="import"):
    """Take in an agent that was exported, page by page."""

    agent: ImportedAgent
    entries: list[ImportedEntry]
    id: int | str | None = None
    uid: NumericUid | None = None


class Verify(Struct, tag_field="op", tag="verify"):
    """Check a part of the journal, from where the last reply said on."""

    cursor: str | None = None
    id: int | str | None = None


class Backup(Struct, tag_field="op", tag="backup"):
    """Give out a part of the journal's file, from where the last reply said on."""

    cursor: str | None = None
    id: int | str | None = None


class Forget(Struct, tag_field="op", tag="forget"):
    """Remove an agent, and have nothing of it be left."""

    agent_id: str
    force: bool = False
    wait: bool = True
    id: int | str | None = None
    uid: NumericUid | None = None


class Vacuum(Struct, tag_field="op", tag="vacuum"):
    """Remove some agents that have ended, the first ones first."""

    ended_before: Timestamp | None = None
    bytes_max: Count | None = None
    states: list[AgentState] | None = None
    kind: str | None = None
    dry_run: bool = False
    id: int | str | None = None


class DiskUsage(Struct, tag_field="op", tag="disk_usage"):
    """Tell how much room the journal takes."""

    id: int | str | None = None


KeepingRequest = Export | Import | Verify | Backup | Forget | Vacuum | DiskUsage
