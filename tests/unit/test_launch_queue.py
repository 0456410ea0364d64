"""Who is started next: in order, at a pace, not too many at once, one of an outbreak."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agent_journal.model import AgentId, Uid
from agent_journal.service.config_resume import Resume
from agent_journal.service.launch_queue import LaunchQueue
from agent_journal.service.owners import Name
from agent_journal.service.resume_policy import Cause
from agent_journal.testing.clock import ManualClock


def name(agent_id: str) -> Name:
    return Uid(1), AgentId(agent_id)


class Launches:
    """A queue, and whom it started."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.started: list[str] = []
        self.queue = LaunchQueue(self.clock, lambda who, _: self.started.append(who[1]))

    def configure(self, *, at_once_max: int = 100, per_second: float = 1000) -> None:
        self.queue.configure(
            Resume(at_once_max=at_once_max, per_second=per_second, outbreak_agents=2)
        )

    def put(self, *agent_ids: str) -> None:
        for agent_id in agent_ids:
            self.queue.put(name(agent_id), Cause.CRASH)

    def taken(self) -> list[str]:
        """Return whom it started, with all the time that the pace takes."""
        self.clock.advance(0.01)
        self.queue.look()
        started = list(self.started)
        self.started.clear()
        return started

    def pass_by(self, seconds: float) -> list[str]:
        self.clock.advance(max(seconds - 0.01, 0))
        return self.taken()


@pytest.fixture
async def launches() -> AsyncIterator[Launches]:
    launches = Launches()
    launches.configure()
    launches.queue.open()
    launches.clock.advance(100)
    yield launches
    launches.queue.close()


async def test_they_are_started_in_the_order_in_which_they_came(launches: Launches) -> None:
    launches.configure(at_once_max=1)
    launches.put("c", "a", "b", "a")
    assert launches.taken() == ["c"]
    launches.queue.started(name("c"))
    launches.queue.started(name("a"))
    assert launches.taken() == ["a", "b"]


async def test_nobody_is_started_before_it_is_open() -> None:
    launches = Launches()
    launches.put("a")
    assert launches.taken() == []
    launches.queue.open()
    assert launches.taken() == ["a"]
    launches.queue.close()
    launches.queue.started(name("a"))
    launches.put("b")
    assert launches.taken() == []


async def test_not_too_many_are_starting_at_once(launches: Launches) -> None:
    launches.configure(at_once_max=2)
    launches.put("a", "b", "c", "d")
    assert launches.taken() == ["a", "b"]
    assert launches.queue.is_starting(name("a"))
    launches.queue.started(name("b"))
    assert launches.taken() == ["c"]
    launches.queue.started(name("nobody"))
    assert launches.taken() == []
    assert len(launches.queue) == 1


async def test_who_was_starting_before_takes_a_place_too(launches: Launches) -> None:
    launches.configure(at_once_max=1)
    launches.queue.hold_place(name("old"))
    launches.put("a")
    assert launches.taken() == []
    launches.queue.started(name("old"))
    assert launches.taken() == ["a"]


async def test_they_are_started_at_the_configured_pace(launches: Launches) -> None:
    launches.configure(per_second=2)
    launches.put(*"abcdefgh")
    assert len(launches.pass_by(0)) <= 2
    assert [len(launches.pass_by(0.5)) for _ in range(3)] == [1, 1, 1]
    assert launches.pass_by(0.1) == []


async def test_time_in_which_nobody_was_to_be_started_is_not_saved_up(launches: Launches) -> None:
    launches.configure(per_second=1)
    launches.clock.advance(1000)
    launches.put(*"abcdef")
    assert len(launches.taken()) <= 2


async def test_who_is_dropped_is_not_started(launches: Launches) -> None:
    launches.configure(at_once_max=1)
    launches.put("a", "b", "c")
    launches.queue.drop(name("b"))
    launches.queue.started(name("a"))
    assert launches.taken() == ["a", "c"]


class TestOutbreak:
    @pytest.fixture(autouse=True)
    def outbreak(self, launches: Launches) -> None:
        began = [launches.queue.crashed(name(agent_id), "s", 1.0) for agent_id in ("a", "b", "c")]
        assert began == [False, True, False]
        launches.put("a", "b", "c", "other")
        assert launches.taken() == ["a", "other"]

    def end(self, launches: Launches, agent_id: str, signature: str | None) -> None:
        launches.queue.started(name(agent_id))
        launches.queue.crashed(name(agent_id), signature, 8.0)

    async def test_the_next_one_tries_when_the_first_would_have_again(
        self, launches: Launches
    ) -> None:
        self.end(launches, "a", "s")
        assert launches.pass_by(7.0) == []
        assert launches.pass_by(1.0) == ["b"]
        launches.put("a")
        assert launches.pass_by(100.0) == []

    async def test_when_the_probe_gets_on_all_follow(self, launches: Launches) -> None:
        assert launches.queue.is_probe(name("a"))
        launches.queue.started(name("a"))
        assert launches.pass_by(1.0) == []
        launches.queue.got_on(name("a"))
        assert launches.pass_by(1.0) == ["b", "c"]

    async def test_when_the_probe_crashes_otherwise_all_follow(self, launches: Launches) -> None:
        self.end(launches, "a", "new")
        assert launches.pass_by(1.0) == ["b", "c"]

    async def test_when_the_probe_is_not_started_after_all_another_is(
        self, launches: Launches
    ) -> None:
        launches.queue.withdrew(name("a"))
        launches.queue.started(name("a"))
        assert launches.pass_by(0.1) == ["b"]

    async def test_a_probe_that_comes_again_is_not_held_back_by_itself(
        self, launches: Launches
    ) -> None:
        """Its start was put off, with others waiting for what becomes of it."""
        launches.queue.started(name("a"))
        launches.put("a")
        assert launches.pass_by(0.1) == ["a"]

    async def test_when_nobody_knows_how_the_probe_ended_another_tries(
        self, launches: Launches
    ) -> None:
        self.end(launches, "a", None)
        assert launches.pass_by(0.1) == ["b"]

    async def test_nothing_is_kept_of_a_crash_that_nobody_waits_for(
        self, launches: Launches
    ) -> None:
        for agent_id in ("b", "c"):
            assert launches.queue._held
            launches.queue.drop(name(agent_id))
        assert not launches.queue._held

    async def test_who_is_dropped_while_held_back_is_not_started(self, launches: Launches) -> None:
        launches.queue.drop(name("b"))
        launches.queue.got_on(name("a"))
        assert launches.pass_by(1.0) == ["c"]
