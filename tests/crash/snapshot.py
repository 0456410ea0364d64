"""Reads a whole journal over the wire, every way there is, and compares the ways.

``read``, ``tail``, ``describe`` and ``agents`` must tell one story: what one
shows and another does not is a defect, whatever was written before.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import msgspec

from agent_journal.testing.daemon import RawConnection, RunningDaemon
from crash.ledger import BrokenJournalError, Name

READS_IN_FLIGHT = 32


class Stored(msgspec.Struct, frozen=True):
    """An entry as the daemon shows it; the event is the bytes that it sent."""

    sequence: int
    position: int
    timestamp: str
    agent_id: str
    iteration: int
    event: bytes


class _Entry(msgspec.Struct):
    sequence: int
    position: int
    timestamp: str
    agent_id: str
    iteration: int
    event: msgspec.Raw
    uid: int | None = None

    def stored(self) -> Stored:
        return Stored(
            self.sequence,
            self.position,
            self.timestamp,
            self.agent_id,
            self.iteration,
            bytes(self.event),
        )


class _Agent(msgspec.Struct):
    uid: int
    agent_id: str
    state: str
    entries: int
    latest_sequence: int
    next_sequence: int
    last_completed_iteration: int
    first_position: int


class _Read(msgspec.Struct):
    entries: list[_Entry]
    next_sequence: int
    more: bool


class _Agents(msgspec.Struct):
    agents: list[_Agent]
    more: bool


class _TailLine(msgspec.Struct):
    entry: _Entry | None = None
    position: int | None = None
    ok: bool | None = None


_decode_tail_line = msgspec.json.Decoder(_TailLine).decode


class Snapshot(msgspec.Struct):
    """The whole journal."""

    entries: dict[Name, list[Stored]]
    states: dict[Name, str]
    next_position: int


def take_snapshot(daemon: RunningDaemon) -> Snapshot:
    """Read everything that *daemon* has.

    Raises:
        BrokenJournalError: its answers do not agree.
    """
    with daemon.connect() as connection:
        agents = list(_agents(connection))
        entries = {}
        for start in range(0, len(agents), READS_IN_FLIGHT):
            some = agents[start : start + READS_IN_FLIGHT]
            # All at once: a switch to the daemon and back takes longer than a read.
            connection.send(b"".join(_request(agent, 0) for agent in some))
            firsts = [decode_page(connection.line()) for _ in some]
            for agent, (first, _, more) in zip(some, firsts, strict=True):
                entries[agent.uid, agent.agent_id] = _rest(connection, agent, first, more=more)
        connection.send(b'{"op":"tail","uid":"*","from_position":0,"follow":false}\n')
        tailed, next_position = _tail_to_end(connection)
    problems = [
        problem
        for agent in agents
        for problem in _disagreements(agent, entries[agent.uid, agent.agent_id])
    ]
    problems += _differences(entries, tailed)
    positions = [stored.position for _, stored in tailed]
    problems += [f"position {b} comes behind {a}" for a, b in pairwise(positions) if b <= a]
    if positions and positions[-1] >= next_position:
        problems.append(f"position {positions[-1]} is behind the end, which is {next_position}")
    if problems:
        raise BrokenJournalError(problems)
    states = {(agent.uid, agent.agent_id): agent.state for agent in agents}
    return Snapshot(entries, states, next_position)


def _check_served(line: bytes) -> None:
    if b'"ok":false' in line[:100]:
        raise BrokenJournalError([f"the journal is not served: {line[:500].decode()}"])


def _agents(connection: RawConnection) -> Iterator[_Agent]:
    after, more = -1, True
    while more:
        where = f',"after":{after}' if after >= 0 else ""
        connection.send(b'{"op":"agents","uid":"*","limit":1000%b}\n' % where.encode())
        line = connection.line()
        _check_served(line)
        page = msgspec.json.decode(line, type=_Agents)
        yield from page.agents
        more = page.more
        after = page.agents[-1].first_position if page.agents else after


def _request(agent: _Agent, from_sequence: int) -> bytes:
    request = '{"op":"read","agent_id":"%s","uid":%d,"from_sequence":%d,"limit":10000}\n'
    return (request % (agent.agent_id, agent.uid, from_sequence)).encode()


def _rest(
    connection: RawConnection, agent: _Agent, found: list[Stored], *, more: bool
) -> list[Stored]:
    """Return *found* and what comes behind it."""
    while more:
        connection.send(_request(agent, len(found)))
        entries, _, more = decode_page(connection.line())
        found += entries
        more = more and bool(entries)
    return found


def decode_page(line: bytes) -> tuple[list[Stored], int, bool]:
    """Return the entries of a reply to a ``read``, where the next begin, and if there are more."""
    _check_served(line)
    page = msgspec.json.decode(line, type=_Read)
    return [entry.stored() for entry in page.entries], page.next_sequence, page.more


def decode_tail_line(line: bytes) -> tuple[Name, Stored]:
    """Return what a line of a ``tail`` with ``"uid": "*"`` shows.

    Raises:
        BrokenJournalError: it shows no entry.
    """
    decoded = _decode_tail_line(line)
    if decoded.entry is None or decoded.entry.uid is None:
        raise BrokenJournalError([f"a tail said {line[:300]!r}"])
    return (decoded.entry.uid, decoded.entry.agent_id), decoded.entry.stored()


def _tail_to_end(connection: RawConnection) -> tuple[list[tuple[Name, Stored]], int]:
    found: list[tuple[Name, Stored]] = []
    while True:
        line = connection.line()
        if b'"entry"' not in line[:20]:
            decoded = _decode_tail_line(line)
            if decoded.position is None:
                raise BrokenJournalError([f"a tail ended with {line[:300]!r}"])
            return found, decoded.position
        found.append(decode_tail_line(line))


def _disagreements(agent: _Agent, entries: list[Stored]) -> Iterator[str]:
    """Yield where an agent's counters are not what its entries say."""
    count = len(entries)
    iteration = max([entry.iteration for entry in entries], default=0)
    expected = (count, count, max(count - 1, 0), iteration)
    counters = (agent.entries, agent.next_sequence, agent.latest_sequence)
    shown = (*counters, agent.last_completed_iteration)
    if shown != expected:
        yield f"{agent.agent_id}: entries, next, latest, iteration are {shown}, not {expected}"
    sequences = [entry.sequence for entry in entries]
    if sequences != [*range(count)]:
        wrong = next(at for at, sequence in enumerate(sequences) if sequence != at)
        yield f"{agent.agent_id}: sequence {sequences[wrong]} stands at {wrong} of {count}"
    for one, other in pairwise(entries):
        if other.position <= one.position:
            yield f"{agent.agent_id}: position {other.position} comes behind {one.position}"


def _own(entries: list[Stored]) -> list[Stored]:
    """Leave out what was copied for a fork before it began, which a tail does not show."""
    begins = [at for at, entry in enumerate(entries) if entry.event.startswith(b'{"Forked"')]
    return entries[begins[0] :] if begins else entries


def _differences(
    entries: dict[Name, list[Stored]], tailed: list[tuple[Name, Stored]]
) -> Iterator[str]:
    read = {(name, entry) for name, found in entries.items() for entry in _own(found)}
    shown = set(tailed)
    for name, entry in sorted(read - shown, key=lambda one: one[1].position)[:5]:
        yield f"{name} sequence {entry.sequence} position {entry.position}: read, but not tailed"
    for name, entry in sorted(shown - read, key=lambda one: one[1].position)[:5]:
        yield f"{name} sequence {entry.sequence} position {entry.position}: tailed, but not read"
    if len(tailed) != len(shown):
        yield f"a tail showed {len(tailed) - len(shown)} entries twice"
