"""How much the daemon takes in before it stops reading.

Three bounds on what is in flight (received and not yet answered): of one
connection, of one uid, of all.  Where one is reached the daemon stops reading
from the connection that reached it, and goes on when half of it was answered:
back-pressure costs nothing and loses nothing.  A connection may still bring
one chunk more than its bound, and ten thousand connections ten thousand
chunks; so at twice a bound of a uid or of all, what comes is refused as
``overloaded``, which is certain and cheap.

Replies that a client does not read count too, and so do lines that never end.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from ..model import Uid
from .config import Limits

RETRY_MS = 100


class Paused(Protocol):
    """A connection that is not read from."""

    uid: Uid

    def resume(self) -> None:
        """Read again, if nothing else speaks against it."""


class Admission:
    """The bounds, and who waits for room."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bytes_in_flight = 0
        self.partial_bytes = 0
        self.by_uid: Counter[Uid] = Counter()
        self.connections: Counter[Uid] = Counter()
        self._waiting: dict[Paused, None] = {}

    def take(self, uid: Uid, size: int) -> None:
        """Count *size* bytes as in flight."""
        self.bytes_in_flight += size
        self.by_uid[uid] += size

    def give(self, uid: Uid, size: int) -> None:
        """Count *size* bytes as answered, and let those read again who waited for room."""
        self.bytes_in_flight -= size
        self.by_uid[uid] -= size
        if not self.by_uid[uid]:
            del self.by_uid[uid]
        if self._waiting:
            self._wake()

    def change(self, uid: Uid, size: int) -> None:
        """Count *size* bytes more, or less, as in flight."""
        if size > 0:
            self.take(uid, size)
        elif size < 0:
            self.give(uid, -size)

    def is_full(self, uid: Uid) -> bool:
        """Tell whether *uid*, or all together, should not be read from."""
        limits = self.limits
        return (
            self.bytes_in_flight >= limits.bytes_in_flight_max
            or self.by_uid[uid] >= limits.uid_bytes_in_flight_max
        )

    def is_overfull(self, uid: Uid) -> bool:
        """Tell whether appends of *uid* are to be refused."""
        limits = self.limits
        return (
            self.bytes_in_flight >= 2 * limits.bytes_in_flight_max
            or self.by_uid[uid] >= 2 * limits.uid_bytes_in_flight_max
        )

    def wait(self, connection: Paused) -> None:
        """Have *connection* resumed when there is room."""
        self._waiting[connection] = None

    def forget(self, connection: Paused) -> None:
        """Stop waiting for a connection that has ended."""
        self._waiting.pop(connection, None)

    def _wake(self) -> None:
        limits = self.limits
        if 2 * self.bytes_in_flight > limits.bytes_in_flight_max:
            return
        for connection in list(self._waiting):
            if 2 * self.by_uid[connection.uid] <= limits.uid_bytes_in_flight_max:
                del self._waiting[connection]
                connection.resume()
