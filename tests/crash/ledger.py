"""What was asked of the daemon and what it answered, kept outside of it.

A ``Talk`` is one connection's requests in the order they were sent.  How many
may have reached the daemon is noted before they are sent, and what came back is
kept as it came, so after a crash each request is one of three: answered, in
doubt (sent, and not answered), or never sent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

Name = tuple[int, str]
"""An agent: the uid in whose namespace it is, and its id."""

REFUSED_FOR_NOW = frozenset({"overloaded", "shutting_down", "storage_full"})
"""Errors that say nothing of the request, only that nothing of it was recorded."""


class BrokenJournalError(AssertionError):
    """The journal is not what it must be; the message holds what is wrong with it."""

    def __init__(self, problems: Sequence[str]) -> None:
        shown = "\n  ".join(problems[:20])
        super().__init__(f"{len(problems)} problems:\n  {shown}")
        self.problems = list(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An entry to be recorded; its event is like no other's in the whole test."""

    event: bytes
    iteration: int = 0
    key: str | None = None
    timestamp: str | None = None  # as it must come back
    ends: str | None = None  # the state that a Terminated leads to


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One request: an append of *items*, or a compaction where there are none."""

    agent: Name
    items: tuple[Item, ...] = ()
    expected_sequence: int | None = None
    force: bool = False

    def line(self, request_id: int) -> bytes:
        """Return the request as it is sent."""
        uid, agent_id = self.agent
        op = "append" if self.items else "compact"
        head = f'{{"id":{request_id},"op":"{op}","agent_id":"{agent_id}","uid":{uid}'
        if self.force:
            head += ',"force":true'
        if self.expected_sequence is not None:
            head += f',"expected_sequence":{self.expected_sequence}'
        members = [_members(item) for item in self.items]
        if len(members) == 1:
            return b"%b,%b}\n" % (head.encode(), members[0])
        if members:
            inner = b",".join([b"{%b}" % one for one in members])
            return b'%b,"entries":[%b]}\n' % (head.encode(), inner)
        return head.encode() + b"}\n"


def _members(item: Item) -> bytes:
    text = f'"iteration":{item.iteration}'
    if item.key is not None:
        text += f',"key":{json.dumps(item.key)}'
    if item.timestamp is not None:
        text += f',"timestamp":"{item.timestamp}"'
    return b'%b,"event":%b' % (text.encode(), item.event)


class Failure(msgspec.Struct):
    """The ``error`` of a reply."""

    code: str
    outcome: str
    message: str = ""


class Reply(msgspec.Struct):
    """A reply to an append or a compaction."""

    ok: bool
    id: int | None = None
    sequence: int | None = None
    position: int | None = None
    count: int | None = None
    removed: int | None = None
    duplicate: bool = False
    error: Failure | None = None


_decode = msgspec.json.Decoder(Reply).decode


@dataclass(slots=True, kw_only=True)
class Talk:
    """One connection's requests and replies."""

    name: str
    attempts: Sequence[Attempt]
    lines: list[bytes]
    sent: int = 0  # so many may have reached the daemon
    received: bytearray = field(default_factory=bytearray)
    ended_by: str = ""  # what ended the connection, for messages

    @classmethod
    def of(cls, name: str, attempts: Sequence[Attempt]) -> Talk:
        """Return a conversation that has not begun."""
        lines = [attempt.line(index) for index, attempt in enumerate(attempts)]
        return cls(name=name, attempts=attempts, lines=lines)

    def replies(self) -> list[Reply]:
        """Return the replies, of which the last line may be cut off.

        What the daemon could not tell (``storage_failed``) ends the list: from
        there on everything is in doubt.

        Raises:
            BrokenJournalError: they do not come in the order of the requests.
        """
        found: list[Reply] = []
        for index, line in enumerate(bytes(self.received).split(b"\n")[:-1]):
            reply = _decode(line)
            if reply.error is not None and reply.error.outcome == "unknown":
                break
            if reply.id != index or index >= self.sent:
                problem = f"{self.name}: reply {index} is of request {reply.id}"
                raise BrokenJournalError([f"{problem} ({self.sent} were sent): {line[:200]!r}"])
            found.append(reply)
        return found
