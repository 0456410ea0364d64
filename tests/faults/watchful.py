"""A daemon that notices within hundredths of a second that the wall clock was set."""

from __future__ import annotations

from agent_journal.service import schedule

schedule.LOOK_SECONDS = 0.02  # type: ignore[misc]
