"""The seed of the crash tests, which is printed so that a failure can be repeated."""

from __future__ import annotations

import os
import secrets

import pytest


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> str:
    """Return ``$CRASH_SEED``, or one that was never used; a failing test shows it."""
    seed = os.environ.get("CRASH_SEED") or secrets.token_hex(4)
    print(f"CRASH_SEED={seed} repeats {request.node.name}")  # noqa: T201 - shown on failure
    return seed
