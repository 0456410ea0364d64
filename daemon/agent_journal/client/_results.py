"""What goes in and what comes back, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeAlias

from ..model import TERMINAL
from ..value import Value

# One object with one key, the event's name: as a mapping, or as its JSON text,
# which is passed through as it is.
Event: TypeAlias = Mapping[str, object] | bytes | str

# Aware, or RFC 3339 text.
Timestamp: TypeAlias = datetime | str

# Aware, always.
Moment: TypeAlias = datetime


class NewEntry(Value):
    """One member of ``append_many``."""

    event: Event
    iteration: int = 0
    timestamp: Timestamp | None = None
    key: str | None = None


class AppendRequest(Value):
    """One member of ``append_pipelined``: what ``append`` takes, as a value."""

    agent_id: str
    event: Event
    iteration: int = 0
    timestamp: Timestamp | None = None
    expected_sequence: int | None = None
    epoch: int | None = None
    key: str | None = None
    uid: int | None = None


class Appended(Value, kw_only=True):
    """The answer to an append: its entries are durable.

    ``sequence`` and ``position`` are those of the first of ``count`` entries.
    ``duplicate`` says that its key was known already, and that this is where
    the first write is; a client's own retry after a lost connection may well
    find its own first write.
    """

    sequence: int
    position: int
    count: int = 1
    duplicate: bool = False


class Attached(Value, kw_only=True):
    """The answer to an attach: the caller is the agent's owner.

    ``epoch`` goes with every append from now on.  ``resumed`` says that there
    were entries or attempts before this one.
    """

    epoch: int
    attempt: int
    state: str
    next_sequence: int
    resumed: bool


class Forked(Value, kw_only=True):
    """The answer to a fork: the new agent, and where its own entries begin."""

    agent_id: str
    next_sequence: int


class Entry(Value, kw_only=True):
    """One record of the journal."""

    sequence: int
    position: int
    timestamp: datetime
    agent_id: str
    iteration: int
    event: dict[str, object]
    uid: int | None = None  # only where many namespaces are read at once

    @property
    def name(self) -> str:
        """Return the event's name."""
        return next(iter(self.event))

    @property
    def payload(self) -> object:
        """Return what stands under the event's name."""
        return self.event[self.name]


class Agent(Value, kw_only=True):
    """What the daemon knows of one agent.

    ``latest_sequence`` is 0 both for no entry and for one: number on from
    ``next_sequence``.  ``state`` is one of ``agent_journal.model.AgentState``,
    or a newer daemon's.
    """

    agent_id: str
    kind: str | None
    state: str
    uid: int
    entries: int
    latest_sequence: int
    next_sequence: int
    last_completed_iteration: int
    epoch: int
    attempts: int
    created_at: datetime
    updated_at: datetime
    reason: str | None
    first_position: int
    # Said only of an agent that is, or was, attached.
    owner: Mapping[str, Any] | None = None  # pid, alive
    launcher: str | None = None
    command: object = None
    wake_at: datetime | None = None
    wait_for: tuple[str, ...] = ()
    next_attempt_at: datetime | None = None
    incident: Mapping[str, Any] | None = None  # attempts, steps, tokens

    @property
    def is_terminal(self) -> bool:
        """Tell whether the agent has ended."""
        return self.state in TERMINAL


def entry_from(fields: Mapping[str, Any]) -> Entry:
    """Return the entry in a reply."""
    return Entry(
        sequence=fields["sequence"],
        position=fields["position"],
        timestamp=datetime.fromisoformat(fields["timestamp"]),
        agent_id=fields["agent_id"],
        iteration=fields["iteration"],
        event=fields["event"],
        uid=fields.get("uid"),
    )


def agent_from(fields: Mapping[str, Any]) -> Agent:
    """Return the agent in a reply."""
    return Agent(
        agent_id=fields["agent_id"],
        kind=fields.get("kind"),
        state=fields["state"],
        uid=fields["uid"],
        entries=fields["entries"],
        latest_sequence=fields["latest_sequence"],
        next_sequence=fields["next_sequence"],
        last_completed_iteration=fields["last_completed_iteration"],
        epoch=fields["epoch"],
        attempts=fields["attempts"],
        created_at=datetime.fromisoformat(fields["created_at"]),
        updated_at=datetime.fromisoformat(fields["updated_at"]),
        reason=fields.get("reason"),
        first_position=fields["first_position"],
        owner=fields.get("owner"),
        launcher=fields.get("launcher"),
        command=fields.get("command"),
        wake_at=_moment(fields.get("wake_at")),
        wait_for=tuple(fields.get("wait_for") or ()),
        next_attempt_at=_moment(fields.get("next_attempt_at")),
        incident=fields.get("incident"),
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def attached_from(fields: Mapping[str, Any]) -> Attached:
    """Return the answer to an attach."""
    return Attached(
        epoch=fields["epoch"],
        attempt=fields["attempt"],
        state=fields["state"],
        next_sequence=fields["next_sequence"],
        resumed=fields["resumed"],
    )


def appended_from(fields: Mapping[str, Any]) -> Appended:
    """Return the answer to an append."""
    return Appended(
        sequence=fields["sequence"],
        position=fields["position"],
        count=fields.get("count", 1),
        duplicate=fields.get("duplicate", False),
    )
