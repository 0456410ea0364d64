"""Durable steps: what is recorded is handed back, what is not is run once its intent is durable.

A step costs two appends: ``StepStarted`` before its function is called, and
``StepCompleted`` or ``StepFailed`` before the agent sees what came of it.

Invariant: a step whose end is recorded is never run again.
Invariant: a function is called only behind the durable record of its intent.

Steps are found by key, so they may run in any order, side by side.  A key
stands for one step of a run; asked for again after a crash it must be the same
step, of the same name and with the same input.

A step whose function was left by something else than a return or an exception
(a cancelled task, Ctrl-C) is in doubt, and may be asked for again.  So may one
whose end could not be recorded: the end is kept, and recorded then.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from . import _mismatch as mismatch
from ._agent_errors import (
    FencedError,
    StepInDoubtError,
    StepKeyUsedError,
)
from ._attempt import Attempt, InDoubt
from ._current import current_step_variable
from ._encoding import quoted
from ._history import ABSENT, DONE, Effect, Record, Status
from ._programs import Invoke, Program
from ._step import Call, Ending, Reconciled, Step, given_of, name_of
from ._typed import as_asked
from ._values import canonical, is_plain_form, plain, text_of

KEY_CHARS_MAX: Final = 256  # what the daemon takes for the step of a ``decide``

# Long enough for most tool calls; a long prompt is told apart by its hash.
INPUT_CHARS_MAX: Final = 1024
INPUT_START_CHARS: Final = 512

ERROR_CHARS_MAX: Final = 4096

_NULL: Final = "null"  # the text of no input at all

_STRICTNESS: Final = {effect: number for number, effect in enumerate(Effect)}

# To look a member up in its class is slow, and these are looked up for each step.
_UNSAFE, _RECONCILABLE = Effect.UNSAFE, Effect.RECONCILABLE
_NEW: Final = Status.NEW
_COMPLETED: Final = Status.COMPLETED


class Steps:
    """All steps of one attempt."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._lock = threading.Lock()  # threads may ask for steps side by side
        self._asked: set[str] = set()  # keys that are taken in this run
        self._seen: set[str] = set()  # keys that were asked for, whatever came of it
        self._open: dict[str, Step] = {}  # begun here, and their end is not recorded
        self._beginning: set[str] = set()  # keys of which the first entry is on its way
        self._ordinals: dict[str, int] = {}
        self.iteration = 0

    @property
    def are_running(self) -> bool:
        """Tell whether steps are underway, and hence have something to record yet."""
        return bool(self._open or self._beginning)

    def unasked(self) -> list[str]:
        """Return the keys of recorded steps that this run did not ask for."""
        return [key for key in self._attempt.history.records if key not in self._seen]

    def record_endings(self) -> Program[None]:
        """Record the ends that could not be recorded before."""
        for step in [*self._open.values()]:
            if step.ending is not None and not step.is_running:
                yield from self._end(step, step.ending)

    def key_for(self, name: str) -> str:
        """Return a key by place in the program: the name, and how often it was asked for."""
        with self._lock:
            self._ordinals[name] = ordinal = self._ordinals.get(name, 0) + 1
        return f"{name}:{ordinal}"

    # The whole of a step.

    def asked(self, call: Call) -> Step:
        """Return the step as it is recorded; where it ``is_done``, nothing is left but to hand it.

        Raises:
            ReplayMismatchError: another step is recorded under the key.
        """
        if not callable(call.function):
            raise TypeError(
                f"give a step its function and the arguments, not {call.function!r}: what is "
                "called already cannot be left uncalled on replay"
            )
        name = call.name or name_of(call.function)
        effect = call.effect
        if call.reconcile is None:
            if effect == _RECONCILABLE:
                raise ValueError("a reconcilable step needs a reconcile function")
        elif effect == _UNSAFE:
            effect = _RECONCILABLE
        given = given_of(call.args, call.kwargs, call.inputs)
        return self._asked_for(call.key, name, given, effect)

    def handed_again(  # noqa: PLR0913, PLR0917 - what of a step its record is compared with
        self,
        key: str | None,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        name: str | None,
        effect: str,
        inputs: Any,  # noqa: ANN401 - any JSON
        result_type: Any,  # noqa: ANN401 - any type
    ) -> Any:  # noqa: ANN401 - as the program asked
        """Return the recorded result of a step that is asked for as it was, else ``ABSENT``.

        In a replay nearly all are, by the thousand.  Where that cannot be told at a
        glance, ``asked`` finds out, and says what is wrong.
        """
        record = self._attempt.history.records.get(key)  # type: ignore[arg-type] # None is not there
        if record is None or record.status is not _COMPLETED or record.effect != effect:
            return ABSENT
        name = name or name_of(function)
        if record.name != name or not is_plain_form(record.input, given_of(args, kwargs, inputs)):
            return ABSENT
        if effect == _RECONCILABLE:  # needs a function, which may not be there
            return ABSENT
        self._taken(record.key, name)
        value, record.result = record.result, None  # the program has it now
        return as_asked(value, function, result_type, step=record.key)

    def carry_out(self, step: Step, call: Call) -> Program[Any]:
        """Return the result of a step that was ``asked``: what its function returns now."""
        step = yield from self._begin(step, call.in_doubt, call.reconcile is not None)
        try:
            if not step.is_done:
                yield from self._run(step, call)
        except BaseException:
            self._let_go(step)
            raise
        return self.handed(step, call)

    def _run(self, step: Step, call: Call) -> Program[None]:
        arguments = dict(call.kwargs)
        if call.key_parameter is not None:
            arguments[call.key_parameter] = step.idempotency_key
        if step.is_in_doubt and call.reconcile is not None:
            happened = yield from self._reconciled(step, call, call.reconcile, arguments)
            if happened is not None:
                yield from self.complete(step, happened.result)
                return
            yield from self._intend(step)
        try:
            returned = yield Invoke(call.function, call.args, arguments, step)
        except FencedError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a step raises is its result
            yield from self.fail(step, error)
            return
        usage, problem = _usage(call, returned)
        yield from self.complete(step, returned, usage=usage)
        if problem is not None:
            raise problem

    def _reconciled(
        self,
        step: Step,
        call: Call,
        reconcile: Callable[..., Any],
        arguments: Mapping[str, Any],
    ) -> Program[Reconciled | None]:
        try:
            happened = yield Invoke(reconcile, call.args, arguments, step)
        except FencedError:
            raise
        except Exception as error:
            raise self._doubt(step, f"; {name_of(reconcile)} could not tell: {error!r}") from error
        if happened is not None and not isinstance(happened, Reconciled):
            raise TypeError(
                f"{name_of(reconcile)} returned {type(happened).__name__}: it must return "
                "Reconciled(result) where the step happened, and None where it did not"
            )
        return happened

    def handed(self, step: Step, call: Call) -> Any:  # noqa: ANN401 - as the program asked
        """Return the recorded result, in the type that is asked for."""
        value = step.result()
        step.record.result = None  # the program has it now, and may keep it or not
        return as_asked(value, call.function, call.result_type, step=step.key)

    def _let_go(self, step: Step) -> None:
        """Let a step that did not come to its end be asked for again."""
        step.is_running = False
        if not step.is_done:
            with self._lock:
                self._asked.discard(step.key)
                if step.ending is None:
                    self._open.pop(step.key, None)

    # The parts, for those who call the function themselves.

    def begin(  # noqa: PLR0913 - what a step is
        self,
        key: str | None,
        *,
        name: str,
        inputs: object = None,
        effect: str = Effect.UNSAFE,
        in_doubt: InDoubt | None = None,
        can_reconcile: bool = False,
    ) -> Program[Step]:
        """Return the step: done already, running now, or (for who can reconcile) in doubt.

        Raises:
            ReplayMismatchError: another step is recorded under the key.
            StepInDoubtError: it may have happened; somebody has to find out.
        """
        step = self._asked_for(key, name, inputs, effect)
        return (yield from self._begin(step, in_doubt, can_reconcile))

    def _asked_for(self, key: str | None, name: str, inputs: object, effect: str) -> Step:
        key = self._taken(key, name)
        try:
            known_effect = effect if type(effect) is Effect else Effect(effect)
            return self._known(key, name, inputs, known_effect)
        except BaseException:
            self._free(key)
            raise

    def _begin(self, step: Step, in_doubt: InDoubt | None, can_reconcile: bool) -> Program[Step]:  # noqa: FBT001 - of this class only
        try:
            before = self._open.get(step.key)
            if before is not None and before.ending is not None:
                yield from self._end(before, before.ending)
                return before
            if step.is_done or (step.is_in_doubt and can_reconcile):
                return step
            if step.is_in_doubt and not step.effect.may_run_again:
                yield from self._doubted(step, in_doubt or self._attempt.options.in_doubt)
            yield from self._intend(step)
        except BaseException:
            self._free(step.key)
            raise
        return step

    def rerun(self, step: Step, inputs: object = None) -> Program[None]:
        """Begin a step that was in doubt once more: it is known not to have happened."""
        step.given = canonical(plain(inputs, f"the input of step {step.key!r}"))
        yield from self._intend(step)

    def complete(
        self, step: Step, result: object, *, usage: Mapping[str, Any] | None = None
    ) -> Program[Any]:
        """Record *result* and return it as a replay would hand it back."""
        value = plain(result, f"the result of step {step.key!r}, which ran and is now in doubt,")
        members = f'"result":{text_of(value)}'
        if usage:
            members += f',"usage":{text_of(plain(usage, f"the usage of step {step.key!r}"))}'
        return (
            yield from self._ended(step, "StepCompleted", members, Status.COMPLETED, result=value)
        )

    def fail(
        self, step: Step, error: BaseException | Mapping[str, Any], *, data: object = None
    ) -> Program[None]:
        """Record that the step failed."""
        if isinstance(error, BaseException):
            step.cause = error
            kind = type(error)
            is_builtin = kind.__module__ == "builtins"
            described: dict[str, Any] = {
                "type": kind.__qualname__
                if is_builtin
                else f"{kind.__module__}.{kind.__qualname__}",
                "message": _bounded(error),
            }
        else:
            described = dict(plain(error, f"the error of step {step.key!r}"))
        if data is not None:
            described["data"] = plain(data, f"the error's data of step {step.key!r}")
        members = f'"error":{text_of(described)}'
        yield from self._ended(step, "StepFailed", members, Status.FAILED, error=described)

    def note(
        self,
        name: str,
        key: str | None,
        given: object,
        produce: Callable[[], tuple[Any, Mapping[str, Any]]],
    ) -> Program[Record]:
        """Return the record of a value that is only noted; *produce* makes it where there is none.

        One append, and no intent: making it touches nothing.
        """
        key = self._taken(key, name)
        try:
            step = self._known(key, name, given, Effect.READ_ONLY)
            record = step.record
            if record.status is Status.COMPLETED:
                return record
            value, extra = produce()
            payload = {"key": key, "name": name, "input_hash": step.input_hash, "result": value}
            payload.update(extra)
            self._beginning.add(key)
            yield from self._attempt.append("StepCompleted", payload, iteration=self.iteration)
        except BaseException:
            self._free(key)
            raise
        finally:
            self._beginning.discard(key)
        record.status, record.result, record.extra = Status.COMPLETED, value, extra
        return record

    # What these have in common.

    def _taken(self, key: str | None, name: str) -> str:
        """Return the key, which nobody else has in this run."""
        outer = current_step_variable.get()
        if outer is not None:
            raise RuntimeError(
                f"step {outer.key!r} asks the journal for something within itself: on replay it "
                "is not run, so what it is made of cannot be replayed; make its parts the steps"
            )
        self._attempt.check()
        key = self.key_for(name) if key is None else key
        if not 0 < len(key) <= KEY_CHARS_MAX:
            raise ValueError(f"a step's key has 1 to {KEY_CHARS_MAX} characters, not {len(key)}")
        with self._lock:
            if key in self._asked:
                raise StepKeyUsedError(
                    f"step {key!r} was asked for already in this run: every step needs a key of "
                    "its own, and another try is another step (put a number into its key)",
                    step=key,
                )
            self._asked.add(key)
            self._seen.add(key)
        return key

    def _free(self, key: str) -> None:
        with self._lock:
            self._asked.discard(key)

    def _known(self, key: str, name: str, inputs: object, effect: Effect) -> Step:
        """Return the step as the journal knows it, if that is the step that is asked for."""
        records = self._attempt.history.records
        record = records.get(key)
        if record is None:
            record = records[key] = Record(key)
        text = _NULL
        hashed = mismatch.hash_of_done(record, inputs) if record.status in DONE else None
        if hashed is None or hashed != record.input_hash or record.name != name:
            given = plain(inputs, f"the input of step {key!r}")
            text = canonical(given)
            hashed = mismatch.hash_of(text.encode())
            if record.status is not _NEW:
                mismatch.check(record, name, hashed, given, agent_id=self._attempt.agent_id)
        # A step that was begun without a net is not made harmless by a new program.
        if effect is not record.effect and record.status is not _NEW:
            effect = max(effect, record.effect, key=_STRICTNESS.__getitem__)
        return Step(
            record,
            name=name,
            given=text,
            input_hash=hashed,
            effect=effect,
            idempotency_key=record.idempotency_key or self._idempotency_key(key),
            iteration=self.iteration,
        )

    def _idempotency_key(self, key: str) -> str:
        # With the time of its beginning: an agent that was compacted and begins
        # anew must not find the callee's answers to the one before.
        attempt = self._attempt
        source = f"{attempt.agent_id}\0{attempt.created_at}\0{key}"
        return f"aj-{hashlib.sha256(source.encode()).hexdigest()[:40]}"

    def _doubted(self, step: Step, in_doubt: InDoubt) -> Program[None]:
        match in_doubt:
            case "rerun":
                return
            case "park":
                yield from self._attempt.park(str(self._doubt(step)))
            case "raise":
                raise self._doubt(step)
            case _:
                raise ValueError(f"in_doubt is 'raise', 'park' or 'rerun', not {in_doubt!r}")

    def _doubt(self, step: Step, more: str = "") -> StepInDoubtError:
        from shlex import join  # noqa: PLC0415 - hardly ever needed

        command = join(["agent-journal", "decide", self._attempt.agent_id, step.key])
        return StepInDoubtError(
            f"step {step.key!r} ({step.name}, {step.effect}) is in doubt: it was begun (sequence "
            f"{step.record.sequence}) and no end of it is recorded, so it may have happened or "
            f"not{more}; find out, then: {command} --rerun (or --result JSON)",
            step,
            key=step.key,
            sequence=step.record.sequence,
        )

    def _intend(self, step: Step) -> Program[None]:
        members = f'{step.names},"effect":"{step.effect}",'
        members += f'"idempotency_key":{quoted(step.idempotency_key)}'
        if self._attempt.options.record_input and step.given != _NULL:
            if len(step.given) <= INPUT_CHARS_MAX:
                members += f',"input":{step.given}'
            else:
                members += f',"input_start":{quoted(step.given[:INPUT_START_CHARS])}'
        text = self._attempt.entry("StepStarted", members)
        self._beginning.add(step.key)
        try:
            yield from self._attempt.append_text(text, iteration=step.iteration)
            with self._lock:
                self._open[step.key] = step
        finally:
            self._beginning.discard(step.key)
        record = step.record
        record.name, record.input_hash, record.effect = step.name, step.input_hash, step.effect
        record.idempotency_key = step.idempotency_key
        record.status = Status.IN_DOUBT
        step.is_running = True
        step.started_at = self._attempt.clock.monotonic()

    def _ended(
        self,
        step: Step,
        event: str,
        members: str,
        status: Status,
        **outcome: Any,  # noqa: ANN401
    ) -> Program[Any]:
        if step.is_done:
            raise RuntimeError(f"the end of step {step.key!r} is recorded already")
        if step.ending is not None:  # what was told first may be recorded, so it stays
            yield from self._end(step, step.ending)
            return step.record.result
        if step.is_running:
            elapsed_s = self._attempt.clock.monotonic() - step.started_at
            members += f',"duration_ms":{int(elapsed_s * 1_000_000) / 1000}'
        text = self._attempt.entry(
            event,
            f"{step.names},{members}",
            f"the record of step {step.key!r}, which ran and is now in doubt,",
        )
        step.ending = Ending(
            text=text, append_key=self._attempt.next_key(), status=status, **outcome
        )
        with self._lock:
            self._open[step.key] = step
        yield from self._end(step, step.ending)
        return step.record.result

    def _end(self, step: Step, ending: Ending) -> Program[None]:
        try:
            yield from self._attempt.append_text(
                ending.text, iteration=step.iteration, key=ending.append_key
            )
        except BaseException:
            step.is_running = False  # it is not on its way any more
            raise
        record = step.record
        record.status, record.result, record.error = ending.status, ending.result, ending.error
        step.ending = None
        step.is_running = False
        with self._lock:
            self._open.pop(step.key, None)
            self._asked.add(step.key)


def _usage(call: Call, returned: object) -> tuple[Mapping[str, Any] | None, Exception | None]:
    """Return the tokens that *returned* says were used; a problem waits for the recording."""
    if call.usage is None:
        return None, None
    try:
        return call.usage(returned), None
    except Exception as error:  # noqa: BLE001 - raised when the result is safe
        return None, error


def _bounded(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as problem:  # noqa: BLE001 - an exception whose text cannot be had
        text = f"(no text: {problem!r})"
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= ERROR_CHARS_MAX else f"{text[:ERROR_CHARS_MAX]}…"
