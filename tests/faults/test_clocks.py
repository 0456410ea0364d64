"""The wall clock is set, by years, and the host sleeps: nothing expires, nothing changes order.

Time of day is what an entry is stamped with and what an agent may ask to be
woken at; everything else runs on a clock that never goes back.  To the daemon a
sleep of the host is a jump of the wall clock alone: its other clock stood still.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from agent_journal.testing.daemon import RawConnection
from faults.daemons import FaultyDaemon, Starter
from integration.observed import noted, wait_until

YEAR_S: Final = 365 * 86_400.0
CONFIG: Final = """
[commit]
free_bytes_min = 0

[resume]
start_with = "process"
attempts_max = 3
backoff_seconds_initial = 0.2
backoff_seconds_max = 0.4
per_second = 1000
"""


@pytest.fixture
def daemon(starter: Starter, tmp_path: Path) -> Iterator[FaultyDaemon]:
    daemon = FaultyDaemon(starter, tmp_path, config=CONFIG, modules=("faults.watchful",))
    with daemon:
        yield daemon


def ask(connection: RawConnection, op: str, **members: object) -> dict[str, Any]:
    """Ask, and see that it is granted."""
    reply = connection.request({"op": op, **members})
    assert reply["ok"], reply
    return reply


def describe(daemon: FaultyDaemon, agent_id: str) -> dict[str, Any]:
    agent: dict[str, Any] = daemon.request({"op": "describe", "agent_id": agent_id})["agent"]
    return agent


def names(daemon: FaultyDaemon, agent_id: str) -> list[str]:
    """Return the names of an agent's events."""
    entries = daemon.request({"op": "read", "agent_id": agent_id})["entries"]
    return [next(iter(entry["event"])) for entry in entries]


def test_order_is_that_of_commits_whatever_the_clock_says(daemon: FaultyDaemon) -> None:
    """And a timestamp is what the clock said at the time, right or wrong."""
    years = [0, 10, -10, 30, -40, 0, 200, 0]
    for index, year in enumerate(years):
        daemon.calls.set_wall_clock(year * YEAR_S)
        reply = daemon.request(noted(str(index)))
        assert (reply["sequence"], reply["position"]) == (index, index)
        if index % 3 == 2:  # a restart knows no more of the time than the clock
            daemon.kill()
            daemon.start()
    now = time.time()
    with daemon.connect() as connection:
        entries = ask(connection, "read", agent_id="a")["entries"]
        connection.send_line({"op": "tail", "from_position": 0, "follow": False})
        tailed = [connection.reply()["entry"] for _ in years]
    assert [entry["event"]["Noted"] for entry in entries] == [*map(str, range(len(years)))]
    assert tailed == entries
    for entry, year in zip(entries, years, strict=True):
        stamped = datetime.fromisoformat(entry["timestamp"])
        told = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=now + year * YEAR_S)
        assert abs(stamped - told) < timedelta(hours=1)
    assert describe(daemon, "a")["updated_at"] == entries[-1]["timestamp"]


@pytest.mark.parametrize("years", [10, -10])
def test_who_holds_an_agent_holds_it_over_a_jump(daemon: FaultyDaemon, years: int) -> None:
    """Connections, epochs and keys have no time of day."""
    with daemon.connect() as owner, daemon.connect() as tail:
        epoch = ask(owner, "attach", agent_id="h")["epoch"]
        ask(owner, "append", agent_id="h", epoch=epoch, event={"Noted": 1}, key="k")
        tail.send_line({"op": "tail", "agent_id": "h", "from_position": 2})
        daemon.calls.set_wall_clock(years * YEAR_S)
        again = ask(owner, "append", agent_id="h", epoch=epoch, event={"Noted": 1}, key="k")
        assert again["duplicate"]
        ask(owner, "append", agent_id="h", epoch=epoch, event={"Noted": 2})
        assert tail.reply()["entry"]["event"] == {"Noted": 2}
        assert describe(daemon, "h")["state"] == "running"
        daemon.calls.set_wall_clock(0)
        ask(owner, "append", agent_id="h", epoch=epoch, event={"Noted": 3})
        assert names(daemon, "h") == ["AttemptStarted", "Noted", "Noted", "Noted"]


def sleeper(daemon: FaultyDaemon, wake_at: datetime) -> None:
    """Have an agent wait until a time of day, with what starts it then."""
    command = {"argv": [shutil.which("true")], "cwd": "/", "env": {}}
    with daemon.connect() as connection:
        epoch = ask(connection, "attach", agent_id="s", command=command)["epoch"]
        text = wake_at.isoformat()
        ask(connection, "detach", agent_id="s", epoch=epoch, wake_at=text)


def test_an_agent_wakes_at_its_time_of_day_when_the_clock_jumps_or_the_host_slept(
    daemon: FaultyDaemon,
) -> None:
    """Not before; and once, though the time comes twice."""
    sleeper(daemon, datetime.now(UTC) + timedelta(hours=8))
    daemon.calls.set_wall_clock(-YEAR_S)
    assert daemon.request(noted())["ok"]
    daemon.calls.set_wall_clock(7 * 3600)
    assert daemon.request(noted())["ok"]
    assert describe(daemon, "s")["state"] == "waiting"
    daemon.calls.set_wall_clock(9 * 3600)
    wait_until(lambda: describe(daemon, "s")["state"] == "parked", "it was woken, and ended")
    found = names(daemon, "s")
    daemon.calls.set_wall_clock(0)
    assert daemon.request(noted())["ok"]
    daemon.calls.set_wall_clock(9 * 3600)
    assert daemon.request(noted())["ok"]
    assert names(daemon, "s") == found


def test_an_agent_wakes_at_its_time_of_day_behind_a_restart(daemon: FaultyDaemon) -> None:
    """The clock that was right at its detach may be wrong now, and is set later."""
    sleeper(daemon, datetime.now(UTC) + timedelta(hours=8))
    daemon.kill()
    daemon.calls.set_wall_clock(-20 * YEAR_S)
    daemon.start()
    assert describe(daemon, "s")["state"] == "waiting"
    daemon.calls.set_wall_clock(9 * 3600)
    wait_until(lambda: describe(daemon, "s")["state"] == "parked", "it was woken, and ended")


@pytest.mark.parametrize("is_restarted", [False, True], ids=["running", "restarted"])
def test_a_back_off_lasts_no_longer_because_the_clock_is_set_back(
    daemon: FaultyDaemon,
    is_restarted: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    sleeper(daemon, datetime.now(UTC) - timedelta(hours=1))
    wait_until(lambda: "next_attempt_at" in json.dumps(describe(daemon, "s")), "it backs off")
    if is_restarted:
        daemon.kill()
    daemon.calls.set_wall_clock(-10 * YEAR_S)
    if is_restarted:
        daemon.start()
    wait_until(lambda: describe(daemon, "s")["state"] == "parked", "it was tried again")


def test_a_daemon_starts_whatever_the_clock_says(daemon: FaultyDaemon) -> None:
    """In 1970, as where there is no battery; and two hundred years on."""
    for index, when in enumerate((10 - time.time(), 200 * YEAR_S, 0.0)):
        assert daemon.stop() == 0
        daemon.calls.set_wall_clock(when)
        daemon.start()
        assert daemon.request(noted(str(index)))["sequence"] == index
