"""What every conversation shares; put together once, in ``app``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from structlog.typing import FilteringBoundLogger

from ..clock import Clock
from ..model import AgentId, Micros, Uid
from ..store.base import Store
from .admission import Admission
from .attempt_output import AttemptFiles
from .committer import Committer
from .config import Config
from .heads import Heads
from .metrics import Metrics
from .owners import Owners
from .redacting import Boundary

if TYPE_CHECKING:
    from .retention import Retention  # which uses a context


class Sink(Protocol):
    """The way back to a client."""

    unsent_bytes: int

    def write(self, data: bytes) -> None:
        """Send *data*, or buffer it."""

    async def drained(self) -> None:
        """Wait until the client has read most of what was written, or is gone."""

    def pause_reading(self) -> None:
        """Take nothing more from the client."""

    def resume_reading(self) -> None:
        """Take again what the client sends."""

    def close(self) -> None:
        """Send what was written, then end the connection."""


class Resumer(Protocol):
    """Who starts agents again; told of each change after it is durable.

    Each call returns at once: what takes time is the resumer's own task.
    """

    def interrupted(self, uid: Uid, agent_id: AgentId) -> None:
        """Take note that an agent's owner is gone, or that a launched attempt ended."""

    def woken(self, uid: Uid, agent_id: AgentId) -> None:
        """Take note that an agent is due now: a signal came, or a person asked."""

    def attached(self, uid: Uid, agent_id: AgentId) -> None:
        """Take note that a process holds the agent."""

    def finished(self, uid: Uid, agent_id: AgentId) -> None:
        """Take note that an agent has ended, or is parked: nothing of it is to be started."""

    def waiting(self, uid: Uid, agent_id: AgentId, wake_at: Micros | None) -> None:
        """Take note that an agent was given up until *wake_at*, or until a signal comes."""

    def will_report(self, uid: Uid, agent_id: AgentId, attempt: int) -> bool:
        """Tell whether ``record_end`` will be called for an attempt whose owner is gone.

        For one that it launched and whose exit status it is about to get.  False:
        the attempt is recorded as lost.
        """
        ...

    def knows_launcher(self, name: str, uid: Uid) -> bool:
        """Tell whether the configuration names such a launcher for agents of *uid*."""
        ...


class NoResumer:
    """Starts nothing: agents stay as they are until somebody attaches to them."""

    def interrupted(self, uid: Uid, agent_id: AgentId) -> None:
        """Do nothing."""

    def woken(self, uid: Uid, agent_id: AgentId) -> None:
        """Do nothing."""

    def attached(self, uid: Uid, agent_id: AgentId) -> None:
        """Do nothing."""

    def finished(self, uid: Uid, agent_id: AgentId) -> None:
        """Do nothing."""

    def waiting(self, uid: Uid, agent_id: AgentId, wake_at: Micros | None) -> None:
        """Do nothing."""

    def will_report(self, uid: Uid, agent_id: AgentId, attempt: int) -> bool:  # noqa: ARG002 - Resumer's
        """Say no: nothing was launched."""
        return False

    def knows_launcher(self, name: str, uid: Uid) -> bool:  # noqa: ARG002 - Resumer's
        """Say no: there are none."""
        return False


@dataclass(slots=True)
class Context:
    """The parts of the running daemon."""

    config: Config
    store: Store
    heads: Heads
    committer: Committer
    admission: Admission
    metrics: Metrics
    clock: Clock
    log: FilteringBoundLogger
    boot_id: str
    owners: Owners = field(default_factory=Owners)
    resumer: Resumer = field(default_factory=NoResumer)
    boundary: Boundary | None = None  # none: everything is recorded as it comes
    retention: Retention | None = None  # none: nothing is ever removed by itself
    attempts: AttemptFiles | None = None  # none: nothing is started here

    @property
    def now(self) -> Micros:
        """The time of receipt for what is being read."""
        return Micros(self.clock.wall_us())
