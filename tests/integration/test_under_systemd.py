"""An agent of durable steps outlives everything that a host does to it, under a real systemd.

The agent's process is killed, then the daemon's, then both, then the power is
cut; each time what is left goes on by what the installed units say, and at the
end every step has been done, and none that was finished a second time.

It boots a container (``container``); where that can't be, the skip says so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.container import ANNA, USER_SOCKET, Machine, booted
from integration.observed import wait_until

STEPS = 50
EFFECTS = "/home/anna/effects"
DAEMON = "agent-journald.service"

AGENT = f"""
import os, sys, time
from agent_journal.client import connect

def work(number):
    with open("{EFFECTS}", "a") as effects:
        effects.write(f"{{number}}\\n")
        effects.flush()
        os.fsync(effects.fileno())
    time.sleep(0.15)
    return number

with connect() as journal, journal.agent(kind="trip") as agent:
    steps = (agent.step(f"step:{{n}}", work, n, effect="idempotent") for n in range({STEPS}))
    agent.finish(sum(steps))
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with booted(tmp_path_factory.mktemp("machine"), AGENT, prepare=let_anna_linger) as machine:
        yield machine


def let_anna_linger(machine: Machine) -> None:
    """Have her daemon started by the boot, and whenever it fails."""
    wants = machine.root / "etc/systemd/user/default.target.wants" / DAEMON
    wants.parent.mkdir(parents=True, exist_ok=True)
    wants.symlink_to(f"/etc/systemd/user/{DAEMON}")


def owner_of(machine: Machine) -> int:
    """Return the pid of the process that holds the agent."""
    pid: int = machine.describe(USER_SOCKET, "trip")["owner"]["pid"]
    return pid


def unit_of(machine: Machine, pid: int) -> str:
    """Return the cgroup of a process, which is its unit's."""
    return machine.run("cat", f"/proc/{pid}/cgroup")


def effects_of(machine: Machine) -> list[int]:
    """Return the steps whose effect was seen outside, in order."""
    path: Path = machine.root / EFFECTS[1:]
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def wait_for_progress(machine: Machine) -> None:
    """Wait until the agent has done some steps more."""
    before = len({*effects_of(machine)})
    wait_until(lambda: len({*effects_of(machine)}) >= before + 3, "the agent gets on")


def daemon_of(machine: Machine) -> int:
    """Return the pid of anna's daemon."""
    show = ("systemctl", "--user", "show", "--property=MainPID", "--value", DAEMON)
    return int(machine.run(*show, anna=True))


def events_of(machine: Machine) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    while True:
        page = machine.ask(USER_SOCKET, op="read", agent_id="trip", from_sequence=len(entries))[
            "entries"
        ]
        if not page:
            return [entry["event"] for entry in entries]
        entries += page


@pytest.mark.timeout(120)  # it boots twice, and waits for what is killed to come back
def test_an_agent_finishes_whatever_is_killed(machine: Machine) -> None:
    machine.start_agent(USER_SOCKET, "trip", "", PYTHONPATH="/opt/agent-journal")
    machine.wait_for(USER_SOCKET, "trip", "running", 1)

    wait_for_progress(machine)
    machine.run("kill", "-KILL", str(owner_of(machine)))
    machine.wait_for(USER_SOCKET, "trip", "running", 2)
    assert f"agent-{ANNA}-trip-2.service" in unit_of(machine, owner_of(machine))

    wait_for_progress(machine)
    owner = owner_of(machine)
    machine.run("kill", "-KILL", str(daemon_of(machine)))
    wait_for_progress(machine)
    machine.wait_for(USER_SOCKET, "trip", "running", 2)
    assert owner_of(machine) == owner, "it went on, and its daemon came back to it"

    # The daemon a moment earlier: else it may be about to launch the next, which counts.
    machine.run("kill", "-KILL", str(daemon_of(machine)), str(owner))
    machine.wait_for(USER_SOCKET, "trip", "running", 3)

    wait_for_progress(machine)
    machine.cut_power()
    assert len({*effects_of(machine)}) < STEPS, "there was something left to do"
    machine.boot()
    machine.start_services()
    machine.wait_for(USER_SOCKET, "trip", "completed", 4)

    events = events_of(machine)
    assert events[-1]["Terminated"]["result"] == sum(range(STEPS))
    completed = Counter(one["StepCompleted"]["key"] for one in events if "StepCompleted" in one)
    assert completed == Counter(f"step:{number}" for number in range(STEPS))
    # A step in flight may be done again where it says so, and is: at most one for each attempt.
    effects = Counter(effects_of(machine))
    assert {*effects} == {*range(STEPS)}
    assert effects.total() - STEPS <= 3, json.dumps(effects)
    assert max(effects.values()) <= 2
    begun = Counter(one["StepStarted"]["key"] for one in events if "StepStarted" in one)
    assert all(count <= begun[f"step:{number}"] for number, count in effects.items())
