"""An attached agent for programs that block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
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
from ._step import Call, Step, is_coroutine_function

T = TypeVar("T")
R = TypeVar("R")


class DurableAgent(DurableAgentBase):
    """An agent that goes on behind its last recorded step; ``journal.agent()`` makes one.

    Threads may ask for steps side by side.
    """

    def __init__(  # noqa: PLR0913 - what it needs of its client
        self,
        agent_id: str,
        options: AgentOptions,
        *,
        clock: Clock,
        next_key: Callable[[], str],
        perform: Callable[[Request[Any]], Any],
        perform_ahead: Callable[[Callable[[], Request[Any] | None], int], None],
    ) -> None:
        super().__init__(agent_id, options, clock=clock, next_key=next_key)
        self._perform = perform
        self._perform_ahead = perform_ahead

    def __enter__(self) -> Self:
        self._drive(self._attempt.attach())
        self._entered()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        self._left()
        other = self._drive(self._leave(error, ()))
        if other is not None and other is not error:
            raise other from error
        return False

    def run(self, program: Callable[[Self], T]) -> T:
        """Attach, call *program* with this agent, and finish with what it returns."""
        with self:
            result = program(self)
            if not self._attempt.is_ended:
                self.finish(result)
            return result

    @overload
    def step(
        self,
        key: str | None,
        function: Callable[..., object],
        /,
        *args: object,
        result_type: type[R],
        **options: Any,  # noqa: ANN401 - as below
    ) -> R: ...
    @overload
    def step(
        self,
        key: str | None,
        function: Callable[..., T],
        /,
        *args: object,
        **options: Any,  # noqa: ANN401 - as below
    ) -> T: ...
    def step(  # noqa: PLR0913 - what a step is
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
        if is_coroutine_function(function):
            raise TypeError(f"{function!r} is to be awaited: use connect_async()")
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
        return self._drive(self._steps.carry_out(step, call))

    def begin_step(
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
        return self._drive(
            self._steps.begin(
                key,
                name=name,
                inputs=inputs,
                effect=effect,
                in_doubt=in_doubt,
                can_reconcile=effect == Effect.RECONCILABLE,
            )
        )

    def rerun_step(self, step: Step, *, inputs: object = None) -> None:
        """Begin a step in doubt once more: it is known not to have happened."""
        self._drive(self._steps.rerun(step, inputs))

    def complete_step(
        self, step: Step, result: object = None, *, usage: Mapping[str, Any] | None = None
    ) -> Any:  # noqa: ANN401 - any JSON
        """Record the result of a step and return it as a replay would hand it back."""
        return self._drive(self._steps.complete(step, result, usage=usage))

    def fail_step(
        self, step: Step, error: BaseException | Mapping[str, Any], *, data: object = None
    ) -> None:
        """Record that a step failed; raises nothing."""
        self._drive(self._steps.fail(step, error, data=data))

    def now(self, key: str | None = None) -> Moment:
        """Return the time, the same on every replay."""
        return moment(self._drive(self._pauses.now(key)))

    def uuid(self, key: str | None = None) -> str:
        """Return a new UUID, the same on every replay."""
        return self._drive(self._pauses.uuid(key))

    def random(self, key: str | None = None) -> float:
        """Return a number of 0 to 1, 1 excluded, the same on every replay."""
        return self._drive(self._pauses.random(key))

    def sleep(self, seconds: float, *, key: str | None = None) -> None:
        """Wait; a long wait gives the agent up, and it is resumed when the time has come.

        Raises:
            Suspended: it was given up.  Let it pass.
        """
        self._drive(self._pauses.sleep(seconds, key))

    def wait_for(self, name: str, timeout: float | None = None, *, key: str | None = None) -> Any:  # noqa: ANN401 - what was sent
        """Return the payload of the next signal called *name*, each of which is received once.

        Where none is there for a while, the agent is given up, and resumed when
        it comes.  *timeout* is in seconds, from the first asking on.

        Raises:
            WaitTimeoutError: none came in time.
            Suspended: the agent was given up.  Let it pass.
        """
        return self._drive(self._pauses.wait_for(name, timeout, key))

    def append(self, event: Mapping[str, object], *, key: str | None = None) -> Appended:
        """Record an event of the program's own.

        With a *key* it is recorded once, however often the program comes here.
        """
        name, payload = event_of(event)
        return self._drive(self._attempt.append(name, payload, iteration=self.iteration, key=key))

    def finish(self, result: object = None) -> None:
        """Record that the agent has done its work; nothing more can be recorded of it."""
        self._drive(self._finish(result))

    def fail(self, error: object = None, *, reason: str = "Failed") -> None:
        """Record that the agent has ended without doing its work; it is not resumed."""
        self._drive(self._fail(reason, error))

    def _drive(self, program: Program[T]) -> T:
        """Do what *program* asks for, until it returns."""
        try:
            action = next(program)
            while True:
                try:
                    answer = self._do(action)
                except BaseException as error:  # noqa: BLE001 - the program's to judge
                    action = program.throw(error)
                else:
                    action = program.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def _do(self, action: Action) -> Any:  # noqa: ANN401 - whatever the program asked
        match action:
            case Request():
                return self._perform(action)
            case AskAhead():
                return self._perform_ahead(action.next_request, action.underway_max)
            case Invoke():
                token = current_step_variable.set(action.step)
                try:
                    return action.function(*action.args, **action.kwargs)
                finally:
                    current_step_variable.reset(token)
            case _:
                threading.Event().wait(action.seconds)
                return None
