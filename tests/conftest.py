"""What all tests share: failures in the shipped test suite explain themselves too."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "agent_journal.testing.plain_journal",
    "agent_journal.testing.store_contract",
    "agent_journal.testing.store_machine",
)
