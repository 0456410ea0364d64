"""What every conversation shares; put together once, in ``app``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from ..clock import Clock
from ..model import Micros
from ..store.base import Store
from .admission import Admission
from .committer import Committer
from .config import Config
from .heads import Heads
from .metrics import Metrics


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

    @property
    def now(self) -> Micros:
        """The time of receipt for what is being read."""
        return Micros(self.clock.wall_us())
