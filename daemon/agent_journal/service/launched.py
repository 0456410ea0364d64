"""An attempt that the supervisor has started, or found again, and what of it is waited for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ..model import AgentState
from ..store.base import AgentRecord, Unfinished
from .launchers import Attempt, Launchers
from .resume_policy import Cause


class Alarm(StrEnum):
    """What of an agent is due at a time."""

    RESUME = "resume"  # its back-off is over
    WAKE = "wake"  # it asked to be resumed then
    ATTACH = "attach"  # it was started and should have attached
    PROBE = "probe"  # it has gone on for long enough to end an outbreak
    LINGER = "linger"  # its process should have ended by now
    RETRY = "retry"  # look at it again


@dataclass(slots=True, eq=False)
class Launching:
    """An attempt that was counted, and is being started."""

    number: int
    is_missed: bool = False  # who held it meanwhile was lost, and that is still to be looked at
    then: Cause | None = None  # why to start the agent once more when this is through


@dataclass(slots=True, eq=False)
class Launched:
    """An attempt that was started and is not known to be over."""

    number: int
    attempt: Attempt
    may_be_late: bool  # it has not attached yet
    complaint: str = ""  # why it was made to end
    is_ending: bool = False  # its end is being recorded
    is_awaited: bool = False  # somebody relies on that since it was looked at
    then: Cause | None = None  # why to start the agent again when this has ended


def find_again(launchers: Launchers, record: Unfinished | AgentRecord) -> Launched | None:
    """Return what goes on of an agent: its present attempt or, if that does not, an earlier one.

    An earlier one holds nothing any more; but an agent is not to run twice at once,
    so it is waited for before the agent is started again.
    """
    attempt = launchers.find(record)
    if attempt is not None:
        if not attempt.is_over:
            is_resuming = record.state is AgentState.RESUMING
            return Launched(record.attempts, attempt, may_be_late=is_resuming)
        attempt.close()
    living = launchers.find_living(record)
    return None if living is None else Launched(*living, may_be_late=False)
