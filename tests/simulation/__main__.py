"""Repeats one schedule, and shows all of it: ``python -m simulation SEED``."""

from __future__ import annotations

import sys

from simulation.world import run_schedule


def main() -> int:
    """Show the trace and what is wrong with it."""
    report = run_schedule(sys.argv[1])
    print("\n".join(report.trace))  # noqa: T201
    print("\n".join(["", *report.faults]))  # noqa: T201
    return bool(report.faults)


if __name__ == "__main__":
    sys.exit(main())
