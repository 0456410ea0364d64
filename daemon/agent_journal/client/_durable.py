"""Functions that are durable steps wherever an agent calls them.

    @step(effect="idempotent", key="search:{question}")
    def search(question: str) -> list[str]: ...

    with journal.agent("report-42") as agent:
        search("why?")  # agent.step("search:why?", search, "why?", effect="idempotent")

The agent is the one within whose block the caller runs.  A thread that the
caller starts has none, unless it is given the caller's context.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar, overload

from ._current import current_agent_variable, current_step_variable
from ._step import Step, is_coroutine_function, name_of

P = ParamSpec("P")
R = TypeVar("R")


def current_agent() -> Any:  # noqa: ANN401 - a DurableAgent or an AsyncDurableAgent
    """Return the agent within whose block the caller runs.

    Raises:
        RuntimeError: there is none.
    """
    agent = current_agent_variable.get()
    if agent is None:
        raise RuntimeError("there is no agent here: enter 'with journal.agent(...)' first")
    return agent


def current_step() -> Step:
    """Return the step whose function the caller is.

    Raises:
        RuntimeError: there is none.
    """
    step: Step | None = current_step_variable.get()
    if step is None:
        raise RuntimeError("no step is running here")
    return step


@overload
def step(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def step(
    *,
    key: str | Callable[..., str] | None = None,
    **options: Any,  # noqa: ANN401 - as below
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    key: str | Callable[..., str] | None = None,
    **options: Any,
) -> Any:
    """Make a function a durable step of the agent that calls it.

    *key* is a template over the arguments (``"search:{question}"``, also for one
    that is given by its place or not at all), or a function of them.
    Without one, a call's key is its place in the program: the function's name
    and how often it was called.  *options* are those of ``agent.step``.

    Outside of an agent's block the function refuses to be called; what it wraps
    is its ``__wrapped__``.
    """
    if function is None:
        return lambda function: _durable(function, key, options)
    return _durable(function, key, options)


def _durable(
    function: Callable[..., Any], key: str | Callable[..., str] | None, options: dict[str, Any]
) -> Callable[..., Any]:
    is_coroutine = is_coroutine_function(function)
    parameters = signature(function)

    def key_for(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        if not isinstance(key, str):
            return None if key is None else key(*args, **kwargs)
        bound = parameters.bind(*args, **kwargs)
        bound.apply_defaults()
        return key.format(*bound.args, **bound.arguments)

    @wraps(function)
    def durable(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the function
        agent = current_agent()
        agent_is_async = is_coroutine_function(type(agent).step)
        if agent_is_async != is_coroutine:
            raise TypeError(
                f"{name_of(function)} is {'async' if is_coroutine else 'not async'}, and the "
                f"agent here is {'async' if agent_is_async else 'not async'}"
            )
        return agent.step(key_for(args, kwargs), function, *args, **options, **kwargs)

    return durable
