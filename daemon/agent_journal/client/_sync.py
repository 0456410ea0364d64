"""The blocking client: waits with ``poll``, and knows nothing of asyncio."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from math import ceil
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from ..clock import Clock
from ..errors import ConnectionLostError, JournalError
from . import _requests as requests
from ._link import Address, Link, Patience, Settings, Wait
from ._requests import WINDOW_REQUESTS, KeyMaker, Pages, Request, Tail
from ._results import Agent, Appended, AppendRequest, Entry, Event, NewEntry, Timestamp
from ._retry import RETRY_S
from ._sync_holding import BlockingHolding
from ._tickets import Pending, Ticket, is_answered

T = TypeVar("T")

PIECE_REQUESTS: Final = 64  # some 30 KB of usual entries: far less than the socket holds


class Client(BlockingHolding):
    """A blocking client of the daemon; ``connect()`` makes one.

    **Threads** may share a client.  One lock lets them take turns, a call at a
    time, and a call holds it until it is answered, however long it is
    repeated; an iterator holds it for a page at a time.  For calls side by
    side give each thread a client, or use ``append_pipelined``.

    **After a fork** the child's first call opens a connection of its own, with
    new keys; the parent's is not disturbed.  An iterator that was begun before
    the fork raises ``RuntimeError`` in the child.

    A signal handler must not use a client that the interrupted code may be using.

    **An interrupted call** (``KeyboardInterrupt``) may have been carried out.
    The connection is given up, and the next call opens another.
    """

    def __init__(  # noqa: PLR0913 - each may be chosen
        self,
        socket: str | os.PathLike[str] | None = None,
        *,
        timeout_s: float | None = None,
        retry_s: float = RETRY_S,
        clock: Clock | None = None,
        patience: Patience | None = None,
        on_lost: Callable[[JournalError], None] | None = None,
    ) -> None:
        self._settings = Settings(
            address=Address(socket),
            timeout_s=timeout_s,
            retry_s=retry_s,
            clock=clock or Clock(),
            patience=patience,
            on_lost=on_lost,
        )
        self._is_closed = False
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._next_key = KeyMaker(self._settings.clock)
        self._channel = _Channel(self._settings)
        self._tails: set[_Channel] = set()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> None:
        """Connect now, to know at once whether the daemon is there.

        Raises:
            DaemonNotRunningError: nothing listens at the socket.
        """
        self._perform(requests.nothing())

    def close(self) -> None:
        """End the connection, also for a call that another thread waits in, and all tails."""
        self._is_closed = True
        for channel in (self._channel, *self._tails):
            channel.close()

    def append(  # noqa: PLR0913 - each may be given to an append
        self,
        agent_id: str,
        event: Event,
        *,
        iteration: int = 0,
        timestamp: Timestamp | None = None,
        expected_sequence: int | None = None,
        epoch: int | None = None,
        key: str | None = None,
        uid: int | None = None,
    ) -> Appended:
        """Record one entry and return where; it is durable then.

        *event* is one object with one key, its name: a mapping, or JSON text,
        which is recorded as it is.  The append is repeated with the same key
        while the connection is lost, never recorded twice.

        Raises:
            JournalError: ``outcome`` says whether it can have been recorded.
        """
        request = AppendRequest(
            agent_id, event, iteration, timestamp, expected_sequence, epoch, key, uid
        )
        channel = self._mine()
        return channel.perform(requests.append(request, self._next_key))

    def append_many(
        self,
        agent_id: str,
        entries: Iterable[NewEntry],
        *,
        expected_sequence: int | None = None,
        epoch: int | None = None,
        uid: int | None = None,
    ) -> Appended:
        """Record *entries* all or none, with neighbouring sequences; the first's is returned.

        Raises:
            JournalError: ``outcome`` says whether they can have been recorded.
        """
        channel = self._mine()
        return channel.perform(
            requests.append_many(
                agent_id,
                entries,
                expected_sequence=expected_sequence,
                epoch=epoch,
                uid=uid,
                next_key=self._next_key,
            )
        )

    def append_pipelined(
        self, appends: Iterable[AppendRequest], *, window: int = WINDOW_REQUESTS
    ) -> Generator[Appended | JournalError, None, None]:
        """Record each of *appends* without waiting for the one before; yield answers in order.

        Up to *window* are underway at once, so an iterable may be endless.
        Every append succeeds or fails by itself: look at what is yielded.
        Answers come between two takes from the iterable, and wait while it does;
        a list or tuple is sent in larger pieces, hence faster.
        After a lost connection all that is unanswered is sent again, in order.
        An append that the daemon refused for the moment is repeated before
        later ones are sent, but those sent already may have been recorded:
        where order within an agent matters more than speed, give
        ``expected_sequence``, which keeps it.  Leaving the iterator early
        leaves open whether the unanswered ones are recorded.
        """
        channel = self._mine()
        # What is at hand already can leave in larger pieces; any other
        # iterable may wait for something before its next, and the ones before
        # that shall be underway meanwhile.
        piece_requests = PIECE_REQUESTS if isinstance(appends, list | tuple) else 1
        pending: deque[Pending[Appended]] = deque()
        try:
            for number, append in enumerate(appends, 1):
                try:
                    request = requests.append(append, self._next_key)
                    pending.append(channel.submit(request, hold=number % piece_requests != 0))
                except JournalError as error:  # never sent: it cannot be written
                    pending.append(error)
                while len(pending) >= window or (pending and is_answered(pending[0])):
                    yield channel.answer_to(pending.popleft())
            while pending:
                yield channel.answer_to(pending.popleft())
        finally:
            channel.abandon(pending)

    def read(
        self,
        agent_id: str,
        from_sequence: int = 0,
        limit: int | None = None,
        *,
        uid: int | None = None,
    ) -> Generator[Entry, None, None]:
        """Yield the agent's entries in sequence order, asking for a page at a time.

        Raises:
            NotFoundError: there is no such agent.
        """
        return self._all(
            requests.ReadPages(agent_id, from_sequence=from_sequence, limit=limit, uid=uid)
        )

    def describe(self, agent_id: str, *, uid: int | None = None) -> Agent:
        """Return what the daemon knows of the agent.

        Raises:
            NotFoundError: there is no such agent.
        """
        return self._perform(requests.describe(agent_id, uid))

    def agents(  # noqa: PLR0913 - the operation has so many members
        self,
        *,
        state: str | None = None,
        kind: str | None = None,
        limit: int | None = None,
        uid: int | str | None = None,
        newest: bool = False,
        prefix: str | None = None,
        after: int | None = None,
    ) -> Generator[Agent, None, None]:
        """Yield one's agents in the order of their first entries; an admin's ``uid="*"``: all.

        With *newest*, the last ones first.  With *prefix*, by id, those whose ids
        begin so.  With *after*, those behind that first position.
        """
        return self._all(
            requests.AgentPages(
                state=state,
                kind=kind,
                limit=limit,
                uid=uid,
                newest=newest,
                prefix=prefix,
                after=after,
            )
        )

    def compact(self, agent_id: str, *, force: bool = False, uid: int | None = None) -> int:
        """Remove all of the agent's entries and return how many there were.

        A repeat after a lost connection counts only what it found.  With
        *force* it is not repeated once it may have been carried out: entries
        written since then would go as well.

        Raises:
            AgentUnfinishedError: it has not ended; *force* removes its entries all the same.
        """
        return self._perform(requests.compact(agent_id, force=force, uid=uid))

    def forget(
        self, agent_id: str, *, force: bool = False, wait: bool = True, uid: int | None = None
    ) -> int:
        """Remove an agent as if it had never been; return how many entries it had.

        On return nothing of it is left in any file of the journal.  Without *wait*
        it is gone for every reader, and its bytes go shortly after.

        Raises:
            AgentUnfinishedError: it has not ended; *force* removes it all the same.
            NotFoundError: there is no such agent, and nothing is left of one that was.
        """
        return self._perform(requests.forget(agent_id, force=force, wait=wait, uid=uid))

    def tail(
        self,
        agent_id: str | None = None,
        *,
        from_position: int | None = None,
        last: int | None = None,
        follow: bool = True,
        uid: int | str | None = None,
    ) -> Generator[Entry, None, None]:
        """Yield entries in position order and, with *follow*, wait for more.

        Uses a connection of its own.  When that is lost it connects again and
        goes on behind the last entry: none is missing, none comes twice.

        Raises:
            DaemonNotRunningError: nothing listened at the first attempt to connect.
        """
        return self._follow(
            Tail(agent_id=agent_id, from_position=from_position, last=last, follow=follow, uid=uid)
        )

    def stats(self, *, uid: int | str | None = None) -> dict[str, Any]:
        """Return the daemon's counters and gauges."""
        return self._perform(requests.stats(uid))

    def ping(self) -> None:
        """Return when the daemon has answered."""
        self._perform(requests.ping())

    def hello(self) -> dict[str, Any]:
        """Return who the daemon is, and its limits.

        Raises:
            UnsupportedProtocolError: the daemon does not speak this client's protocol.
        """
        return self._perform(requests.hello())

    def call(self, request: Mapping[str, object]) -> dict[str, Any]:
        """Send one request as it stands and return the reply as it came.

        Repeated after a lost connection only where that is safe: reading, and
        appends with keys.

        Raises:
            JournalError: the daemon refused it.
        """
        return self._perform(requests.raw(request))

    def _mine(self) -> _Channel:
        """Return this process's channel."""
        if self._pid != os.getpid():
            self._channel.close()
            self._begin()
        if self._is_closed:
            raise RuntimeError("this client is closed")
        return self._channel

    def _perform(self, request: Request[T]) -> T:
        return self._mine().perform(request)

    def _perform_all(self, requests: Sequence[Request[Any]]) -> None:
        """Return when all of *requests*, sent one behind the other, are answered."""
        left = iter(requests)
        self._perform_ahead(lambda: next(left, None), len(requests))

    def _perform_ahead(
        self, next_request: Callable[[], Request[Any] | None], underway_max: int
    ) -> None:
        channel = self._mine()
        pending: deque[Ticket[Any]] = deque()
        try:
            while True:
                while len(pending) < underway_max and (request := next_request()) is not None:
                    pending.append(channel.submit(request, hold=True))
                if not pending:
                    return
                channel.wait_for(pending[0])
                pending.popleft().outcome()
        finally:
            channel.abandon(pending)

    def _all(self, pages: Pages[T]) -> Generator[T, None, None]:
        while (request := pages.next_request()) is not None:
            yield from self._perform(request)

    def _follow(self, tail: Tail) -> Generator[Entry, None, None]:
        self._mine()
        tails = self._tails
        channel = _Channel(self._settings)
        tails.add(channel)
        try:
            for request in tail.requests():
                ticket = channel.submit(request, hold=True)
                while not ticket.is_settled or tail.items:
                    yield from tail.take_items()
                    channel.wait_for(ticket, until=lambda: bool(tail.items))
                ticket.outcome()
        finally:
            channel.close()
            tails.discard(channel)


