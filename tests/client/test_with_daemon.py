"""Both clients against the real daemon, also while it is killed and started again."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from agent_journal.client import (
    Appended,
    AppendRequest,
    Client,
    Entry,
    NewEntry,
    connect,
    connect_async,
)
from agent_journal.errors import (
    AgentFinishedError,
    AgentUnfinishedError,
    FrameTooLargeError,
    InvalidError,
    JournalError,
    NotFoundError,
    SequenceConflictError,
    UnknownOpError,
)
from agent_journal.testing.daemon import RunningDaemon

AGENTS = 10


@pytest.fixture
def running() -> Iterator[RunningDaemon]:
    with RunningDaemon() as daemon:
        yield daemon


@pytest.fixture
def journal(running: RunningDaemon) -> Iterator[Client]:
    with connect(running.socket) as client:
        yield client


def workload(count: int) -> list[AppendRequest]:
    return [
        AppendRequest(f"agent-{number % AGENTS}", {"Noted": number}, iteration=number)
        for number in range(count)
    ]


def check_recorded_once(journal: Client, answers: list[Any], count: int) -> None:
    """Every acknowledged entry is there, where its answer said, once, and nothing else is."""
    assert len(answers) == count
    failures = [answer for answer in answers if not isinstance(answer, Appended)]
    assert not failures
    found: dict[int, Entry] = {}
    for agent_number in range(AGENTS):
        entries = list(journal.read(f"agent-{agent_number}"))
        numbers = [entry.payload for entry in entries]
        assert numbers == list(range(agent_number, count, AGENTS))
        assert [entry.sequence for entry in entries] == list(range(len(entries)))
        found.update({entry.iteration: entry for entry in entries})
    for number, answer in enumerate(answers):
        assert (answer.sequence, answer.position) == (
            found[number].sequence,
            found[number].position,
        )
    in_order = list(journal.tail(follow=False))
    positions = [entry.position for entry in in_order]
    assert positions == sorted(set(positions))
    assert len(positions) == count


def crash_whenever(
    running: RunningDaemon, due: threading.Semaphore, times: int
) -> threading.Thread:
    """Kill and start the daemon each time that the semaphore says."""

    def crash() -> None:
        for _ in range(times):
            assert due.acquire(timeout=30)
            running.kill()
            running.start()

    thread = threading.Thread(target=crash, daemon=True)
    thread.start()
    return thread


def test_pipelined_appends_over_crashes_are_recorded_once(running: RunningDaemon) -> None:
    count = 6000
    due = threading.Semaphore(0)
    crashing = crash_whenever(running, due, times=3)
    answers: list[Any] = []
    with connect(running.socket) as journal:
        for answer in journal.append_pipelined(iter(workload(count)), window=300):
            answers.append(answer)
            if len(answers) % (count // 4) == 0:
                due.release()
        crashing.join(30)
        check_recorded_once(journal, answers, count)
    assert not crashing.is_alive()


async def test_concurrent_appends_over_crashes_are_recorded_once(running: RunningDaemon) -> None:
    count = 3000
    due = threading.Semaphore(0)
    crashing = crash_whenever(running, due, times=3)
    done = 0

    async with connect_async(running.socket) as journal:

        async def append(request: AppendRequest) -> Appended:
            nonlocal done
            answer = await journal.append(
                request.agent_id, request.event, iteration=request.iteration
            )
            done += 1
            if done % (count // 4) == 0:
                due.release()
            return answer

        answers = await asyncio.gather(*map(append, workload(count)))
    await asyncio.to_thread(crashing.join, 30)
    with connect(running.socket) as reader:
        check_recorded_once(reader, list(answers), count)


def test_a_tail_over_crashes_misses_nothing_and_shows_nothing_twice(
    running: RunningDaemon,
) -> None:
    count = 2000
    due = threading.Semaphore(0)
    crashing = crash_whenever(running, due, times=2)

    def write() -> None:
        with connect(running.socket) as writer:
            for _ in writer.append_pipelined(iter(workload(count)), window=50):
                pass

    writing = threading.Thread(target=write, daemon=True)
    seen: list[object] = []
    with connect(running.socket) as journal:
        writing.start()
        for entry in journal.tail(from_position=0):
            seen.append(entry.payload)
            if len(seen) in (500, 1000):
                due.release()
            if len(seen) == count:
                break
        journal.ping()
    writing.join(30)
    crashing.join(30)
    assert seen == list(range(count))


def test_a_stopped_daemon_is_waited_for(running: RunningDaemon, journal: Client) -> None:
    journal.append("a", {"One": 1})
    assert running.stop() == 0
    starting = threading.Timer(0.1, running.start)
    starting.start()
    assert journal.append("a", {"Two": 2}).sequence == 1
    starting.join()
    assert [entry.name for entry in journal.read("a")] == ["One", "Two"]


def test_an_agents_life(journal: Client) -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    journal.append("a", {"Started": {"goal": "ü"}}, timestamp=when)
    journal.append_many("a", [NewEntry({"Noted": 1}, 1), NewEntry(b'{"Noted": 2.50}', 2)])
    with pytest.raises(AgentUnfinishedError):
        journal.compact("a")
    with pytest.raises(SequenceConflictError) as raised:
        journal.append("a", {"Noted": 3}, expected_sequence=2)
    assert raised.value.details == {"expected": 2, "actual": 3}
    journal.append("a", {"Terminated": {"reason": "Completed"}}, expected_sequence=3, iteration=2)
    with pytest.raises(AgentFinishedError):
        journal.append("a", {"Noted": 4})
    first, *others = journal.read("a")
    assert (first.timestamp, first.payload) == (when, {"goal": "ü"})
    assert [entry.payload for entry in others] == [1, 2.5, {"reason": "Completed"}]
    agent = journal.describe("a")
    assert (agent.state, agent.is_terminal, agent.uid) == ("completed", True, os.geteuid())
    assert (agent.entries, agent.latest_sequence, agent.next_sequence) == (4, 3, 4)
    assert [each.agent_id for each in journal.agents(state="completed")] == ["a"]
    assert journal.compact("a") == 4
    assert list(journal.read("a")) == []
    assert journal.describe("a").next_sequence == 0
    with pytest.raises(NotFoundError):
        journal.describe("b")


def test_pages_of_agents_and_entries_meet_without_gap(journal: Client) -> None:
    count = 2345
    requests = [AppendRequest(f"agent-{number}", {"Started": {}}) for number in range(count)]
    requests += [AppendRequest("long", {"Noted": number}) for number in range(count)]
    assert all(isinstance(answer, Appended) for answer in journal.append_pipelined(requests))
    found = [agent.agent_id for agent in journal.agents()]
    assert found == [*(f"agent-{number}" for number in range(count)), "long"]
    assert [entry.payload for entry in journal.read("long")] == list(range(count))
    assert [entry.payload for entry in journal.read("long", 1990, 20)] == list(range(1990, 2010))
    assert len(list(journal.agents(limit=1001))) == 1001


def test_a_page_may_end_at_a_limit_of_bytes(journal: Client) -> None:
    text = "x" * 400_000
    journal.append_many("a", [NewEntry({"Big": text}) for _ in range(9)])
    assert [entry.payload for entry in journal.read("a")] == [text] * 9


def test_an_entry_that_is_too_large_is_refused_and_no_more(journal: Client) -> None:
    with pytest.raises(FrameTooLargeError):
        journal.append("a", {"Big": "x" * 5_000_000})
    assert journal.append("a", {"Small": 1}).sequence == 0


def test_the_daemons_refusals_are_raised(journal: Client) -> None:
    with pytest.raises(InvalidError) as raised:
        journal.append("not an id", {"E": 1})
    assert raised.value.details["field"] == "agent_id"
    with pytest.raises(InvalidError):
        journal.append("a", {"One": 1, "Two": 2})
    with pytest.raises(UnknownOpError):
        journal.call({"op": "frobnicate"})
    assert journal.hello()["protocol"] == 1
    assert journal.call({"op": "ping", "id": 5}) == {"id": 5, "ok": True}
    assert journal.stats()["connections"] == 1


async def test_a_tail_shows_what_is_recorded_from_now_on(running: RunningDaemon) -> None:
    async with connect_async(running.socket) as journal:
        await journal.append("a", {"Before": 1})
        entries: AsyncIterator[Entry] = journal.tail()
        waiting = asyncio.ensure_future(anext(entries))
        while not waiting.done():
            await journal.append("a", {"After": 1})
        assert (await waiting).name == "After"


def test_too_many_connections_is_waited_for() -> None:
    config = "[limits]\nconnections_max = 2\nconnections_per_uid_max = 2\n"
    with RunningDaemon(config=config) as small:
        clients = [connect(small.socket) for _ in range(2)]
        for client in clients:
            client.ping()
        with pytest.raises(JournalError) as raised, connect(small.socket, retry_s=0.2) as third:
            third.append("a", {"E": 1})
        assert raised.value.code in {"too_many_connections", "connection_lost"}
        freeing = threading.Timer(0.2, clients[0].close)
        freeing.start()
        with connect(small.socket) as third:
            assert third.append("a", {"E": 1}).sequence == 0
        freeing.join()
        clients[1].close()
