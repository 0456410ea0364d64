"""A daemon that takes a commit for stuck in tenths of a second, so that a test need not wait."""

from __future__ import annotations

from agent_journal.service import app

app.STALLED_SECONDS = 0.5  # type: ignore[misc]
