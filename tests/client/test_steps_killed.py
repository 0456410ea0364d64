"""A program of random steps is killed at every point; each time it ends as if it had lived.

Driven without a daemon: the core alone decides what is run again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_journal.client import Reconciled, ReplayMismatchError, StepError, StepInDoubtError
from agent_journal.client._steps import Steps
from agent_journal.testing.clock import ManualClock
from client.fake_agents import FakeAgents, Killed, Process

EFFECTS = ["read_only", "idempotent", "reconcilable", "unsafe"]


@dataclass
class World:
    """What the steps touch; outlives every process."""

    journal: FakeAgents = field(default_factory=FakeAgents)
    clock: ManualClock = field(default_factory=ManualClock)
    done: list[str] = field(default_factory=list)  # effects, in order
    keys: dict[str, set[str]] = field(default_factory=dict)  # idempotency keys that were handed
    in_doubt: list[str] = field(default_factory=list)
    deaths: int = 0


@dataclass(frozen=True)
class Planned:
    """One step of a made-up program."""

    kind: str  # an effect, or a kind of noted value
    is_failing: bool = False


class Program:
    """Runs the planned steps and tells what it saw."""

    def __init__(self, plan: list[Planned], world: World) -> None:
        self.plan = plan
        self.world = world

    def run(self, agent: Process) -> list[Any]:
        seen: list[Any] = []
        for number, planned in zip(agent.iterations(range(len(self.plan))), self.plan, strict=True):
            key = f"step-{number}"
            if planned.kind in EFFECTS:
                seen.append(self._step(agent, key, planned, len(seen)))
            elif planned.kind == "sleep":
                agent.drive(agent._pauses.sleep(1.0, key))
            else:
                seen.append(agent.drive(getattr(agent._pauses, planned.kind)(key)))
        return seen

    def _step(self, agent: Process, key: str, planned: Planned, given: int) -> Any:
        def act(given: int, idempotency_key: str) -> Any:
            self.world.keys.setdefault(key, set()).add(idempotency_key)
            self.world.done.append(key)
            if planned.is_failing:
                raise LookupError(f"{key} finds nothing")
            return {"key": key, "given": (given, [given])}

        def look(given: int, idempotency_key: str) -> Reconciled | None:
            if planned.is_failing or key not in self.world.done:
                return None  # a failing one leaves nothing to be found
            return Reconciled({"key": key, "given": [given, [given]]})

        options: dict[str, Any] = {"effect": planned.kind, "key_parameter": "idempotency_key"}
        if planned.kind == "reconcilable":
            options["reconcile"] = look
        try:
            return agent.step(key, act, given, **options)
        except StepError as error:
            return (error.type, error.message)
        except StepInDoubtError as error:
            # A person finds out: that it was done shows in the world.
            self.world.in_doubt.append(key)
            if key in self.world.done and not planned.is_failing:
                return agent.drive(
                    agent._steps.complete(error.step, {"key": key, "given": [given, [given]]})  # type: ignore[arg-type]
                )
            return self._step_again(agent, key, planned, act, given)

    def _step_again(self, agent: Process, key: str, planned: Planned, act: Any, given: int) -> Any:
        try:
            return agent.step(
                key,
                act,
                given,
                effect=planned.kind,
                key_parameter="idempotency_key",
                in_doubt="rerun",
            )
        except StepError as error:
            return (error.type, error.message)


def run_to_the_end(plan: list[Planned], world: World, deaths: list[tuple[int, bool]]) -> list[Any]:
    """Run the program; each of *deaths* ends one attempt at the action of that number."""
    remaining = iter(deaths)
    while True:
        die_at, is_done_first = next(remaining, (None, False))
        process = Process(
            world.journal, die_at=die_at, is_done_first=is_done_first, clock=world.clock
        )
        seen: list[Any] = []
        try:
            seen = Program(plan, world).run(process.attach())
            assert process.unasked() == []
            assert process.leave() is None
        except Killed:
            world.deaths += 1
            if world.journal.state != "completed":
                continue
        return seen


def check(plan: list[Planned], world: World) -> None:
    """No end was recorded twice, and no function was called behind the end of its step."""
    ends = Counter(
        payload["key"]
        for name in ("StepCompleted", "StepFailed")
        for payload in world.journal.named(name)
    )
    assert set(ends) == {f"step-{number}" for number in range(len(plan))}
    assert set(ends.values()) <= {1}
    for number, planned in enumerate(plan):
        key = f"step-{number}"
        assert len(world.keys.get(key, {""})) == 1, "an idempotency key changed"
        if planned.kind in {"unsafe", "reconcilable"} and not planned.is_failing:
            assert world.done.count(key) == 1
        if planned.kind in EFFECTS:
            assert world.done.count(key) >= 1
    check_order(world.journal)


def check_order(journal: FakeAgents) -> None:
    """Check that a start stands before its end, and nothing of a step behind that."""
    ended: set[str] = set()
    started: set[str] = set()
    for entry in journal.entries:
        ((name, payload),) = entry["event"].items()
        if name == "StepStarted":
            assert payload["key"] not in ended
            started.add(payload["key"])
        elif name in {"StepCompleted", "StepFailed"}:
            assert payload["key"] not in ended
            assert payload["key"] in started or payload["name"] in {
                "now",
                "uuid",
                "random",
                "sleep",
            }
            ended.add(payload["key"])


plans = st.lists(
    st.builds(
        Planned,
        kind=st.sampled_from([*EFFECTS, *EFFECTS, "now", "uuid", "random", "sleep"]),
        is_failing=st.booleans(),
    ),
    min_size=1,
    max_size=6,
)

FIXED = [
    Planned("read_only"),
    Planned("unsafe"),
    Planned("now"),
    Planned("idempotent", is_failing=True),
    Planned("reconcilable"),
    Planned("uuid"),
    Planned("sleep"),
    Planned("random"),
    Planned("unsafe", is_failing=True),
    Planned("idempotent"),
]


def without_chance(plan: list[Planned], seen: list[Any]) -> list[Any]:
    """Leave out what differs from world to world: the time and the dice."""
    kinds = [planned.kind for planned in plan if planned.kind != "sleep"]
    return [each for kind, each in zip(kinds, seen, strict=True) if kind in EFFECTS]


@pytest.mark.parametrize("is_done_first", [False, True], ids=["before", "behind"])
def test_a_program_that_is_killed_once_ends_as_if_it_had_lived(is_done_first: bool) -> None:  # noqa: FBT001
    """At each of its actions, before and behind it."""
    quiet = World()
    expected = without_chance(FIXED, run_to_the_end(FIXED, quiet, []))
    check(FIXED, quiet)
    doubted: set[str] = set()
    for die_at in count(1):
        world = World()
        assert (
            without_chance(FIXED, run_to_the_end(FIXED, world, [(die_at, is_done_first)]))
            == expected
        )
        check(FIXED, world)
        doubted |= {*world.in_doubt}
        if not world.deaths:
            break  # it came to its end before that many actions
    assert doubted == {"step-1", "step-8"}, "each unsafe step was in doubt at some point"
    assert die_at > 2 * len(FIXED)


@settings(max_examples=400, deadline=None)
@given(
    plan=plans,
    deaths=st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=6),
)
def test_a_program_that_is_killed_again_and_again_ends_as_if_it_had_lived(
    plan: list[Planned], deaths: list[tuple[int, bool]]
) -> None:
    expected = without_chance(plan, run_to_the_end(plan, World(), []))
    world = World()
    seen = run_to_the_end(plan, world, deaths)
    assert without_chance(plan, seen) == expected
    check(plan, world)


def test_without_the_record_of_the_intent_an_effect_is_doubled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shows that the tests above would notice: the mutant must not pass them."""

    def intend(self: Steps, step: Any) -> Any:
        step.is_running = True
        return
        yield

    monkeypatch.setattr(Steps, "_intend", intend)
    plan = [Planned("unsafe")]
    world = World()
    # Attach, read, describe, and the call of the function is the next.
    run_to_the_end(plan, world, [(4, True)])
    assert world.done.count("step-0") == 2
    with pytest.raises(AssertionError):
        check(plan, world)


def test_a_program_that_changed_is_told_so() -> None:
    world = World()
    with pytest.raises(Killed):
        Program(FIXED, world).run(Process(world.journal, die_at=9).attach())
    changed = [Planned("now"), *FIXED]
    with pytest.raises(ReplayMismatchError):
        Program(changed, world).run(Process(world.journal).attach())
