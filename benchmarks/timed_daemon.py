"""The daemon as it is, but for a line in its log that tells how long its scan took."""

import sys
import time

from agent_journal.__main__ import main
from agent_journal.service import app
from agent_journal.service.context import Context
from agent_journal.service.supervisor import Supervisor
from agent_journal.store.base import Unfinished

recover = app.recover


async def timed_recover(context: Context, supervisor: Supervisor) -> list[Unfinished]:
    """Do what the daemon does before it is ready, and tell what it took."""
    begun, cpu_begun = time.monotonic(), time.process_time()
    lost = await recover(context, supervisor)
    took, cpu_took = time.monotonic() - begun, time.process_time() - cpu_begun
    context.log.info("scan_timed", seconds=round(took, 4), cpu_seconds=round(cpu_took, 4))
    return lost


app.recover = timed_recover

if __name__ == "__main__":
    sys.exit(main())
