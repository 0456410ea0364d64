"""The store of a journal that failed its checks: it refuses everything, and says why."""

from __future__ import annotations

from typing import NoReturn

from ..errors import DamagedError
from ..model import Uid
from .base import AgentCounts, AgentNumber


class RefusingStore:
    """Raises the error that was found at every request, until a person decides."""

    def __init__(self, error: DamagedError) -> None:
        self._error = self.damage = error

    async def open(self) -> None:
        """Do nothing: what there was to open was found damaged."""

    def new_number(self) -> AgentNumber:
        """Refuse."""
        raise self._error

    async def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise self._error

    commit = load = find_key = read = read_keyed = scan = _refuse
    position_of_last = agents = agents_named = unfinished = _refuse
    ended_groups = ended = count_ended = is_swept = erase = space = _refuse

    def epoch_floor(self, uid: Uid) -> int:  # noqa: ARG002 - Store's
        """Say none: no epoch is granted."""
        return 0

    @property
    def agent_counts(self) -> AgentCounts | None:
        """Tell nothing: who knows what is there."""
        return None

    async def count_agents(self) -> bool:
        """Count nothing."""
        return False

    @property
    def is_maintenance_due(self) -> bool:
        """Say no: everything is kept as it is."""
        return False

    async def maintain(self) -> bool:
        """Keep everything as it is."""
        return False

    async def close(self) -> None:
        """Do nothing: nothing was opened."""
