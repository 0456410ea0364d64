"""Shows one disk again that a power cut could have left, and what is wrong with it.

    PYTHONPATH=tests python -m crash.power.replay TRACE EVENT MODEL/HOW/NUMBER

The files are left as the cut left them, for whoever wants to look.
"""

from __future__ import annotations

import sys
from pathlib import Path

from crash.power.disk import Choice
from crash.power.hunt import repeated


def main() -> int:
    """Repeat what the arguments say."""
    path, index, choice = sys.argv[1:]
    problem, directory = repeated(Path(path), int(index), Choice.parse(choice))
    print(f"the disk is in {directory}")  # noqa: T201
    print(problem or "nothing is wrong with it")  # noqa: T201
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
