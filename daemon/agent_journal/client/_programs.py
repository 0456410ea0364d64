"""What an agent's operations ask of whoever carries them out.

Each operation (a step, a sleep, an attach) is a generator.  It yields what is
to be done, gets the answer sent in or the error thrown in, and returns its own
result.  So there is one text of it for threads and for asyncio, and a test
drives it with no daemon at all.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from ._requests import Request

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AskAhead:
    """Keep some requests underway, until there is nothing to ask and all are answered.

    ``next_request`` says what to ask next; ``None`` where there is nothing for now.
    """

    next_request: Callable[[], Request[Any] | None]
    underway_max: int


@dataclass(frozen=True, slots=True)
class Invoke:
    """Call a function of the agent's, and await what it returns where that is to be awaited."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    step: Any = None  # which ``current_step`` names meanwhile


@dataclass(frozen=True, slots=True)
class Wait:
    """Let time pass."""

    seconds: float


# A request is sent, and its answer given back.
Action: TypeAlias = Request[Any] | AskAhead | Invoke | Wait
Program: TypeAlias = Generator[Action, Any, T]
