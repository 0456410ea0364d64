"""The story that entries tell: what was executed, replayed, and is in doubt."""

from __future__ import annotations

import pytest

from agent_journal.cli.show import as_object, summary
from agent_journal.cli.timeline import Attempt, Run, StepState, Timeline, tell
from cli.stories import Story, killed_twice


def states(timeline: Timeline) -> list[tuple[str, str, int]]:
    return [(run.key, str(run.state), run.attempt) for run in timeline.runs]


def test_a_quiet_life() -> None:
    story = Story().attempt(1).step("plan", 7, duration_ms=1500)
    story.add("Terminated", reason="Completed")
    timeline = tell(story.entries, is_owned=False)
    assert states(timeline) == [("plan", "done", 1)]
    [run] = timeline.runs
    assert (run.duration_ms, run.result, run.replayed_in) == (1500.0, 7, [])
    [attempt] = timeline.attempts
    assert (attempt.number, attempt.pid, attempt.replayed, attempt.executed) == (1, 101, 0, 1)
    assert [moment.name for moment in timeline.moments] == ["Terminated"]


def test_a_life_with_crashes_tells_replayed_from_executed() -> None:
    timeline = tell(killed_twice().entries, is_owned=False)
    assert states(timeline) == [
        ("plan", "done", 1),
        ("search", "interrupted", 1),
        ("search", "done", 2),
        ("write", "failed", 2),
        ("send", "in doubt", 2),
    ]
    assert [run.replayed_in for run in timeline.runs] == [[2], [], [], [], []]
    assert [attempt.replayed for attempt in timeline.attempts] == [0, 1]
    assert [attempt.executed for attempt in timeline.attempts] == [1, 2]
    assert [run.key for run in timeline.in_doubt] == ["send"]
    assert timeline.count() == {"done": 2, "failed": 1, "in doubt": 1}
    assert timeline.tokens() == (100, 20)
    assert timeline.replays() == 1


def test_what_was_executed_again_is_not_called_replayed() -> None:
    """The interrupted run is no result; the second attempt made one of its own."""
    story = Story().attempt(1).began("a").ended(1).attempt(2).began("a").done("a").ended(2)
    story.attempt(3).step("b")
    timeline = tell(story.entries, is_owned=False)
    assert [run.replayed_in for run in timeline.runs] == [[], [3], []]


def test_an_attempt_that_died_before_it_recorded_anything_replayed_nobody_knows_what() -> None:
    story = Story().attempt(1).step("a").ended(1).attempt(2).ended(2).attempt(3).step("b")
    timeline = tell(story.entries, is_owned=False)
    assert [attempt.replayed for attempt in timeline.attempts] == [0, None, 1]
    assert [run.replayed_in for run in timeline.runs] == [[3], []]


def test_what_came_from_outside_is_no_sign_that_an_attempt_went_on() -> None:
    story = Story().attempt(1).step("a").ended(1).attempt(2)
    story.add("Signalled", name="go").ended(2)
    assert tell(story.entries, is_owned=False).attempts[1].replayed is None


def test_an_end_alone_shows_that_all_was_replayed() -> None:
    story = Story().attempt(1).step("a").ended(1).attempt(2).add("Terminated", reason="Completed")
    assert tell(story.entries, is_owned=False).attempts[1].replayed == 1


def test_an_open_step_of_a_living_owner_is_running() -> None:
    story = Story().attempt(1).began("a")
    assert [run.state for run in tell(story.entries, is_owned=True).runs] == [StepState.RUNNING]
    assert [run.state for run in tell(story.entries, is_owned=False).runs] == [StepState.IN_DOUBT]


def test_an_open_step_of_an_ended_attempt_is_in_doubt_although_another_lives() -> None:
    story = Story().attempt(1).began("a").ended(1).attempt(2)
    assert [run.key for run in tell(story.entries, is_owned=True).in_doubt] == ["a"]


def test_an_attempt_without_an_end_ends_with_the_next() -> None:
    story = Story().attempt(1).began("a").attempt(2)
    assert [run.key for run in tell(story.entries, is_owned=True).in_doubt] == ["a"]


def test_parallel_steps_are_told_apart_by_their_keys() -> None:
    story = Story().attempt(1).began("a").began("b").done("b", 2).done("a", 1)
    timeline = tell(story.entries, is_owned=True)
    assert [(run.key, run.result) for run in timeline.runs] == [("a", 1), ("b", 2)]
    assert [run.duration_ms for run in timeline.runs] == [3000.0, 1000.0]


