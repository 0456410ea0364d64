"""What the clients asked for and were told, and what is held against it in the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from agent_journal.store.base import AgentRecord, Entry
from agent_journal.store.memory import MemoryStore
from simulation.host import Name

ANSWER_SECONDS_MAX: Final = 60.0
"""How long an answer may take, in virtual time: the slowest commits, several of them."""

OWN_EVENTS: Final = frozenset(
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

Message = dict[str, Any]


@dataclass(slots=True, eq=False)
class Asked:
    """A request, and what came of it."""

    connection: int
    number: int  # on its connection
    request: Message
    sent_at: float
    reply: Message | None = None
    tags: tuple[str, ...] = ()  # of the events that it would record

    @property
    def code(self) -> str | None:
        """What it was refused with."""
        if self.reply is None or self.reply.get("ok", True):
            return None
        code: str = self.reply["error"]["code"]
        return code

    @property
    def is_acknowledged(self) -> bool:
        """Tell whether it was answered with yes."""
        return self.reply is not None and bool(self.reply.get("ok"))


@dataclass
class Ledger:
    """All of it."""

    asked: list[Asked] = field(default_factory=list)
    grants: list[tuple[Name, int, int]] = field(default_factory=list)  # epoch, next sequence
    compacted: set[Name] = field(default_factory=set)  # by whom it was asked for
    slowest: float = 0.0

    def answered(self, asked: Asked, now: float) -> None:
        """Take note of an answer."""
        self.slowest = max(self.slowest, now - asked.sent_at)

    def problems(self, store: MemoryStore) -> Iterator[str]:
        """Yield what is stored and should not be, or the other way round."""
        histories = _histories(store)
        attempted = {tag: asked for asked in self.asked for tag in asked.tags}
        # What is asked for again may have been recorded by the first request.
        again = {tag for asked in self.asked if "repeat" in asked.request for tag in asked.tags}
        stored: dict[str, tuple[Name, Entry]] = {}
        for name, entries in histories.items():
            yield from _gaps(name, entries)
            for entry in entries[_own_from(entries) :]:
                tag = _tag(entry)
                if tag is None:
                    continue
                if tag not in attempted:
                    yield f"{name}: nobody asked for {entry}"
                if tag in stored:
                    yield f"{name}: stored twice: {entry} and {stored[tag]}"
                stored[tag] = name, entry
                asked = attempted.get(tag)
                refused = asked is not None and asked.reply is not None and not asked.reply["ok"]
                if asked is not None and refused and tag not in again:
                    outcome = (asked.reply or {})["error"]["outcome"]
                    if outcome == "not_recorded":
                        yield f"{name}: refused with {asked.code}, and recorded: {entry}"
        yield from self._lost(histories, stored)
        yield from self._out_of_order(stored)
        yield from self._fenced_off(histories)

    def _lost(
        self, histories: dict[Name, list[Entry]], stored: dict[str, tuple[Name, Entry]]
    ) -> Iterator[str]:
        for asked in self.asked:
            if not asked.is_acknowledged or not asked.tags:
                continue
            assert asked.reply is not None
            name = (asked.request["__uid"], asked.request["agent_id"])
            if name in self.compacted:
                continue
            for place, tag in enumerate(asked.tags):
                found = stored.get(tag)
                if found is None:
                    yield f"{name}: acknowledged and lost: {asked.request}, {asked.reply}"
                    break
                entry = found[1]
                said = (asked.reply.get(what, -1) + place for what in ("sequence", "position"))
                at = tuple(said)
                if found[0] != name or (entry.sequence, entry.position) != at:
                    yield f"{name}: acknowledged at {at}, stored at {entry}"

    def _out_of_order(self, stored: dict[str, tuple[Name, Entry]]) -> Iterator[str]:
        """Yield where entries of one connection stand in another order than they were sent."""
        last: dict[tuple[int, Name], Entry] = {}
        again = {tag for asked in self.asked if "repeat" in asked.request for tag in asked.tags}
        for asked in self.asked:
            for tag in asked.tags:
                found = stored.get(tag)
                if found is None or (tag in again and not asked.is_acknowledged):
                    continue  # it may have been recorded by another connection
                if (asked.reply or {}).get("duplicate"):
                    continue
                name, entry = found
                before = last.get((asked.connection, name))
                if before is not None and before.sequence >= entry.sequence:
                    yield f"{name}: sent behind {before}, recorded before it: {entry}"
                last[asked.connection, name] = entry

    def _fenced_off(self, histories: dict[Name, list[Entry]]) -> Iterator[str]:
        """Yield entries of an epoch that another had replaced."""
        for name, epoch, next_sequence in self.grants:
            if name in self.compacted:
                continue
            for entry in histories.get(name, [])[next_sequence:]:
                written_under = _epoch(entry)
                if written_under is not None and written_under < epoch:
                    yield f"{name}: epoch {epoch} was granted, and {written_under} wrote {entry}"

    def left_out(self, store: MemoryStore, shown: list[tuple[int, list[int]]]) -> Iterator[str]:
        """Yield entries that a follower was not shown, and that stand between two it was."""
        visible = [
            entry.position
            for (uid, agent_id), entries in _histories(store).items()
            for entry in entries[_own_from(entries) :]
        ]
        for begin, positions in shown:
            missing = [
                position
                for position in visible
                if begin <= position < positions[-1] and position not in positions
            ]
            if missing:
                yield f"a follower from {begin} was not shown {sorted(missing)}"


def _histories(store: MemoryStore) -> dict[Name, list[Entry]]:
    """Return every agent's entries, as they are on the disk."""
    found: dict[Name, list[Entry]] = {}
    for (uid, agent_id), record in store._agents.items():
        places = store._places.get(record.number, [])
        found[int(uid), str(agent_id)] = [
            entry for place in places if (entry := store._log[place]) is not None
        ]
    return found


def _own_from(entries: list[Entry]) -> int:
    """Return where the entries begin that are no copies."""
    for place in range(len(entries) - 1, -1, -1):
        if entries[place].event.startswith(b'{"Forked"'):
            return place
    return 0


def _gaps(name: Name, entries: list[Entry]) -> Iterator[str]:
    sequences = [entry.sequence for entry in entries]
    if sequences != [*range(len(entries))]:
        yield f"{name}: its sequences are {sequences}"
    positions = [entry.position for entry in entries]
    if positions != sorted(set(positions)):
        yield f"{name}: its positions are {positions}"


def decoded(event: bytes) -> tuple[str, Any]:
    """Return an event's name and what is under it."""
    pair: tuple[str, Any] = next(iter(msgspec.json.decode(event).items()))
    return pair


def _tag(entry: Entry) -> str | None:
    """Return what tells an event of a client's from all others."""
    name, content = decoded(entry.event)
    if name in OWN_EVENTS:
        return None
    return str(content["tag"])


def _epoch(entry: Entry) -> int | None:
    name, content = decoded(entry.event)
    return None if name in OWN_EVENTS else content.get("epoch")


__all__ = ["AgentRecord", "Asked", "Ledger", "Message", "decoded"]
