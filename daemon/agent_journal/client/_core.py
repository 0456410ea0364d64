"""A conversation with the daemon, without I/O.

Requests go in (``submit``) and become ``Ticket``s; a shell carries bytes to and
from a socket; tickets are settled with a result or an error.  The shell that
blocks and the one under asyncio differ only in how they wait.  All that is
hard is here, and knows neither socket nor clock:

- **Matching.**  Replies come in request order, so the answer belongs to the
  oldest unanswered ticket; the id is there to prove it.  A ticket that nobody
  waits for any more (cancelled, timed out) keeps its place for that.
- **Repeating.**  When the connection is lost, everything unanswered is sent
  again over the next one, in its first order and with its first keys.  The
  first attempt follows at once, the others back off.  Each ticket gives up
  ``retry_s`` after its first failure.
- **Order.**  When the daemon refuses an append for the moment, those sent
  behind it may have been taken.  So further appends wait until all that was
  sent is answered, and then the refused ones go first.  One that was refused
  only because it expected a sequence behind a refused one goes with them.

Invariant: a ticket is settled exactly once, and no ticket is left unsettled
when the conversation is closed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Final, TypeVar, cast

from ..errors import (
    ConnectionLostError,
    JournalError,
    Outcome,
    OverloadedError,
    SequenceConflictError,
    ShuttingDownError,
    StorageFullError,
)
from ._garbage import collection_paused
from ._replies import (
    LONG_BYTES,
    LineBuffer,
    ProtocolError,
    decode_reply,
    error_in,
)
from ._requests import NOTHING, Request
from ._retry import STORAGE_FULL_REPEATS_MAX, backoff_s
from ._tickets import Ticket, copy_of, in_doubt, verdict_on

T = TypeVar("T")

# How much is handed to the socket at once: several times its buffer.
SEND_BYTES: Final = 1 << 18

STEADY_S: Final = 2.0  # a connection that held for so long was a good one


class DaemonNotRunningError(JournalError):
    """Nothing listens at the socket; nothing was recorded."""

    code: ClassVar[str] = "daemon_not_running"
    outcome: ClassVar[Outcome] = Outcome.NOT_RECORDED
    retryable: ClassVar[bool] = True


class NotAnsweringError(JournalError):
    """Something listens at the socket and says nothing; what was not sent was not recorded."""

    code: ClassVar[str] = "not_answering"
    outcome: ClassVar[Outcome] = Outcome.NOT_RECORDED


class Conversation:
    """What was asked and is not answered yet, across connections."""

    def __init__(
        self, *, retry_s: float, timeout_s: float | None, random: Callable[[], float]
    ) -> None:
        self._retry_s = retry_s
        self._timeout_s = timeout_s
        self._random = random
        self._lines = LineBuffer()
        self._latest_number = 0
        self._waiting: deque[Ticket[Any]] = deque()  # to be sent, in order
        self._sent: deque[Ticket[Any]] = deque()  # to be answered, in order
        self._held: list[Ticket[Any]] = []  # refused for the moment, in order
        self._newly_sent = 0  # by the last bytes_to_send
        self._by_deadline: deque[Ticket[Any]] = deque()
        self._unsettled = 0
        self._failures = 0  # in a row
        self._not_before = 0.0
        self._was_connected = False
        self._is_connected = False
        self._connected_at: float | None = None
        self._is_leaving = False  # the daemon said that it is going
        self._latest_error: JournalError | None = None

    # What the caller does.

    def submit(self, request: Request[T], now: float) -> Ticket[T]:
        """Take *request*; it is sent when the shell asks what there is to send."""
        self._latest_number += 1
        timeout_s = None if request.is_stream else self._timeout_s
        deadline = None if timeout_s is None else now + timeout_s
        ticket = Ticket(self._latest_number, request, deadline)
        self._waiting.append(ticket)
        if deadline is not None:
            self._by_deadline.append(ticket)
        self._unsettled += 1
        return ticket

    def abandon(self, ticket: Ticket[Any]) -> None:
        """Forget the caller of *ticket*; what was sent may be carried out all the same."""
        if not ticket.is_settled:
            ticket.on_settled = None
            self._settle(ticket, error=ConnectionLostError("the caller stopped waiting"))

    def close(self) -> None:
        """Settle whatever is left."""
        self.disconnected()
        for ticket in self._waiting:
            self._settle(ticket, error=in_doubt("the client was closed", ticket))
        self._waiting.clear()

    # What the shell asks.

    @property
    def needs_connection(self) -> bool:
        """Tell whether anybody waits for anything."""
        return self._unsettled > 0

    @property
    def wants_data(self) -> bool:
        """Tell whether to read: a stream whose items nobody took is left to wait."""
        return not (self._sent and self._sent[0].request.is_full)

    def pause_s(self, now: float) -> float:
        """Return how long to wait before the next attempt to connect."""
        return max(0.0, self._not_before - now)

    def wake_s(self, now: float) -> float | None:
        """Return in how many seconds to look again, whatever comes; ``None`` for never."""
        due = []
        while self._by_deadline and self._by_deadline[0].is_settled:
            self._by_deadline.popleft()
        if self._by_deadline:
            due.append(cast("float", self._by_deadline[0].deadline))
        is_pausing = self._unsettled > 0 and not self._is_connected
        if is_pausing or (self._held and not self._is_append_underway()):
            due.append(self._not_before)
        return max(0.0, min(due) - now) if due else None

    def bytes_to_send(self, now: float) -> bytes:
        """Return the next lines to send, of which nothing was sent over this connection yet."""
        if self._is_leaving or not (self._waiting or self._held):
            return b""
        self._release_held(now)
        lines: list[bytes] = []
        passed_over: list[Ticket[Any]] = []
        size = 0
        while self._waiting and size < SEND_BYTES:
            ticket = self._waiting.popleft()
            if ticket.is_settled:
                continue
            if ticket.request.op == NOTHING:
                self._settle(ticket)
                continue
            if self._held and ticket.request.agent_id is not None:
                passed_over.append(ticket)
                continue
            lines.append(ticket.request.line(ticket.number))
            size += len(lines[-1])
            self._sent.append(ticket)
        self._waiting.extendleft(reversed(passed_over))
        self._newly_sent = len(lines)
        return b"".join(lines)

    def take_back(self) -> None:
        """Note that nothing of the last ``bytes_to_send`` has left."""
        for _ in range(min(self._newly_sent, len(self._sent))):
            self._waiting.appendleft(self._sent.pop())
        self._newly_sent = 0

    def _release_held(self, now: float) -> None:
        if self._held and now >= self._not_before and not self._is_append_underway():
            self._waiting.extendleft(reversed(self._held))
            self._held.clear()

    def _is_append_underway(self) -> bool:
        return any(ticket.request.agent_id is not None for ticket in self._sent)

    # What the shell reports.

    @property
    def is_first_failure(self) -> bool:
        """Tell whether what just failed is to be tried again, for the first time."""
        return self._failures == 1 and self._unsettled > 0

    def connected(self, now: float | None = None) -> None:
        """Note that there is a connection, over which nothing was sent yet."""
        self._is_connected = self._was_connected = True
        self._connected_at = now

    def disconnected(self) -> None:
        """Note that the connection has ended."""
        self._lines = LineBuffer()
        self._is_connected = self._is_leaving = False
        for ticket in self._sent:
            ticket.is_in_doubt = True
        unsettled = self._unsettled_in_order()
        self._sent.clear()
        self._held.clear()
        self._waiting = deque(unsettled)

    def failed(self, error: JournalError, now: float) -> None:
        """Note that connecting failed or the connection was lost, and why."""
        self._forgive_streams(now)
        not_underway = {ticket.number for ticket in (*self._waiting, *self._held)}
        self.disconnected()
        self._failures += 1
        self._latest_error = error
        delay_s = backoff_s(self._failures, self._random)
        self._not_before = now + delay_s
        is_first_connect = isinstance(error, DaemonNotRunningError) and not self._was_connected
        is_final = is_first_connect or not error.retryable
        for ticket in list(self._waiting):
            may_repeat = ticket.request.may_repeat or ticket.number in not_underway
            if is_final or not may_repeat or not self._has_time(ticket, now, delay_s):
                self._settle(ticket, error=verdict_on(error, ticket))

    def _forgive_streams(self, now: float) -> None:
        """Begin to count anew for streams whose connection held.

        Over a journal in which nothing happens no line comes to say that all is well.
        """
        since, self._connected_at = self._connected_at, None
        if since is None or now - since < STEADY_S:
            return
        for ticket in self._sent:
            if ticket.request.is_stream:
                ticket.give_up_at = None
                self._failures = 0

    def receive(self, data: bytes, now: float) -> None:
        """Take what the daemon sent, and settle the tickets that it answers.

        Raises:
            JournalError: the connection is of no use any more; give it up with this.
        """
        for line in self._lines.feed(data):
            if len(line) < LONG_BYTES:
                self._take(decode_reply(line), now)
                continue
            with collection_paused():
                self._take(decode_reply(line), now)
        if self._is_leaving and not self._sent:
            raise ShuttingDownError("the daemon is shutting down")

    def expire(self, now: float) -> None:
        """Settle the tickets whose time is up."""
        while self._by_deadline and (
            self._by_deadline[0].is_settled or cast("float", self._by_deadline[0].deadline) <= now
        ):
            ticket = self._by_deadline.popleft()
            if not ticket.is_settled:
                self._settle(ticket, error=self._timed_out(ticket))

    def _timed_out(self, ticket: Ticket[Any]) -> JournalError:
        was_sent = ticket.is_in_doubt or ticket in self._sent
        if not was_sent and self._latest_error is not None and not self._is_connected:
            return copy_of(self._latest_error)
        return in_doubt(f"no answer came within {self._timeout_s:g} s", ticket, was_sent=was_sent)

    # What a reply means.

    def _take(self, reply: dict[str, Any], now: float) -> None:
        ticket = self._sent[0] if self._sent else None
        if ticket is None or reply.get("id") != ticket.number:
            ticket = self._unmatched(reply, ticket)
        try:
            if ticket.request.take(reply):
                self._progressed(ticket)
                return
            is_ok = reply["ok"] is True
            result = ticket.request.parse(reply) if is_ok and not ticket.is_settled else None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProtocolError(
                f"the answer to {ticket.request.op!r} is not understood: {error!r}"
            ) from error
        if is_ok:
            self._sent.popleft()
            self._failures = 0
            self._settle(ticket, result=result)
        else:
            self._refused(ticket, reply, now)

    def _unmatched(self, reply: dict[str, Any], head: Ticket[Any] | None) -> Ticket[Any]:
        """Return the ticket that a reply without its id belongs to."""
        if reply.get("id") is not None or reply.get("ok") is not False:
            raise ProtocolError("an answer came that nothing was asked for: is this the daemon?")
        error, is_retryable = error_in(reply)
        if head is None or is_retryable:  # said of the connection as a whole
            raise error
        return head  # its line was so bad that the daemon could not read the id

    def _progressed(self, ticket: Ticket[Any]) -> None:
        self._failures = 0
        ticket.give_up_at = None
        if ticket.on_settled is not None:
            ticket.on_settled()

    def _refused(self, ticket: Ticket[Any], reply: dict[str, Any], now: float) -> None:
        error, is_retryable = error_in(reply)
        if is_retryable and ticket.request.is_stream:
            raise error  # a stream begins anew over a new connection
        self._sent.popleft()
        self._is_leaving = self._is_leaving or isinstance(error, ShuttingDownError)
        if ticket.is_settled:
            return
        if is_retryable:
            may_come_again = self._may_come_again(ticket, error, now)
        else:
            is_conflict = isinstance(error, SequenceConflictError)
            may_come_again = is_conflict and self._is_behind_held(ticket)
        if may_come_again:
            self._held.append(ticket)
        else:
            self._settle(ticket, error=verdict_on(error, ticket) if is_retryable else error)

    def _may_come_again(self, ticket: Ticket[Any], error: JournalError, now: float) -> bool:
        ticket.refusals += 1
        if isinstance(error, StorageFullError) and ticket.refusals > STORAGE_FULL_REPEATS_MAX:
            return False
        # Another attempt at once would only meet what refused this one.
        delay_s = backoff_s(ticket.refusals + 1, self._random)
        asked_ms = error.details.get("retry_ms")
        if isinstance(error, OverloadedError) and isinstance(asked_ms, int | float):
            delay_s = max(delay_s, asked_ms / 1000)
        if not self._has_time(ticket, now, delay_s):
            return False
        self._not_before = max(self._not_before, now + delay_s)
        return True

    def _is_behind_held(self, ticket: Ticket[Any]) -> bool:
        return any(held.request.agent_id == ticket.request.agent_id for held in self._held)

    # Settling.

    def _has_time(self, ticket: Ticket[Any], now: float, delay_s: float) -> bool:
        """Tell whether *ticket* may be tried again after *delay_s*."""
        if ticket.give_up_at is None:
            ticket.give_up_at = now + self._retry_s
        return self._retry_s > 0 and now + delay_s <= ticket.give_up_at

    def _unsettled_in_order(self) -> list[Ticket[Any]]:
        tickets = (*self._sent, *self._held, *self._waiting)
        return sorted(
            (ticket for ticket in tickets if not ticket.is_settled),
            key=lambda ticket: ticket.number,
        )

    def _settle(
        self, ticket: Ticket[T], *, result: T | None = None, error: JournalError | None = None
    ) -> None:
        if ticket.is_settled:
            return
        ticket.is_settled = True
        ticket.result, ticket.error = result, error
        self._unsettled -= 1
        if ticket.on_settled is not None:
            ticket.on_settled()
