"""The client for asyncio: callbacks around the same non-blocking socket.

No task and no stream stands between a caller and the socket: ``advance`` runs
once in each turn of the loop in which somebody asked something, so what many
tasks ask at once leaves in one ``send``.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

from ..clock import Clock
from ..errors import JournalError
from . import _requests as requests
from ._aio_holding import AsynchronousHolding
from ._link import Address, Link, Settings, Wait
from ._requests import WINDOW_REQUESTS, KeyMaker, Pages, Request, Tail
from ._results import Agent, Appended, AppendRequest, Entry, Event, NewEntry, Timestamp
from ._retry import RETRY_S
from ._tickets import Pending, Ticket, is_answered

T = TypeVar("T")


class AsyncClient(AsynchronousHolding):
    """The client for asyncio; ``connect_async()`` makes one.

    **Tasks** may share a client: what they ask goes over one connection as it
    comes, and nobody waits for another's answer.  It belongs to the event loop
    of its first call, and to no other thread or process.

    **Cancelling** a waiting call (``asyncio.timeout``, say) ends the wait and
    nothing else: the entry may still be recorded.  Others are not disturbed.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str] | None = None,
        *,
        timeout_s: float | None = None,
        retry_s: float = RETRY_S,
        clock: Clock | None = None,
    ) -> None:
        self._settings = Settings(
            address=Address(socket), timeout_s=timeout_s, retry_s=retry_s, clock=clock or Clock()
        )
        self._next_key = KeyMaker(self._settings.clock)
        self._channel = _Channel(self._settings)
        self._tails: set[_Channel] = set()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect now, to know at once whether the daemon is there.

        Raises:
            DaemonNotRunningError: nothing listens at the socket.
        """
        await self._channel.perform(requests.nothing())

    async def close(self) -> None:
        """End the connection and all tails; who still waits gets ``ConnectionLostError``."""
        for channel in (self._channel, *self._tails):
            channel.close()

    async def append(  # noqa: PLR0913 - each may be given to an append
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
        while the connection is lost, never recorded twice.  When cancelled,
        the entry may still be recorded.

        Raises:
            JournalError: ``outcome`` says whether it can have been recorded.
        """
        request = AppendRequest(
            agent_id, event, iteration, timestamp, expected_sequence, epoch, key, uid
        )
        return await self._channel.perform(requests.append(request, self._next_key))

    async def append_many(
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
        return await self._channel.perform(
            requests.append_many(
                agent_id,
                entries,
                expected_sequence=expected_sequence,
                epoch=epoch,
                uid=uid,
                next_key=self._next_key,
            )
        )

    async def append_pipelined(
        self,
        appends: Iterable[AppendRequest] | AsyncIterable[AppendRequest],
        *,
        window: int = WINDOW_REQUESTS,
    ) -> AsyncGenerator[Appended | JournalError, None]:
        """Record each of *appends* without waiting for the one before; yield answers in order.

        Up to *window* are underway at once, so an iterable may be endless.
        Every append succeeds or fails by itself: look at what is yielded.
        Answers come between two takes from the iterable, and wait while it does.
        After a lost connection all that is unanswered is sent again, in order.
        An append that the daemon refused for the moment is repeated before
        later ones are sent, but those sent already may have been recorded:
        where order within an agent matters more than speed, give
        ``expected_sequence``, which keeps it.  Leaving the iterator early
        leaves open whether the unanswered ones are recorded.
        """
        channel = self._channel
        pending: deque[Pending[Appended]] = deque()
        try:
            async with aclosing(_asynchronous(appends)) as source:
                async for append in source:
                    try:
                        pending.append(channel.submit(requests.append(append, self._next_key)))
                    except JournalError as error:  # never sent: it cannot be written
                        pending.append(error)
                    while len(pending) >= window or (pending and is_answered(pending[0])):
                        yield await channel.answer_to(pending.popleft())
            while pending:
                yield await channel.answer_to(pending.popleft())
        finally:
            channel.abandon(pending)

    def read(
        self,
        agent_id: str,
        from_sequence: int = 0,
        limit: int | None = None,
        *,
        uid: int | None = None,
    ) -> AsyncGenerator[Entry, None]:
        """Yield the agent's entries in sequence order, asking for a page at a time.

        Raises:
            NotFoundError: there is no such agent.
        """
        return self._all(
            requests.ReadPages(agent_id, from_sequence=from_sequence, limit=limit, uid=uid)
        )

    async def describe(self, agent_id: str, *, uid: int | None = None) -> Agent:
        """Return what the daemon knows of the agent.

        Raises:
            NotFoundError: there is no such agent.
        """
        return await self._channel.perform(requests.describe(agent_id, uid))

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
    ) -> AsyncGenerator[Agent, None]:
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

    async def compact(self, agent_id: str, *, force: bool = False, uid: int | None = None) -> int:
        """Remove all of the agent's entries and return how many there were.

        A repeat after a lost connection counts only what it found.  With
        *force* it is not repeated once it may have been carried out: entries
        written since then would go as well.

        Raises:
            AgentUnfinishedError: it has not ended; *force* removes its entries all the same.
        """
        return await self._channel.perform(requests.compact(agent_id, force=force, uid=uid))

    async def forget(
        self, agent_id: str, *, force: bool = False, wait: bool = True, uid: int | None = None
    ) -> int:
        """Remove an agent as if it had never been; return how many entries it had.

        On return nothing of it is left in any file of the journal.  Without *wait*
        it is gone for every reader, and its bytes go shortly after.

        Raises:
            AgentUnfinishedError: it has not ended; *force* removes it all the same.
            NotFoundError: there is no such agent, and nothing is left of one that was.
        """
        request = requests.forget(agent_id, force=force, wait=wait, uid=uid)
        return await self._channel.perform(request)

    def tail(
        self,
        agent_id: str | None = None,
        *,
        from_position: int | None = None,
        last: int | None = None,
        follow: bool = True,
        uid: int | str | None = None,
    ) -> AsyncGenerator[Entry, None]:
        """Yield entries in position order and, with *follow*, wait for more.

        Uses a connection of its own.  When that is lost it connects again and
        goes on behind the last entry: none is missing, none comes twice.

        Raises:
            DaemonNotRunningError: nothing listened at the first attempt to connect.
        """
        return self._follow(
            Tail(agent_id=agent_id, from_position=from_position, last=last, follow=follow, uid=uid)
        )

    async def stats(self, *, uid: int | str | None = None) -> dict[str, Any]:
        """Return the daemon's counters and gauges."""
        return await self._channel.perform(requests.stats(uid))

    async def ping(self) -> None:
        """Return when the daemon has answered."""
        await self._channel.perform(requests.ping())

    async def hello(self) -> dict[str, Any]:
        """Return who the daemon is, and its limits.

        Raises:
            UnsupportedProtocolError: the daemon does not speak this client's protocol.
        """
        return await self._channel.perform(requests.hello())

    async def call(self, request: Mapping[str, object]) -> dict[str, Any]:
        """Send one request as it stands and return the reply as it came.

        Repeated after a lost connection only where that is safe: reading, and
        appends with keys.

        Raises:
            JournalError: the daemon refused it.
        """
        return await self._channel.perform(requests.raw(request))

    async def _perform(self, request: Request[T]) -> T:
        return await self._channel.perform(request)

    async def _perform_ahead(
        self, next_request: Callable[[], Request[Any] | None], underway_max: int
    ) -> None:
        channel = self._channel
        pending: deque[Ticket[Any]] = deque()
        try:
            while True:
                while len(pending) < underway_max and (request := next_request()) is not None:
                    pending.append(channel.submit(request))
                if not pending:
                    return
                await channel.wait_for(pending[0])
                pending.popleft().outcome()
        finally:
            channel.abandon(pending)

    async def _all(self, pages: Pages[T]) -> AsyncGenerator[T, None]:
        while (request := pages.next_request()) is not None:
            for item in await self._channel.perform(request):
                yield item

    async def _follow(self, tail: Tail) -> AsyncGenerator[Entry, None]:
        self._channel.check_open()
        channel = _Channel(self._settings)
        self._tails.add(channel)
        try:
            for request in tail.requests():
                ticket = channel.submit(request)
                while not ticket.is_settled or tail.items:
                    for entry in tail.take_items():
                        yield entry
                    await channel.wait_for(ticket, until=lambda: bool(tail.items))
                ticket.outcome()
        finally:
            channel.close()
            self._tails.discard(channel)


