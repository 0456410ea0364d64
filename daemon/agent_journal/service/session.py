"""One client's conversation: requests in, replies out, in the order of the requests.

Appends are the fast path.  Those that came in one piece and need nothing from
the store are checked, numbered and queued at once, as one ``Run``, and answered
together when their batch is durable.  Everything else waits its turn: until
it is answered, what the client sent behind it is not looked at.

So the order of replies follows from two queues: ``_pending``, what was queued
and not yet answered (runs, and replies that stand behind them), and
``_backlog``, the lines that wait for the request that is being served.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Final

import msgspec

from ..errors import (
    FrameTooLargeError,
    InvalidError,
    JournalError,
    OverloadedError,
)
from ..model import Micros, Uid
from ..wire import (
    UNFINISHED_LINE,
    Agents,
    Append,
    Close,
    Compact,
    Describe,
    Framer,
    Hello,
    Ping,
    Read,
    RefusedLineError,
    Request,
    Stats,
    Tail,
    appended_replies,
    appended_reply,
    decode_request,
    error_reply,
    ok_reply,
)
from . import operations
from .appending import Recorder
from .committer import Submission
from .context import Context, Sink
from .operations import Caller
from .peer import Peer

LINE_OVERHEAD_BYTES: Final = 256  # what a request costs in memory beside its bytes


class Run(Submission):
    """Neighbouring appends of one connection, and how to answer them."""

    requests: list[Append] = msgspec.field(default_factory=list)
    sequences: list[int] = msgspec.field(default_factory=list)

    def replies(self) -> bytes:
        """Return the replies, once it is known what became of the entries."""
        requests = self.requests
        ids = [request.id for request in requests]
        if self.error is not None:
            return b"".join([error_reply(request_id, self.error) for request_id in ids])
        position: int = self.position or 0
        if len(self.entries) == len(requests) and set(map(type, ids)) == {int}:
            return appended_replies(ids, self.sequences, position)  # type: ignore[arg-type]
        replies = []
        for request, sequence in zip(requests, self.sequences, strict=True):
            count = 1 if request.entries is None else len(request.entries)
            replies.append(appended_reply(request.id, sequence, position, count))
            position += count
        return b"".join(replies)


class Session:
    """A conversation, from the first byte to the last."""

    def __init__(self, context: Context, peer: Peer, sink: Sink, tasks: asyncio.TaskGroup) -> None:
        self.uid = peer.uid
        self._context = context
        self._sink = sink
        self._tasks = tasks
        self._account = context.admission.account(peer.uid)
        self._caller = Caller(context, peer, sink)
        self._framer = Framer(context.config.limits.frame_bytes_max)
        self._recorder = Recorder(context, peer.uid, self._account)
        self._pending: deque[Run | bytes] = deque()
        self._backlog: deque[bytes | None] = deque()
        self._run: Run | None = None
        self._task: asyncio.Task[None] | None = None
        self._request: Request | None = None  # the one that is being served by the task
        self._quiet: asyncio.Future[None] | None = None  # done when nothing is pending
        self._closing: Close | None = None  # what ended the stream
        self._in_flight_bytes = 0
        self._is_reading = True
        self._has_ended = False  # the client will send nothing more
        self._is_stopping = False

    # What the connection tells

    def receive(self, data: bytes) -> None:
        """Take in bytes from the client."""
        framer, admission = self._framer, self._context.admission
        before = framer.partial_bytes
        lines = framer.feed(data)
        if framer.partial_bytes != before:
            self._count_partial_line(framer.partial_bytes - before)
        if self._task is not None or self._backlog:
            self._backlog += lines
            self._hear_while_serving()
            self._update_reading()
        elif lines:
            self._handle(iter(lines))
        limit = admission.limits.connection_bytes_in_flight_max
        if self._in_flight_bytes >= limit or admission.is_tight:
            self._update_reading()

    def end(self) -> None:
        """Take note that the client will send nothing more."""
        self._has_ended = True
        if self._framer.partial_bytes:
            self._forget_partial_line()
            if self._task is None and not self._backlog:
                self._handle(iter([UNFINISHED_LINE]))
            else:
                self._backlog.append(UNFINISHED_LINE)
        self._close_if_done()

    def lost(self) -> None:
        """Take note that the client is gone; what it queued is recorded all the same."""
        self._is_stopping = True
        self._forget_partial_line()
        self._backlog.clear()
        self._context.admission.forget(self)
        if self._task is not None:
            self._cancel_task()

    def stop(self) -> None:
        """Take no more requests; the connection is closed when all are answered."""
        self._is_stopping = True
        self._has_ended = True
        self._forget_partial_line()
        if self._task is not None and isinstance(self._request, Tail):
            self._cancel_task()
        self._update_reading()
        self._close_if_done()

    def is_quiet(self) -> bool:
        """Tell whether everything was answered."""
        return not self._pending and self._task is None and not self._backlog

    # Requests

    def _handle(self, lines: Iterator[bytes | None]) -> None:
        """Serve *lines*, up to one that has to wait for the store."""
        record = self._recorder.record
        self._recorder.now = Micros(self._context.clock.wall_us())
        run = self._run = Run(self)
        for line in lines:
            if line is None:
                self._refuse_long_line()
                run = self._run = Run(self)
                continue
            try:
                request = decode_request(line)
            except RefusedLineError as refused:
                self._say(error_reply(refused.request_id, refused.error), refused.error)
                run = self._run = Run(self)
                continue
            try:
                if type(request) is Append:
                    if record(request, run):
                        continue
                    self._serve(request, lines)
                    return
                if not self._answer_at_once(request):
                    self._serve(request, lines)
                    return
            except JournalError as error:
                self._say(error_reply(request.id, error), error)
            run = self._run = Run(self)
        self._submit()

    def _submit(self, uid: Uid | None = None) -> None:
        """Queue the run that has been gathered, in the namespace of *uid*."""
        run, self._run = self._run, None
        if run is None or not run.requests:
            return
        size = sum([len(entry.event) for entry in run.entries])
        run.size_bytes = size + LINE_OVERHEAD_BYTES * len(run.requests)
        self._pending.append(run)
        self._in_flight_bytes += run.size_bytes
        self._context.admission.take(self._account, run.size_bytes)
        self._context.committer.submit(self.uid if uid is None else uid, run)

    def _answer_at_once(self, request: Request) -> bool:
        match request:
            case Ping():
                reply = ok_reply(request.id, {})
            case Hello():
                reply = ok_reply(request.id, operations.hello(self._caller, request))
            case _:
                return False
        self._say(reply)
        return True

    def _serve(self, request: Request, behind: Iterator[bytes | None]) -> None:
        """Serve *request* in a task of its own, and what came behind it afterwards."""
        self._submit()
        self._backlog.extendleft(reversed([*behind]))
        self._request = request
        self._task = self._tasks.create_task(self._serve_one(request))
        self._hear_while_serving()

    async def _serve_one(self, request: Request) -> None:
        try:
            await self._answer(request)
        except JournalError as error:
            self._say(error_reply(request.id, error), error)
        except asyncio.CancelledError:
            if self._closing is not None:
                self._say(ok_reply(self._closing.id, {}))
                self._has_ended = True
            elif not self._is_stopping:
                raise
        except Exception:
            # A defect of ours, and this client's request is the only one it may cost.
            self._context.log.exception("request_failed", op=type(request).__name__.lower())
            self._is_stopping = self._has_ended = True
            self._backlog.clear()
        finally:
            self._task = self._request = None
        self._go_on()

    async def _answer(self, request: Request) -> None:
        if isinstance(request, Append):
            await self._append_slowly(request)
            return
        await self._answered()
        await self._sink.drained()
        caller = self._caller
        match request:
            case Read():
                self._say(await operations.read(caller, request))
            case Describe():
                self._say(ok_reply(request.id, await operations.describe(caller, request)))
            case Agents():
                self._say(ok_reply(request.id, await operations.agents(caller, request)))
            case Compact():
                self._say(ok_reply(request.id, await operations.compact(caller, request)))
            case Stats():
                self._say(ok_reply(request.id, operations.stats(caller, request)))
            case Tail():
                await operations.tail(caller, request)
            case Close():
                self._say(ok_reply(request.id, {}))
                self._has_ended = True
                self._backlog.clear()
            case _:
                raise AssertionError(request)

    async def _append_slowly(self, request: Append) -> None:
        """Serve an append for which the store has to be asked something."""
        uid = self._caller.namespace(request.uid)
        reply = await self._recorder.prepare(self._caller, uid, request)
        if reply is not None:
            self._say(reply)
            return
        run = self._run = Run(self)
        self._recorder.record_prepared(uid, request, run)
        self._submit(uid)

    async def _answered(self) -> None:
        """Wait until the appends before this request are durable: it shall see them."""
        if self._pending:
            self._quiet = asyncio.get_running_loop().create_future()
            await self._quiet

    def _go_on(self) -> None:
        """Look at what came while a request was being served."""
        if self._is_stopping or self._closing is not None:
            self._backlog.clear()
        elif self._backlog and self._task is None:
            backlog, self._backlog = self._backlog, deque()
            self._handle(iter(backlog))
        else:
            self._submit()
        self._update_reading()
        self._close_if_done()

    def _cancel_task(self) -> None:
        """Cancel what is being served, but not before it began: it has to end properly."""
        if self._task is not None:
            asyncio.get_running_loop().call_soon(self._task.cancel)

    def _hear_while_serving(self) -> None:
        """End a stream on ``close``, and take nothing else on it."""
        if not isinstance(self._request, Tail) or not self._request.follow:
            return
        while self._backlog:
            line = self._backlog.popleft()
            try:
                request = decode_request(line or b"")
                if isinstance(request, Close) and self._task is not None:
                    self._closing = request
                    self._backlog.clear()
                    self._cancel_task()
                    return
                error: JournalError = InvalidError(
                    "this connection is a stream now; send close, or use another connection",
                    field="op",
                )
                self._sink.write(error_reply(request.id, error))
            except RefusedLineError as refused:
                self._sink.write(error_reply(refused.request_id, refused.error))

    # Replies

    def _say(self, reply: bytes, error: JournalError | None = None) -> None:
        """Send *reply*, behind those that are still to come."""
        if error is not None:
            self._context.metrics.refused[error.code] += 1
        if self._run is not None:
            self._submit()
        if self._pending:
            self._pending.append(reply)
        else:
            self._sink.write(reply)

    def committed(self) -> None:
        """Answer the runs of which it is known what became of them."""
        pending = self._pending
        replies: list[bytes] = []
        answered_bytes = 0
        while pending:
            first = pending[0]
            if isinstance(first, bytes):
                replies.append(first)
            elif first.position is not None or first.error is not None:
                answered_bytes += first.size_bytes
                if first.error is not None:
                    self._context.metrics.refused[first.error.code] += len(first.requests)
                replies.append(first.replies())
            else:
                break
            pending.popleft()
        self._in_flight_bytes -= answered_bytes
        self._context.admission.give(self._account, answered_bytes)
        if replies:
            self._sink.write(replies[0] if len(replies) == 1 else b"".join(replies))
        if not pending and (self._has_ended or self._quiet is not None):
            self._quieten()
        if not self._is_reading:
            self._update_reading()

    def _quieten(self) -> None:
        """Let those go on who waited for everything to be answered."""
        if self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)
        self._quiet = None
        if self._has_ended:
            self._close_if_done()

    # Back-pressure

    def resume(self) -> None:
        """Read again, if nothing else speaks against it."""
        self._update_reading()

    def _update_reading(self) -> None:
        admission = self._context.admission
        limit = admission.limits.connection_bytes_in_flight_max
        if not self._is_reading:
            limit //= 2
        is_wanted = (
            not self._is_stopping
            and self._in_flight_bytes < limit
            and not self._sink.unsent_bytes
            and (not self._backlog or self._task is None)
        )
        if is_wanted and admission.is_full(self._account):
            admission.wait(self)
            is_wanted = False
        if is_wanted != self._is_reading:
            self._is_reading = is_wanted
            if is_wanted:
                self._sink.resume_reading()
            else:
                self._sink.pause_reading()

    def _close_if_done(self) -> None:
        if self._has_ended and self.is_quiet():
            self._sink.close()

    # Lines that are no requests

    def _refuse_long_line(self) -> None:
        limit = self._framer.frame_bytes_max
        error = FrameTooLargeError(
            f"the line is longer than {limit} bytes (limits.frame_bytes_max) and was discarded; "
            "split it, or record a reference to what is large",
            frame_bytes_max=limit,
        )
        self._say(error_reply(None, error), error)

    def _count_partial_line(self, size: int) -> None:
        admission = self._context.admission
        admission.partial_bytes += size
        if size <= 0 or admission.partial_bytes <= admission.limits.partial_bytes_max:
            return
        self._forget_partial_line()
        self._framer.discard_line()
        error = OverloadedError(
            "too many unfinished lines are held; this one was discarded, send it again later",
            retry_ms=1000,
        )
        self._say(error_reply(None, error), error)

    def _forget_partial_line(self) -> None:
        self._context.admission.partial_bytes -= self._framer.partial_bytes
        self._framer.discard_line()
