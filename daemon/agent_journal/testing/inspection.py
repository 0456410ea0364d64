"""Reads all that a store holds, every way there is, and compares the ways.

``read``, ``scan``, ``agents`` and ``unfinished`` must tell one story: what one
shows and another does not is a defect, whatever was written before.  So this
needs no knowledge of what was asked for; a test that has a ledger compares it
with what is returned.  It uses the ``Store`` protocol alone, and no socket, so a
test can look at hundreds of journals a second.

    found = await inspect(store)
    assert found.plan == (await inspect(reopened)).plan
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final

import msgspec

from ..model import TERMINAL, AgentId, Micros, Uid
from ..service.config import Config
from ..service.resume_policy import Cause, Limits, Progress, after, decide
from ..store.attached import unfinished_of
from ..store.base import AgentRecord, Entry, Filter, Store, Unfinished

Name = tuple[Uid, AgentId]

LIMIT: Final = 1 << 20
BYTES_MAX: Final = 1 << 30


class InconsistentJournalError(AssertionError):
    """A journal contradicts itself; the message holds where."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        shown = "\n  ".join(self.problems[:20])
        super().__init__(f"{len(self.problems)} problems:\n  {shown}")


@dataclass(frozen=True)
class Inspection:
    """The whole of a journal."""

    agents: dict[Name, AgentRecord]  # by first position
    entries: dict[Name, list[Entry]]  # by sequence
    keys: dict[Name, dict[str, int]]  # of those that were asked for
    plan: list[str]  # who is unfinished, and what is to be done about it, in order
    next_position: int

    @cached_property
    def digest(self) -> bytes:
        """What two journals have in common only if they are the same to every reader."""
        told = msgspec.msgpack.encode(
            [
                list(self.agents.values()),
                list(self.entries.values()),
                sorted((*name, sorted(keys.items())) for name, keys in self.keys.items()),
                self.plan,
                self.next_position,
            ]
        )
        return hashlib.blake2b(told, digest_size=16).digest()


async def inspect(store: Store, keys: Mapping[Name, Iterable[str]] | None = None) -> Inspection:
    """Read everything that *store* has, and where *keys* were used.

    Raises:
        InconsistentJournalError: its answers do not agree.
    """
    agents = [record async for record in _agents(store, None)]
    entries = {_name(record): await _entries(store, record) for record in agents}
    scanned, next_position = await _scanned(store, Filter())
    unfinished = [agent async for agent in _unfinished(store)]
    by_name = {_name(record): record for record in agents}
    used = {
        name: {
            key: int(sequence)
            for key in wanted
            if (sequence := await store.find_key(by_name[name].number, key)) is not None
        }
        for name, wanted in (keys or {}).items()
        if name in by_name
    }
    found = Inspection(by_name, entries, used, plan_of(unfinished), next_position)
    problems = [
        *(problem for record in agents for problem in _disagreements(record, found)),
        *_differences(found, scanned),
        *_wrong_unfinished(agents, unfinished, [one async for one in _unfinished(store)]),
        *[problem async for problem in _leaks(store, found, scanned)],
    ]
    if problems:
        raise InconsistentJournalError(problems)
    return found


def plan_of(unfinished: Iterable[Unfinished], limits: Limits | None = None) -> list[str]:
    """Return what a start would do about each agent, in order, with nothing left to chance."""
    limits = limits or Config().resume
    plan = []
    for agent in unfinished:
        incident = after(agent.attachment.incident, Cause.RESTART, Progress(), limits)
        decision = decide(incident, Cause.RESTART, limits, now=Micros(0), chance=0.0)
        who = f"{agent.uid} {agent.agent_id} {agent.state} epoch {agent.epoch}"
        plan.append(f"{who} attempts {agent.attempts}: {decision}, {agent.attachment}")
    return plan


def _name(record: AgentRecord) -> Name:
    return record.uid, record.agent_id


async def _agents(store: Store, uid: Uid | None) -> AsyncIterator[AgentRecord]:
    after: int | None = -1
    while after is not None:
        found, after = await store.agents(uid=uid, state=None, kind=None, after=after, limit=LIMIT)
        for record in found:
            yield record


async def _unfinished(store: Store) -> AsyncIterator[Unfinished]:
    after = -1
    while found := await store.unfinished(after=after, limit=LIMIT):
        for agent in found:
            yield agent
        after = found[-1].first_position


async def _entries(store: Store, record: AgentRecord) -> list[Entry]:
    found: list[Entry] = []
    while some := await store.read(
        record.number, from_sequence=len(found), limit=LIMIT, bytes_max=BYTES_MAX
    ):
        found += some
    return found


