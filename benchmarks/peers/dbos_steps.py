"""DBOS on SQLite: one step per write, as many workflows as writers.

A step's result is recorded before the workflow sees it, as an entry is here.
The step does nothing but return a value of the events' size, so that the cost
is the recording's.
"""

import asyncio
import importlib.metadata
import time

from dbos import DBOS, DBOSConfig
from tally import Options, Tally, parse_options

options: Options
tally: Tally


@DBOS.step()
async def record(step: int) -> str:
    """Return what is to be recorded."""
    return f"{step:09}" + "x" * (options.event_bytes - 9)


@DBOS.workflow()
async def write() -> int:
    """Run steps until the time is over."""
    step = 0
    while not tally.is_over:
        begun_ns = time.monotonic_ns()
        await record(step)
        tally.add(begun_ns)
        step += 1
    return step


async def run_workflows() -> None:
    """Start all workflows at once and await their ends."""
    handles = [await DBOS.start_workflow_async(write) for _ in range(options.writers)]
    tally.begin_ns = time.monotonic_ns()
    for handle in handles:
        await handle.get_result()


def main() -> None:
    """Run DBOS on a database file of its own."""
    global options, tally  # noqa: PLW0603 - DBOS wants its workflows at module level
    options = parse_options("DBOS on SQLite")
    tally = Tally(options.seconds)
    config: DBOSConfig = {
        "name": "benchmark",
        "system_database_url": f"sqlite:///{options.directory / 'dbos.db'}",
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.launch()
    asyncio.run(run_workflows())
    DBOS.destroy()
    print(tally.report(version=f"dbos {importlib.metadata.version('dbos')}"))


if __name__ == "__main__":
    main()
