"""When an agent is started again, when later, and when no more."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_journal.model import Micros
from agent_journal.service.config_resume import KindLimits
from agent_journal.service.resume_policy import (
    SECOND,
    Cause,
    Launch,
    Park,
    Progress,
    after,
    backoff_seconds,
    decide,
)
from agent_journal.store.attachment import Incident

NOW = Micros(1_700_000_000 * SECOND)
LIMITS = KindLimits(
    attempts_max=3, tokens_max=100, backoff_seconds_initial=2, backoff_seconds_max=60
)
NOTHING_DONE = Progress()
A_STEP = Progress(steps=1, tokens=10, seconds=5.0)


@dataclass
class Life:
    """An agent under the policy: it is launched whenever that is allowed."""

    incident: Incident
    launches: int = 0

    def ends(self, cause: Cause, progress: Progress) -> Launch | Park:
        self.incident = after(self.incident, cause, progress, LIMITS)
        decision = decide(self.incident, cause, LIMITS, now=NOW, chance=1.0)
        if isinstance(decision, Launch):
            self.launches += 1
            attempts = self.incident.attempts + 1
            self.incident = Incident(
                attempts=attempts,
                steps=self.incident.steps,
                tokens=self.incident.tokens,
                failures=self.incident.failures,
            )
        return decision


def delay(decision: Launch | Park) -> float:
    assert isinstance(decision, Launch)
    return (decision.at - NOW) / SECOND


class TestBackoff:
    def test_each_attempt_without_a_new_step_doubles_the_wait_up_to_the_longest(self) -> None:
        waits = [backoff_seconds(Incident(failures=failures), LIMITS, 1.0) for failures in range(9)]
        assert waits == [0, 2, 4, 8, 16, 32, 60, 60, 60]

    def test_chance_takes_off_up_to_half_of_it(self) -> None:
        incident = Incident(failures=2)
        assert backoff_seconds(incident, LIMITS, 0.0) == 2
        assert backoff_seconds(incident, LIMITS, 0.5) == 3

    def test_any_number_of_failures_has_a_wait(self) -> None:
        assert backoff_seconds(Incident(failures=10**9), LIMITS, 1.0) == 60

    def test_a_crash_behind_a_new_step_is_not_waited_for(self) -> None:
        life = Life(Incident())
        assert delay(life.ends(Cause.CRASH, A_STEP)) == 0

    def test_only_a_new_step_resets_it(self) -> None:
        life = Life(Incident())
        assert delay(life.ends(Cause.CRASH, Progress(tokens=5, seconds=50_000))) == 2
        assert delay(life.ends(Cause.CRASH, NOTHING_DONE)) == 4
        assert delay(life.ends(Cause.CRASH, A_STEP)) == 0
        assert life.incident.failures == 0


class TestBudget:
    def test_an_agent_that_always_crashes_is_parked_when_its_attempts_are_spent(self) -> None:
        life = Life(Incident())
        for _ in range(LIMITS.attempts_max):
            assert isinstance(life.ends(Cause.CRASH, NOTHING_DONE), Launch)
        parked = life.ends(Cause.CRASH, NOTHING_DONE)
        assert isinstance(parked, Park)
        assert "resumed 3 times" in parked.reason
        assert "attempts_max" in parked.reason

    def test_one_that_makes_a_little_progress_every_time_is_parked_too(self) -> None:
        life = Life(Incident())
        decisions = [life.ends(Cause.CRASH, A_STEP) for _ in range(4)]
        assert [type(decision) for decision in decisions] == [Launch, Launch, Launch, Park]
        assert life.incident.steps == 4

    def test_tokens_have_a_budget_of_their_own(self) -> None:
        life = Life(Incident())
        assert isinstance(life.ends(Cause.CRASH, Progress(steps=1, tokens=99)), Launch)
        parked = life.ends(Cause.CRASH, Progress(steps=1, tokens=1))
        assert isinstance(parked, Park)
        assert "100 tokens" in parked.reason

    def test_no_bound_on_tokens_is_no_bound(self) -> None:
        incident = Incident(tokens=10**12)
        assert isinstance(decide(incident, Cause.CRASH, KindLimits(), now=NOW, chance=0.5), Launch)

    @given(st.lists(st.builds(Progress, steps=st.integers(0, 3), tokens=st.integers(0, 50))))
    def test_no_progress_ever_buys_more_launches(self, attempts: list[Progress]) -> None:
        """Invariant: an incident's budget is never refilled while it is open."""
        life = Life(Incident())
        for progress in attempts:
            if isinstance(life.ends(Cause.CRASH, progress), Park):
                break
        assert life.launches <= LIMITS.attempts_max

    def test_a_person_who_resumes_it_opens_a_new_one(self) -> None:
        spent = Incident(attempts=9, tokens=900, failures=9)
        assert after(spent, Cause.REQUEST, NOTHING_DONE, LIMITS) == Incident()
        assert decide(spent, Cause.REQUEST, LIMITS, now=NOW, chance=1.0) == Launch(NOW)

    def test_an_agent_that_is_due_has_no_incident(self) -> None:
        spent = Incident(attempts=9)
        assert after(spent, Cause.DUE, NOTHING_DONE, LIMITS) == Incident()
        assert decide(spent, Cause.DUE, LIMITS, now=NOW, chance=1.0) == Launch(NOW)


class TestCalm:
    def test_an_attempt_that_did_well_for_long_ends_the_incident(self) -> None:
        before = Incident(attempts=3, tokens=99, failures=2)
        calm = Progress(steps=1, tokens=4, seconds=LIMITS.calm_seconds)
        assert after(before, Cause.CRASH, calm, LIMITS) == Incident(steps=1, tokens=4)

    @pytest.mark.parametrize(
        "progress",
        [
            Progress(steps=0, seconds=24 * LIMITS.calm_seconds - 1),
            Progress(steps=9, seconds=LIMITS.calm_seconds - 1),
        ],
        ids=["no step", "not long"],
    )
    def test_nothing_less_does(self, progress: Progress) -> None:
        assert after(Incident(attempts=3), Cause.CRASH, progress, LIMITS).attempts == 3

    def test_a_program_that_records_no_steps_is_calm_after_longer(self) -> None:
        calm = Progress(seconds=24 * LIMITS.calm_seconds)
        assert after(Incident(attempts=3), Cause.CRASH, calm, LIMITS).attempts == 0

    def test_it_can_be_switched_off(self) -> None:
        limits = KindLimits(calm_seconds=0)
        calm = Progress(steps=1, seconds=10.0**9)
        assert after(Incident(attempts=3), Cause.CRASH, calm, limits).attempts == 3


class TestRestart:
    def test_a_restart_makes_nobody_wait_and_is_nobody_s_failure(self) -> None:
        life = Life(Incident(failures=2))
        assert delay(life.ends(Cause.RESTART, NOTHING_DONE)) == 0
        assert life.incident.failures == 2

    def test_it_is_one_attempt_of_the_budget(self) -> None:
        """An agent that takes the host down with it is found out."""
        life = Life(Incident())
        decisions = [life.ends(Cause.RESTART, NOTHING_DONE) for _ in range(4)]
        assert [type(decision) for decision in decisions] == [Launch, Launch, Launch, Park]
