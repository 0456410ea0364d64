"""Runs the command line: ``python -m agent_journal.cli``, the same as ``agent-journal``."""

from __future__ import annotations

from . import program

if __name__ == "__main__":
    program()
