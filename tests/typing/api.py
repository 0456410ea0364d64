"""How users write it; nothing here is run, mypy and pyright read it.

A line that must be refused says so with ``type: ignore``, which is itself
refused (``warn_unused_ignores``) on the day that the line is accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, assert_type

from agent_journal.client import (
    Agent,
    Appended,
    AppendRequest,
    AsyncClient,
    Client,
    DaemonNotRunningError,
    Entry,
    Event,
    NewEntry,
    ProtocolError,
    Timestamp,
    connect,
    connect_async,
    find_socket,
)
from agent_journal.errors import JournalError, SequenceConflictError


def blocking() -> None:
    assert_type(find_socket(), Path)
    assert_type(connect("/run/journal.sock", timeout_s=5), Client)
    assert_type(connect(Path("/run/journal.sock"), retry_s=0), Client)
    connect(5)  # type: ignore[arg-type]

    with connect() as journal:
        assert_type(journal, Client)
        assert_type(journal.append("a", {"Started": {"goal": "x"}}), Appended)
        journal.append("a", b'{"Started":{}}', iteration=1, timestamp=datetime.now(UTC), key="k")
        journal.append("a", '{"Started":{}}', timestamp="2026-01-01T00:00:00Z", epoch=3, uid=0)
        journal.append("a", 5)  # type: ignore[arg-type]
        journal.append("a", {"Started": {}}, 1)  # type: ignore[call-arg]

        entries = [NewEntry({"A": 1}), NewEntry(b'{"B":1}', iteration=2, key="k")]
        assert_type(journal.append_many("a", entries, expected_sequence=4), Appended)

        for answer in journal.append_pipelined(AppendRequest("a", {"A": n}) for n in range(9)):
            assert_type(answer, Appended | JournalError)
            if isinstance(answer, JournalError):
                raise answer
            assert_type(answer, Appended)
            assert_type(answer.duplicate, bool)

        for entry in journal.read("a", from_sequence=2, limit=10):
            assert_type(entry, Entry)
            assert_type((entry.sequence, entry.position, entry.iteration), tuple[int, int, int])
            assert_type(entry.timestamp, datetime)
            assert_type(entry.event, dict[str, object])
            assert_type((entry.name, entry.payload), tuple[str, object])
            entry.sequence = 3  # type: ignore[misc]

        agent = journal.describe("a")
        assert_type(agent, Agent)
        assert_type(agent.reason, str | None)
        assert_type(agent.is_terminal, bool)
        assert_type([*journal.agents(state="running", kind=None, uid="*")], list[Agent])
        assert_type(journal.compact("a", force=True), int)
        assert_type(journal.stats(), dict[str, Any])
        assert_type(journal.call({"op": "ping"}), dict[str, Any])
        assert_type(journal.hello(), dict[str, Any])
        journal.ping()

        found: Iterator[Entry] = journal.tail("a", last=10, follow=False)
        next(found)
        with closing(journal.tail(from_position=3)) as following:
            assert_type(next(following), Entry)


async def asynchronous() -> None:
    assert_type(connect_async(Path("/run/journal.sock"), timeout_s=5), AsyncClient)

    async with connect_async() as journal:
        assert_type(journal, AsyncClient)
        assert_type(await journal.append("a", {"Started": {}}), Appended)
        assert_type(await journal.append_many("a", [NewEntry({"A": 1})]), Appended)
        await asyncio.gather(*(journal.append("a", {"A": n}) for n in range(9)))

        async def source() -> AsyncIterator[AppendRequest]:
            yield AppendRequest("a", {"A": 1}, expected_sequence=3)

        async for answer in journal.append_pipelined(source(), window=5):
            assert_type(answer, Appended | JournalError)
        async for entry in journal.read("a", limit=10):
            assert_type(entry, Entry)
        async for agent in journal.agents(uid=1000):
            assert_type(agent, Agent)
        async with aclosing(journal.tail(last=1)) as entries:
            assert_type(await anext(entries), Entry)
        assert_type(await journal.describe("a"), Agent)
        assert_type(await journal.compact("a"), int)
        assert_type(await journal.stats(uid="*"), dict[str, Any])
        assert_type(await journal.call({"op": "ping"}), dict[str, Any])
        await journal.ping()
        for _ in journal.read("a"):  # type: ignore[attr-defined]
            pass


def errors(journal: Client, event: Event, timestamp: Timestamp) -> None:
    try:
        journal.append("a", event, timestamp=timestamp)
    except DaemonNotRunningError as error:
        assert_type(error.retryable, bool)
    except SequenceConflictError as error:
        assert_type(error.details, dict[str, object])
    except (ProtocolError, JournalError) as error:
        assert_type(error.message, str)
