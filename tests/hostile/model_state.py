"""A journal as docs/PROTOCOL.md describes it: agents, entries, owners; plain Python, no store.

Written from the document alone.  ``ANY`` stands for what the document leaves open.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

TERMINAL: Final = frozenset({"completed", "failed", "cancelled"})
GIVEN_UP: Final = frozenset({"waiting", "interrupted", "resuming"})

Name = tuple[int, str]


class _Any:
    """Equal to everything."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True

    def __repr__(self) -> str:
        return "ANY"

    def __deepcopy__(self, memo: object) -> _Any:
        return self


ANY: Final = _Any()


@dataclass(slots=True)
class Entry:
    """One record; its position is learnt when an answer first shows it."""

    sequence: int
    timestamp: Any
    iteration: int
    event: str  # as it was sent; of the daemon's own, JSON of which members may be missing
    is_daemons: bool = False
    is_copy: bool = False
    epoch: int = 0  # under which it was appended
    position: int | None = None
    above: int = -1  # its position is above this one
    group: int = 0  # of entries in no certain order, if not 0
    is_gone: bool = False  # compacted: who has not seen it need not see it

    @property
    def name(self) -> str:
        """The event's name."""
        return next(iter(json.loads(self.event)))

    @property
    def payload(self) -> Any:
        """What is under the event's name."""
        return next(iter(json.loads(self.event).values()))


@dataclass(slots=True)
class Peer:
    """A client's end: who it is, and whether it is still there."""

    uid: int
    pid: int
    number: int
    is_open: bool = True
    stream: tuple[int | None, str | None, Any] | None = None  # namespace, agent, id
    due: list[tuple[Name, Entry]] = field(default_factory=list)  # what the stream is to show


