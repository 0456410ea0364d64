"""Entries as the bytes of replies: one by one, or as many as a page has room for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..model import ITERATION_MAX, SEQUENCE_MAX
from ..store.base import Entry
from ..wire import render_timestamp

# The timestamp comes in two parts: up to the second, which neighbours share, and the rest.
_ENTRY: Final = (
    b'{"sequence":%d,"position":%d,"timestamp":"%b%06dZ","agent_id":"%b","iteration":%d,"event":%b}'
)
_ENTRY_OF: Final = b'{"uid":%d,' + _ENTRY[1:]
_LARGEST: Final = (SEQUENCE_MAX, SEQUENCE_MAX, b"9999-12-31T23:59:59.", 0, b"", ITERATION_MAX, b"")
_ENVELOPE_BYTES_MAX: Final = len(_ENTRY % _LARGEST)  # without the agent's id
_COMMA: Final = b","


def _render_second(second: int) -> bytes:
    """Return the begin of a timestamp, up to the point behind the second."""
    return render_timestamp(second * 1_000_000)[:20].encode()


class EntryRenderer:
    """Renders entries; remembers the last second, since neighbours share it."""

    def __init__(self) -> None:
        self._second: int | None = None
        self._text = b""

    def render(  # noqa: PLR0913, PLR0917 - an entry has so many fields, and this is called per entry
        self,
        sequence: int,
        position: int,
        timestamp: int,
        agent_id: bytes,
        iteration: int,
        event: bytes,
        uid: int | None = None,
    ) -> bytes:
        """Return one entry as JSON; with *uid* where the reader sees many namespaces."""
        second, micros = divmod(timestamp, 1_000_000)
        if second != self._second:
            self._second = second
            self._text = _render_second(second)
        text = self._text
        if uid is None:
            return _ENTRY % (sequence, position, text, micros, agent_id, iteration, event)
        return _ENTRY_OF % (uid, sequence, position, text, micros, agent_id, iteration, event)


class Page:
    """What was rendered of an agent's entries, and the room that is left for more.

    The entries of a slice are written by one format where it is certain that they
    have room: to write each by a call of its own takes twice as long.
    """

    def __init__(self, agent_id: bytes, room: int) -> None:
        self.count = 0
        self._agent_id = agent_id
        self._room = room
        self._pieces: list[bytes] = []
        self._envelope_bytes_max = _ENVELOPE_BYTES_MAX + len(agent_id) + len(_COMMA)
        self._second: int | None = None
        self._second_text = b""

    @property
    def room(self) -> int:
        """How many bytes of entries to ask for: 1 at the least, which is for any one entry."""
        return max(self._room, 1)

    @property
    def has_room(self) -> bool:
        """Tell whether there is room for anything more; for one entry there always is."""
        return self._room > 0 or not self._pieces

    def take(self, entries: Sequence[Entry]) -> None:
        """Render *entries*, up to the first that has no room."""
        size = sum([len(entry.event) for entry in entries])
        if entries and size + len(entries) * self._envelope_bytes_max <= self._room:
            self._add(self._rendered(entries), len(entries))
            return
        for entry in entries:
            piece = self._rendered([entry])
            if self._pieces and len(piece) > self._room:
                self._room = 0
                return
            self._add(piece, 1)

    def _add(self, piece: bytes, count: int) -> None:
        self._pieces.append(piece)
        self._room -= len(piece) + len(_COMMA)
        self.count += count

    def _rendered(self, entries: Sequence[Entry]) -> bytes:
        values: list[object] = []
        add = values.extend
        agent_id = self._agent_id
        for entry in entries:
            second, micros = divmod(entry.timestamp, 1_000_000)
            if second != self._second:
                self._second, self._second_text = second, _render_second(second)
            text, iteration, event = self._second_text, entry.iteration, entry.event
            add((entry.sequence, entry.position, text, micros, agent_id, iteration, event))
        return _COMMA.join([_ENTRY] * len(entries)) % tuple(values)

    def rendered(self) -> bytes:
        """Return all entries, with commas between them."""
        return _COMMA.join(self._pieces)
