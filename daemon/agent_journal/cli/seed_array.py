"""The array of entries of Symbiont's agent runtime, whose journal this one grew from.

It is one JSON array of objects with ``sequence``, ``timestamp``, ``agent_id``,
``iteration`` and ``event``, in the order in which they were stored, agents mixed.
That system gave a sequence twice after a restart, so the order is believed and
entries are numbered anew.  Which of its agents ended is told by ``Terminated``.

The array is read twice, a piece at a time: to count what each agent has, and to
send it.  What is held of an agent in between is a few numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from .export_file import LINE_BYTES_MAX, Contents, Page, decoded, unusable
from .progress import Progress
from .raw_json import object_members

READ_BYTES: Final = 1 << 20
HELD_BYTES_MAX: Final = 4 << 20  # of entries that wait for others of their agent

_FRACTION: Final = re.compile(r"\.(\d{6})\d+")  # beyond microseconds nothing is kept
_SPACE: Final = re.compile(r"[ \t\n\r]*")


class _Agent:
    """What is known of an agent of the array."""

    def __init__(self, created_at: str) -> None:
        self.created_at = created_at
        self.entries = 0
        self.sent = 0
        self.state = "running"
        self.reason: str | None = None


class SeedArray:
    """An array of entries; the two reads must follow each other."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._agents: dict[str, _Agent] = {}
        self._renumbered = 0

    def check(self, progress: Progress) -> Contents:
        """Read the array to its end; return what it holds.

        Raises:
            CommandError: it is no such array; says which of its items.
        """
        for number, text in enumerate(self._items()):
            progress.at(self._stream.tell())
            self._count(number, decoded(text))
        entries = sum(agent.entries for agent in self._agents.values())
        return Contents(agents=len(self._agents), entries=entries, renumbered=self._renumbered)

    def _count(self, number: int, fields: dict[str, Any]) -> None:
        agent_id, timestamp, event = (
            fields.get(name) for name in ("agent_id", "timestamp", "event")
        )
        if not (isinstance(agent_id, str) and isinstance(timestamp, str)) or event is None:
            raise unusable(f'item {number} of the array lacks "agent_id", "timestamp" or "event"')
        agent = self._agents.get(agent_id)
        if agent is None:
            agent = self._agents[agent_id] = _Agent(_FRACTION.sub(r".\1", timestamp))
        self._renumbered += fields.get("sequence") != agent.entries
        agent.entries += 1
        agent.state, agent.reason = _state_after(event)

    def pages(self) -> Iterator[Page]:
        """Yield the entries of each agent, in the array's order."""
        held: dict[str, Page] = {}
        size = 0
        for text in self._items():
            members = object_members(text)
            agent_id = members["agent_id"].value
            assert isinstance(agent_id, str)  # noqa: S101 - check() saw it
            agent = self._agents[agent_id]
            page = held.get(agent_id)
            if page is None:
                page = held[agent_id] = Page(agent_id=agent_id, agent=_header(agent_id, agent))
            entry = _entry(members, agent.sent)
            agent.sent += 1
            page.add(entry)
            size += len(entry)
            while page.is_full or agent.sent == agent.entries or size > HELD_BYTES_MAX:
                page = held.pop(agent_id)
                size -= page.size
                page.at = self._stream.tell()
                yield page
                if size <= HELD_BYTES_MAX:
                    break
                agent_id = max(held, key=lambda name: held[name].size)
                page, agent = held[agent_id], self._agents[agent_id]

    def _items(self) -> Iterator[str]:
        """Yield the items of the array, each as its text on one line."""
        self._stream.seek(0)
        buffer, at = self._more("", 0)
        at = _skip(buffer, at)
        if buffer[at : at + 1] != "[":
            raise unusable("the file is neither an export nor an array of entries")
        at += 1
        number = 0
        while True:
            buffer, at = self._up_to_a_token(buffer, at)
            if buffer[at : at + 1] == "]":
                return
            if number:
                if buffer[at : at + 1] != ",":
                    raise unusable(f"the array breaks off behind its item {number - 1}")
                buffer, at = self._up_to_a_token(buffer, at + 1)
            text, buffer, at = self._item(buffer, at, number)
            yield text
            number += 1

    def _up_to_a_token(self, buffer: str, at: int) -> tuple[str, int]:
        while (at := _skip(buffer, at)) == len(buffer):
            buffer, at = self._more(buffer, at)
        return buffer, at

    def _item(self, buffer: str, at: int, number: int) -> tuple[str, str, int]:
        while True:
            try:
                _, end = _scan(buffer, at)
            except (ValueError, RecursionError) as error:
                if len(buffer) - at > LINE_BYTES_MAX:
                    raise unusable(f"item {number} of the array is not JSON: {error}") from None
            else:
                # In a string there is no line end, and between tokens a space does.
                text = buffer[at:end].replace("\n", " ").replace("\r", " ")
                return text, buffer, end
            buffer, at = self._more(buffer, at)

    def _more(self, buffer: str, at: int) -> tuple[str, int]:
        """Return what is left of *buffer*, with more of the file behind it."""
        left = len(buffer) - at
        data = self._stream.read(max(READ_BYTES, left))  # twice as much: a large item is soon whole
        if not data:
            raise unusable("the array is cut off: it does not end")
        while True:
            try:
                return buffer[at:] + data.decode(), 0
            except UnicodeDecodeError as error:
                rest = self._stream.read(1) if error.end == len(data) else b""
                if not rest:
                    raise unusable(f"the file is not UTF-8: {error}") from None
                data += rest  # a character was cut in two


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _state_after(event: object) -> tuple[str, str | None]:
    """Return the state that an agent is in behind *event*, if it is its last."""
    if event == "Terminated":
        return "failed", None
    if not isinstance(event, dict) or "Terminated" not in event:
        return "running", None
    told = event["Terminated"]
    reason = told.get("reason") if isinstance(told, dict) else None
    reason = reason if isinstance(reason, str) else None
    return ("completed" if reason == "Completed" else "failed"), reason


def _header(agent_id: str, agent: _Agent) -> str:
    fields: dict[str, object] = {
        "agent_id": agent_id,
        "state": agent.state,
        "created_at": agent.created_at,
        "entries": agent.entries,
    }
    return json.dumps(fields if agent.reason is None else {**fields, "reason": agent.reason})


def _entry(members: dict[str, Any], sequence: int) -> str:
    """Return an entry with the event's text as it stands; a bare name has nothing under it."""
    event = members["event"].text
    if isinstance(members["event"].value, str):
        event = f"{{{event}:null}}"
    timestamp = _FRACTION.sub(r".\1", members["timestamp"].text)
    iteration = members["iteration"].text if "iteration" in members else "0"
    return (
        f'{{"sequence":{sequence},"timestamp":{timestamp},"iteration":{iteration},"event":{event}}}'
    )


_scan: Final = json.JSONDecoder(parse_int=len).raw_decode