@dataclass(slots=True)
class Agent:
    """An agent, and all that ``describe`` tells."""

    uid: int
    agent_id: str
    entries: list[Entry] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)
    signal_keys: dict[str, int] = field(default_factory=dict)
    state: str = "running"
    reason: str | None = None
    kind: str | None = None
    epoch: int = 0
    attempts: int = 0
    attempt: int = 0  # the one that runs, or ran last
    attempt_began: int = 0
    owner: tuple[int, int] | None = None  # pid, and the number of the connection
    launcher: Any = None
    command: Any = None
    wake_at: Any = None
    wait_for: Any = None
    created_at: Any = None
    updated_at: Any = None
    first: Entry | None = None  # the first that was its own

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended."""
        return self.state in TERMINAL

    @property
    def is_empty_after_its_end(self) -> bool:
        """Whether it ended and was compacted, so that it may begin anew."""
        return self.is_terminal and not self.entries


class Journal:
    """The agents, the log in commit order, and who is connected."""

    def __init__(self, *, daemon_uid: int, now: Callable[[], Any], limits: dict[str, int]) -> None:
        self.daemon_uid = daemon_uid
        self.now = now  # rendered as the wire has it, or ANY
        self.limits = limits
        self.agents: dict[Name, Agent] = {}
        self.log: list[tuple[Name, Entry]] = []
        self.peers: dict[int, Peer] = {}
        self.living: set[int] = set()
        self.seen_position = -1  # the highest that was shown: what comes is above it
        self.namespaces: tuple[int, ...] = ()  # of uids that nobody here has
        self._groups = 0

    def copy(self) -> Journal:
        """Return one that may go another way."""
        other = copy.copy(self)
        memo: dict[int, Any] = {}
        other.agents = copy.deepcopy(self.agents, memo)
        other.log = copy.deepcopy(self.log, memo)
        other.peers = copy.deepcopy(self.peers, memo)
        other.living = set(self.living)
        return other

    # Who is there

    def connect(self, number: int, uid: int, pid: int) -> None:
        """Take note of a connection."""
        self.peers[number] = Peer(uid, pid, number)
        self.living.add(pid)

    def is_admin(self, peer: Peer) -> bool:
        """Tell whether a client may act for others."""
        return peer.uid in (0, self.daemon_uid)

    def holds(self, agent: Agent) -> bool:
        """Tell whether the agent's owner lives."""
        if agent.owner is None:
            return False
        pid, number = agent.owner
        return self.is_connected(agent) or pid in self.living or number < 0

    def is_connected(self, agent: Agent) -> bool:
        """Tell whether the connection that attached is open."""
        peer = self.peers.get(agent.owner[1]) if agent.owner else None
        return peer is not None and peer.is_open

    def close(self, number: int) -> None:
        """Take note that a connection has ended."""
        peer = self.peers[number]
        peer.is_open, peer.stream = False, None
        peer.due.clear()
        self.bury()

    def end_process(self, pid: int) -> None:
        """Take note that a process has ended, and its connections with it."""
        self.living.discard(pid)
        for peer in self.peers.values():
            if peer.pid == pid:
                peer.is_open, peer.stream = False, None
                peer.due.clear()
        self.bury()

    def bury(self) -> None:
        """Record the losses of owners that are gone, in no certain order."""
        lost = [agent for agent in self.agents.values() if agent.owner and not self.holds(agent)]
        self._groups += 1
        for agent in lost:
            ended = {"attempt": agent.attempt, "how": "lost"}
            self.record(agent, "AttemptEnded", ended, group=self._groups)
            agent.owner = None
            if agent.state == "running":
                agent.state = "interrupted"

    # What is recorded

    def begin(self, uid: int, agent_id: str) -> Agent:
        """Return an agent, which begins now if there is none."""
        return self.agents.setdefault((uid, agent_id), Agent(uid, agent_id))

    def write(  # noqa: PLR0913 - what there is to say of an entry
        self,
        agent: Agent,
        event: str,
        *,
        iteration: int = 0,
        timestamp: Any = None,
        epoch: int = 0,
        is_daemons: bool = False,
        group: int = 0,
    ) -> Entry:
        """Add an entry to an agent and to the log; whoever streams is to see it."""
        when = self.now() if timestamp is None else timestamp
        entry = Entry(
            len(agent.entries), when, iteration, event, is_daemons, epoch=epoch, group=group
        )
        entry.above = self.seen_position
        if agent.first is None:
            agent.first, agent.created_at = entry, when
        agent.entries.append(entry)
        agent.updated_at = when
        name = agent.uid, agent.agent_id
        self.log.append((name, entry))
        for peer in self.peers.values():
            if peer.stream is not None and is_of(name, *peer.stream[:2]):
                peer.due.append((name, entry))
        return entry

    def record(
        self,
        agent: Agent,
        event: str,
        members: dict[str, Any],
        *,
        iteration: int = 0,
        group: int = 0,
    ) -> Entry:
        """Add an entry of the daemon's own."""
        return self.write(
            agent, json.dumps({event: members}), iteration=iteration, is_daemons=True, group=group
        )

    def learn(self, entry: Entry, position: int) -> None:
        """Take note of an entry's position, which never changes.

        Raises:
            AssertionError: it does, or it is not above what was shown before.
        """
        assert entry.position in (None, position), f"was at {entry.position}, is at {position}"
        assert position > entry.above, f"{position} is not above {entry.above}"
        entry.position = position
        self.seen_position = max(self.seen_position, position)

    def compact(self, agent: Agent) -> int:
        """Remove an agent's entries and keys; return how many."""
        name, removed = (agent.uid, agent.agent_id), len(agent.entries)
        self.log = [pair for pair in self.log if pair[0] != name]
        for entry in agent.entries:
            entry.is_gone = True
        agent.entries.clear()
        agent.keys.clear()
        agent.signal_keys.clear()
        agent.attempt_began = 0
        return removed

    def check_order(self) -> None:
        """Hold the positions that are known to the order of the log."""
        highest = -1
        group_highest, group = -1, 0
        for _, entry in self.log:
            if entry.group != group or not group:
                highest, group = max(highest, group_highest), entry.group
            if entry.position is not None:
                assert entry.position > highest, "positions are not in the order of the log"
                group_highest = max(group_highest, entry.position)


def is_of(name: Name, uid: int | None, agent_id: str | None) -> bool:
    """Tell whether an agent is among those asked for."""
    return uid in (None, name[0]) and agent_id in (None, name[1])


def steps_of(agent: Agent) -> dict[str, tuple[bool, bool]]:
    """Return of each step whether it is in doubt, and whether the document leaves that open."""
    found: dict[str, tuple[bool, bool]] = {}
    for key, what in _words(agent.entries):
        in_doubt, is_open = found.get(key, (False, False))
        was_done = key in found and not in_doubt
        if what == "began":
            # "Unique within the agent": of a step that begins again behind its end
            # nothing is said.
            found[key] = (not was_done, is_open or was_done)
        elif what == "ended":
            found[key] = (False, is_open)
    return found


def _words(entries: list[Entry]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        name, payload = entry.name, entry.payload
        if name not in ("StepStarted", "StepCompleted", "StepFailed", "Decided"):
            continue
        key = payload.get("step" if name == "Decided" else "key") if type(payload) is dict else None
        if type(key) is not str:
            continue
        if name == "StepStarted":
            yield key, "began"
        elif name != "Decided" or "result" in payload or "error" in payload:
            yield key, "ended"
