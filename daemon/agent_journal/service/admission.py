"""How much the daemon takes in before it stops reading.

Three bounds on what is in flight (received and not yet answered): of one
connection, of one uid, of all.  Where one is reached the daemon stops reading
from the connection that reached it, and goes on when half of it was answered:
back-pressure costs nothing and loses nothing.  A connection may still bring
one chunk more than its bound, and ten thousand connections ten thousand
chunks; so at twice a bound of a uid or of all, what comes is refused as
``overloaded``, which is certain and cheap.

The bound of all is for those who fill it: a uid that has less in flight than an
equal share of it is served as ever, however many others flood.  So all of them
together may have up to twice the bound before any of them is refused.

Replies that a client does not read count too, and so do lines that never end.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from ..model import Uid
from .config import Limits

RETRY_MS = 100


class Paused(Protocol):
    """A connection that is not read from."""

    uid: Uid

    def resume(self) -> None:
        """Read again, if nothing else speaks against it."""


class Account:
    """What one uid has in flight."""

    __slots__ = ("bytes_in_flight", "connections", "served", "uid")

    def __init__(self, uid: Uid) -> None:
        self.uid = uid
        self.bytes_in_flight = 0
        self.connections = 0
        self.served = 0  # requests, also of who is gone: they come to something yet


class Admission:
    """The bounds, and who waits for room."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bytes_in_flight = 0
        self.partial_bytes = 0
        self.accounts: dict[Uid, Account] = {}
        self._waiting: dict[Paused, None] = {}

    def account(self, uid: Uid) -> Account:
        """Return the account of *uid*, which has a connection at least."""
        account = self.accounts.get(uid)
        if account is None:
            account = self.accounts[uid] = Account(uid)
        return account

    def opened(self, uid: Uid) -> None:
        """Count a connection."""
        self.account(uid).connections += 1

    def closed(self, uid: Uid) -> None:
        """Count a connection no more, and forget an account of which nothing is left."""
        account = self.accounts[uid]
        account.connections -= 1
        self._forget_if_gone(account)

    def begin(self, account: Account) -> None:
        """Count a request that is being served."""
        account.served += 1

    def end(self, account: Account) -> None:
        """Count it no more: what it came to is in flight, or answered."""
        account.served -= 1
        self._forget_if_gone(account)

    def _forget_if_gone(self, account: Account) -> None:
        if not (account.connections or account.bytes_in_flight or account.served):
            self.accounts.pop(account.uid, None)

    def change(self, account: Account, size: int) -> None:
        """Count *size* bytes as in flight; less than none, as answered.

        Those who waited for room read again when half of a bound is free.
        """
        self.bytes_in_flight += size
        account.bytes_in_flight += size
        if size < 0:
            if self._waiting:
                self._wake()
            if not account.connections:
                self._forget_if_gone(account)

    @property
    def is_tight(self) -> bool:
        """Tell whether a bound may have been reached, in all or of some uid."""
        return self.bytes_in_flight >= self.limits.uid_bytes_in_flight_max

    @property
    def is_holding_too_much(self) -> bool:
        """Tell whether lines that have not ended take too much."""
        return self.partial_bytes > self.limits.partial_bytes_max

    def is_full(self, account: Account) -> bool:
        """Tell whether a uid, or all together, should not be read from."""
        return self._exceeds(account, 1)

    def is_overfull(self, account: Account) -> bool:
        """Tell whether appends of a uid are to be refused."""
        return self._exceeds(account, 2)

    def _exceeds(self, account: Account, factor: int) -> bool:
        limits = self.limits
        if account.bytes_in_flight >= factor * limits.uid_bytes_in_flight_max:
            return True
        if self.bytes_in_flight < factor * limits.bytes_in_flight_max:
            return False
        # Who has less than an equal share (and one is left over) is not whom it is full of.
        share = limits.bytes_in_flight_max // (len(self.accounts) + 1)
        return account.bytes_in_flight >= share

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
            account = self.accounts.get(connection.uid)
            if account is None or 2 * account.bytes_in_flight <= limits.uid_bytes_in_flight_max:
                self._waiting.pop(connection, None)
                # Not now: whoever made room is in the middle of something, and may
                # be the one that waited.
                asyncio.get_running_loop().call_soon(connection.resume)
