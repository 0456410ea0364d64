"""A mutant: it takes every append of an agent, whoever holds it by now."""

from __future__ import annotations

import sys

from agent_journal.__main__ import main
from agent_journal.service import appending

appending._check_epoch = lambda *_: None

if __name__ == "__main__":
    sys.exit(main())
