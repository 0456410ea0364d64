"""How burials at a start share the daemon with its clients."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent_journal.service.context import Context
from agent_journal.service.recovery import BURIED_AT_ONCE, REST, REST_SECONDS_MAX, bury
from agent_journal.service.supervisor import Supervisor
from agent_journal.testing.virtual_loop import VirtualClock, VirtualLoop


@pytest.mark.parametrize("seconds", [0.001, 0.1, 60])
def test_others_have_the_daemon_in_between_but_not_for_as_long_as_a_disk_hung(
    seconds: float,
) -> None:
    loop = VirtualLoop(random.Random(1))  # noqa: S311 - a seed
    buried: list[float] = []

    async def bury_one(_: object) -> None:
        await asyncio.sleep(seconds)
        buried.append(loop.now)

    context: Any = SimpleNamespace(
        clock=VirtualClock(loop), log=SimpleNamespace(info=lambda *_, **__: None)
    )
    supervisor = cast("Supervisor", SimpleNamespace(bury=bury_one))
    records: Any = [object()] * (3 * BURIED_AT_ONCE)
    loop.run_until_complete(bury(cast("Context", context), supervisor, records))
    assert len(buried) == len(records)
    rest = min(REST * seconds, REST_SECONDS_MAX)
    assert max(buried) == pytest.approx(3 * seconds + 2 * rest, abs=0.01)
