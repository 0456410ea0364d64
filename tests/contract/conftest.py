"""Short slices everywhere, so that a small test meets what a large journal does."""

from __future__ import annotations

import pytest

from agent_journal.store import census, database, rows, sqlite, sweeping


@pytest.fixture
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let housekeeping, reads and rows take a few entries at a time."""
    monkeypatch.setattr(sqlite, "SETTLE_SLICE_ENTRIES_MIN", 2)
    monkeypatch.setattr(sqlite, "AGENTS_SLICE", 3)
    monkeypatch.setattr(database, "SLICE_ENTRIES", 5)
    for name in ("SLICE_SECONDS", "READ_SECONDS", "READ_SECONDS_MAX"):
        monkeypatch.setattr(database, name, 0.0)
    monkeypatch.setattr(sweeping, "SWEEP_ROWS", 2)
    monkeypatch.setattr(census, "SLICE_AGENTS", 2)
    monkeypatch.setattr(database, "NAMES_MAX", 3)
    monkeypatch.setattr(rows, "ROW_BYTES_MAX", 300)
