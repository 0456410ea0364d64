"""What is due when, on two clocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agent_journal.model import Micros
from agent_journal.service.schedule import Schedule
from agent_journal.testing.clock import ManualClock


class Due:
    """A schedule that a test steps, and what was due."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.keys: list[str] = []
        self.schedule: Schedule[str] = Schedule(self.clock, self.keys.append)

    def at(self, key: str, seconds: float) -> None:
        """Have *key* be due at the time of day that it will be in so many seconds."""
        self.schedule.at(key, Micros(self.clock.wall_us() + round(seconds * 1_000_000)))

    def pass_by(self, seconds: float) -> list[str]:
        """Let time pass; return what was due."""
        self.clock.advance(seconds)
        return self.look()

    def look(self) -> list[str]:
        self.keys.clear()
        self.schedule.look()
        return list(self.keys)


@pytest.fixture
async def due() -> AsyncIterator[Due]:
    due = Due()
    yield due
    due.schedule.close()
    assert len(due.schedule) == 0


async def test_everything_is_due_once_in_order_of_time(due: Due) -> None:
    due.schedule.after("b", 2)
    due.at("a", 1)
    due.schedule.after("c", 3)
    assert due.pass_by(0.9) == []
    assert due.pass_by(1.2) == ["a", "b"]
    assert due.pass_by(10) == ["c"]
    assert due.pass_by(10) == []


async def test_of_two_that_are_due_together_the_first_comes_first(due: Due) -> None:
    for key in "zyx":
        due.schedule.after(key, 1)
    assert due.pass_by(1) == ["z", "y", "x"]


async def test_what_is_set_again_is_due_only_then(due: Due) -> None:
    due.schedule.after("a", 1)
    due.schedule.after("a", 5)
    assert due.pass_by(2) == []
    assert "a" in due.schedule
    assert due.pass_by(3) == ["a"]
    assert "a" not in due.schedule


async def test_what_is_cancelled_is_not_due(due: Due) -> None:
    due.schedule.after("a", 1)
    due.schedule.cancel("a")
    due.schedule.cancel("never set")
    assert due.pass_by(2) == []


async def test_a_time_of_day_follows_the_clock_when_it_is_set(due: Due) -> None:
    """Whom the clock says is due, is: it was set forward, or the host slept."""
    due.at("at nine", 3600)
    due.schedule.after("in an hour", 3600)
    due.clock.jump(4000)
    assert due.look() == ["at nine"]
    assert due.pass_by(3600) == ["in an hour"]


async def test_a_clock_that_is_set_back_puts_it_off(due: Due) -> None:
    due.at("at nine", 10)
    due.clock.jump(-100)
    assert due.pass_by(50) == []
    assert due.pass_by(60) == ["at nine"]


async def test_what_is_due_may_set_something_new(due: Due) -> None:
    def again(key: str) -> None:
        due.keys.append(key)
        if len(due.keys) < 3:
            schedule.after(key, 0)

    schedule: Schedule[str] = Schedule(due.clock, again)
    schedule.after("a", 1)
    due.clock.advance(1)
    schedule.look()
    assert due.keys == ["a", "a", "a"]
    schedule.close()


async def test_its_own_timer_looks() -> None:
    clock = ManualClock()
    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    schedule: Schedule[str] = Schedule(clock, found.set_result)
    schedule.after("a", 0.001)
    clock.advance(1)
    assert await found == "a"
    schedule.close()


async def test_what_was_replaced_does_not_pile_up(due: Due) -> None:
    for _ in range(10_000):
        due.schedule.after("a", 1)
    assert len(due.schedule._heap) < 200
    assert due.pass_by(1) == ["a"]
