"""A mutant: after a restart an agent goes on from its highest sequence, not from the next one."""

from __future__ import annotations

import sys

from agent_journal.__main__ import main
from agent_journal.model import Sequence
from agent_journal.service import heads
from agent_journal.store.base import AgentRecord

head_of = heads._head


def one_too_low(record: AgentRecord) -> heads.Head:
    head = head_of(record)
    head.next_sequence = Sequence(max(head.next_sequence - 1, 0))
    return head


heads._head = one_too_low

if __name__ == "__main__":
    sys.exit(main())
