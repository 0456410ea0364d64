"""What all tests share: how hypothesis looks for examples, and failures that explain themselves."""

from __future__ import annotations

import pytest
from hypothesis import settings

# No deadline: a test never asserts a speed, and a busy machine is slow at times.
settings.register_profile("journal", deadline=None, max_examples=60)
settings.load_profile("journal")

pytest.register_assert_rewrite(
    "agent_journal.testing.durable_contract",
    "agent_journal.testing.plain_journal",
    "agent_journal.testing.store_contract",
    "agent_journal.testing.store_machine",
)