class _Channel:
    """One connection and the lock for it."""

    def __init__(self, settings: Settings) -> None:
        self._pid = os.getpid()
        self._now = settings.clock.monotonic
        self._conversation = settings.new_conversation()
        self._link = Link(self._conversation, settings)
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._abandoned: deque[Ticket[Any]] = deque()
        self._poll = select.poll()
        self._polled = (-1, 0)  # what it asks about
        self._watch = settings.watch()

    def close(self) -> None:
        """End it, also for another thread that waits in it; in a forked child, only here."""
        if self._pid != os.getpid():
            # The lock may be held by a thread that does not exist here, and
            # the connection is the parent's: close this copy and say nothing.
            self._link.close()
            return
        self._is_closing.set()
        self._link.wake()
        with self._lock:
            self._end()

    def _end(self) -> None:
        self._conversation.close()
        self._link.close()

    def perform(self, request: Request[T]) -> T:
        """Return the answer to *request*."""
        self._check_process()
        with self._lock:
            ticket = self._submit(request)
            self._wait_for(ticket)
        return ticket.outcome()

    def submit(self, request: Request[T], *, hold: bool = False) -> Ticket[T]:
        """Send *request*, or as much as can be sent at once; with *hold*, when the next is sent."""
        self._check_process()
        with self._lock:
            ticket = self._submit(request)
            if not hold:
                try:
                    self._link.advance()
                    self._link.receive()
                except BaseException:
                    self._interrupted(ticket)
                    raise
        return ticket

    def _submit(self, request: Request[T]) -> Ticket[T]:
        if self._is_closing.is_set():
            raise RuntimeError("this client is closed")
        if self._abandoned:
            self._forget_abandoned()
        return self._conversation.submit(request, self._now())

    def wait_for(self, ticket: Ticket[Any], until: Callable[[], bool] = lambda: False) -> None:
        """Wait until *ticket* is settled, or *until* says that it is enough."""
        self._check_process()
        with self._lock:
            self._wait_for(ticket, until)

    def _wait_for(self, ticket: Ticket[Any], until: Callable[[], bool] = lambda: False) -> None:
        if self._watch is not None:
            self._watch.begin()
        try:
            while not ticket.is_settled and not until():
                wait = self._link.advance()
                # Looked at behind the connecting: whoever closes wakes
                # only the socket that is there by then.
                if self._is_closing.is_set():
                    self._end()
                    return
                if not ticket.is_settled:
                    self._wait(wait)
        except BaseException:
            self._interrupted(ticket)
            raise

    def answer_to(self, pending: Pending[Appended]) -> Appended | JournalError:
        """Return the answer, when it is there."""
        if isinstance(pending, JournalError):
            return pending
        self.wait_for(pending)
        return pending.answer()

    def abandon(self, pending: Iterable[Pending[Any]]) -> None:
        """Forget these."""
        # Without the lock: a forgotten iterator is cleaned up at any moment,
        # perhaps in the midst of a call of this very thread.
        self._abandoned.extend(each for each in pending if isinstance(each, Ticket))

    def _forget_abandoned(self) -> None:
        while self._abandoned:
            self._conversation.abandon(self._abandoned.popleft())

    def _interrupted(self, ticket: Ticket[Any] | None) -> None:
        """Give the connection up: nobody knows how much of which line went over it."""
        if ticket is not None:
            self._conversation.abandon(ticket)
        self._link.lose(ConnectionLostError("a call was interrupted"))

    def _wait(self, wait: Wait) -> None:
        if wait.fd is None:
            self._is_closing.wait(wait.seconds)
            return
        wanted = (
            wait.fd,
            (select.POLLIN if wait.readable else 0) | (select.POLLOUT if wait.writable else 0),
        )
        if wanted != self._polled:  # to make one takes as long as to ask it
            self._poll = select.poll()
            self._poll.register(*wanted)
            self._polled = wanted
        watch = self._watch
        seconds = wait.seconds if watch is None else watch.wait_s(wait.seconds)
        timeout = None if seconds is None else ceil(seconds * 1000)
        for _, events in self._poll.poll(timeout):
            if events & ~select.POLLOUT and self._link.receive() and watch is not None:
                watch.begin()
        if watch is not None:
            watch.look(self._link)

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise RuntimeError("this was begun before a fork; begin it again in this process")
