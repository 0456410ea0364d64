"""A mutant: it takes every append of an agent, whoever holds it by now."""

from __future__ import annotations

import sys

from agent_journal.__main__ import main
from agent_journal.service import appending
from agent_journal.service.heads import Head
from agent_journal.wire import Append

check_fence = appending._check_fence


def check_only_what_is_expected(head: Head, request: Append) -> None:
    request.epoch = head.epoch or None
    check_fence(head, request)


appending._check_fence = check_only_what_is_expected

if __name__ == "__main__":
    sys.exit(main())
