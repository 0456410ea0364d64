"""What an agent's code may meet: errors of steps, and the ways an attempt ends early.

Errors of the journal are ``JournalError``s.  ``StepError`` is none: it is what a
step's own function raised, handed to the agent by the journal.  ``Suspended``
is no error at all, so ``except Exception`` does not hold it up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from ..errors import JournalError, Outcome

if TYPE_CHECKING:
    from ._step import Step

# A process that gave its agent up until later exits with this: EX_TEMPFAIL of
# sysexits.h, which mail systems and service managers read as "not now".
EXIT_SUSPENDED: Final = 75


class StepError(Exception):
    """The step's function raised; the same on replay as in the attempt that ran it.

    ``type`` and ``message`` say what it raised, as recorded.  In the attempt
    that ran it the exception itself is the ``__cause__``.
    """

    def __init__(self, key: str, name: str | None, type_: str, message: str, data: object) -> None:
        super().__init__(
            f"step {key!r} failed: {type_}: {message}"
            if message
            else f"step {key!r} failed: {type_}"
        )
        self.key = key
        self.name = name
        self.type = type_
        self.message = message
        self.data = data


class _StepsError(JournalError):
    """The base of what is wrong with a step before anything of it is recorded."""

    outcome: ClassVar[Outcome] = Outcome.NOT_RECORDED
    retryable: ClassVar[bool] = False


class StepInDoubtError(_StepsError):
    """The step was begun by an attempt that did not live to record its end.

    It may have happened, or not.  ``step`` can be given to ``complete_step`` or
    ``fail_step`` by a program that found out.
    """

    code: ClassVar[str] = "step_in_doubt"

    def __init__(self, message: str, step: Step, **details: object) -> None:
        super().__init__(message, **details)
        self.step = step


class ReplayMismatchError(_StepsError):
    """The program asks for another step than the journal holds under this key."""

    code: ClassVar[str] = "replay_mismatch"


class StepKeyUsedError(_StepsError):
    """The program asked for the same key twice in one run."""

    code: ClassVar[str] = "step_key_used"


class NotSerializableError(_StepsError):
    """A value cannot be recorded as JSON; ``path`` says which part of it."""

    code: ClassVar[str] = "not_serializable"

    def __init__(self, message: str, path: str = "$", **details: object) -> None:
        super().__init__(message, **details)
        self.path = path


class ValueTooLargeError(_StepsError):
    """A result is longer than an agent may record (``size``, ``limit``)."""

    code: ClassVar[str] = "value_too_large"


class ResultTypeError(_StepsError):
    """What is recorded as a step's result is no value of the type that was asked for."""

    code: ClassVar[str] = "result_type"


class FencedError(_StepsError):
    """The attempt may not write any more: another took over, or it was given up."""

    code: ClassVar[str] = "fenced"


class WaitTimeoutError(TimeoutError):
    """No signal came in time; recorded, so that a replay says the same."""


class ReplayWarning(UserWarning):
    """The journal holds steps that the program did not ask for."""


class Suspended(BaseException):
    """The agent was given up until it is due; the process may exit with ``EXIT_SUSPENDED``.

    Leaving ``with journal.agent(...)`` turns it into that exit.
    """

    def __init__(
        self, reason: str, *, wake_at: str | None = None, wait_for: Sequence[str] = ()
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wake_at = wake_at
        self.wait_for = tuple(wait_for)
