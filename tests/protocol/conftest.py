"""A daemon for the tests of the protocol, and its document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_journal.testing.daemon import RunningDaemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def document() -> str:
    path = Path(__file__).parents[2] / "docs" / "PROTOCOL.md"
    return path.read_text(encoding="utf-8")
