"""What an agent's journal must be after a list of requests: the contract, executed.

It is as simple as can be (a list, a dictionary, a word), because it is what the
daemon is measured against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from crash.ledger import REFUSED_FOR_NOW, Attempt, Item, Name, Reply
from crash.snapshot import Stored


@dataclass(slots=True, kw_only=True)
class AgentModel:
    """One agent: entries found at the last check, then those that were asked for since."""

    entries: list[Stored | Item] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)
    state: str | None = None  # None: it has not begun

    def copy(self) -> AgentModel:
        """Return what may be changed without changing this one."""
        return AgentModel(entries=[*self.entries], keys=dict(self.keys), state=self.state)

    def serve(self, attempt: Attempt) -> str:
        """Do what *attempt* asks for; return what the reply must say, as one line."""
        return self._append(attempt) if attempt.items else self._compact(attempt)

    def _compact(self, attempt: Attempt) -> str:
        if self.state is None:
            return "not_found"
        if self.state == "running" and not attempt.force:
            return "agent_unfinished"
        removed = len(self.entries)
        self.entries.clear()
        self.keys.clear()
        return f"removed {removed}"

    def _append(self, attempt: Attempt) -> str:
        items = attempt.items
        first = len(self.entries)
        known = [self.keys[item.key] for item in items if item.key in self.keys]
        if known:
            return self._repeat(known, items)
        if attempt.expected_sequence not in (None, first):
            return "sequence_conflict"
        if self.state in ("completed", "failed") and self.entries:
            return "agent_finished"
        for sequence, item in enumerate(items, first):
            self.entries.append(item)
            if item.key is not None:
                self.keys[item.key] = sequence
        self.state = items[-1].ends or "running"
        return recorded(first, len(items))

    def _repeat(self, known: Sequence[int], items: Sequence[Item]) -> str:
        first, count = known[0], len(items)
        there = [entry.event for entry in self.entries[first : first + count]]
        if list(known) == [*range(first, first + count)] and there == [one.event for one in items]:
            return recorded(first, count) + " duplicate"
        return "key_conflict"


def recorded(sequence: int, count: int) -> str:
    """Return what a reply says that says yes to an append."""
    return f"sequence {sequence} count {count}"


def said(reply: Reply) -> str:
    """Return what *reply* says, in the model's words."""
    if reply.error is not None:
        return reply.error.code
    if reply.removed is not None:
        return f"removed {reply.removed}"
    duplicate = " duplicate" if reply.duplicate else ""
    return f"sequence {reply.sequence} count {reply.count}{duplicate}"


def is_refused_for_now(reply: Reply | None) -> bool:
    """Tell whether the daemon said that it did not even consider the request."""
    return reply is not None and reply.error is not None and reply.error.code in REFUSED_FOR_NOW


Models = dict[Name, AgentModel]
