"""One step, as the program asks for it and as it stands in this run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import CO_COROUTINE, iscoroutinefunction
from types import FunctionType
from typing import Any

from ._agent_errors import StepError
from ._attempt import InDoubt
from ._encoding import CheckedText, quoted
from ._history import ABSENT, DONE, Effect, Record, Status


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a ``reconcile`` function returns where the step did happen: with this result."""

    result: Any = None


@dataclass(slots=True, kw_only=True)
class Call:
    """What a program asks for as a step."""

    key: str | None
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    effect: str = Effect.UNSAFE
    inputs: Any = ABSENT
    result_type: Any = ABSENT
    reconcile: Callable[..., Any] | None = None
    in_doubt: InDoubt | None = None
    key_parameter: str | None = None
    usage: Callable[[Any], Mapping[str, Any] | None] | None = None


def given_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], inputs: Any) -> Any:  # noqa: ANN401 - what is to be the same next time
    """Return a step's input: what its function is called with, unless *inputs* is said."""
    if inputs is not ABSENT:
        return inputs
    given: dict[str, Any] = {}
    if args:
        given["args"] = args
    if kwargs:
        given["kwargs"] = kwargs
    return given or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """An end that is to be recorded, with the key that makes repeating that harmless."""

    text: CheckedText
    append_key: str
    status: Status
    result: Any = None
    error: Mapping[str, Any] = field(default_factory=dict)


class Step:
    """One step of this run: done already (``is_done``), in doubt, or running now."""

    __slots__ = (
        "cause",
        "effect",
        "ending",
        "given",
        "idempotency_key",
        "input_hash",
        "is_running",
        "iteration",
        "key",
        "name",
        "names",
        "record",
        "started_at",
    )

    def __init__(  # noqa: PLR0913 - what a step is
        self,
        record: Record,
        *,
        name: str,
        given: str,
        input_hash: str,
        effect: Effect,
        idempotency_key: str,
        iteration: int,
    ) -> None:
        self.key = record.key
        self.name = name
        # What each entry of a step begins with.
        self.names = f'"key":{quoted(record.key)},"name":{quoted(name)},"input_hash":"{input_hash}"'
        self.given = given  # the input in canonical form, of a step that may be run
        self.input_hash = input_hash
        self.effect = effect
        self.idempotency_key = idempotency_key
        self.iteration = iteration
        self.record = record
        self.is_running = False  # its intent is durable, and the function was not left yet
        self.started_at = 0.0
        self.ending: Ending | None = None  # made, but perhaps not recorded
        self.cause: BaseException | None = None  # what its function raised in this run

    @property
    def is_done(self) -> bool:
        """Tell whether its end is recorded."""
        return self.record.status in DONE

    @property
    def is_in_doubt(self) -> bool:
        """Tell whether another attempt began it and no end of it is recorded."""
        return self.record.status is Status.IN_DOUBT and not self.is_running

    def result(self) -> Any:  # noqa: ANN401 - any JSON
        """Return the recorded result.

        Raises:
            StepError: what is recorded is a failure.
        """
        record = self.record
        if record.status is Status.FAILED:
            error = record.error
            raise StepError(
                self.key,
                self.name,
                str(error.get("type", "Error")),
                str(error.get("message", "")),
                error.get("data"),
            ) from self.cause
        if record.status is not Status.COMPLETED:
            raise RuntimeError(f"step {self.key!r} has no recorded result: it is {record.status}")
        return record.result

    def __repr__(self) -> str:
        status = "running" if self.is_running else self.record.status
        return f"<Step {self.key!r} {self.name}: {status}>"


def name_of(function: Callable[..., Any]) -> str:
    """Return what a function is called, without where it was defined."""
    if type(function) is FunctionType:
        return function.__name__
    function = getattr(function, "func", function)  # a partial's
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


def is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Tell whether calling *function* gives what is to be awaited."""
    # Asked at every step.  A mark that makes one of a function stands in its dict.
    if type(function) is FunctionType and not function.__dict__:
        return bool(function.__code__.co_flags & CO_COROUTINE)
    call = getattr(type(function), "__call__", None)  # noqa: B004 - an object that is called like one
    return iscoroutinefunction(function) or iscoroutinefunction(call)
