"""An event loop whose time is virtual, and whose order of events a seed decides.

Nothing is waited for: where a real loop would sleep, this one moves its clock to
the next timer.  A day passes in as long as its events take to compute, and the
same seed gives the same day.

What asyncio promises stays as it is: callbacks run in the order in which they
were put there.  What it does not promise is left to chance: how long a turn of
the loop takes, which of two timers that are due together comes first, and, where
*is_unruly*, when a task that was woken gets its turn among the others.

Processes are simulated too: what runs in the context of a ``VirtualProcess`` is
its own, and ends with it, at whatever ``await`` it is at.  That is a ``kill -9``.
"""

# What stands for asyncio's own loop takes what that takes, and looks where that looks.
# ruff: noqa: ANN401, SLF001

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, Protocol, TypeVar, cast

from ..clock import Clock
from .clock import FIRST_WALL_US

T = TypeVar("T")

TURN_SECONDS_MAX: Final = 0.0001
"""How long a turn of the loop may take: what happens outside falls in between."""

LATE_SHARE: Final = 0.25  # of the tasks that were woken, in an unruly loop
DYING_TURNS_MAX: Final = 10_000


class Chance(Protocol):
    """Where chance comes from; ``random.Random`` does."""

    def random(self) -> float:
        """Return a number evenly spread over 0 to 1, 1 excluded."""


class Listening(Protocol):
    """A simulated socket."""

    def listen(self, accept: Callable[[], Any]) -> object:
        """Accept clients from now on; return what is to be closed."""


class VirtualProcess:
    """What runs together, and ends together."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.is_dead = False
        self.tasks: dict[VirtualTask, None] = {}
        self.context = copy_context()
        self.context.run(_process.set, self)
        self._loop = loop

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin a task of this process."""
        return self._loop.create_task(work, context=self.context)

    def ended(self, task: asyncio.Task[Any]) -> None:
        """Take note that a task is over."""
        self.tasks.pop(cast("VirtualTask", task), None)

    def kill(self) -> None:
        """End it where it stands: nothing of it runs any more, and no timer of it rings.

        Its tasks are unwound at once, since Python would do so later, whenever
        it collects them.  What they do on the way must have no effect: whatever
        they reach has to look at ``is_dead``.
        """
        self.is_dead = True
        self._loop.unwind(self)


_process: ContextVar[VirtualProcess | None] = ContextVar("process", default=None)


def this_process() -> VirtualProcess | None:
    """Return the process that what runs now belongs to."""
    return _process.get()


