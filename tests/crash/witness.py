"""Looks at the journal while it is written: what was shown once must never be untrue.

A reader has no part in any promise to a writer, but has one of its own: what
``read`` and ``tail`` show is durable, in commit order, and a tail leaves
nothing out.  So what they got before the daemon was killed is held against what
it has afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from agent_journal.testing.daemon import RawConnection
from crash.ledger import Name
from crash.snapshot import Stored, decode_page, decode_tail_line

Entries = Mapping[Name, Sequence[Stored]]


class Witness(threading.Thread):
    """Looks until the daemon is gone, or until it is told to stop."""

    def __init__(self, socket: Path) -> None:
        super().__init__(daemon=True)
        self.shown: list[tuple[Name, Stored]] = []
        self.failure: Exception | None = None
        self._connection = RawConnection(socket)

    def run(self) -> None:
        """Look."""
        try:
            self.look(self._connection)
        except (OSError, EOFError):
            pass  # killed, as it should be
        except Exception as error:  # noqa: BLE001 - the main thread reports it
            self.failure = error
        finally:
            self._connection.close()

    def look(self, connection: RawConnection) -> None:
        """Add what the daemon shows to ``shown``, for ever."""
        raise NotImplementedError

    def finish(self) -> None:
        """Wait for the end, after the daemon's, and report a failure of our own."""
        self.join()
        if self.failure is not None:
            raise self.failure

    def problems(self, entries: Entries, compacted: Collection[Name]) -> Iterator[str]:
        """Yield what was shown and is not so."""
        for name, stored in self.shown:
            if name in compacted:
                continue
            found = entries.get(name, ())
            if stored.sequence >= len(found) or found[stored.sequence] != stored:
                yield f"{type(self).__name__} saw {name} {stored!r:.200}, which is not there"


class Tail(Witness):
    """Follows the whole journal from a position on."""

    def __init__(self, socket: Path, from_position: int) -> None:
        super().__init__(socket)
        self._from_position = from_position

    def look(self, connection: RawConnection) -> None:
        """Follow."""
        request = b'{"op":"tail","uid":"*","from_position":%d}\n' % self._from_position
        connection.send(request)
        while True:
            self.shown.append(decode_tail_line(connection.line()))

    def problems(self, entries: Entries, compacted: Collection[Name]) -> Iterator[str]:
        """Yield what was shown and is not so, out of order, or left out."""
        yield from super().problems(entries, compacted)
        positions = [stored.position for _, stored in self.shown]
        for one, other in pairwise(positions):
            if other <= one:
                yield f"a tail showed position {other} behind {one}"
        if not positions:
            return
        shown = set(positions)
        for name, found in entries.items():
            for stored in found:
                is_passed = self._from_position <= stored.position <= positions[-1]
                if is_passed and stored.position not in shown:
                    yield f"a tail left out {name} {stored!r:.200}"


class Reader(Witness):
    """Reads some agents from their beginning, again and again."""

    def __init__(self, socket: Path, names: Sequence[Name]) -> None:
        super().__init__(socket)
        self._names = names

    def look(self, connection: RawConnection) -> None:
        """Read."""
        request = b'{"op":"read","agent_id":"%b","uid":%d,"from_sequence":%d,"limit":500}\n'
        sequences = dict.fromkeys(self._names, 0)
        while self._names:
            for name in self._names:
                uid, agent_id = name
                connection.send(request % (agent_id.encode(), uid, sequences[name]))
                line = connection.line()
                if b'"not_found"' in line:
                    continue
                entries, sequences[name], more = decode_page(line)
                self.shown += [(name, entry) for entry in entries]
                if not more and sequences[name] > 0:
                    sequences[name] -= 1  # the newest one again, and what comes behind it
