"""The timer of a schedule, on a loop whose time is virtual."""

from __future__ import annotations

import asyncio
import random

import pytest

from agent_journal.service.schedule import LOOK_SECONDS, Schedule
from agent_journal.testing.virtual_loop import VirtualClock, VirtualLoop


def test_what_is_due_behind_something_cancelled_still_comes() -> None:
    """A timer that rang for nothing must not be the last one."""
    loop = VirtualLoop(random.Random(1))  # noqa: S311 - a seed
    told: list[tuple[str, int]] = []
    schedule: Schedule[str] = Schedule(
        VirtualClock(loop), lambda key: told.append((key, round(loop.now)))
    )

    async def live() -> None:
        schedule.after("attach", 30)
        schedule.cancel("attach")
        await asyncio.sleep(LOOK_SECONDS + 1)
        for seconds in (20, 1, 40):
            schedule.after(f"in {seconds}", seconds)
        await asyncio.sleep(100)
        schedule.after("later", 5)
        await asyncio.sleep(10)
        schedule.close()

    loop.run_until_complete(live())
    assert told == [("in 1", 17), ("in 20", 36), ("in 40", 56), ("later", 121)]


@pytest.mark.parametrize("number", range(40))
def test_everything_comes_when_it_is_due_whatever_is_cancelled(number: int) -> None:
    chance = random.Random(number)  # noqa: S311 - a seed
    loop = VirtualLoop(chance)
    wanted: dict[int, float] = {}

    def on_due(key: int) -> None:
        assert wanted.pop(key) == pytest.approx(loop.now, abs=0.01)

    schedule: Schedule[int] = Schedule(VirtualClock(loop), on_due)

    async def live() -> None:
        for _ in range(chance.randrange(60)):
            key = chance.randrange(10)
            if chance.random() < 0.5:
                schedule.cancel(key)
                wanted.pop(key, None)
            else:
                seconds = chance.random() * 60
                schedule.after(key, seconds)
                wanted[key] = loop.now + seconds
            await asyncio.sleep(chance.random() * 30)
        await asyncio.sleep(61)
        assert not wanted
        assert not schedule._heap  # and nothing of what was cancelled is kept
        schedule.close()

    loop.run_until_complete(live())
