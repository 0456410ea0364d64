"""An attached agent for programs under asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from ..clock import Clock
from ._agent import DurableAgentBase, event_of
from ._attempt import AgentOptions, InDoubt
from ._current import current_step_variable
from ._encoding import moment
from ._history import ABSENT, Effect
from ._programs import Action, AskAhead, Invoke, Program
from ._requests import Request
from ._results import Appended, Moment
from ._step import Call, Step

T = TypeVar("T")
R = TypeVar("R")


class AsyncDurableAgent(DurableAgentBase):
    """An agent that goes on behind its last recorded step; ``journal.agent()`` makes one.

    Tasks may ask for steps side by side.  When another attempt takes the agent
    over, the task that entered the block is cancelled, and the block raises
    ``FencedError``.
    """

    def __init__(  # noqa: PLR0913 - what it needs of its client
        self,
        agent_id: str,
        options: AgentOptions,
        *,
        clock: Clock,
        next_key: Callable[[], str],
        perform: Callable[[Request[Any]], Awaitable[Any]],
        perform_ahead: Callable[[Callable[[], Request[Any] | None], int], Awaitable[None]],
    ) -> None:
        super().__init__(agent_id, options, clock=clock, next_key=next_key)
        self._perform = perform
        self._perform_ahead = perform_ahead
        self._cancelling: asyncio.Handle | None = None
        self._is_cancelled = False  # by us

    async def __aenter__(self) -> Self:
        await self._drive(self._attempt.attach())
        self._attempt.on_fenced = self._stop_soon(asyncio.current_task())
        self._entered()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        self._left()
        self._attempt.on_fenced = _do_nothing
        task = asyncio.current_task()
        if self._cancelling is not None:
            self._cancelling.cancel()
        if self._is_cancelled and task is not None:
            task.uncancel()
        stops = (asyncio.CancelledError,) if self._is_cancelled else ()
        other = await self._drive(self._leave(error, stops))
        if other is not None and other is not error:
            raise other from error
        return False

    def _stop_soon(self, task: asyncio.Task[Any] | None) -> Callable[[], None]:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            self._cancelling = None
            if task is not None and not task.done():
                self._is_cancelled = True
                task.cancel("another attempt took the agent over")

        def on_fenced() -> None:
            # In the next turn: who learns it first is told by an exception.
            self._cancelling = loop.call_soon(stop)

        return on_fenced

    async def run(self, program: Callable[[Self], Awaitable[T]]) -> T:
        """Attach, await *program* of this agent, and finish with what it returns."""
        async with self:
            result = await program(self)
            if not self._attempt.is_ended:
                await self.finish(result)
            return result

    @overload
    async def step(
        self,
        key: str | None,
        function: Callable[..., object],
        /,
        *args: object,
        result_type: type[R],
        **options: Any,  # noqa: ANN401 - as below
    ) -> R: ...
    @overload
    async def step(
        self,
        key: str | None,
        function: Callable[..., Awaitable[T]],
        /,
        *args: object,
        **options: Any,  # noqa: ANN401 - as below
    ) -> T: ...
    @overload
    async def step(
        self,
        key: str | None,
        function: Callable[..., T],
        /,
        *args: object,
        **options: Any,  # noqa: ANN401 - as below
    ) -> T: ...
    async def step(  # noqa: PLR0913 - what a step is
        self,
        key: str | None,
        function: Callable[..., Any],
        /,
        *args: Any,
        effect: str = Effect.UNSAFE,
        name: str | None = None,
        inputs: Any = ABSENT,
        result_type: Any = ABSENT,
        reconcile: Callable[..., Any] | None = None,
        in_doubt: InDoubt | None = None,
        key_parameter: str | None = None,
        usage: Callable[[Any], Mapping[str, Any] | None] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return what *function* returns, called once, however often the agent is resumed.

        A recorded result is handed back and nothing is called.  What the agent
        gets is what was recorded: JSON, made into *result_type* (left as it is
        with ``None``), or into what the function's annotation says.

        *effect* says what a crash in the midst of it means: ``read_only`` and
        ``idempotent`` are run again, ``reconcilable`` asks *reconcile* (which
        gets the same arguments, and returns ``Reconciled(result)`` or ``None``),
        ``unsafe`` is left to *in_doubt* (``raise``, ``park`` or ``rerun``).
        *inputs* stands for the arguments where these are no JSON.
        *key_parameter* names the parameter that takes the idempotency key.

        Raises:
            StepError: the function raised, now or in the attempt that called it.
            StepInDoubtError: it may have been called, and may not be called again.
            ReplayMismatchError: the journal holds another step under this key.
        """
        again = self._steps.handed_again(
            key, function, args, kwargs, name, effect, inputs, result_type
        )
        if again is not ABSENT:
            return again
        call = Call(
            key=key,
            function=function,
            args=args,
            kwargs=kwargs,
            name=name,
            effect=effect,
            inputs=inputs,
            result_type=result_type,
            reconcile=reconcile,
            in_doubt=in_doubt,
            key_parameter=key_parameter,
            usage=usage,
        )
        step = self._steps.asked(call)
        if step.is_done:
            return self._steps.handed(step, call)
        return await self._drive(self._steps.carry_out(step, call))

    async def begin_step(
        self,
        key: str | None,
        *,
        name: str,
        inputs: object = None,
        effect: str = Effect.UNSAFE,
        in_doubt: InDoubt | None = None,
    ) -> Step:
        """Ask for a step whose function somebody else calls; its intent is durable on return.

        Where ``is_done``, the step's ``result()`` is what was recorded, and nothing is to be
        called.  Else call, and then ``complete_step`` or ``fail_step``.  A step that is
        ``reconcilable`` comes back ``is_in_doubt`` where it may have happened: find out, and
        then complete it, fail it, or ``rerun_step`` and call.

        Raises:
            ReplayMismatchError: the journal holds another step under this key.
            StepInDoubtError: it may have happened, and its effect is unsafe.
        """
        return await self._drive(
            self._steps.begin(
                key,
                name=name,
                inputs=inputs,
                effect=effect,
                in_doubt=in_doubt,
                can_reconcile=effect == Effect.RECONCILABLE,
            )
        )

    async def rerun_step(self, step: Step, *, inputs: object = None) -> None:
        """Begin a step in doubt once more: it is known not to have happened."""
        await self._drive(self._steps.rerun(step, inputs))

    async def complete_step(
        self, step: Step, result: object = None, *, usage: Mapping[str, Any] | None = None
    ) -> Any:  # noqa: ANN401 - any JSON
        """Record the result of a step and return it as a replay would hand it back."""
        return await self._drive(self._steps.complete(step, result, usage=usage))

    async def fail_step(
        self, step: Step, error: BaseException | Mapping[str, Any], *, data: object = None
    ) -> None:
        """Record that a step failed; raises nothing."""
        await self._drive(self._steps.fail(step, error, data=data))

    async def now(self, key: str | None = None) -> Moment:
        """Return the time, the same on every replay."""
        return moment(await self._drive(self._pauses.now(key)))

    async def uuid(self, key: str | None = None) -> str:
        """Return a new UUID, the same on every replay."""
        return await self._drive(self._pauses.uuid(key))

    async def random(self, key: str | None = None) -> float:
        """Return a number of 0 to 1, 1 excluded, the same on every replay."""
        return await self._drive(self._pauses.random(key))

    async def sleep(self, seconds: float, *, key: str | None = None) -> None:
        """Wait; a long wait gives the agent up, and it is resumed when the time has come.

        Raises:
            Suspended: it was given up.  Let it pass.
        """
        await self._drive(self._pauses.sleep(seconds, key))

    async def wait_for(
        self,
        name: str,
        timeout: float | None = None,  # noqa: ASYNC109 - recorded, and kept over restarts
        *,
        key: str | None = None,
    ) -> Any:  # noqa: ANN401 - what was sent
        """Return the payload of the next signal called *name*, each of which is received once.

        Where none is there for a while, the agent is given up, and resumed when
        it comes.  *timeout* is in seconds, from the first asking on.

        Raises:
            WaitTimeoutError: none came in time.
            Suspended: the agent was given up.  Let it pass.
        """
        return await self._drive(self._pauses.wait_for(name, timeout, key))

    async def append(self, event: Mapping[str, object], *, key: str | None = None) -> Appended:
        """Record an event of the program's own.

        With a *key* it is recorded once, however often the program comes here.
        """
        name, payload = event_of(event)
        return await self._drive(
            self._attempt.append(name, payload, iteration=self.iteration, key=key)
        )

    async def finish(self, result: object = None) -> None:
        """Record that the agent has done its work; nothing more can be recorded of it."""
        await self._drive(self._finish(result))

    async def fail(self, error: object = None, *, reason: str = "Failed") -> None:
        """Record that the agent has ended without doing its work; it is not resumed."""
        await self._drive(self._fail(reason, error))

    async def _drive(self, program: Program[T]) -> T:
        """Do what *program* asks for, until it returns."""
        try:
            action = next(program)
            while True:
                try:
                    answer = await self._do(action)
                except BaseException as error:  # noqa: BLE001 - the program's to judge
                    action = program.throw(error)
                else:
                    action = program.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def _do(self, action: Action) -> Any:  # noqa: ANN401 - whatever the program asked
        match action:
            case Request():
                return await self._perform(action)
            case AskAhead():
                return await self._perform_ahead(action.next_request, action.underway_max)
            case Invoke():
                token = current_step_variable.set(action.step)
                try:
                    returned = action.function(*action.args, **action.kwargs)
                    return await returned if hasattr(returned, "__await__") else returned
                finally:
                    current_step_variable.reset(token)
            case _:
                await asyncio.sleep(action.seconds)
                return None


def _do_nothing() -> None:
    """Stop nobody: the task has left the agent's block."""
