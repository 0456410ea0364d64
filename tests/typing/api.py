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
    AsyncDurableAgent,
    Attached,
    Client,
    DaemonNotRunningError,
    DurableAgent,
    Entry,
    Event,
    Forked,
    NewEntry,
    ProtocolError,
    Reconciled,
    Step,
    StepError,
    StepInDoubtError,
    Suspended,
    Timestamp,
    connect,
    connect_async,
    current_step,
    find_socket,
    step,
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
        assert_type(journal.forget("a", force=True, wait=False), int)
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
        assert_type(await journal.forget("a"), int)
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


def count(text: str) -> int:
    return len(text)


async def search(question: str, *, depth: int = 1) -> list[str]:
    return [question] * depth


def found(question: str) -> Reconciled | None:
    return Reconciled(len(question))


def blocking_agent(journal: Client) -> None:
    with journal.agent("a", kind="report", command=["/bin/agent"], environment=["X"]) as agent:
        assert_type(agent, DurableAgent)
        assert_type((agent.epoch, agent.attempt, agent.resumed), tuple[int, int, bool])
        assert_type(agent.step("k", count, "x"), int)
        assert_type(agent.step("k", count, "x", effect="idempotent", reconcile=found), int)
        assert_type(agent.step(None, lambda: {"a": 1}, result_type=dict[str, int]), dict[str, int])
        agent.step(5, count, "x")  # type: ignore[call-overload]
        for item in agent.iterations(["a", "b"]):
            assert_type(item, str)
        for turn in agent.iterations():
            assert_type(turn, int)
        begun = agent.begin_step("k", name="model", inputs={"prompt": "why"})
        assert_type(begun, Step)
        assert_type(begun.is_done, bool)
        agent.complete_step(begun, {"text": "because"}, usage={"input_tokens": 3})
        agent.fail_step(begun, ValueError())
        assert_type(agent.now(), datetime)
        assert_type(agent.uuid(), str)
        assert_type(agent.random(), float)
        agent.sleep(3)
        agent.wait_for("approval", timeout=60)
        assert_type(agent.append({"Noted": 1}, key="k"), Appended)
        assert_type(agent.unasked(), list[str])
        agent.finish({"answer": 42})

    def program(agent: DurableAgent) -> float:
        return agent.random()

    assert_type(journal.agent().run(program), float)


async def asynchronous_agent(journal: AsyncClient) -> None:
    async with journal.agent("a", in_doubt="park", on_error="fail", suspend_after_s=0) as agent:
        assert_type(agent, AsyncDurableAgent)
        assert_type(await agent.step("k", search, "why", depth=2), list[str])
        assert_type(await agent.step("k", count, "why"), int)
        assert_type(
            await agent.step("k", search, "why", result_type=tuple[str, ...]), tuple[str, ...]
        )
        assert_type(await agent.now(), datetime)
        await asyncio.gather(*(agent.step(f"k{n}", search, "why") for n in range(3)))
        await agent.wait_for("approval")

    async def program(agent: AsyncDurableAgent) -> str:
        return await agent.uuid()

    assert_type(await journal.agent("a").run(program), str)
    journal.agent("a", in_doubt="ignore")  # type: ignore[arg-type]


async def holding(journal: Client, other: AsyncClient) -> None:
    assert_type(journal.attach("a", take_over=True), Attached)
    assert_type(await other.attach("a"), Attached)
    journal.detach("a", 3, wake_at=datetime.now(UTC), wait_for=["go"])
    assert_type(journal.signal("a", "go", {"by": "Ada"}), int)
    assert_type(await other.decide("a", "k", result=None), int)
    assert_type(journal.fork("a", at_sequence=3, new_agent_id="b"), Forked)
    assert_type(journal.resume("a"), str)
    assert_type(await other.park("a", reason="look"), str)
    assert_type(journal.cancel("a"), str)


@step
def plain_step(question: str) -> int:
    return len(question)


@step(key="search:{question}", effect="read_only")
async def async_step(question: str) -> list[str]:
    return [current_step().idempotency_key]


async def decorated() -> None:
    assert_type(plain_step("why"), int)
    assert_type(await async_step("why"), list[str])
    plain_step(5)  # type: ignore[arg-type]


def agent_errors(agent: DurableAgent) -> None:
    try:
        agent.step("k", count, "x")
    except StepInDoubtError as error:
        agent.complete_step(error.step, 3)
    except StepError as error:
        assert_type((error.key, error.type, error.message), tuple[str, str, str])
    except Suspended as given_up:
        assert_type(given_up.wait_for, tuple[str, ...])
