"""What is said of the asyncio client alone: concurrency, cancellation, loops."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from agent_journal.client import AppendRequest, AsyncClient, connect_async
from agent_journal.errors import ConnectionLostError, JournalError


@pytest.fixture
async def client(daemon: Any) -> AsyncIterator[AsyncClient]:
    async with connect_async(daemon.path, retry_s=10) as journal:
        yield journal


async def test_many_tasks_share_one_connection(client: AsyncClient, daemon: Any) -> None:
    answers = await asyncio.gather(
        *(client.append(f"a{number % 7}", {f"E{number}": number}) for number in range(500))
    )
    for agent in range(7):
        sequences = [answers[number].sequence for number in range(agent, 500, 7)]
        assert sequences == list(range(len(sequences)))
    assert len(daemon.peers) == 1


async def test_requests_do_not_wait_for_answers(daemon: Any) -> None:
    """The scripted daemon answers nothing before it has read everything."""

    def patient(peer: Any) -> None:
        for request in [peer.read() for _ in range(100)]:
            peer.reply_to(request)
        peer.serve()

    daemon.script(patient)
    async with connect_async(daemon.path) as journal, asyncio.timeout(10):
        await asyncio.gather(*(journal.append("a", {f"E{number}": 1}) for number in range(100)))
    assert daemon.journal.names("a") == [f"E{number}" for number in range(100)]


async def test_each_gets_its_own_answer(client: AsyncClient) -> None:
    await client.append("a", {"E": 1})
    await client.append("b", {"E": 1})

    async def ask(number: int) -> bool:
        match number % 4:
            case 0:
                return (await client.describe("a")).agent_id == "a"
            case 1:
                return (await client.describe("b")).agent_id == "b"
            case 2:
                return [entry.agent_id async for entry in client.read("a")] == ["a"]
            case _:
                with pytest.raises(JournalError):
                    await client.describe("c")
                return True

    assert all(await asyncio.gather(*map(ask, range(200))))


async def test_what_many_tasks_had_underway_is_recorded_once_in_order(daemon: Any) -> None:
    def cut(served: int, recorded: int) -> Any:
        def scene(peer: Any) -> None:
            peer.serve(served)
            for _ in range(recorded):
                peer.journal.replies(peer.read())

        return scene

    daemon.script(cut(5, 0), cut(0, 3), cut(2, 1), cut(1, 0))
    async with connect_async(daemon.path, retry_s=10) as journal:
        answers = await asyncio.gather(
            *(journal.append("a", {f"E{number}": 1}) for number in range(50))
        )
    assert [answer.sequence for answer in answers] == list(range(50))
    assert daemon.journal.names("a") == [f"E{number}" for number in range(50)]


async def test_cancelling_one_does_not_disturb_the_others(daemon: Any) -> None:
    asked, answer = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(peer: Any) -> None:
        requests = [peer.read() for _ in range(3)]
        loop.call_soon_threadsafe(asked.set)
        assert answer.wait(10)
        for request in requests:
            peer.reply_to(request)
        peer.serve()

    daemon.script(slow)
    async with connect_async(daemon.path) as journal:
        first, second, third = (
            asyncio.create_task(journal.append("a", {f"E{number}": number})) for number in range(3)
        )
        await asked.wait()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        answer.set()
        assert ((await first).sequence, (await third).sequence) == (0, 2)
        assert (await journal.describe("a")).entries == 3  # the cancelled one is recorded
    assert len(daemon.peers) == 1


async def test_a_cancelled_append_is_not_repeated(daemon: Any) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def lossy(peer: Any) -> None:
        peer.read()
        loop.call_soon_threadsafe(asked.set)
        with pytest.raises(EOFError):
            peer.read()

    daemon.script(lossy)
    async with connect_async(daemon.path) as journal:
        task = asyncio.create_task(journal.append("a", {"E": 1}))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        daemon.hang_up()
        await journal.ping()
    assert daemon.journal.log == []


async def test_close_ends_those_who_wait(daemon: Any) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def silent(peer: Any) -> None:
        peer.read()
        loop.call_soon_threadsafe(asked.set)
        peer.read()

    daemon.script(silent)
    journal = connect_async(daemon.path)
    waiting = asyncio.create_task(journal.append("a", {"E": 1}))
    await asked.wait()
    await journal.close()
    with pytest.raises(ConnectionLostError, match="closed; the entry may have been recorded"):
        await waiting
    with pytest.raises(RuntimeError, match="closed"):
        await journal.ping()


async def test_another_loop_is_refused(daemon: Any) -> None:
    async with connect_async(daemon.path) as journal:
        await journal.ping()
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(journal.ping()))
        await journal.ping()


async def test_more_than_the_socket_holds_goes_through(client: AsyncClient, daemon: Any) -> None:
    """Both directions full at once must not lock each other."""
    text = "x" * 100_000
    answers = await asyncio.gather(
        *(client.append("a", {f"E{number}": text}) for number in range(100))
    )
    assert len(answers) == 100
    entries = [entry async for entry in client.read("a")]
    assert [entry.payload for entry in entries] == [text] * 100


async def test_a_tail_whose_entries_nobody_takes_stops_reading(daemon: Any) -> None:
    """A slow reader is waited for by the daemon, not remembered by the client."""
    sent: list[int] = []
    stuck = asyncio.Event()
    loop = asyncio.get_running_loop()
    entry = {
        "sequence": 0,
        "timestamp": "2026-01-02T03:04:05.678901Z",
        "agent_id": "a",
        "iteration": 0,
        "event": {"E": "x" * 1000},
    }

    def flooding(peer: Any) -> None:
        request = peer.read()
        peer.connection.settimeout(0.5)
        try:
            while len(sent) < 100_000:
                position = len(sent) + 1
                peer.send({"id": request["id"], "entry": {**entry, "position": position}})
                sent.append(position)
        except TimeoutError:
            loop.call_soon_threadsafe(stuck.set)

    daemon.script(flooding)
    journal = connect_async(daemon.path)
    async with aclosing(journal.tail(from_position=1)) as entries:
        assert (await anext(entries)).position == 1
        async with asyncio.timeout(10):
            await stuck.wait()
        assert len(sent) < 2000  # what the socket and one read of it hold


async def test_a_tail_runs_beside_the_calls(client: AsyncClient, daemon: Any) -> None:
    await client.append("a", {"E0": 1})
    async with aclosing(client.tail(last=1)) as entries:
        assert (await anext(entries)).name == "E0"
        waiting = asyncio.ensure_future(anext(entries))
        assert (await client.append("a", {"E1": 1})).sequence == 1
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            assert (await waiting).name == "E1"
    await client.ping()


async def test_a_pipeline_may_be_fed_by_an_asynchronous_source(
    client: AsyncClient, daemon: Any
) -> None:
    ended = []

    async def source() -> AsyncIterator[AppendRequest]:
        try:
            for number in range(50):
                await asyncio.sleep(0)
                yield AppendRequest("a", {f"E{number}": 1})
        finally:
            ended.append(True)

    answers = [answer async for answer in client.append_pipelined(source(), window=8)]
    assert [answer.sequence for answer in answers] == list(range(50))  # type: ignore[union-attr]
    async with aclosing(client.append_pipelined(source(), window=2)) as some:
        await anext(some)
    await client.ping()
    assert ended


async def test_nothing_is_left_in_the_loop(daemon: Any) -> None:
    """Neither a task nor a socket outlives the client; warnings are errors here."""
    for _ in range(3):
        async with connect_async(daemon.path) as journal:
            await journal.append("a", {"E": 1})
            daemon.hang_up()
            await journal.append("a", {"E": 1})
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_uvloop_drives_it_too(daemon: Any) -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is absent: only asyncio's loop was tried")

    async def use() -> int:
        async with connect_async(daemon.path, retry_s=10) as journal:
            for round_ in range(3):
                await asyncio.gather(
                    *(journal.append("a", {f"E{round_}.{number}": 1}) for number in range(20))
                )
                daemon.hang_up()
            return len([entry async for entry in journal.read("a")])

    def run() -> int:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(use())

    assert await asyncio.to_thread(run) == 60
