"""Noted values, sleeping and waiting for signals, by the core alone and a clock of the test's."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any
from uuid import UUID

import pytest

from agent_journal.client import Suspended, WaitTimeoutError
from agent_journal.errors import ConnectionLostError, OverloadedError
from agent_journal.testing.clock import ManualClock
from client.fake_agents import FakeAgents, Killed, Process


@pytest.fixture
def journal() -> FakeAgents:
    return FakeAgents()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def sleep(agent: Process, seconds: float, key: str | None = None) -> None:
    agent.drive(agent._pauses.sleep(seconds, key))


def wait_for(
    agent: Process, name: str, timeout_s: float | None = None, key: str | None = None
) -> Any:
    return agent.drive(agent._pauses.wait_for(name, timeout_s, key))


def signalled(journal: FakeAgents, name: str, payload: Any = None) -> int:
    return journal.record({"Signalled": {"name": name, "payload": payload}})


def take_turns(waiting: list[Generator[Any, Any, Any]]) -> None:
    while True:
        for each in waiting:
            next(each)


class TestNoted:
    @pytest.mark.parametrize("kind", ["now", "uuid", "random"])
    def test_it_is_the_same_on_replay(self, journal: FakeAgents, kind: str) -> None:
        def values(agent: Process) -> list[Any]:
            return [agent.drive(getattr(agent._pauses, kind)(None)) for _ in range(3)]

        clock = ManualClock()
        first = values(Process(journal, clock=clock).attach())
        clock.advance(60)
        assert values(Process(journal, clock=clock).attach()) == first
        assert [each["key"] for each in journal.named("StepCompleted")] == [
            f"{kind}:{number}" for number in (1, 2, 3)
        ]
        assert journal.named("StepStarted") == []

    def test_each_is_what_it_is_called(self, journal: FakeAgents, clock: ManualClock) -> None:
        agent = Process(journal, clock=clock).attach()
        assert agent.drive(agent._pauses.now(None)) == clock.wall_us()
        texts = [agent.drive(agent._pauses.uuid(None)) for _ in range(50)]
        assert {UUID(text).version for text in texts} == {4}
        assert {UUID(text).variant for text in texts} == {UUID(int=0x8 << 60).variant}
        assert len({*texts}) == 50
        numbers = [agent.drive(agent._pauses.random(None)) for _ in range(50)]
        assert all(0 <= number < 1 for number in numbers)
        assert len({*numbers}) == 50


class TestSleep:
    def test_a_short_one_is_waited_for(self, journal: FakeAgents, clock: ManualClock) -> None:
        agent = Process(journal, clock=clock).attach()
        sleep(agent, 4.0)
        assert agent.waited_s == pytest.approx(4.0)
        assert journal.detached is None

    def test_a_long_one_gives_the_agent_up(self, journal: FakeAgents, clock: ManualClock) -> None:
        agent = Process(journal, clock=clock).attach()
        with pytest.raises(Suspended) as caught:
            sleep(agent, 3600)
        assert agent.waited_s == 0
        assert journal.state == "waiting"
        assert journal.detached is not None
        assert journal.detached["wake_at"] == caught.value.wake_at
        assert journal.named("StepCompleted")[0]["wake_at"] == caught.value.wake_at
        with pytest.raises(Suspended):
            agent.step("next", abs, -1)
        assert str(agent.leave(caught.value)) == "75"

    def test_who_is_resumed_in_time_goes_on(self, journal: FakeAgents, clock: ManualClock) -> None:
        with pytest.raises(Suspended):
            sleep(Process(journal, clock=clock).attach(), 3600)
        clock.advance(3600)
        agent = Process(journal, clock=clock).attach()
        sleep(agent, 3600)
        assert agent.waited_s == 0

    def test_who_is_resumed_early_waits_for_the_rest(
        self, journal: FakeAgents, clock: ManualClock
    ) -> None:
        with pytest.raises(Suspended) as first:
            sleep(Process(journal, clock=clock).attach(), 3600)
        clock.advance(1800)
        with pytest.raises(Suspended) as second:
            sleep(Process(journal, clock=clock).attach(), 3600)
        assert first.value.wake_at == second.value.wake_at
        clock.advance(1797)
        agent = Process(journal, clock=clock).attach()
        sleep(agent, 3600)
        assert agent.waited_s == pytest.approx(3.0)

    def test_where_nobody_could_start_it_again_it_is_waited_for(
        self, journal: FakeAgents, clock: ManualClock
    ) -> None:
        agent = Process(journal, clock=clock, suspend_after_s=None)
        sleep(agent.attach(), 3600)
        assert agent.waited_s == pytest.approx(3600)

    def test_nothing_is_given_up_while_a_step_is_running(
        self, journal: FakeAgents, clock: ManualClock
    ) -> None:
        agent = Process(journal, clock=clock).attach()
        step = agent.drive(agent._steps.begin("other", name="other"))
        sleeping = agent.started(agent._pauses.sleep(3600, None))
        for _ in range(5):
            next(sleeping)
        assert journal.detached is None
        agent.drive(agent._steps.complete(step, 1))
        with pytest.raises(Suspended):
            list(sleeping)
        assert journal.named("StepCompleted")[-1]["key"] == "other"

    def test_an_end_that_was_kept_is_recorded_before_the_agent_is_given_up(
        self, journal: FakeAgents
    ) -> None:
        agent = Process(journal).attach()
        step = agent.drive(agent._steps.begin("other", name="other"))
        ending = agent._steps.complete(step, 1)
        next(ending)
        with pytest.raises(OverloadedError):
            ending.throw(OverloadedError("in the test"))
        with pytest.raises(Suspended):
            sleep(agent, 3600)
        assert [each["key"] for each in journal.named("StepCompleted")] == ["sleep:1", "other"]

    def test_a_detach_that_fails_leaves_the_agent_ours(
        self, journal: FakeAgents, clock: ManualClock
    ) -> None:
        agent = Process(journal, clock=clock).attach()
        program = agent._pauses.sleep(3600, None)
        next(program)
        program.send(agent.journal.answer)
        with pytest.raises(OverloadedError):
            program.throw(OverloadedError("later"))
        assert agent.step("next", abs, -1) == 1


class TestWaitFor:
    def test_a_signal_that_is_there_is_received(self, journal: FakeAgents) -> None:
        signalled(journal, "other", 1)
        sequence = signalled(journal, "approval", {"by": "Ada"})
        agent = Process(journal).attach()
        assert wait_for(agent, "approval") == {"by": "Ada"}
        (noted,) = journal.named("StepCompleted")
        assert noted["signal_sequence"] == sequence
        assert wait_for(Process(journal).attach(), "approval") == {"by": "Ada"}
        assert len(journal.named("StepCompleted")) == 1

    def test_each_signal_is_received_once_and_in_order(self, journal: FakeAgents) -> None:
        for number in (1, 2, 3):
            signalled(journal, "go", number)
        agent = Process(journal).attach()
        assert [wait_for(agent, "go") for _ in range(2)] == [1, 2]
        agent = Process(journal).attach()
        assert [wait_for(agent, "go") for _ in range(3)] == [1, 2, 3]

    def test_a_signal_that_comes_meanwhile_is_received(self, journal: FakeAgents) -> None:
        agent = Process(journal).attach()
        waiting = agent.started(agent._pauses.wait_for("go", None, None))
        for _ in range(4):
            next(waiting)
        agent.drive(agent._pauses.now(None))
        signalled(journal, "go", 5)
        assert [*waiting]
        assert journal.named("StepCompleted")[-1]["result"] == 5

    def test_where_none_comes_the_agent_is_given_up(
        self, journal: FakeAgents, clock: ManualClock
    ) -> None:
        agent = Process(journal, clock=clock).attach()
        with pytest.raises(Suspended) as caught:
            wait_for(agent, "approval")
        assert caught.value.wait_for == ("approval",)
        assert agent.waited_s >= 5
        assert journal.detached is not None
        assert journal.detached["wait_for"] == ["approval"]
        assert journal.detached["seen_sequence"] == len(journal.entries)
        assert "wake_at" not in journal.detached

        signalled(journal, "approval", "yes")
        assert wait_for(Process(journal, clock=clock).attach(), "approval") == "yes"

    def test_it_ends_in_time_and_on_replay_too(
        self, journal: FakeAgents, clock: ManualClock
    ) -> None:
        agent = Process(journal, clock=clock).attach()
        with pytest.raises(Suspended):
            wait_for(agent, "approval", 3600)
        assert journal.detached is not None
        assert "wake_at" in journal.detached
        clock.advance(3600)
        with pytest.raises(WaitTimeoutError):
            wait_for(Process(journal, clock=clock).attach(), "approval", 3600)
        signalled(journal, "approval", "too late")
        with pytest.raises(WaitTimeoutError):
            wait_for(Process(journal, clock=clock).attach(), "approval", 3600)

    def test_a_time_out_does_not_begin_anew_with_each_attempt(
        self, journal: FakeAgents, clock: ManualClock
    ) -> None:
        with pytest.raises(Suspended) as first:
            wait_for(Process(journal, clock=clock).attach(), "approval", 3600)
        clock.advance(1000)
        with pytest.raises(Suspended) as second:
            wait_for(Process(journal, clock=clock).attach(), "approval", 3600)
        assert first.value.wake_at == second.value.wake_at

    def test_a_large_payload_is_not_written_twice(self, journal: FakeAgents) -> None:
        signalled(journal, "file", "x" * 10_000)
        for _ in range(2):
            assert wait_for(Process(journal).attach(), "file") == "x" * 10_000
        assert len(str(journal.named("StepCompleted"))) < 1000

    def test_a_signal_whose_receipt_was_not_recorded_is_there_still(
        self, journal: FakeAgents
    ) -> None:
        signalled(journal, "go", 1)
        agent = Process(journal).attach()
        agent.lost_answers = [ConnectionLostError("in the test")]
        with pytest.raises(ConnectionLostError):
            wait_for(agent, "go", key="k")
        assert wait_for(agent, "go", key="k") == 1

    def test_killed_at_any_point_it_receives_the_same(self) -> None:
        for die_at in range(1, 12):
            for is_done_first in (False, True):
                journal = FakeAgents()
                signalled(journal, "go", 1)
                signalled(journal, "go", 2)
                dying = Process(journal, die_at=die_at, is_done_first=is_done_first)
                try:
                    dying.attach()
                    assert [wait_for(dying, "go", 9), wait_for(dying, "go", 9)] == [1, 2]
                except Killed:
                    pass
                agent = Process(journal).attach()
                assert [wait_for(agent, "go", 9), wait_for(agent, "go", 9)] == [1, 2]

    def test_waits_side_by_side_are_given_up_together(
        self, journal: FakeAgents, clock: ManualClock
    ) -> None:
        agent = Process(journal, clock=clock).attach()
        waiting = [
            agent.started(agent._pauses.wait_for(name, timeout_s, None))
            for name, timeout_s in (("b", None), ("a", 7200), ("c", 60))
        ]
        with pytest.raises(Suspended) as caught:
            take_turns(waiting)
        assert caught.value.wait_for == ("a", "b", "c")
        timers = [each["wake_at"] for each in journal.named("StepCompleted")]
        assert caught.value.wake_at == min(timers)