def test_a_value_was_recorded_and_never_run() -> None:
    story = Story().attempt(1).done("now:1", "2026-01-01T00:00:00Z").ended(1).attempt(2).step("a")
    timeline = tell(story.entries, is_owned=False)
    assert states(timeline)[0] == ("now:1", "recorded", 1)
    assert next(timeline.runs).replayed_in == [2]
    assert timeline.attempts[0].executed == 0


def test_an_outcome_that_was_found_out_ends_the_doubt() -> None:
    """A reconciled step has an end in another attempt than its begin."""
    story = Story().attempt(1).began("a").ended(1).attempt(2).done("a", 5)
    timeline = tell(story.entries, is_owned=False)
    assert states(timeline) == [("a", "interrupted", 1), ("a", "done", 2)]
    assert timeline.in_doubt == []


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ({"result": 7}, "done"),
        ({"error": {"message": "full"}}, "failed"),
        ({"rerun": True}, "in doubt"),
    ],
    ids=str,
)
def test_a_decision_ends_the_doubt(word: dict[str, object], state: str) -> None:
    story = Story().attempt(1).began("a").ended(1).add("Decided", step="a", **word)
    timeline = tell(story.entries, is_owned=False)
    assert [str(run.state) for run in timeline.runs] == [state]
    assert timeline.in_doubt == []  # nothing waits for a decision any more
    assert next(timeline.moments).name == "Decided"


def test_a_step_that_a_person_let_run_again_may_be_in_doubt_again() -> None:
    story = Story().attempt(1).began("a").ended(1).add("Decided", step="a", rerun=True)
    story.attempt(2).began("a").ended(2)
    timeline = tell(story.entries, is_owned=False)
    assert states(timeline) == [("a", "interrupted", 1), ("a", "in doubt", 2)]
    assert [run.attempt for run in timeline.in_doubt] == [2]


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"key": None},
        {"key": 7},
        {"key": "k", "name": 3, "usage": [1], "duration_ms": -1},
        {"key": "k", "usage": {"input_tokens": "many", "output_tokens": True}},
        {"step": ["k"], "result": 1},
        {"attempt": "x", "pid": -4, "how": 3, "exit_code": None},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "name",
    [
        "StepStarted",
        "StepCompleted",
        "StepFailed",
        "Decided",
        "AttemptStarted",
        "AttemptEnded",
        "Parked",
        "Terminated",
    ],
)
def test_payloads_of_another_shape_are_told_all_the_same(
    name: str, payload: dict[str, object]
) -> None:
    story = Story().attempt(1).began("k")
    story.add(name)
    story.entries[-1].event[name] = payload
    timeline = tell(story.entries, is_owned=False)
    assert timeline.entries == 3
    assert all(as_object(item)["type"] for item in timeline.items)
    assert summary({"agent_id": "a", "state": "running"}, timeline)["entries"] == 3


@pytest.mark.parametrize("value", [None, 7, "text", [1]])
def test_an_event_without_fields_is_told(value: object) -> None:
    story = Story().attempt(1)
    for name in ("StepStarted", "AttemptEnded", "AttemptStarted", "Noted"):
        story.add(name)
        story.entries[-1].event[name] = value
    assert len(tell(story.entries, is_owned=False).items) == 5


def test_a_history_without_its_beginning() -> None:
    """Entries may have been compacted, or come from before attaching was thought of."""
    timeline = tell(Story().done("a").ended(3, "exited", exit_code=0).entries, is_owned=False)
    assert [type(item).__name__ for item in timeline.items] == ["Run", "Ending"]
    assert timeline.attempts == []


def test_objects_hold_what_the_table_shows() -> None:
    timeline = tell(killed_twice().entries, is_owned=False)
    objects = [as_object(item) for item in timeline.items if isinstance(item, Attempt | Run)]
    first, plan = objects[0], objects[1]
    assert first.items() >= {"type": "attempt", "attempt": 1, "how": "signalled"}.items()
    assert first["signal"] == "SIGKILL"
    assert plan.items() >= {"key": "plan", "state": "done", "replayed_in": [2]}.items()
    assert plan["usage"] == {"input_tokens": 100, "output_tokens": 20}
    numbers = summary({"agent_id": "a", "state": "interrupted", "attempts": 2}, timeline)
    assert numbers["steps"] == {"done": 2, "failed": 1, "in_doubt": 1}
    assert (numbers["executed"], numbers["replayed"]) == (3, 1)
