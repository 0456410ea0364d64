"""The scrub keeps its rate, rests between its rounds, and says what it finds."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
import structlog
from structlog.testing import capture_logs

from agent_journal.errors import DamagedError, StorageFailedError, StorageFullError
from agent_journal.model import Micros
from agent_journal.service import scrubbing
from agent_journal.service.config import Config, Integrity
from agent_journal.service.context import Context
from agent_journal.service.metrics import Metrics
from agent_journal.service.scrubbing import LOOK_SECONDS, scrub, scrub_figures
from agent_journal.store.page_sums import Mark
from agent_journal.testing.clock import ManualClock

PAGES = 100


class PlainFile:
    """A file of some pages, of which one may be wrong."""

    def __init__(self, *, wrong: int = 0, unknown: int = 0) -> None:
        self.mark = Mark(8192, pages=PAGES, unknown_last=unknown)
        self.wrong = wrong
        self.refusals = 0
        self.failures = 0
        self.rounds: list[int] = []

    async def scrub(self, now: Micros) -> int:
        if self.failures:
            self.failures -= 1
            raise StorageFailedError("the disk says no")
        first = self.mark.scrub_page
        count = min(64, PAGES + 1 - first)
        if first <= self.wrong < first + count:
            raise DamagedError(f"page {self.wrong} is not what was written", page=self.wrong)
        if not count:
            self.mark = self.mark._replace(scrub_page=1, scrubbed_at=now)
            self.rounds.append(now)
            return 0
        self.mark = self.mark._replace(scrub_page=first + count)
        return count

    async def sum_unknown(self) -> bool:
        if self.refusals:
            self.refusals -= 1
            raise StorageFullError("full")
        mark = self.mark
        if mark.unknown_first > mark.unknown_last:
            return False
        self.mark = mark._replace(unknown_first=mark.unknown_first + 64)
        return True


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def context(clock: ManualClock) -> Context:
    """As much of a context as the scrub looks at."""
    seen = SimpleNamespace(
        config=Config(), clock=clock, log=structlog.get_logger(), metrics=Metrics(0.0)
    )
    return cast("Context", seen)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> list[float]:
    """Have a pause take no time but the clock's; the hundredth ends the scrub."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock.advance(seconds)
        if len(pauses) >= 100:
            raise asyncio.CancelledError

    monkeypatch.setattr(scrubbing.asyncio, "sleep", sleep)
    return pauses


async def run(context: Context, file: PlainFile, **options: int) -> DamagedError | None:
    context.config = replace(Config(), integrity=Integrity(**options))
    try:
        return await scrub(context, file)
    except asyncio.CancelledError:
        return None


async def test_it_looks_at_so_much_a_second_and_rests_between_rounds(
    context: Context, pauses: list[float]
) -> None:
    file = PlainFile()
    await run(context, file, scrub_bytes_per_second=64 * 8192, scrub_interval_hours=1)
    assert pauses[:3] == [1.0, 36 / 64, LOOK_SECONDS]
    first, second = file.rounds[:2]
    assert 3600 <= (second - first) / 1_000_000 < 3600 + 3 * LOOK_SECONDS


async def test_it_goes_on_where_it_was(context: Context, pauses: list[float]) -> None:
    file = PlainFile()
    file.mark = file.mark._replace(scrub_page=91)
    await run(context, file, scrub_bytes_per_second=8192)
    assert pauses[0] == 10.0


async def test_with_a_rate_of_zero_it_looks_at_nothing(
    context: Context, pauses: list[float]
) -> None:
    file = PlainFile(wrong=3)
    assert await run(context, file, scrub_bytes_per_second=0) is None
    assert {*pauses} == {LOOK_SECONDS}


async def test_what_it_finds_is_said_loudly_and_ends_it(
    context: Context, pauses: list[float]
) -> None:
    with capture_logs() as logs:
        damage = await run(context, PlainFile(wrong=70))
    assert damage is not None
    assert len(pauses) == 1
    (said,) = [log for log in logs if log["log_level"] == "critical"]
    assert said["event"] == "journal_damaged"
    assert said["page"] == 70


async def test_pages_without_sums_are_summed_first_and_a_full_disk_is_waited_for(
    context: Context, pauses: list[float]
) -> None:
    file = PlainFile(unknown=90)
    file.refusals = 1
    await run(context, file)
    assert file.mark.unknown_first > 90
    assert pauses[0] == scrubbing.RETRY_SECONDS
    assert pauses[1:3] == [scrubbing.SUMMING_PAUSE_SECONDS] * 2


async def test_a_disk_that_fails_once_is_looked_at_again(
    context: Context, pauses: list[float]
) -> None:
    file = PlainFile(wrong=70)
    file.failures = 1
    with capture_logs() as logs:
        assert await run(context, file) is not None
    assert pauses[0] == scrubbing.RETRY_SECONDS
    assert [log["event"] for log in logs] == ["scrub_failed", "journal_damaged"]


def test_its_figures_are_those_of_the_mark() -> None:
    file = PlainFile(unknown=10)
    file.mark = file.mark._replace(scrub_page=5, scrubbed_at=1_700_000_000_000_000)
    assert scrub_figures(file) == {
        "file_bytes": PAGES * 8192,
        "scrubbed_bytes": 4 * 8192,
        "scrubbed_at": "2023-11-14T22:13:20.000000Z",
        "unsummed_bytes": 10 * 8192,
    }
    assert scrub_figures(object()) == {}