async def _scanned(store: Store, wanted: Filter) -> tuple[list[tuple[AgentRecord, Entry]], int]:
    found: list[tuple[AgentRecord, Entry]] = []
    position, is_end = 0, False
    while not is_end:
        scan = await store.scan(wanted, from_position=position, limit=LIMIT, bytes_max=BYTES_MAX)
        found += scan.entries
        position, is_end = scan.next_position, scan.is_end
    return found, position


def _disagreements(record: AgentRecord, found: Inspection) -> Iterator[str]:
    """Yield where an agent's record is not what its entries say."""
    name = _name(record)
    entries = found.entries[name]
    count = len(entries)
    if record.next_sequence != count:
        yield f"{name}: its next sequence is {record.next_sequence}, and {count} entries are read"
    sequences = [entry.sequence for entry in entries]
    if sequences != [*range(count)]:
        wrong = next(at for at, sequence in enumerate(sequences) if sequence != at)
        yield f"{name}: sequence {sequences[wrong]} stands at {wrong} of {count}"
    for one, other in pairwise(entries):
        if other.position <= one.position:
            yield f"{name}: position {other.position} comes behind {one.position}"
    if any(entry.number != record.number for entry in entries):
        yield f"{name}: it shows entries of another history"
    iteration = max((entry.iteration for entry in entries), default=0)
    if record.last_iteration != iteration:
        yield f"{name}: its last iteration is {record.last_iteration}, entries say {iteration}"
    if entries and record.updated_at != entries[-1].timestamp:
        yield f"{name}: it was updated at {record.updated_at}, not at its last entry's time"
    for key, sequence in found.keys.get(name, {}).items():
        if sequence >= count or key > record.key_high:
            yield f"{name}: {key!r} was used at {sequence} of {count}, highest {record.key_high!r}"


def _differences(found: Inspection, scanned: list[tuple[AgentRecord, Entry]]) -> Iterator[str]:
    """Yield where a scan is not what is read: all of it, once, in order, below the end."""
    read = {
        (name, entry.sequence, entry.position): entry
        for name, entries in found.entries.items()
        for entry in entries
        # What a fork copied lies before its agent's beginning, and a scan leaves it out.
        if entry.position >= found.agents[name].first_position
    }
    shown = {(_name(record), entry.sequence, entry.position): entry for record, entry in scanned}
    for where in sorted(read.keys() ^ shown.keys(), key=lambda one: one[2])[:5]:
        yield f"{where} is only {'read' if where in read else 'scanned'}"
    for where in read.keys() & shown.keys():
        if read[where] != shown[where]:
            yield f"{where} is read as {read[where]!r:.200}, scanned as {shown[where]!r:.200}"
    positions = [entry.position for _, entry in scanned]
    for one, other in pairwise(positions):
        if other <= one:
            yield f"a scan shows position {other} behind {one}"
    if positions and positions[-1] >= found.next_position:
        yield f"position {positions[-1]} is behind the end, which is {found.next_position}"
    numbers = [record.number for record in found.agents.values()]
    if len(set(numbers)) != len(numbers):
        yield "two agents have one history"
    firsts = [record.first_position for record in found.agents.values()]
    if firsts != sorted(set(firsts)):
        yield f"agents do not come by first position: {firsts}"


def _wrong_unfinished(
    agents: list[AgentRecord], unfinished: list[Unfinished], again: list[Unfinished]
) -> Iterator[str]:
    """Yield where who is to be resumed is not who is unfinished and was attached to."""
    expected = [agent for record in agents if (agent := unfinished_of(record)) is not None]
    if unfinished != expected:
        missing = [(one.uid, one.agent_id) for one in expected if one not in unfinished]
        yield f"unfinished agents are wrong, or in another order; missing are {missing}"
    if again != unfinished:
        yield "unfinished agents, asked for twice, are not the same"
    for record in agents:
        if record.attachment is not None and record.state in TERMINAL:
            yield f"{_name(record)} is {record.state}, and would be resumed"


async def _leaks(
    store: Store, found: Inspection, scanned: list[tuple[AgentRecord, Entry]]
) -> AsyncIterator[str]:
    """Yield what somebody sees of another uid, or does not see of their own."""
    for uid in {uid for uid, _ in found.agents}:
        own = [record for record in found.agents.values() if record.uid == uid]
        if [record async for record in _agents(store, uid)] != own:
            yield f"uid {uid} is shown other agents than its own"
        entries, _ = await _scanned(store, Filter(uid=uid))
        if entries != [(record, entry) for record, entry in scanned if record.uid == uid]:
            yield f"a scan for uid {uid} shows other entries than its own"
