"""One client's conversation: requests in, replies out, in the order of the requests.

Appends are the fast path.  Those that came in one piece and need nothing from
the store are checked, numbered and queued at once, as one ``Run``, and answered
together when their batch is durable.  Everything else waits its turn: until
it is answered, what the client sent behind it is not looked at.

So the order of replies follows from two queues: ``_pending``, what was queued
and not yet answered (runs, and replies that stand behind them), and what was
received and not yet looked at.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Final

from ..errors import (
    InvalidError,
    JournalError,
)
from ..framing import DISCARDED_LINE, UNFINISHED_LINE, Framer
from ..model import Uid
from ..wire import (
    Agents,
    Append,
    Close,
    Compact,
    Describe,
    Hello,
    Ping,
    Read,
    RefusedLineError,
    Request,
    Stats,
    Tail,
    decode_request,
    error_reply,
    ok_reply,
)
from ..wire_requests import HoldingRequest, KeepingRequest
from . import figures, keeping, listing, operations
from .appending import Recorder
from .committer import shutting_down
from .context import Context, Sink
from .operations import Caller
from .peer import Peer
from .runs import GROUNDED, Refusal, Run

LINE_OVERHEAD_BYTES: Final = 256  # what a request costs in memory beside its bytes

# How much of one client's input is looked at before others have their turn.
WINDOW_BYTES: Final = 64 * 1024
ANSWERS_MAX: Final = 64

END_OF_INPUT: Final = b"the end of the input"  # this very object stands there


class Session:
    """A conversation, from the first byte to the last."""

    def __init__(self, context: Context, peer: Peer, sink: Sink, tasks: asyncio.TaskGroup) -> None:
        self.uid = peer.uid
        self._context = context
        self._sink = sink
        self._tasks = tasks
        self._account = context.admission.account(peer.uid)
        self._caller = Caller(context, peer, sink)
        self._framer = Framer(self._caller.frame_bytes_max)
        self._recorder = Recorder(context, peer.uid, self._account)
        self._pending: deque[Run | bytes] = deque()
        self._lines = b""
        self._unread: deque[bytes] = deque()
        self._will_go_on = False
        self._run: Run | None = None
        self._task: asyncio.Task[None] | None = None
        self._request: Request | None = None  # the one that is being served by the task
        self._quiet: asyncio.Future[None] | None = None  # done when nothing is pending
        self._closing: Close | None = None  # what ended the stream
        self._in_flight_bytes = 0
        self._is_reading = True
        self._has_ended = False  # the client will send nothing more
        self._is_gone = False  # nobody is there any more to be answered
        self._is_draining = False  # nothing more is read
        self._is_streaming = False

    # What the connection tells

    def receive(self, data: bytes) -> None:
        """Take in bytes from the client."""
        if self._is_gone:
            return
        if self._is_idle() and len(data) <= WINDOW_BYTES:
            self._handle(self._lines_of(data))
            admission = self._context.admission
            limit = admission.limits.connection_bytes_in_flight_max
            if not self._is_idle() or self._in_flight_bytes >= limit or admission.is_tight:
                self._update_reading()
            return
        self._unread.append(data)
        self._count_in_flight(len(data))
        self._go_on()

    def end(self) -> None:
        """Take note that the client will send nothing more."""
        self._has_ended = True
        self._caller.leave()
        self._unread.append(END_OF_INPUT)
        self._count_in_flight(len(END_OF_INPUT))
        self._go_on()

    def lost(self) -> None:
        """Take note that the client is gone; what it queued is recorded all the same."""
        self._is_gone = True
        self._caller.leave()
        self._forget_unread()
        self._context.admission.forget(self)
        self._cancel_task()

    def stop(self) -> None:
        """Take no more requests; the connection is closed when all are answered."""
        self._has_ended = self._is_draining = True
        if isinstance(self._request, Tail):
            self._cancel_task()
        self._go_on()

    @property
    def is_streaming(self) -> bool:
        """Tell whether the client waits for entries that are yet to come."""
        return self._is_streaming

    def _begin_stream(self) -> None:
        self._is_streaming = True
        self._schedule()

    # What was received and not yet looked at: whole lines that were put back,
    # and behind them bytes as they came.  Kept as bytes, since a line of some
    # bytes is an object of ten times as many.

    def _is_idle(self) -> bool:
        return self._task is None and not self._unread and not self._lines

    def _go_on(self) -> None:
        """Look at what was received, as far as it may be looked at now."""
        if self._is_gone or self._closing is not None:
            self._forget_unread()
        elif self._task is not None:
            if self.is_streaming:
                self._hear(self._next_lines())
        elif self._may_go_on():
            self._handle(self._next_lines())
        if self._may_go_on():
            self._schedule()
        self._update_reading()
        self._close_if_done()

    def _schedule(self) -> None:
        """Go on when others had their turn, if there is something to look at."""
        if (self._unread or self._lines) and not self._will_go_on:
            self._will_go_on = True
            asyncio.get_running_loop().call_soon(self._go_on_soon)

    def _go_on_soon(self) -> None:
        self._will_go_on = False
        self._go_on()

    def _may_go_on(self) -> bool:
        """Tell whether another request may be looked at."""
        if self._sink.unsent_bytes:
            return False
        limit = self._context.admission.limits.connection_bytes_in_flight_max
        held = sum(map(len, self._unread)) + len(self._lines)
        return (self._task is None or self.is_streaming) and self._in_flight_bytes - held < limit

    def _next_lines(self) -> list[bytes]:
        """Take some of the lines that were not looked at."""
        if self._lines:
            lines, self._lines = self._lines, b""
            self._count_in_flight(-len(lines))
            return lines.split(b"\n")[:-1]
        if not self._unread:
            return []
        data = self._unread.popleft()
        if len(data) > WINDOW_BYTES:
            end = data.rfind(b"\n", 0, WINDOW_BYTES) + 1 or WINDOW_BYTES
            self._unread.appendleft(data[end:])
            data = data[:end]
        self._count_in_flight(-len(data))
        return self._lines_of(data)

    def _lines_of(self, data: bytes) -> list[bytes]:
        """Return the lines that *data* completes."""
        framer = self._framer
        before = framer.partial_bytes
        if data is END_OF_INPUT:
            framer.discard_line()
            lines = [UNFINISHED_LINE] if before else []
        else:
            lines = framer.feed(data)
        if framer.partial_bytes != before:
            admission = self._context.admission
            admission.partial_bytes += framer.partial_bytes - before
            if framer.partial_bytes and admission.is_holding_too_much:
                admission.partial_bytes -= framer.partial_bytes
                framer.discard_line()
                lines.append(DISCARDED_LINE)
        return lines

    def _put_back(self, lines: Iterator[bytes]) -> None:
        """Keep *lines* until they may be looked at."""
        rest = [*lines]
        if rest:
            rest.append(b"")
            self._lines = b"\n".join(rest)
            self._count_in_flight(len(self._lines))

    def _forget_unread(self) -> None:
        self._count_in_flight(-len(self._lines) - sum(map(len, self._unread)))
        self._lines = b""
        self._unread.clear()
        self._context.admission.partial_bytes -= self._framer.partial_bytes
        self._framer.discard_line()

    def is_quiet(self) -> bool:
        """Tell whether everything was answered."""
        return not self._pending and self._is_idle()

    # Requests

    def _handle(self, received: list[bytes]) -> None:
        """Serve lines, up to one that has to wait for the store, or until it is enough."""
        recorder = self._recorder
        recorder.begin()
        run = self._run = Run(self)
        answers = 0
        boundary = self._context.boundary
        decode = decode_request if boundary is None else boundary.decode_request
        lines = iter(received)
        while True:
            try:
                request = recorder.record_common(lines, run, decode)
            except RefusedLineError as refused:
                self._say(error_reply(refused.request_id, refused.error), refused.error)
            else:
                if request is None:
                    break
                try:
                    if type(request) is Append:
                        if recorder.record(request, run):
                            continue
                        self._serve(request, lines)
                        return
                    if not self._answer_at_once(request):
                        self._serve(request, lines)
                        return
                except JournalError as error:
                    self._refuse(request, error)
            run = self._run = Run(self)
            answers += 1
            if answers == ANSWERS_MAX or self._sink.unsent_bytes:
                self._put_back(lines)
                self._schedule()
                break
        self._submit()

    def _submit(self, uid: Uid | None = None) -> None:
        """Queue the run that has been gathered, in the namespace of *uid*."""
        run, self._run = self._run, None
        if run is None or not run.ids:
            return
        size = sum([len(entry.event) for entry in run.entries])
        run.size_bytes = size + LINE_OVERHEAD_BYTES * len(run.ids)
        self._pending.append(run)
        self._count_in_flight(run.size_bytes)
        self._context.committer.submit(self.uid if uid is None else uid, run)

    def _refuse(self, request: Request, error: JournalError) -> None:
        """Say no; where that tells how an agent stands, not before it is durable."""
        asked = getattr(request, "uid", None)
        uid = Uid(asked) if isinstance(asked, int) and self._caller.is_admin else self.uid
        namespace = self._context.heads.namespace(uid)
        if not isinstance(error, GROUNDED) or namespace.committed == namespace.submitted:
            self._say(error_reply(request.id, error), error)
            return
        self._submit()
        # Without its traceback, which would keep all lines that came with this one.
        refusal = Refusal(self, request_id=request.id, refusal=error.with_traceback(None))
        refusal.size_bytes = LINE_OVERHEAD_BYTES
        self._context.metrics.refused[error.code] += 1
        self._pending.append(refusal)
        self._count_in_flight(refusal.size_bytes)
        self._context.committer.submit(uid, refusal)

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

    def _serve(self, request: Request, behind: Iterator[bytes]) -> None:
        """Serve *request* in a task of its own, and what came behind it afterwards."""
        self._submit()
        self._put_back(behind)
        self._request = request
        self._context.admission.begin(self._account)
        self._task = self._tasks.create_task(self._serve_one(request))
        self._update_reading()

    async def _serve_one(self, request: Request) -> None:
        try:
            await self._answer(request)
        except JournalError as error:
            self._refuse(request, error)
        except asyncio.CancelledError:
            if self._closing is not None:
                self._say(ok_reply(self._closing.id, {}))
            elif self._is_draining:  # a tail is cut short
                self._say(error_reply(request.id, shutting_down()))
            elif not self._is_gone:
                raise
        except Exception:
            # A defect of ours, and this client's request is the only one it may cost.
            self._context.log.exception("request_failed", op=type(request).__name__.lower())
            self._is_gone = self._has_ended = True
        finally:
            self._task = self._request = None
            self._is_streaming = False
            self._context.admission.end(self._account)
        self._go_on()

    async def _answer(self, request: Request) -> None:
        if isinstance(request, Append):
            await self._append_slowly(request)
            return
        await self._answered()
        await self._sink.drained()
        caller = self._caller
        if isinstance(request, HoldingRequest | KeepingRequest):
            self._say(await keeping.serve(caller, request))
            return
        match request:
            case Read():
                self._say(await operations.read(caller, request))
            case Describe():
                self._say(ok_reply(request.id, await operations.describe(caller, request)))
            case Agents():
                self._say(ok_reply(request.id, await listing.agents(caller, request)))
            case Compact():
                self._say(ok_reply(request.id, await operations.compact(caller, request)))
            case Stats():
                self._say(ok_reply(request.id, figures.stats(caller, request)))
            case Tail():
                await operations.tail(caller, request, self._begin_stream)
            case Close():
                self._say(ok_reply(request.id, {}))
                self._closing = request
                self._has_ended = True
            case _:
                raise AssertionError(request)

    async def _append_slowly(self, request: Append) -> None:
        """Serve an append for which the store has to be asked something."""
        uid = self._caller.namespace(request.uid)
        reply = await self._recorder.prepare(uid, request)
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

    def _cancel_task(self) -> None:
        """Cancel what is being served, but not before it began: it has to end properly."""
        if self._task is not None:
            asyncio.get_running_loop().call_soon(self._task.cancel)

    def _hear(self, lines: list[bytes]) -> None:
        """End a stream on ``close``, and take nothing else on it."""
        for line in lines:
            try:
                request = decode_request(line)
                if isinstance(request, Close):
                    self._closing = request
                    self._has_ended = True
                    self._cancel_task()
                    return
                error: JournalError = InvalidError(
                    "this connection is a stream now; send close, or use another connection",
                    field="op",
                )
                self._say(error_reply(request.id, error), error)
            except RefusedLineError as refused:
                self._say(error_reply(refused.request_id, refused.error), refused.error)

    # Replies

    def _say(self, reply: bytes, error: JournalError | None = None) -> None:
        """Send *reply*, behind those that are still to come."""
        if error is not None:
            self._context.metrics.refused[error.code] += 1
        if self._run is not None:
            self._submit()
        if self._pending:
            self._pending.append(reply)
            self._count_in_flight(len(reply))
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
                answered_bytes += len(first)
                replies.append(first)
            elif first.position is not None or first.error is not None:
                answered_bytes += first.size_bytes
                if first.error is not None:
                    self._context.metrics.refused[first.error.code] += len(first.ids)
                replies.append(first.replies())
            else:
                break
            pending.popleft()
        if replies:
            self._sink.write(replies[0] if len(replies) == 1 else b"".join(replies))
        self._count_in_flight(-answered_bytes)
        if not pending and (self._has_ended or self._quiet is not None):
            self._quieten()
        if not self._is_reading:
            self._go_on()

    def _quieten(self) -> None:
        """Let those go on who waited for everything to be answered."""
        if self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)
        self._quiet = None
        if self._has_ended:
            self._close_if_done()

    # Back-pressure

    def _count_in_flight(self, size: int) -> None:
        self._in_flight_bytes += size
        self._context.admission.change(self._account, size)

    def resume(self) -> None:
        """Go on, and read again, if nothing else speaks against it."""
        self._go_on()

    def _update_reading(self) -> None:
        admission = self._context.admission
        limit = admission.limits.connection_bytes_in_flight_max
        if not self._is_reading:
            limit //= 2
        is_wanted = (
            not self._is_gone
            and not self._is_draining
            and self._in_flight_bytes < limit
            and not self._sink.unsent_bytes
            and not self._unread
            and not self._lines
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
