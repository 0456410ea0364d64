"""What a durable step costs an agent, with the client library.

A step is two durable appends around a function; the function here returns at
once, so the whole of the step is its overhead.  Beside it stand two plain
appends by the same client, in turn: what is above them is the library's own.
Replay is the program run again, with every step recorded.
"""

import asyncio
import gc
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass, field

from measures import say
from servers import ServerError
from unfinished_journal import ResumingJournal

from agent_journal.client import DurableAgent, connect, connect_async

REPLAYED_STEPS = 10_000
BLOCK_STEPS = 250  # in a row, before it is the next contestant's turn
QUESTION = {"role": "user", "content": "What is in the report of the forty-second week? " * 2}
ANSWER = {"role": "assistant", "content": "It says that the figures are as they were. " * 4}
BLOCKING, ASYNCIO, APPENDS = "step, blocking", "step, asyncio", "two appends, blocking"


class Left(Exception):  # noqa: N818 - no error: a crash, as far as the agent can tell
    """The agent's process is done with for now."""


class Stopwatch:
    """What has passed since it was made, on the wall and on this process' cores."""

    def __init__(self) -> None:
        gc.collect()  # what was before is not measured
        self._wall_s, self._cpu_s = time.monotonic(), time.process_time()
        self.wall_s = self.cpu_s = 0.0

    def stop(self) -> None:
        """Take the time."""
        self.wall_s = time.monotonic() - self._wall_s
        self.cpu_s = time.process_time() - self._cpu_s


@dataclass
class Cost:
    """What was measured."""

    step_us: dict[str, list[float]] = field(default_factory=dict)
    replay_s: dict[str, list[float]] = field(default_factory=dict)
    replay_cpu_s: dict[str, list[float]] = field(default_factory=dict)  # of the agent's process
    replayed_steps: int = REPLAYED_STEPS

    def p50_us(self, name: str) -> float:
        """Return the median of all steps of a kind."""
        return statistics.median(self.step_us[name])

    def p99_us(self, name: str) -> float:
        """Return what one step in a hundred exceeds."""
        ordered = sorted(self.step_us[name])
        return ordered[len(ordered) * 99 // 100]


def ask_model(question: dict[str, str]) -> dict[str, str]:
    """Stand for a model that takes no time at all."""
    assert question  # noqa: S101 - it is an argument as others are
    return ANSWER


async def ask_model_async(question: dict[str, str]) -> dict[str, str]:
    """Stand for it where it would be awaited."""
    return ask_model(question)


def measure(journal: ResumingJournal, *, rounds: int) -> Cost:
    """Measure steps in turns, then replays, on a running daemon that resumes nobody."""
    cost = Cost()
    for number in range(rounds):
        cost.step_us.setdefault(BLOCKING, []).extend(_blocking_steps(journal, f"blocking-{number}"))
        cost.step_us.setdefault(ASYNCIO, []).extend(
            asyncio.run(_asyncio_steps(journal, f"asyncio-{number}"))
        )
        cost.step_us.setdefault(APPENDS, []).extend(_two_appends(journal, f"appends-{number}"))
    for name in cost.step_us:
        say(f"{name}: p50 {cost.p50_us(name) / 1000:.2f} ms")
    say(f"recording {REPLAYED_STEPS:,} steps")
    _record(journal, "long")
    for _ in range(rounds):
        _note_replay(cost, "blocking", _replay(journal, "long"))
        _note_replay(cost, "asyncio", asyncio.run(_replay_async(journal, "long")))
    return cost


def _note_replay(cost: Cost, name: str, replay: Stopwatch) -> None:
    cost.replay_s.setdefault(name, []).append(round(replay.wall_s, 3))
    cost.replay_cpu_s.setdefault(name, []).append(round(replay.cpu_s, 3))
    say(f"replay, {name}: {replay.wall_s:.3f} s, {replay.cpu_s:.3f} s of it CPU")


def _blocking_steps(journal: ResumingJournal, agent_id: str) -> list[float]:
    with connect(journal.socket) as client, client.agent(agent_id) as agent:
        return [_timed(agent, number) for number in range(BLOCK_STEPS)]


def _timed(agent: DurableAgent, number: int) -> float:
    begun = time.monotonic_ns()
    agent.step(f"ask:{number}", ask_model, QUESTION)
    return (time.monotonic_ns() - begun) / 1000


async def _asyncio_steps(journal: ResumingJournal, agent_id: str) -> list[float]:
    took = []
    async with connect_async(journal.socket) as client, client.agent(agent_id) as agent:
        for number in range(BLOCK_STEPS):
            begun = time.monotonic_ns()
            await agent.step(f"ask:{number}", ask_model_async, QUESTION)
            took.append((time.monotonic_ns() - begun) / 1000)
    return took


def _two_appends(journal: ResumingJournal, agent_id: str) -> list[float]:
    took = []
    with connect(journal.socket) as client:
        for _ in range(BLOCK_STEPS):
            begun = time.monotonic_ns()
            client.append(agent_id, {"StepStarted": {"input": QUESTION}})
            client.append(agent_id, {"StepCompleted": {"result": ANSWER}})
            took.append((time.monotonic_ns() - begun) / 1000)
    return took


def _record(journal: ResumingJournal, agent_id: str) -> None:
    with suppress(Left), connect(journal.socket) as client, client.agent(agent_id) as agent:
        for number in range(REPLAYED_STEPS):
            agent.step(f"ask:{number}", ask_model, QUESTION)
        raise Left


def _replay(journal: ResumingJournal, agent_id: str) -> Stopwatch:
    """Time the attach, the reading of the journal and every step of it."""
    with suppress(Left), connect(journal.socket) as client:
        client.ping()
        watch = Stopwatch()
        with client.agent(agent_id) as agent:
            for number in range(REPLAYED_STEPS):
                answer = agent.step(f"ask:{number}", _not_again, QUESTION, name="ask_model")
            watch.stop()
            _check(answer)
            raise Left
    return watch


async def _replay_async(journal: ResumingJournal, agent_id: str) -> Stopwatch:
    with suppress(Left):
        async with connect_async(journal.socket) as client:
            await client.ping()
            watch = Stopwatch()
            async with client.agent(agent_id) as agent:
                for number in range(REPLAYED_STEPS):
                    answer = await agent.step(
                        f"ask:{number}", _not_again_async, QUESTION, name="ask_model"
                    )
                watch.stop()
                _check(answer)
                raise Left
    return watch


def _not_again(_question: dict[str, str]) -> dict[str, str]:
    raise ServerError("a recorded step was run again")


async def _not_again_async(question: dict[str, str]) -> dict[str, str]:
    return _not_again(question)


def _check(answer: object) -> None:
    if answer != ANSWER:
        raise ServerError(f"a step was replayed as {answer!r}")
