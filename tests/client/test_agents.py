"""Attached agents against the real daemon, also while it, or the agent, is killed."""

# ruff: noqa: PT012 - the blocks of agents are what raises

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import agent_journal
from agent_journal.client import (
    EXIT_SUSPENDED,
    Client,
    FencedError,
    ReplayMismatchError,
    StepError,
    Suspended,
    connect,
    connect_async,
    current_agent,
    step,
)
from agent_journal.errors import (
    AgentAttachedError,
    AgentFinishedError,
    InvalidError,
    ParkedError,
)
from agent_journal.testing.daemon import RunningDaemon

WORKER = Path(__file__).parent / "programs" / "worker.py"
PATIENCE_S = 20.0


@pytest.fixture
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture
def journal(daemon: RunningDaemon) -> Iterator[Client]:
    with connect(daemon.socket) as client:
        yield client


def names(journal: Client, agent_id: str) -> list[str]:
    return [entry.name for entry in journal.read(agent_id)]


def test_an_id_or_a_key_that_is_no_text_is_refused(journal: Client) -> None:
    with pytest.raises(InvalidError, match="agent_id"):
        journal.agent("a\ud800")
    with journal.agent("a") as agent:
        with pytest.raises(InvalidError, match="key"):
            agent.append({"Noted": 1}, key="k\ud800")
        first, again = (agent.append({"Noted": 1}, key='k"\\é') for _ in range(2))
    assert again.duplicate
    assert again.sequence == first.sequence


def never(*_: object) -> None:
    pytest.fail("this was called")


def until(is_so: Callable[[], bool]) -> None:
    """Wait until something that another process does is done."""
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.01)):
        if is_so():
            return
        pause.wait(0.01)
    pytest.fail("it never came to be")


