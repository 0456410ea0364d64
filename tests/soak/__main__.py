"""A soak, by hand: ``make soak SECONDS=60``."""

from __future__ import annotations

import signal
import sys

from agent_journal.testing.daemon import RunningDaemon
from soak.rounds import soak


def main() -> int:
    """Run for the seconds of the command line, an hour without any."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the daemon ends with it
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3600.0
    with RunningDaemon() as daemon:
        found = soak(daemon, seconds, lambda line: print(line, flush=True))  # noqa: T201
        for problem in found.problems:
            print(f"PROBLEM: {problem}")  # noqa: T201
        print(f"{dict(found.counts)}: {len(found.problems) or 'no'} problems")  # noqa: T201
    return bool(found.problems)


if __name__ == "__main__":
    sys.exit(main())
