"""A tail that is told when the daemon stops."""

from __future__ import annotations

from agent_journal.testing.daemon import RawConnection
from crash.snapshot import decode_tail_line
from crash.witness import Tail


class ToldTail(Tail):
    """Follows the whole journal; its last line may be an error: why there will be no more."""

    def look(self, connection: RawConnection) -> None:
        """Follow."""
        request = b'{"op":"tail","uid":"*","from_position":%d}\n' % self._from_position
        connection.send(request)
        while b'"ok":false' not in (line := connection.line())[:40]:
            self.shown.append(decode_tail_line(line))