class _Channel:
    """One connection, driven by the event loop's callbacks."""

    def __init__(self, settings: Settings) -> None:
        self._now = settings.clock.monotonic
        self._conversation = settings.new_conversation()
        self._link = Link(self._conversation, settings, before_close=self._unwatch)
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._is_due = False  # an advance is scheduled for this turn of the loop
        self._timer: asyncio.TimerHandle | None = None
        self._fd: int | None = None  # what the loop watches
        self._is_reading = False
        self._is_writing = False

    def close(self) -> None:
        """End it, for those who wait too."""
        self._is_closed = True
        self._conversation.close()
        self._link.close()
        if self._timer is not None:
            self._timer.cancel()

    def check_open(self) -> None:
        """Refuse to go on after ``close``."""
        if self._is_closed:
            raise RuntimeError("this client is closed")

    async def perform(self, request: Request[T]) -> T:
        """Return the answer to *request*."""
        ticket = self.submit(request)
        await self.wait_for(ticket)
        return ticket.outcome()

    def submit(self, request: Request[T]) -> Ticket[T]:
        """Have *request* sent: at once where nothing is underway, else with others of this turn."""
        self._bind()
        is_first = not self._conversation.needs_connection
        ticket = self._conversation.submit(request, self._now())
        if is_first:
            self._advance()
        else:
            self._advance_soon()
        return ticket

    async def wait_for(self, ticket: Ticket[Any], until: Callable[[], bool] | None = None) -> None:
        """Wait until *ticket* is settled, or *until* says that it is enough."""
        loop = self._bind()
        try:
            while not ticket.is_settled and not (until is not None and until()):
                moved: asyncio.Future[None] = loop.create_future()
                ticket.on_settled = lambda moved=moved: _resolve(moved)
                if until is not None:  # of a stream, whose items were taken: read on
                    self._advance_soon()
                await moved
        except BaseException:
            self._conversation.abandon(ticket)
            raise

    async def answer_to(self, pending: Pending[Appended]) -> Appended | JournalError:
        """Return the answer, when it is there."""
        if isinstance(pending, JournalError):
            return pending
        await self.wait_for(pending)
        return pending.answer()

    def abandon(self, pending: Iterable[Pending[Any]]) -> None:
        """Forget these."""
        for each in pending:
            if isinstance(each, Ticket):
                self._conversation.abandon(each)

    def _bind(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop or self._pid != os.getpid():
            raise RuntimeError("this client belongs to another event loop; make one in this loop")
        self.check_open()
        return loop

    def _advance_soon(self) -> None:
        if not self._is_due and self._loop is not None:
            self._is_due = True
            self._loop.call_soon(self._advance)

    def _advance(self) -> None:
        self._is_due = False
        if not self._is_closed:
            self._watch(self._link.advance())

    def _readable(self) -> None:
        # Where all is answered there is nothing to go on with.
        if not self._link.receive() or self._conversation.needs_connection:
            self._advance()

    def _watch(self, wait: Wait) -> None:
        """Have the loop call when there is something to do."""
        loop = self._loop
        if loop is None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wait.seconds is not None:
            self._timer = loop.call_later(wait.seconds, self._advance)
        if wait.fd is None:
            return
        self._fd = wait.fd
        if wait.readable != self._is_reading:
            self._is_reading = wait.readable
            if wait.readable:
                loop.add_reader(wait.fd, self._readable)
            else:
                loop.remove_reader(wait.fd)
        if wait.writable != self._is_writing:
            self._is_writing = wait.writable
            if wait.writable:
                loop.add_writer(wait.fd, self._advance)
            else:
                loop.remove_writer(wait.fd)

    def _unwatch(self) -> None:
        """Take the socket from the loop before its number is given to another file."""
        if self._loop is not None and self._fd is not None and not self._loop.is_closed():
            if self._is_reading:
                self._loop.remove_reader(self._fd)
            if self._is_writing:
                self._loop.remove_writer(self._fd)
        self._fd = None
        self._is_reading = self._is_writing = False


def _resolve(moved: asyncio.Future[None]) -> None:
    if not moved.done():
        moved.set_result(None)


async def _asynchronous(
    appends: Iterable[AppendRequest] | AsyncIterable[AppendRequest],
) -> AsyncGenerator[AppendRequest, None]:
    if isinstance(appends, AsyncIterable):
        async for append in appends:
            yield append
    else:
        for append in appends:
            yield append
