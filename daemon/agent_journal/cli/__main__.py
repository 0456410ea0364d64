"""Runs the command line: ``python -m agent_journal.cli``, the same as ``agent-journal``."""

from __future__ import annotations

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
