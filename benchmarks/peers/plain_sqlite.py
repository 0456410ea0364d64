"""A commit per entry with nothing but the standard library's sqlite3.

What somebody writes who needs a durable journal by tonight: one table with the
key that reads want, WAL, an fsync per commit.  No socket, no other process, and
so no more than one writer: where the others pay for a round trip, this pays for
none.
"""

import sqlite3
import time

from tally import Tally, parse_options

SCHEMA = """
CREATE TABLE entries (
    agent_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    event    TEXT NOT NULL,
    PRIMARY KEY (agent_id, sequence)
) WITHOUT ROWID
"""
AGENTS = 100


def main() -> None:
    """Append to a hundred agents in turn, one commit each."""
    options = parse_options("plain sqlite3, a commit per entry")
    database = sqlite3.connect(options.directory / "plain.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    if database.execute("PRAGMA synchronous").fetchone() != (2,):
        raise SystemExit("this SQLite does not take synchronous=FULL")
    database.execute(SCHEMA)
    head, tail = '{"ToolsDispatched":{"tool_count":3,"summary":"', '"}}'
    event = head + "x" * (options.event_bytes - len(head) - len(tail)) + tail
    tally = Tally(options.seconds)
    written = 0
    while not tally.is_over:
        begun_ns = time.monotonic_ns()
        agent_id, sequence = f"agent-{written % AGENTS:03}", written // AGENTS
        # Outside a transaction of ours a statement is one of its own: it has committed on return.
        database.execute("INSERT INTO entries VALUES (?, ?, ?)", (agent_id, sequence, event))
        tally.add(begun_ns)
        written += 1
    database.close()
    print(tally.report())


if __name__ == "__main__":
    main()
