"""The socket: connections in, bytes to and from their sessions."""

from __future__ import annotations

import asyncio
import resource
import select
import socket
from collections.abc import Callable
from typing import Final, cast

from ..errors import ForbiddenError, JournalError, TooManyConnectionsError
from ..model import Uid
from ..wire import error_reply
from .context import Context
from .exposition import CONTENT_TYPE, exposition
from .figures import all_figures
from .http_requests import METHOD_BYTES_MAX, HttpRequest, is_http
from .operations import Caller
from .peer import Peer, overflow_uid, peer_of
from .places import BACKLOG
from .session import WINDOW_BYTES, Session

DESCRIPTORS_RESERVED: Final = 64  # for the database, logs, the watcher, and accept itself
DRAIN_SECONDS: Final = 5.0
UNSENT_BYTES_MAX: Final = 64 * 1024
LOOK_SECONDS: Final = 1.0


class Connection(asyncio.BufferedProtocol):
    """A client's connection, which is its session's sink."""

    def __init__(self, server: Server) -> None:
        self.unsent_bytes = 0
        self._server = server
        self._transport: asyncio.Transport
        self._session: Session | None = None
        self._receive: Callable[[bytes], None] = self._look_at_begin
        self._begin = b""  # as long as it may be that of HTTP, or of a request
        self._scrape: HttpRequest | None = None
        self._peer: Peer
        self._drained: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Find out who it is, and begin the session or refuse it."""
        self._transport = cast("asyncio.Transport", transport)
        try:
            peer = peer_of(transport.get_extra_info("socket"))
            self._server.check(peer)
        except JournalError as error:
            self._transport.write(error_reply(None, error))
            self._transport.close()
            return
        except OSError:  # gone already
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX)
        self._session = self._server.begin(peer, self)
        self._peer = peer

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio's signature
        """Lend the server's buffer: it is read into, and handed on, in one go."""
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand what was read to the session."""
        if self._session is not None:
            self._receive(bytes(self._server.view[:nbytes]))

    def eof_received(self) -> bool:
        """Keep the way back open: what was asked is still answered."""
        if self._session is None:
            return False
        if self._scrape is not None:
            self._answer(self._scrape.end())
            return True
        if self._begin:
            self._session.receive(self._begin)
        self._session.end()
        self._watch_for_the_end()
        return True

    # What the connection is spoken in: from then on ``_receive`` takes what comes

    def _look_at_begin(self, data: bytes) -> None:
        """Tell a scrape from a session, by no more bytes than it takes."""
        self._begin += data
        is_scrape = is_http(self._begin[:METHOD_BYTES_MAX])
        if is_scrape is None:
            return
        begin, self._begin = self._begin, b""
        if is_scrape:
            self._scrape = HttpRequest(self._page)
            self._receive = self._receive_head
        elif self._session is not None:
            self._receive = self._session.receive
        self._receive(begin)

    def _receive_head(self, data: bytes) -> None:
        """Take in some of a scrape's head: in the budget of lines that have not ended."""
        if self._scrape is None or self._transport.is_closing():
            return
        admission, before = self._server.context.admission, self._scrape.held_bytes
        answer = self._scrape.feed(data)
        admission.partial_bytes += self._scrape.held_bytes - before
        if answer is not None:
            self._answer(answer)
        elif admission.is_holding_too_much:
            self._answer(self._scrape.refuse())

    def _answer(self, answer: bytes) -> None:
        self.write(answer)
        self.close()

    def _page(self) -> tuple[str, str]:
        """Return what a scrape is for, as far as whoever asks may see it."""
        caller = Caller(self._server.context, self._peer, self)
        return exposition(all_figures(caller)), CONTENT_TYPE

    def _watch_for_the_end(self) -> None:
        """Find out that a client that sends nothing more has left a stream.

        After the end of input the loop does not look at the socket any more, and
        a quiet journal has nothing to send that would fail.
        """
        if self._session is None or not self._session.is_streaming:
            return
        if _is_closed(self._transport.get_extra_info("socket").fileno()):
            self._transport.abort()
        elif not self._transport.is_closing():
            loop = asyncio.get_running_loop()
            loop.call_later(LOOK_SECONDS, self._watch_for_the_end)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """End the session."""
        if self._scrape is not None:
            self._server.context.admission.partial_bytes -= self._scrape.held_bytes
        if self._session is not None:
            self._set_unsent(0)
            self._session.lost()
            self._server.ended(self, self._session.uid)
        self._wake()
        # Else they would hold each other, and stay until garbage is collected: that is
        # seldom, and a daemon sees thousands of connections before.
        self._session = self._scrape = None
        self._receive = _pass_over

    def pause_writing(self) -> None:
        """Take note that the client does not read its replies."""
        self._set_unsent(self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Take note that it has read them."""
        self._set_unsent(0)
        self._wake()

    def _set_unsent(self, size: int) -> None:
        before, self.unsent_bytes = self.unsent_bytes, size
        if self._session is not None:
            self._server.count_unsent(self._session, size - before)
            self._session.resume()

    def _wake(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # The session's side

    def write(self, data: bytes) -> None:
        """Send *data*, or buffer it."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drained(self) -> None:
        """Wait until the client has read most of what was written, or is gone."""
        while self.unsent_bytes and not self._transport.is_closing():
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def pause_reading(self) -> None:
        """Take nothing more from the client."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take again what the client sends."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Send what was written, then end the connection."""
        self._transport.close()

    def abort(self) -> None:
        """End the connection, and lose what was not sent."""
        self._transport.abort()

    def stop(self) -> None:
        """Take no more requests; close when all are answered."""
        if self._session is not None:
            self._session.stop()


def _pass_over(_: bytes) -> None:
    """Take in nothing more."""


def _is_closed(descriptor: int) -> bool:
    """Tell a peer that has closed its end from one that only sends nothing more."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(happened & select.POLLHUP for _, happened in poll.poll(0))


class Server:
    """Listens, and keeps the connections."""

    def __init__(self, context: Context, tasks: asyncio.TaskGroup) -> None:
        self.context = context
        # As much as is read at once: ten thousand clients that send and are not
        # read from hold so much each.
        self.buffer = bytearray(WINDOW_BYTES)
        self.view = memoryview(self.buffer)
        self._tasks = tasks
        self._connections: set[Connection] = set()
        self._listener: asyncio.Server | None = None
        self._overflow_uid = overflow_uid()
        self._descriptors_max = raise_descriptor_limit()
        self._all_closed: asyncio.Future[None] | None = None

    async def listen(self, listener: socket.socket) -> None:
        """Accept clients on *listener* from now on."""
        loop = asyncio.get_running_loop()
        # Both loops call listen() again; without a backlog it would shrink to 100.
        self._listener = await loop.create_unix_server(
            lambda: Connection(self), sock=listener, backlog=BACKLOG
        )

    def check(self, peer: Peer) -> None:
        """Refuse a client that may not be served.

        Raises:
            ForbiddenError: the kernel cannot tell who it is.
            TooManyConnectionsError: a bound is reached.
        """
        limits = self.context.config.limits
        connections_max = min(limits.connections_max, self._descriptors_max)
        if peer.uid == self._overflow_uid:
            raise ForbiddenError(
                f"you appear here as uid {peer.uid}, which is what the kernel calls everybody "
                "whom it cannot name; connect from outside the user namespace"
            )
        if len(self._connections) >= connections_max:
            self._refuse("limits.connections_max", connections_max)
        account = self.context.admission.accounts.get(peer.uid)
        if account is not None and account.connections >= limits.connections_per_uid_max:
            self._refuse("limits.connections_per_uid_max", limits.connections_per_uid_max)

    def _refuse(self, option: str, limit: int) -> None:
        self.context.metrics.connections_refused += 1
        raise TooManyConnectionsError(
            f"{limit} connections are open ({option}); close some, then connect again"
        )

    def begin(self, peer: Peer, connection: Connection) -> Session:
        """Return the session of a client that was admitted."""
        self._connections.add(connection)
        self.context.admission.opened(peer.uid)
        self.context.metrics.connections_accepted += 1
        return Session(self.context, peer, connection, self._tasks)

    def count_unsent(self, session: Session, size: int) -> None:
        """Count replies that nobody reads against the one who asked for them."""
        admission = self.context.admission
        admission.change(admission.account(session.uid), size)

    def ended(self, connection: Connection, uid: Uid) -> None:
        """Take note that a connection has ended."""
        self._connections.discard(connection)
        self.context.admission.closed(uid)
        if not self._connections and self._all_closed is not None:
            self._all_closed.set_result(None)
            self._all_closed = None

    def stop(self) -> None:
        """Accept nobody and read nothing any more; what was asked is still answered."""
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            connection.stop()

    async def close(self) -> None:
        """Wait until every client has its answers, but not for ever; end the connections."""
        if self._connections:
            self._all_closed = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._all_closed], timeout=DRAIN_SECONDS)
            self._all_closed = None
        for connection in list(self._connections):
            connection.abort()


def raise_descriptor_limit() -> int:
    """Allow as many open files as the system lets us; return how many may be connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(hard - DESCRIPTORS_RESERVED, 1)