class VirtualTask(asyncio.Task[Any]):
    """A task that is told from others by its number, in every run of a seed alike."""

    # Sets of tasks, which asyncio itself keeps, are iterated in the order of hashes.
    number = 0
    process: VirtualProcess | None = None  # whose it is

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs tasks on a clock of its own; see above."""

    def __init__(self, chance: Chance, *, is_unruly: bool = False) -> None:
        self.now = 0.0
        self.turns = 0
        self.complaints: list[dict[str, Any]] = []  # what would have been logged
        self.signal_handlers: dict[int, Callable[[], object]] = {}
        self.chance = chance
        self._is_unruly = is_unruly
        self._ready: list[asyncio.Handle] = []  # for the next turn
        self._turning: deque[asyncio.Handle] = deque()  # what is left of the present one
        self._timers: list[tuple[float, float, int, asyncio.TimerHandle]] = []
        self._timer_count = 0
        self._task_count = 0
        self._is_closed = False
        self._outside = copy_context()

    # Time

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.now

    def call_soon(  # type: ignore[override] # likewise
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Have *callback* called in the next turn."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment] # likewise

    def call_later(  # type: ignore[override] # typeshed has type variables for the arguments
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Have *callback* called after a while."""
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override] # likewise
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Have *callback* called at a time."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timer_count += 1
        order = self.chance.random()  # of two that are due together
        heapq.heappush(self._timers, (when, order, self._timer_count, handle))
        return handle

    def outside(self, delay: float, callback: Callable[..., object], *args: Any) -> None:
        """Have *callback* called after a while, as nobody's: no death of a process stops it."""
        self.call_at(self.now + delay, callback, *args, context=self._outside)

    def inside(
        self, process: VirtualProcess, delay: float, callback: Callable[..., object], *args: Any
    ) -> None:
        """Have something happen to *process* after a while, if it lives."""
        self.call_at(self.now + delay, callback, *args, context=process.context)

    # Turns

    def run_until_complete(self, future: Awaitable[T]) -> T:  # type: ignore[override]
        """Run until *future* is done; return its result.

        Raises:
            DeadlockError: nothing is left that could ever happen.
        """
        task: asyncio.Future[T] = asyncio.ensure_future(future, loop=self)
        asyncio._set_running_loop(self)  # what every loop does
        try:
            while not task.done():
                self._turn()
        finally:
            asyncio._set_running_loop(None)
        return task.result()

    def _turn(self) -> None:
        self.turns += 1
        if not self._ready:
            if not self._timers:
                raise DeadlockError("nothing is left that could ever happen")
            self.now = max(self.now, self._timers[0][0])
        else:
            self.now += self.chance.random() * TURN_SECONDS_MAX
        turning = self._turning
        turning.extend(self._ready)
        self._ready.clear()
        timers = self._timers
        while timers and timers[0][0] <= self.now:
            handle = heapq.heappop(timers)[3]
            if not handle._cancelled and not self._is_dead(handle):
                turning.append(handle)
        while turning:
            one = turning.popleft()
            if one._cancelled:
                continue
            if self._is_unruly and _is_wakeup(one) and self.chance.random() < LATE_SHARE:
                self._ready.append(one)
            else:
                one._run()

    @staticmethod
    def _is_dead(handle: asyncio.Handle) -> bool:
        process = handle._context.get(_process)  # type: ignore[attr-defined]
        return process is not None and process.is_dead

    def unwind(self, process: VirtualProcess) -> None:
        """Run what is left of a dead process, and nothing else, until its tasks are over."""
        current = asyncio.current_task(self)
        if current is not None:
            if current in process.tasks:
                raise RuntimeError("a process can't kill itself: it is the one that runs")
            asyncio.tasks._leave_task(self, current)
        turning = [*self._turning]
        self._turning.clear()
        others: list[asyncio.Handle] = []
        self._turning.extend(one for one in turning if not self._is_dead(one))
        dying = [one for one in turning if self._is_dead(one)]
        try:
            for _ in range(DYING_TURNS_MAX):
                others += [one for one in self._ready if not self._is_dead(one)]
                dying += [one for one in self._ready if self._is_dead(one)]
                self._ready.clear()
                if not dying:
                    for task in list(process.tasks):
                        task.cancel()
                    if not self._ready:
                        return
                    continue
                for handle in dying:
                    if not handle._cancelled:
                        handle._run()
                dying.clear()
            raise DeadlockError(f"these do not end when they are cancelled: {[*process.tasks]}")
        finally:
            self._ready = others + self._ready
            if current is not None:
                asyncio.tasks._enter_task(self, current)

    # What tasks and transports ask for

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override] # typeshed has a Generator too
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """Begin a task, of the process that what runs now belongs to."""
        self._task_count += 1
        owner = (context or copy_context()).get(_process)
        task = VirtualTask(
            coro, loop=self, name=name or f"task {self._task_count}", context=context
        )
        task.number = self._task_count
        if owner is not None:
            task.process = owner
            owner.tasks[task] = None
            task.add_done_callback(owner.ended, context=owner.context)
        return task

    def add_signal_handler(  # type: ignore[override] # likewise
        self, sig: int, callback: Callable[..., object], *args: Any
    ) -> None:
        """Keep what a signal is to do; whoever simulates it calls it."""
        self.signal_handlers[sig] = lambda: callback(*args)

    async def create_unix_server(  # type: ignore[override] # for a socket that can listen
        self, protocol_factory: Callable[[], Any], *, sock: Listening, backlog: int = 100
    ) -> Any:  # whatever the simulated socket gives
        """Have *sock*, which is simulated too, accept clients."""
        del backlog
        return sock.listen(protocol_factory)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what nobody caught, but for what a dead process leaves behind."""
        handle, task = context.get("handle"), context.get("future")
        process = task.process if isinstance(task, VirtualTask) else None
        is_dead = process is not None and process.is_dead
        if not is_dead and (handle is None or not self._is_dead(handle)):
            self.complaints.append(context)

    def get_debug(self) -> bool:
        """Say no."""
        return False

    def is_running(self) -> bool:
        """Say yes: who asks runs in it."""
        return True

    def is_closed(self) -> bool:
        """Tell whether it was closed."""
        return self._is_closed

    def close(self) -> None:
        """Drop what has not happened."""
        self._is_closed = True
        self._ready.clear()
        self._timers.clear()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave it where it is: it is passed over when it is due."""


class VirtualClock(Clock):
    """The time of a virtual loop; the wall clock can be set."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.offset = 0.0  # of the wall clock, in seconds
        self._loop = loop

    def wall_us(self) -> int:
        """Return microseconds since 1970 in UTC."""
        return FIRST_WALL_US + round((self._loop.now + self.offset) * 1_000_000)

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return self._loop.now

    def chance(self) -> float:
        """Return a number evenly spread over 0 to 1, 1 excluded."""
        return self._loop.chance.random()


class DeadlockError(Exception):
    """Nothing can happen any more, and somebody still waits."""


def _is_wakeup(handle: asyncio.Handle) -> bool:
    """Tell whether a task goes on with this, which had begun before."""
    callback: Any = handle._callback  # type: ignore[attr-defined]
    is_method = type(callback) is _WAKEUP
    return is_method and isinstance(getattr(callback, "__self__", None), asyncio.Task)


_WAKEUP: Final = type(len)  # a task's C method is a builtin
