"""LangGraph's AsyncSqliteSaver: one checkpoint per write, as many threads of it as writers.

A checkpoint is what LangGraph records after each step of a graph, as an entry
is what an agent records here.  It gets a state of the events' size.  All
writers share the one saver, in one event loop, as they do in an application;
the saver turns WAL on by itself and leaves SQLite's default of an fsync per
commit in force, which is checked.
"""

import asyncio
import importlib.metadata
import time
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from tally import Options, Tally, parse_options


async def write(saver: AsyncSqliteSaver, writer: int, options: Options, tally: Tally) -> None:
    """Record one thread's checkpoints, each the child of the one before."""
    config: Any = {"configurable": {"thread_id": f"agent-{writer:03}", "checkpoint_ns": ""}}
    versions: Any = {"messages": 1}
    step = 0
    while not tally.is_over:
        begun_ns = time.monotonic_ns()
        checkpoint = empty_checkpoint()
        checkpoint["id"] = str(uuid6(clock_seq=step))
        checkpoint["channel_values"] = {"messages": "x" * options.event_bytes}
        checkpoint["channel_versions"] = versions
        metadata: Any = {"source": "loop", "step": step, "parents": {}}
        config = await saver.aput(config, checkpoint, metadata, versions)
        tally.add(begun_ns)
        step += 1


async def main() -> None:
    """Run all writers at once."""
    options = parse_options("LangGraph AsyncSqliteSaver")
    path = str(options.directory / "langgraph.db")
    async with AsyncSqliteSaver.from_conn_string(path) as saver:
        await saver.setup()
        async with saver.conn.execute("PRAGMA synchronous") as cursor:
            if await cursor.fetchone() != (2,):
                raise SystemExit("the saver's commits are not durable: synchronous is not FULL")
        tally = Tally(options.seconds)
        writers = (write(saver, writer, options, tally) for writer in range(options.writers))
        await asyncio.gather(*writers)
    version = importlib.metadata.version("langgraph-checkpoint-sqlite")
    print(tally.report(version=f"langgraph-checkpoint-sqlite {version}"))


if __name__ == "__main__":
    asyncio.run(main())