class Worker:
    """The worker program as processes that are started by hand."""

    def __init__(self, daemon: RunningDaemon, directory: Path) -> None:
        self.effects = directory / "effects"
        self.environment = {
            "PATH": os.environ["PATH"],
            "AGENT_JOURNAL_SOCKET": str(daemon.socket),
            "PYTHONPATH": str(Path(agent_journal.__file__).parents[1]),
        }
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, agent_id: str, steps: int, *options: str) -> subprocess.Popen[str]:
        """Start the program."""
        arguments = [str(WORKER), agent_id, str(self.effects), str(steps), *options]
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Return the exit code and what was said."""
        _, said = process.communicate(timeout=PATIENCE_S)
        return process.returncode, said

    def done(self) -> list[str]:
        """Return which effects are there."""
        return self.effects.read_text().split() if self.effects.exists() else []

    def kill_all(self) -> None:
        """End what still runs."""
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def worker(daemon: RunningDaemon, tmp_path: Path) -> Iterator[Worker]:
    made = Worker(daemon, tmp_path)
    yield made
    made.kill_all()


class TestBlocking:
    def test_an_agent_that_was_left_goes_on_behind_its_last_step(self, journal: Client) -> None:
        with pytest.raises(LookupError), journal.agent("report", kind="report") as agent:
            assert not agent.resumed
            assert agent.step("plan", sorted, [3, 1, 2]) == [1, 2, 3]
            raise LookupError
        assert journal.describe("report").state == "running"
        with journal.agent("report") as agent:
            assert (agent.resumed, agent.attempt, agent.epoch) == (True, 2, 2)
            assert agent.step("plan", never, [3, 1, 2], name="sorted") == [1, 2, 3]
            assert agent.step("more", abs, -4) == 4
        described = journal.describe("report")
        assert (described.state, described.kind) == ("completed", "report")
        assert names(journal, "report").count("StepStarted") == 2

    def test_run_finishes_with_what_the_program_returns(self, journal: Client) -> None:
        assert journal.agent("report").run(lambda agent: agent.step("one", abs, -1)) == 1
        *_, last = journal.read("report")
        assert last.event == {"Terminated": {"reason": "Completed", "result": 1}}
        with pytest.raises(AgentFinishedError):
            journal.agent("report").run(never)

    def test_threads_ask_for_steps_side_by_side(self, journal: Client) -> None:
        for _ in range(2):
            with suppress(LookupError), journal.agent("report") as agent:
                with ThreadPoolExecutor(8) as pool:
                    asked = [
                        pool.submit(agent.step, f"step-{number}", abs, -number)
                        for number in range(40)
                    ]
                assert [each.result() for each in asked] == [*range(40)]
                raise LookupError
        assert names(journal, "report").count("StepStarted") == 40

    def test_the_daemons_death_is_not_the_agents(
        self, daemon: RunningDaemon, journal: Client
    ) -> None:
        """The process lives, so it stays the owner, in the same epoch."""
        with journal.agent("report") as agent:
            for number in range(6):
                if number % 2:
                    daemon.kill()
                    daemon.start()
                assert agent.step(f"step-{number}", abs, -number) == number
            assert agent.epoch == 1
        assert journal.describe("report").epoch == 1
        found = names(journal, "report")
        assert found == ["AttemptStarted", *["StepStarted", "StepCompleted"] * 6, "Terminated"]

    def test_the_daemons_death_within_a_step_is_not_the_steps(
        self, daemon: RunningDaemon, journal: Client
    ) -> None:
        def work() -> str:
            daemon.kill()
            daemon.start()
            return "done"

        with journal.agent("report") as agent:
            assert agent.step("work", work) == "done"
        assert names(journal, "report").count("StepCompleted") == 1

    def test_who_was_replaced_stops(self, daemon: RunningDaemon, journal: Client) -> None:
        with pytest.raises(FencedError), journal.agent("report") as zombie:
            zombie.step("one", abs, -1)
            with connect(daemon.socket) as other:
                with pytest.raises(AgentAttachedError) as caught:
                    other.agent("report").__enter__()
                assert caught.value.details["pid"] == os.getpid()
                other.attach("report", take_over=True)
            with pytest.raises(FencedError):
                zombie.step("two", never)
            zombie.step("three", never)
        assert names(journal, "report").count("StepStarted") == 1

    @pytest.mark.parametrize(
        ("order", "reason"), [("park", "was parked"), ("cancel", "is cancelled")]
    )
    def test_a_person_stops_it(self, journal: Client, order: str, reason: str) -> None:
        with pytest.raises(FencedError, match=reason), journal.agent("report") as agent:
            agent.step("one", abs, -1)
            getattr(journal, order)("report", reason="enough")
            agent.step("two", never)
        assert names(journal, "report").count("StepStarted") == 1

    def test_an_agents_own_events_carry_its_epoch(self, journal: Client) -> None:
        for _ in range(2):
            with suppress(LookupError), journal.agent("report") as agent:
                agent.append({"Started": {"goal": "sum up"}}, key="start")
                agent.append({"Noted": agent.attempt})
                raise LookupError
        own = [each for each in names(journal, "report") if not each.startswith("Attempt")]
        assert own == ["Started", "Noted", "Noted"]

    def test_a_signal_is_received(self, journal: Client) -> None:
        with journal.agent("report") as agent:
            sequence = journal.signal("report", "approval", {"by": "Ada"})
            assert sequence == 1
            assert agent.wait_for("approval") == {"by": "Ada"}

    def test_a_long_wait_gives_the_agent_up(self, journal: Client) -> None:
        with (
            pytest.raises(Suspended),
            journal.agent("report", command=False, suspend_after_s=0, exit_on_suspend=False) as one,
        ):
            one.wait_for("approval", timeout=3600)
        described = journal.describe("report")
        assert described.state == "waiting"
        assert described.wait_for == ("approval",)
        assert described.wake_at is not None
        journal.signal("report", "approval", "yes")
        with journal.agent("report", command=False) as agent:
            assert agent.wait_for("approval", timeout=3600) == "yes"

    def test_leaving_the_block_of_an_agent_that_waits_exits(self, journal: Client) -> None:
        with (
            pytest.raises(SystemExit) as caught,
            journal.agent("report", suspend_after_s=0, command=False) as agent,
        ):
            agent.sleep(3600)
        assert caught.value.code == EXIT_SUSPENDED == 75

    def test_a_persons_word_is_obeyed(self, journal: Client, worker: Worker) -> None:
        process = worker.start("report", 3, "hang=1", "manual")
        until(lambda: worker.effects.with_suffix(".hung").exists())
        process.kill()
        process.wait()
        until(lambda: journal.describe("report").state == "interrupted")
        journal.decide("report", "act-1", result={"number": 1, "square": 1})
        assert worker.end(worker.start("report", 3, "manual"))[0] == 0
        assert worker.done() == ["0", "1", "2"]
        *_, last = journal.read("report")
        assert last.payload == {"reason": "Completed", "result": {"total": 5}}

    def test_an_agent_is_parked_let_go_and_cancelled(self, journal: Client) -> None:
        with pytest.raises(LookupError), journal.agent("report", command=False) as agent:
            agent.step("one", abs, -1)
            raise LookupError
        assert journal.park("report", reason="look at it") == "parked"
        with pytest.raises(ParkedError):
            journal.agent("report", command=False).__enter__()
        assert journal.describe("report").reason == "look at it"
        assert journal.resume("report") == "running"  # this process lives
        assert journal.cancel("report", reason="enough") == "cancelled"
        with pytest.raises(AgentFinishedError):
            journal.agent("report", command=False).__enter__()

    def test_a_fork_has_the_steps_before_it_and_keys_of_its_own(self, journal: Client) -> None:
        def key() -> str:
            return current_agent_key()

        with journal.agent("report") as agent:
            first = agent.step("one", key)
            agent.step("two", key)
        forked = journal.fork("report", at_sequence=3, new_agent_id="report-b")
        assert forked.agent_id == "report-b"
        with journal.agent("report-b") as agent:
            assert agent.step("one", never, name="key") == first
            assert agent.step("two", key) != first
        assert "Forked" in names(journal, "report-b")

    def test_a_fork_is_gone_on_with_by_the_program_that_names_its_source(
        self, journal: Client, worker: Worker
    ) -> None:
        """The daemon starts it with the recorded command, in which the first one's id stands."""
        assert worker.end(worker.start("report", 3, "sleep=3600"))[0] == EXIT_SUSPENDED
        (at, *_) = [
            entry.sequence
            for entry in journal.read("report")
            if entry.name == "StepStarted" and entry.payload["key"] == "act-1"
        ]
        journal.fork("report", at_sequence=at, new_agent_id="report-b")
        journal.resume("report-b")
        until(lambda: worker.done() == ["0", "1", "1"])
        assert journal.describe("report").attempts == 1
        journal.fork("report-b", at_sequence=at + 1, new_agent_id="report-c")
        journal.resume("report-c")
        until(lambda: worker.done() == ["0", "1", "1", "1"])

    async def test_and_by_one_that_a_person_starts(
        self, daemon: RunningDaemon, journal: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with journal.agent("report", command=False) as agent:
            agent.step("one", abs, -1)
        journal.fork("report", at_sequence=1, new_agent_id="report-b")
        monkeypatch.setenv("AGENT_JOURNAL_AGENT_ID", "report-b")
        monkeypatch.setenv("AGENT_JOURNAL_SOCKET", str(daemon.socket))
        async with connect_async(daemon.socket) as client:
            async with client.agent("report", command=False) as fork:
                assert fork.agent_id == "report-b"
            async with client.agent("another", command=False) as another:
                assert another.agent_id == "another"
        monkeypatch.setenv("AGENT_JOURNAL_AGENT_ID", "new")
        with journal.agent("third", command=False) as third:
            assert third.agent_id == "third"

    def test_a_changed_program_is_told_so(self, journal: Client) -> None:
        with pytest.raises(LookupError), journal.agent("report") as agent:
            agent.step("one", abs, -1)
            raise LookupError
        with pytest.raises(ReplayMismatchError), journal.agent("report") as agent:
            agent.step("one", abs, -2)
        assert journal.describe("report").state == "running"

    def test_functions_can_be_steps_wherever_they_are_called(self, journal: Client) -> None:
        calls: list[str] = []

        @step(key="search:{question}:{depth}", effect="read_only")
        def search(question: str, *, depth: int = 2) -> list[str]:
            calls.append(question)
            return [question.upper()] * depth

        @step
        def count(words: list[str]) -> int:
            return len(words)

        for _ in range(2):
            with suppress(LookupError), journal.agent("report") as agent:
                assert current_agent() is agent
                assert search("why") == ["WHY", "WHY"]
                assert search(question="how", depth=1) == ["HOW"]
                assert [count(["a"]), count(["a", "b"])] == [1, 2]
                raise LookupError
        assert calls == ["why", "how"]
        keys = [e.payload["key"] for e in journal.read("report") if e.name == "StepStarted"]  # type: ignore[index]
        assert keys == ["search:why:2", "search:how:1", "count:1", "count:2"]
        with pytest.raises(RuntimeError, match="no agent here"):
            search("why")
        assert count.__wrapped__(["a"]) == 1  # type: ignore[attr-defined]

    def test_a_coroutine_is_refused_before_anything_is_recorded(self, journal: Client) -> None:
        async def work() -> None: ...

        class Tool:
            async def __call__(self) -> None: ...

        with journal.agent("report") as agent:
            for each in (work, partial(work), Tool(), Tool().__call__):
                with pytest.raises(TypeError, match="connect_async"):
                    agent.step("work", each)
        assert "StepStarted" not in names(journal, "report")


def current_agent_key() -> str:
    return str(current_agent().idempotency_key)


class TestAsyncio:
    async def test_steps_side_by_side_are_found_by_their_keys(self, daemon: RunningDaemon) -> None:
        calls: list[int] = []

        async def square(number: int) -> int:
            calls.append(number)
            await asyncio.sleep(0)
            return number * number

        async with connect_async(daemon.socket) as journal:
            for backwards in (False, True):
                numbers = sorted(range(30), reverse=backwards)
                with suppress(LookupError):
                    async with journal.agent("report") as agent:
                        found = await asyncio.gather(
                            *(agent.step(f"square-{n}", square, n) for n in numbers)
                        )
                        assert found == [n * n for n in numbers]
                        raise LookupError
        assert sorted(calls) == [*range(30)]

    async def test_a_failure_beside_others_does_not_disturb_them(
        self, daemon: RunningDaemon
    ) -> None:
        async def work(number: int) -> int:
            if number == 2:
                raise LookupError("two")
            return number

        async with connect_async(daemon.socket) as journal, journal.agent("report") as agent:
            found = await asyncio.gather(
                *(agent.step(f"work-{n}", work, n) for n in range(4)), return_exceptions=True
            )
            assert [each for each in found if not isinstance(each, StepError)] == [0, 1, 3]

    async def test_who_was_replaced_is_cancelled(self, daemon: RunningDaemon) -> None:
        async def call(agent: Any, number: int) -> None:
            await agent.step(f"late-{number}", never)

        async with connect_async(daemon.socket) as journal, connect_async(daemon.socket) as other:
            hangs = asyncio.Event()

            async def program() -> None:
                async with journal.agent("report") as agent:
                    await agent.step("one", abs, -1)
                    await other.attach("report", take_over=True)
                    tried = asyncio.create_task(call(agent, 1))
                    try:
                        await hangs.wait()  # nothing of ours will come; it is cancelled
                    finally:
                        with pytest.raises(FencedError):
                            await tried

            with pytest.raises(FencedError):
                await asyncio.wait_for(program(), PATIENCE_S)
            assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
            found = [entry.name async for entry in journal.read("report")]
            assert found.count("StepStarted") == 1

    async def test_a_program_that_swallows_it_is_cancelled_all_the_same(
        self, daemon: RunningDaemon
    ) -> None:
        async with connect_async(daemon.socket) as journal, connect_async(daemon.socket) as other:
            with pytest.raises(FencedError):
                async with journal.agent("report") as agent:
                    await other.attach("report", take_over=True)
                    while True:
                        with suppress(Exception):
                            await agent.step("one", never)
                        await asyncio.sleep(0.001)

    async def test_the_daemons_death_is_not_the_agents(self, daemon: RunningDaemon) -> None:
        async def work(number: int) -> int:
            await asyncio.sleep(0.001 * (number % 7))
            return number

        async with connect_async(daemon.socket) as journal, journal.agent("report") as agent:
            asked = asyncio.gather(*(agent.step(f"work-{n}", work, n) for n in range(200)))
            for _ in range(2):
                await asyncio.to_thread(daemon.kill)
                await asyncio.to_thread(daemon.start)
            assert await asked == [*range(200)]
            found = [entry.name async for entry in journal.read("report")]
        assert sorted(found) == [
            "AttemptStarted",
            *["StepCompleted"] * 200,
            *["StepStarted"] * 200,
        ]

    async def test_a_cancelled_step_is_in_doubt_and_its_task_is_not_held_up(
        self, daemon: RunningDaemon
    ) -> None:
        async with connect_async(daemon.socket) as journal, journal.agent("report") as agent:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await agent.step("hang", asyncio.Event().wait)
            again = await agent.step("hang", lambda: "again", name="wait", in_doubt="rerun")
            assert again == "again"

    async def test_waits_and_notes(self, daemon: RunningDaemon) -> None:
        async def values(agent: Any) -> list[Any]:
            await agent.sleep(0.01)
            return [await agent.now(), await agent.uuid(), await agent.random()]

        async with connect_async(daemon.socket) as journal:
            with pytest.raises(LookupError):
                async with journal.agent("report") as agent:
                    first = await values(agent)
                    raise LookupError
            await journal.signal("report", "go", 5)
            async with journal.agent("report") as agent:
                assert await values(agent) == first
                assert await agent.wait_for("go") == 5

    async def test_waits_side_by_side_are_given_up_together(self, daemon: RunningDaemon) -> None:
        async with connect_async(daemon.socket) as journal:
            for is_grouped in (False, True):
                agent_id = f"report-{is_grouped}"
                with pytest.raises(SystemExit):
                    async with journal.agent(agent_id, suspend_after_s=0, command=False) as agent:
                        waits = [agent.wait_for("a"), agent.wait_for("b"), agent.sleep(3600)]
                        if is_grouped:
                            async with asyncio.TaskGroup() as group:
                                for each in waits:
                                    group.create_task(each)
                        else:
                            await asyncio.gather(*waits)
                described = await journal.describe(agent_id)
                assert described.wait_for == ("a", "b")
                assert described.wake_at is not None

    async def test_functions_can_be_steps(self, daemon: RunningDaemon) -> None:
        @step(key="square:{0}")
        async def square(number: int) -> int:
            return number * number

        @step
        def plain() -> int:
            return 1

        async with connect_async(daemon.socket) as journal, journal.agent("report"):
            assert await asyncio.gather(*(square(n) for n in range(3))) == [0, 1, 4]
            with pytest.raises(TypeError, match="is not async, and the agent here is async"):
                plain()


class TestProcesses:
    @pytest.mark.parametrize("hang", [0, 2, 4])
    def test_killed_within_a_step_it_is_started_again_and_does_nothing_twice(
        self, journal: Client, worker: Worker, hang: int
    ) -> None:
        process = worker.start("report", 5, f"hang={hang}", "manual")
        until(lambda: worker.effects.with_suffix(".hung").exists())
        process.kill()
        assert worker.end(process)[0] == -signal.SIGKILL
        until(lambda: journal.describe("report").state == "interrupted")
        assert worker.end(worker.start("report", 5, "manual"))[0] == 0
        assert worker.done() == ["0", "1", "2", "3", "4"]
        *_, last = journal.read("report")
        assert last.payload == {"reason": "Completed", "result": {"total": 30}}

    def test_killed_with_the_daemon_it_does_nothing_twice(
        self, daemon: RunningDaemon, journal: Client, worker: Worker
    ) -> None:
        process = worker.start("report", 4, "hang=2", "manual")
        until(lambda: worker.effects.with_suffix(".hung").exists())
        daemon.kill()
        process.kill()
        process.wait()
        daemon.start()
        assert worker.end(worker.start("report", 4, "manual"))[0] == 0
        assert worker.done() == ["0", "1", "2", "3"]

    def test_a_second_start_is_told_who_has_it(self, journal: Client, worker: Worker) -> None:
        first = worker.start("report", 2, "hang=0", "manual")
        until(lambda: worker.effects.with_suffix(".hung").exists())
        code, said = worker.end(worker.start("report", 2, "manual"))
        assert code == 1
        assert "AgentAttachedError" in said
        assert f"process {first.pid}" in said

    def test_a_stopped_owner_that_was_replaced_stops_itself(
        self, journal: Client, worker: Worker
    ) -> None:
        process = worker.start("report", 3000, "manual")
        until(lambda: len(worker.done()) > 20)
        process.send_signal(signal.SIGSTOP)
        epoch = journal.attach("report", take_over=True).epoch
        before = names(journal, "report")
        process.send_signal(signal.SIGCONT)
        code, said = worker.end(process)
        assert code == 1
        assert "FencedError" in said
        assert names(journal, "report") == before
        assert journal.describe("report").epoch == epoch

    def test_a_long_sleep_exits_with_its_code_and_the_daemon_starts_it_again(
        self, journal: Client, worker: Worker
    ) -> None:
        code, said = worker.end(worker.start("report", 2, "sleep=1"))
        assert code == EXIT_SUSPENDED, said
        assert worker.done() == ["0"]
        until(lambda: journal.describe("report").state == "completed")
        assert worker.done() == ["0", "1"]
        assert journal.describe("report").attempts == 2

    @pytest.mark.parametrize("form", ["blocking", "async"])
    def test_killed_it_is_started_again_by_the_daemon(
        self, journal: Client, worker: Worker, form: str
    ) -> None:
        process = worker.start("report", 4, "hang=2", form)
        until(lambda: worker.effects.with_suffix(".hung").exists())
        process.kill()
        process.wait()
        until(lambda: journal.describe("report").state == "completed")
        *_, last = journal.read("report")
        assert last.payload == {"reason": "Completed", "result": {"total": 14}}
        # The blocking one looks before it does a step in doubt again; the other's
        # steps say that doing them again is harmless.
        assert sorted({*worker.done()}) == ["0", "1", "2", "3"]
        if form == "blocking":
            assert worker.done() == ["0", "1", "2", "3"]
