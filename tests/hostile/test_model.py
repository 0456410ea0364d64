"""The whole protocol against a model of it, written from the document alone.

Several clients of several uids do everything that the document knows, one at a time,
in bursts, and at once; the daemon is restarted, the disk is full, processes die.  Each
reply, each line of a stream, and after each step all agents and the whole log are what
the model says.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from agent_journal.errors import StaleEpochError
from agent_journal.lifecycle import Change
from agent_journal.service import appending, attaching, steering, steps_in_doubt
from agent_journal.service.appending import Recorder
from agent_journal.store.base import Store
from agent_journal.store.memory import MemoryStore
from agent_journal.store.sqlite import SqliteStore
from agent_journal.testing.daemon import RunningDaemon
from hostile.model_host import UIDS, Host
from hostile.model_play import act, play
from hostile.model_socket import CONFIG, play_on_socket

Size = Callable[[int, int], int]
T = TypeVar("T")

STEPS = 50


class ProtocolMachine(RuleBasedStateMachine):
    """One life of the model and its daemon; hypothesis chooses, and makes failures small."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._host: Host | None = None

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    @rule(chance=st.randoms(use_true_random=False))
    def act(self, chance: random.Random) -> None:
        if self._host is None:
            self._host = Host(chance, MemoryStore(), daemon_uid=os.geteuid())
            self._run(self._host.begin())
            for uid in UIDS[:2]:
                self._host.connect(uid)
        self._host.chance = chance
        self._run(act(self._host, chance))

    def teardown(self) -> None:
        try:
            if self._host is not None:
                self._run(self._host.check_entries())
                self._run(self._host.end())
        finally:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._run(asyncio.sleep(0))
            self._loop.close()


@pytest.mark.sized
@pytest.mark.timeout(3600)
def test_the_daemon_is_the_model_whatever_hypothesis_finds(
    size: Size, seed: str, figures: Any
) -> None:
    examples = size(25, 3000)
    run_state_machine_as_test(
        hypothesis.seed(int(seed, 16))(ProtocolMachine),
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
    figures(lives=examples, bad=0, seed=seed)


def sqlite_in(directory: Path, life: int) -> Store:
    """Return a store in a file."""
    return SqliteStore(directory / f"{life}.db")


@pytest.mark.sized
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("kind", "quick", "full"), [("memory", 100, 20_000), ("SQLite", 25, 2000)])
def test_the_daemon_is_the_model_in_many_lives(  # noqa: PLR0913, PLR0917 - fixtures
    kind: str, quick: int, full: int, size: Size, seed: str, figures: Any
) -> None:
    """Faster than the above, and so sees more; a failure tells its whole story."""
    requests = 0
    lives = size(quick, full)
    for life in range(lives):
        chance = random.Random(f"{seed}-{life}")  # noqa: S311 - a seed repeats it
        requests += asyncio.run(live(kind, chance, life))
    figures(lives=lives, requests=requests, bad=0, seed=seed)


async def live(kind: str, chance: random.Random, life: int) -> int:
    """Play one life on a store of its own."""
    if kind == "memory":
        return await play(chance, MemoryStore(), STEPS)
    with tempfile.TemporaryDirectory() as directory:
        store = sqlite_in(Path(directory), life)
        await store.open()
        try:
            return await play(chance, store, STEPS)
        finally:
            await store.close()


@pytest.mark.sized
@pytest.mark.timeout(7200)
def test_a_real_daemon_is_the_model(tmp_path: Path, size: Size, seed: str, figures: Any) -> None:
    """A shorter one: over sockets, on a file, killed now and then."""
    requests = 0
    lives = size(2, 300)
    for life in range(lives):
        directory = tmp_path / str(life)
        directory.mkdir()
        chance = random.Random(f"{seed}-{life}")  # noqa: S311 - a seed repeats it
        with RunningDaemon(directory, config=CONFIG) as daemon:
            requests += play_on_socket(chance, daemon, 100)
    figures(lives=lives, requests=requests, bad=0, seed=seed)


async def never(*_: Any) -> Any:
    """Find nothing."""


BREAKS: dict[str, tuple[object, str, Any]] = {
    "a writer behind an end": (appending, "_check_state", lambda *_: None),
    "a stale writer": (appending, "_check_epoch", lambda *_: None),
    "a repeat": (Recorder, "_repeat_in_place", never),
    "a signal that is there already": (attaching, "has_signal_behind", never),
    "an owner that outlived a park": (steering, "_unparking", lambda *_: Change.UNPARKED),
    "another's event": (appending, "is_same_event", lambda *_: True),
    "a step in doubt": (steps_in_doubt, "_may_tell", lambda *_: False),
    "an attempt that was replaced": (attaching, "_end_attempt_before", lambda *_: None),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_daemon_that_is_not_the_model_is_found(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*BREAKS[broken])
    with pytest.raises((AssertionError, StaleEpochError, ExceptionGroup)):
        play_lives(150)


def play_lives(count: int) -> None:
    """Play the same lives each time."""
    for life in range(count):
        chance = random.Random(life)  # noqa: S311 - the same ones each time
        asyncio.run(live("memory", chance, life))
