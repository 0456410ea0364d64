"""Which agent and which step the running code belongs to."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Final

current_agent_variable: Final[ContextVar[Any]] = ContextVar("agent_journal_agent", default=None)
current_step_variable: Final[ContextVar[Any]] = ContextVar("agent_journal_step", default=None)
