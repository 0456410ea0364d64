"""What a step does, by the core alone: a program, a journal in memory, no daemon."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_journal.client import (
    FencedError,
    NotSerializableError,
    Reconciled,
    ReplayMismatchError,
    ReplayWarning,
    ResultTypeError,
    StepError,
    StepInDoubtError,
    StepKeyUsedError,
    Suspended,
    ValueTooLargeError,
    current_step,
)
from agent_journal.errors import (
    AgentFinishedError,
    ConnectionLostError,
    OverloadedError,
    StaleEpochError,
)
from client.fake_agents import FakeAgents, Killed, Process


@pytest.fixture
def journal() -> FakeAgents:
    return FakeAgents()


@dataclass
class Question:
    id: int
    text: str


def plan(topic: str) -> list[Question]:
    return [Question(1, f"what is {topic}?"), Question(2, f"why {topic}?")]


def never(*_: object, **__: object) -> Any:
    pytest.fail("this was called")


def names(journal: FakeAgents) -> list[str]:
    return [next(iter(entry["event"])) for entry in journal.entries]


def interrupted(journal: FakeAgents, key: str = "pay", **options: Any) -> None:
    """Leave a step in doubt: the process dies while it runs."""

    def die(*_: object, **__: object) -> None:
        raise Killed

    with pytest.raises(Killed):
        Process(journal).attach().step(key, die, 5, name="pay", **options)


class TestResults:
    def test_a_step_costs_two_appends_and_its_replay_none(self, journal: FakeAgents) -> None:
        agent = Process(journal).attach()
        before = len(journal.requests)
        agent.step("plan", plan, "rain")
        assert [request["op"] for request in journal.requests[before:]] == ["append", "append"]
        assert names(journal)[-2:] == ["StepStarted", "StepCompleted"]

        agent = Process(journal).attach()
        before = len(journal.requests)
        agent.step("plan", plan, "rain")
        assert journal.requests[before:] == []

    def test_the_intent_is_recorded_before_the_function_is_called(
        self, journal: FakeAgents
    ) -> None:
        def look() -> list[str]:
            return names(journal)

        assert Process(journal).attach().step("look", look)[-1] == "StepStarted"

    def test_a_recorded_result_is_handed_back_and_nothing_is_called(
        self, journal: FakeAgents
    ) -> None:
        first = Process(journal).attach().step("sum", sum, [1, 2], name="sum")
        assert Process(journal).attach().step("sum", never, [1, 2], name="sum") == first == 3

    def test_the_agent_gets_what_is_recorded_at_once_and_not_only_after_a_crash(
        self, journal: FakeAgents
    ) -> None:
        def made() -> Any:
            return {"pair": (1, 2), "question": Question(1, "why?")}

        first = Process(journal).attach().step("make", made)
        assert first == {"pair": [1, 2], "question": {"id": 1, "text": "why?"}}
        assert Process(journal).attach().step("make", made) == first

    def test_what_an_annotation_promises_is_made_again(self, journal: FakeAgents) -> None:
        expected = plan("rain")
        assert Process(journal).attach().step("plan", plan, "rain") == expected
        assert Process(journal).attach().step("plan", plan, "rain") == expected

    def test_an_annotation_that_promises_too_much_is_let_be(self, journal: FakeAgents) -> None:
        def lying() -> int:
            return "many"  # type: ignore[return-value]

        for _ in range(2):
            assert Process(journal).attach().step("count", lying) == "many"

    def test_a_result_type_is_made_of_the_result(self, journal: FakeAgents) -> None:
        def raw() -> Any:
            return {"id": 1, "text": "why?"}

        for _ in range(2):
            made = Process(journal).attach().step("ask", raw, result_type=Question)
            assert made == Question(1, "why?")

    def test_without_a_result_type_by_wish_the_result_is_json(self, journal: FakeAgents) -> None:
        made = Process(journal).attach().step("plan", plan, "rain", result_type=None)
        assert made[0] == {"id": 1, "text": "what is rain?"}

    def test_what_is_called_already_is_refused(self, journal: FakeAgents) -> None:
        agent = Process(journal).attach()
        with pytest.raises(TypeError, match="its function and the arguments"):
            agent.step("plan", plan("rain"))  # type: ignore[arg-type]
        assert "StepStarted" not in names(journal)

    def test_a_result_that_does_not_fit_its_type_says_where_each_time(
        self, journal: FakeAgents
    ) -> None:
        def raw() -> Any:
            return [{"id": "one", "text": "why?"}]

        for _ in range(2):
            with pytest.raises(ResultTypeError, match=r"\[0\]: \.id: str is not int"):
                Process(journal).attach().step("ask", raw, result_type=list[Question])
        assert names(journal).count("StepStarted") == 1

    def test_what_cannot_be_written_names_its_path_and_leaves_the_step_in_doubt(
        self, journal: FakeAgents
    ) -> None:
        def made() -> Any:
            return {"answers": [1, {"tags": {"a", "b"}}]}

        agent = Process(journal).attach()
        with pytest.raises(NotSerializableError, match="in doubt") as caught:
            agent.step("make", made)
        assert caught.value.path == "$.answers[1].tags"
        with pytest.raises(StepInDoubtError):
            agent.step("make", made)

    def test_an_argument_that_cannot_be_written_stops_the_step_before_it_begins(
        self, journal: FakeAgents
    ) -> None:
        agent = Process(journal).attach()
        with pytest.raises(NotSerializableError, match=r"the input of step 'ask'.*\$\.args\[1\]"):
            agent.step("ask", never, 1, object())
        assert "StepStarted" not in names(journal)
        assert agent.step("ask", lambda *_: 7, 1, object(), inputs={"question": 1}) == 7

    def test_a_result_that_is_too_long_says_what_to_do(self, journal: FakeAgents) -> None:
        agent = Process(journal, result_bytes_max=2000).attach()
        with pytest.raises(ValueTooLargeError, match="file") as caught:
            agent.step("read", lambda: "x" * 3000)
        assert caught.value.details["limit"] == 2000
        assert names(journal)[-1] == "StepStarted"

    def test_a_long_input_is_recorded_by_its_beginning(self, journal: FakeAgents) -> None:
        agent = Process(journal).attach()
        agent.step("short", len, "abc")
        agent.step("long", len, "x" * 5000)
        short, long = journal.named("StepStarted")
        assert short["input"] == {"args": ["abc"]}
        assert "input" not in long
        assert long["input_start"].startswith('{"args":["xxx')
        assert len(long["input_start"]) < 1000

    def test_inputs_are_not_recorded_where_the_program_says_so(self, journal: FakeAgents) -> None:
        Process(journal, record_input=False).attach().step("ask", len, "secret")
        (started,) = journal.named("StepStarted")
        assert "secret" not in str(started)

    def test_usage_goes_with_the_result(self, journal: FakeAgents) -> None:
        agent = Process(journal).attach()
        agent.step("ask", lambda: {"tokens": 12}, usage=lambda r: {"input_tokens": r["tokens"]})
        assert journal.named("StepCompleted")[0]["usage"] == {"input_tokens": 12}

    def test_a_wrong_usage_function_does_not_cost_the_result(self, journal: FakeAgents) -> None:
        agent = Process(journal).attach()
        with pytest.raises(ZeroDivisionError):
            agent.step("ask", lambda: 5, usage=lambda _: {"input_tokens": 1 // 0})
        assert Process(journal).attach().step("ask", never, name="<lambda>") == 5

    def test_iterations_number_the_entries(self, journal: FakeAgents) -> None:
        for _ in range(2):
            agent = Process(journal).attach()
            for item in agent.iterations(["a", "b"]):
                agent.step(f"step:{item}", len, item)
            for turn in agent.iterations():
                agent.step(f"turn:{turn}", abs, turn)
                if turn == 4:
                    break
        turns = [
            (entry["event"]["StepCompleted"]["key"], entry["iteration"])
            for entry in journal.entries
            if "StepCompleted" in entry["event"]
        ]
        assert turns == [("step:a", 1), ("step:b", 2), ("turn:3", 3), ("turn:4", 4)]


@contextmanager
def long_history() -> Iterator[FakeAgents]:
    """Hold an agent of several pages; the collector goes on as it was before."""
    journal = FakeAgents()
    for number in range(2000):
        journal.record({"StepCompleted": {"key": f"{number}", "name": "n", "result": [number]}})
    journal.page_entries = 100
    try:
        yield journal
    finally:
        gc.unfreeze()
        gc.enable()


class TestTheCollector:
    """What is replayed is kept; to look through it is in vain, and takes as long as reading it."""

    def test_it_does_not_look_through_what_was_read(self) -> None:
        with long_history() as journal:
            gc.collect()
            begun: list[int] = []
            gc.callbacks.append(lambda phase, _: begun.append(len(phase)))
            try:
                Process(journal).attach()
            finally:
                gc.callbacks.pop()
            young = len(gc.get_objects(generation=0))
            assert not begun
            assert young < 1000, "and will not as soon as it can"
            assert gc.isenabled()
            assert gc.get_freeze_count() == 0

    def test_what_the_program_froze_stays_frozen(self) -> None:
        with long_history() as journal:
            gc.freeze()
            frozen = gc.get_freeze_count()
            Process(journal).attach()
            assert gc.get_freeze_count() >= frozen * 0.9  # some of it may be gone
            assert gc.isenabled()

    def test_where_the_program_does_without_it_it_stays_off(self) -> None:
        with long_history() as journal:
            gc.disable()
            Process(journal).attach()
            assert not gc.isenabled()


class TestFailures:
    def test_a_failure_is_the_same_on_replay(self, journal: FakeAgents) -> None:
        def fail() -> None:
            raise LookupError("no such page")

        with pytest.raises(StepError) as first:
            Process(journal).attach().step("fetch", fail)
        assert isinstance(first.value.__cause__, LookupError)
        with pytest.raises(StepError) as again:
            Process(journal).attach().step("fetch", never, name="fail")
        for error in (first.value, again.value):
            assert (error.key, error.type, error.message) == (
                "fetch",
                "LookupError",
                "no such page",
            )
        assert again.value.__cause__ is None
        assert str(first.value) == str(again.value)

    def test_an_exception_of_a_module_is_named_with_it(self, journal: FakeAgents) -> None:
        def fail() -> None:
            raise OverloadedError("later")

        with pytest.raises(StepError) as caught:
            Process(journal).attach().step("fetch", fail)
        assert caught.value.type == "agent_journal.errors.OverloadedError"

    @pytest.mark.parametrize("text", ["x" * 100_000, "\ud800"], ids=["long", "no text"])
    def test_whatever_an_exception_says_can_be_recorded(
        self, journal: FakeAgents, text: str
    ) -> None:
        def fail() -> None:
            raise ValueError(text)

        with pytest.raises(StepError):
            Process(journal).attach().step("fetch", fail)
        assert len(str(journal.named("StepFailed"))) < 10_000

    def test_an_interrupted_function_leaves_its_step_in_doubt(self, journal: FakeAgents) -> None:
        def interrupt() -> None:
            raise KeyboardInterrupt

        agent = Process(journal).attach()
        with pytest.raises(KeyboardInterrupt):
            agent.step("fetch", interrupt)
        assert names(journal)[-1] == "StepStarted"
        with pytest.raises(StepInDoubtError):
            agent.step("fetch", interrupt)
        assert agent.step("fetch", lambda: 1, name="interrupt", in_doubt="rerun") == 1


class TestKeys:
    def test_the_same_key_twice_in_one_run_is_an_error(self, journal: FakeAgents) -> None:
        agent = Process(journal).attach()
        agent.step("a", abs, -1)
        with pytest.raises(StepKeyUsedError):
            agent.step("a", never, name="abs")
        agent = Process(journal).attach()
        agent.step("a", abs, -1)
        with pytest.raises(StepKeyUsedError):
            agent.step("a", never, name="abs")

    def test_a_step_without_a_key_is_found_by_its_place(self, journal: FakeAgents) -> None:
        for _ in range(2):
            agent = Process(journal).attach()
            assert [agent.step(None, abs, number) for number in (-1, -2)] == [1, 2]
        assert [each["key"] for each in journal.named("StepStarted")] == ["abs:1", "abs:2"]

    def test_a_step_within_a_step_is_refused(self, journal: FakeAgents) -> None:
        agent = Process(journal).attach()

        def outer() -> Any:
            return agent.step("inner", never)

        with pytest.raises(StepError, match="'outer' asks the journal for something within"):
            agent.step("outer", outer)

    @pytest.mark.parametrize("key", ["", "x" * 257])
    def test_a_key_has_a_length(self, journal: FakeAgents, key: str) -> None:
        with pytest.raises(ValueError, match="1 to 256 characters"):
            Process(journal).attach().step(key, never)

    def test_a_callee_gets_the_same_key_each_time(self, journal: FakeAgents) -> None:
        handed: list[str] = []

        def pay(amount: int, idempotency_key: str) -> None:
            handed.append(idempotency_key)
            assert current_step().idempotency_key == idempotency_key
            if len(handed) == 1:
                raise Killed

        options = {"effect": "idempotent", "key_parameter": "idempotency_key"}
        with pytest.raises(Killed):
            Process(journal).attach().step("pay", pay, 5, **options)
        Process(journal).attach().step("pay", pay, 5, **options)
        assert len(handed) == 2
        assert len(set(handed)) == 1

    def test_keys_differ_between_steps_and_between_lives_of_an_agent(self) -> None:
        def key_of(created_at: str, key: str) -> str:
            journal = FakeAgents()
            journal.created_at = created_at
            return str(
                Process(journal)
                .attach()
                .step(key, lambda: current_step().idempotency_key, effect="idempotent")
            )

        times = ["2026-01-02T03:04:05.000001Z", "2026-01-02T03:04:05.000002Z"]
        made = {key_of(created_at, key) for created_at in times for key in ("a", "b")}
        assert len(made) == 4


class TestMismatch:
    def test_another_name_is_told_with_both_sides(self, journal: FakeAgents) -> None:
        Process(journal).attach().step("a", abs, -1)
        with pytest.raises(ReplayMismatchError, match="recorded 'abs', now 'never'") as caught:
            Process(journal).attach().step("a", never, -1)
        assert caught.value.details["recorded"]["name"] == "abs"  # type: ignore[index]

    def test_another_input_is_told_by_its_parts(self, journal: FakeAgents) -> None:
        search: Any = lambda *_, **__: 1  # noqa: E731 - a name is not wanted
        Process(journal).attach().step(
            "a", search, {"query": "rain", "pages": [1, 2]}, kwargs={"deep": True}
        )
        with pytest.raises(ReplayMismatchError) as caught:
            Process(journal).attach().step(
                "a", search, {"query": "snow", "pages": [1, 2, 3]}, kwargs={"fast": True}
            )
        text = caught.value.message
        assert "args[0].query: recorded 'rain', now 'snow'" in text
        assert "args[0].pages[2]: not recorded, now 3" in text
        assert "kwargs.deep: recorded true, now not there" in text
        assert "kwargs.fast: not recorded, now true" in text
        assert "fork report-42 --at 1" in text

    def test_long_inputs_show_where_they_part(self, journal: FakeAgents) -> None:
        Process(journal).attach().step("a", len, "x" * 200 + "rain" + "y" * 2000)
        with pytest.raises(ReplayMismatchError) as caught:
            Process(journal).attach().step("a", len, "x" * 200 + "snow" + "y" * 2000)
        assert "rain" in caught.value.message
        assert "snow" in caught.value.message
        assert len(caught.value.message) < 1500

    def test_a_step_is_never_taken_for_a_note(self, journal: FakeAgents) -> None:
        agent = Process(journal).attach()
        agent.drive(agent._pauses.now("a"))
        with pytest.raises(ReplayMismatchError, match="recorded 'now'"):
            Process(journal).attach().step("a", never)

    def test_the_order_of_members_is_no_difference(self, journal: FakeAgents) -> None:
        Process(journal).attach().step("a", len, {"x": 1, "y": 2})
        assert Process(journal).attach().step("a", len, {"y": 2, "x": 1}) == 2

    def test_what_json_writes_alike_is_no_difference(self, journal: FakeAgents) -> None:
        Process(journal).attach().step("a", len, [Question(1, "why?"), (1, 2)])
        assert Process(journal).attach().step("a", len, ({"id": 1, "text": "why?"}, [1, 2])) == 2

    def test_an_input_that_cannot_be_written_is_refused_on_replay_too(
        self, journal: FakeAgents
    ) -> None:
        Process(journal).attach().step("a", len, {"1": 2})
        with pytest.raises(NotSerializableError, match="is no text"):
            Process(journal).attach().step("a", len, {1: 2})

    def test_what_was_not_asked_for_is_told_at_the_end(self, journal: FakeAgents) -> None:
        agent = Process(journal).attach()
        for key in ("a", "b", "c"):
            agent.step(key, abs, -1)
        agent = Process(journal).attach()
        agent.step("b", abs, -1)
        assert agent.unasked() == ["a", "c"]
        with pytest.warns(ReplayWarning, match="2 recorded steps were not asked for: a, c"):
            agent.leave()
        assert journal.named("Terminated") == [{"reason": "Completed", "unasked": ["a", "c"]}]


class TestDoubt:
    @pytest.mark.parametrize("effect", ["read_only", "idempotent"])
    def test_what_does_no_harm_is_run_again(self, journal: FakeAgents, effect: str) -> None:
        interrupted(journal, effect=effect)
        assert Process(journal).attach().step("pay", lambda _: 7, 5, name="pay", effect=effect) == 7
        assert names(journal).count("StepStarted") == 2

    def test_what_is_unsafe_is_raised_and_may_be_completed_by_who_knows(
        self, journal: FakeAgents
    ) -> None:
        interrupted(journal)
        agent = Process(journal).attach()
        with pytest.raises(StepInDoubtError, match="decide report-42 pay") as caught:
            agent.step("pay", never, 5, name="pay")
        step: Any = caught.value.step
        assert step.is_in_doubt
        assert agent.drive(agent._steps.complete(step, "paid")) == "paid"
        assert Process(journal).attach().step("pay", never, 5, name="pay") == "paid"

    def test_a_program_that_calls_it_harmless_now_does_not_make_it_so(
        self, journal: FakeAgents
    ) -> None:
        interrupted(journal, effect="unsafe")
        with pytest.raises(StepInDoubtError):
            Process(journal).attach().step("pay", never, 5, name="pay", effect="idempotent")

    def test_it_may_be_run_again_on_the_programs_word(self, journal: FakeAgents) -> None:
        interrupted(journal)
        agent = Process(journal).attach()
        assert agent.step("pay", lambda _: 1, 5, name="pay", in_doubt="rerun") == 1

    def test_it_may_be_left_to_a_person(self, journal: FakeAgents) -> None:
        interrupted(journal)
        agent = Process(journal, in_doubt="park").attach()
        with pytest.raises(Suspended, match="parked") as caught:
            agent.step("pay", never, 5, name="pay")
        assert journal.state == "parked"
        assert "'pay'" in journal.named("Parked")[0]["reason"]
        assert isinstance(agent.leave(caught.value), SystemExit)

    @pytest.mark.parametrize(
        ("word", "expected"),
        [({"result": {"id": 3}}, {"id": 3}), ({"result": None}, None), ({"rerun": True}, "again")],
        ids=["result", "no result", "rerun"],
    )
    def test_a_persons_word_is_obeyed(self, journal: FakeAgents, word: Any, expected: Any) -> None:
        interrupted(journal)
        journal.record({"Decided": {"step": "pay", **word}})
        again = Process(journal).attach().step("pay", lambda _: "again", 5, name="pay")
        assert again == expected

    def test_a_persons_word_that_it_failed_is_raised(self, journal: FakeAgents) -> None:
        interrupted(journal)
        error = {"type": "CardDeclined", "message": "no money"}
        journal.record({"Decided": {"step": "pay", "error": error}})
        with pytest.raises(StepError, match="CardDeclined: no money"):
            Process(journal).attach().step("pay", never, 5, name="pay")

    def test_a_word_to_run_again_holds_for_one_time(self, journal: FakeAgents) -> None:
        """The second try is begun by an intent of its own, and may be in doubt in its turn."""
        interrupted(journal)
        journal.record({"Decided": {"step": "pay", "rerun": True}})
        interrupted(journal)
        with pytest.raises(StepInDoubtError):
            Process(journal).attach().step("pay", never, 5, name="pay")

    def test_a_word_to_run_again_is_for_the_same_step(self, journal: FakeAgents) -> None:
        interrupted(journal)
        journal.record({"Decided": {"step": "pay", "rerun": True}})
        with pytest.raises(ReplayMismatchError):
            Process(journal).attach().step("pay", never, 6, name="pay")

    def test_reconcile_finds_what_happened(self, journal: FakeAgents) -> None:
        def look(amount: int, **_: object) -> Reconciled:
            return Reconciled({"paid": amount})

        interrupted(journal, effect="reconcilable", reconcile=never)
        agent = Process(journal).attach()
        options = {"name": "pay", "effect": "reconcilable", "reconcile": look}
        assert agent.step("pay", never, 5, **options) == {"paid": 5}
        assert Process(journal).attach().step("pay", never, 5, **options) == {"paid": 5}

    def test_reconcile_finds_that_it_did_not_happen(self, journal: FakeAgents) -> None:
        interrupted(journal, effect="reconcilable", reconcile=never)
        agent = Process(journal).attach()
        done = agent.step("pay", lambda amount: amount, 5, name="pay", reconcile=lambda _: None)
        assert done == 5
        assert names(journal).count("StepStarted") == 2

    def test_a_program_that_leaves_by_it_waits_for_a_person(self, journal: FakeAgents) -> None:
        """Started again it would find the same doubt, until its attempts are used up."""
        interrupted(journal)
        agent = Process(journal, launcher="worker").attach()
        with pytest.raises(StepInDoubtError) as caught:
            agent.step("pay", never, 5, name="pay")
        doubts = [caught.value, ExceptionGroup("tasks", [ValueError(), caught.value])]
        for error in doubts:
            journal.state = "running"
            assert agent.leave(error) is None  # what it raised goes on
            assert journal.state == "parked"
            assert "step 'pay'" in journal.named("Parked")[-1]["reason"]
            agent = Process(journal, launcher="worker").attach()

    def test_one_that_nobody_starts_again_is_left_as_it_is(self, journal: FakeAgents) -> None:
        interrupted(journal)
        agent = Process(journal).attach()
        with pytest.raises(StepInDoubtError) as caught:
            agent.step("pay", never, 5, name="pay")
        assert agent.leave(caught.value) is None
        assert journal.state == "running"

    def test_what_reconcile_could_not_tell_it_may_tell_next_time(self, journal: FakeAgents) -> None:
        interrupted(journal, effect="reconcilable", reconcile=never)
        agent = Process(journal, launcher="worker").attach()
        with pytest.raises(StepInDoubtError) as caught:
            agent.step(
                "pay", never, 5, name="pay", effect="reconcilable", reconcile=lambda _: 1 / 0
            )
        assert agent.leave(caught.value) is None
        assert journal.state == "running"

    def test_a_reconcile_that_cannot_tell_leaves_it_in_doubt(self, journal: FakeAgents) -> None:
        def look(_: int) -> None:
            raise TimeoutError("the bank is closed")

        interrupted(journal, effect="reconcilable", reconcile=never)
        with pytest.raises(StepInDoubtError, match="the bank is closed"):
            Process(journal).attach().step("pay", never, 5, name="pay", reconcile=look)

    def test_a_reconcile_that_returns_the_bare_result_is_told_so(self, journal: FakeAgents) -> None:
        interrupted(journal, effect="reconcilable", reconcile=never)
        with pytest.raises(TypeError, match=r"Reconciled\(result\)"):
            Process(journal).attach().step("pay", never, 5, name="pay", reconcile=lambda _: True)

    def test_a_reconcilable_step_needs_a_reconcile_function(self, journal: FakeAgents) -> None:
        with pytest.raises(ValueError, match="reconcile"):
            Process(journal).attach().step("pay", never, effect="reconcilable")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts),
    max_leaves=5,
)


MEMBERS = {"key", "name", "input_hash", "effect", "idempotency_key", "step"} | {
    "result",
    "error",
    "rerun",
    "signal_sequence",
    "payload",
}


class TestOthersEntries:
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["StepStarted", "StepCompleted", "StepFailed", "Decided"])
                | st.sampled_from(["Signalled", "Started", "Terminated"]),
                st.fixed_dictionaries(
                    {},
                    optional=dict.fromkeys(sorted(MEMBERS), json_values),
                )
                | json_values,
            )
        )
    )
    def test_whatever_stands_in_the_journal_can_be_read(self, events: Any) -> None:
        journal = FakeAgents()
        for name, payload in events:
            journal.record({name: payload})
        Process(journal).attach()

    def test_a_step_that_was_recorded_by_hand_is_handed_back(self, journal: FakeAgents) -> None:
        journal.record({"StepStarted": {"key": "a"}})
        journal.record({"StepCompleted": {"key": "a", "result": 5}})
        assert Process(journal).attach().step("a", never) == 5


class TestParts:
    def test_a_framework_calls_the_function_itself(self, journal: FakeAgents) -> None:
        for attempt in range(2):
            agent = Process(journal).attach()
            step = agent.drive(agent._steps.begin("ask", name="model", inputs={"prompt": "why?"}))
            if attempt == 0:
                assert not step.is_done
                assert agent.drive(agent._steps.complete(step, ("a", 1))) == ["a", 1]
            assert step.is_done
            assert step.result() == ["a", 1]

    def test_a_failure_is_kept_with_its_data(self, journal: FakeAgents) -> None:
        agent = Process(journal).attach()
        step = agent.drive(agent._steps.begin("ask", name="model"))
        error = {"type": "RateLimited", "message": "later"}
        agent.drive(agent._steps.fail(step, error, data={"after_s": 3}))
        agent = Process(journal).attach()
        step = agent.drive(agent._steps.begin("ask", name="model"))
        with pytest.raises(StepError) as caught:
            step.result()
        assert (caught.value.type, caught.value.data) == ("RateLimited", {"after_s": 3})

    def test_an_end_is_recorded_once(self, journal: FakeAgents) -> None:
        agent = Process(journal).attach()
        step = agent.drive(agent._steps.begin("ask", name="model"))
        agent.drive(agent._steps.complete(step, 1))
        with pytest.raises(RuntimeError, match="recorded already"):
            agent.drive(agent._steps.complete(step, 2))

    def test_one_in_doubt_can_be_run_again_by_who_reconciles(self, journal: FakeAgents) -> None:
        interrupted(journal, effect="reconcilable", reconcile=never)
        agent = Process(journal).attach()
        step = agent.drive(
            agent._steps.begin(
                "pay",
                name="pay",
                inputs={"args": [5]},
                effect="reconcilable",
                can_reconcile=True,
            )
        )
        assert step.is_in_doubt
        agent.drive(agent._steps.rerun(step, {"args": [5]}))
        assert not step.is_in_doubt
        agent.drive(agent._steps.complete(step, 1))


class TestLostAnswers:
    def test_an_end_that_could_not_be_recorded_is_kept_and_nothing_runs_again(
        self, journal: FakeAgents
    ) -> None:
        calls: list[int] = []
        agent = Process(journal).attach()

        def work() -> int:
            calls.append(1)
            agent.lost_answers = [ConnectionLostError("in the test")]
            return 7

        with pytest.raises(ConnectionLostError):
            agent.step("work", work)
        assert agent.step("work", work) == 7
        assert len(calls) == 1
        assert names(journal).count("StepCompleted") == 1

    def test_an_end_that_was_kept_is_handed_to_the_same_step_only(
        self, journal: FakeAgents
    ) -> None:
        agent = Process(journal).attach()

        def work(_: int) -> int:
            agent.lost_answers = [ConnectionLostError("in the test")]
            return 7

        with pytest.raises(ConnectionLostError):
            agent.step("work", work, 1)
        with pytest.raises(ReplayMismatchError):
            agent.step("work", work, 2)
        assert agent.step("work", work, 1) == 7

    def test_an_end_that_is_told_again_is_the_one_that_was_told_first(
        self, journal: FakeAgents
    ) -> None:
        agent = Process(journal).attach()
        step = agent.drive(agent._steps.begin("ask", name="model"))
        agent.lost_answers = [ConnectionLostError("in the test")]
        with pytest.raises(ConnectionLostError):
            agent.drive(agent._steps.complete(step, 1))
        assert agent.drive(agent._steps.complete(step, 2)) == 1
        assert [end["result"] for end in journal.named("StepCompleted")] == [1]

    def test_an_intent_whose_answer_is_lost_keeps_the_function_from_being_called(
        self, journal: FakeAgents
    ) -> None:
        agent = Process(journal).attach()
        agent.lost_answers = [ConnectionLostError("in the test")]
        with pytest.raises(ConnectionLostError):
            agent.step("work", never)
        assert agent.step("work", lambda: 7, name="never") == 7


class TestFencing:
    @pytest.fixture
    def zombie(self, journal: FakeAgents) -> Iterator[Process]:
        agent = Process(journal).attach()
        Process(journal).attach()
        yield agent
        assert all("Step" not in name for name in names(journal))

    def test_who_was_replaced_calls_nothing_and_records_nothing(self, zombie: Process) -> None:
        for key in ("a", "b"):
            with pytest.raises(FencedError, match="another attempt took the agent over"):
                zombie.step(key, never)
        with pytest.raises(FencedError):
            zombie.drive(zombie._pauses.now(None))
        with pytest.raises(FencedError):
            zombie.drive(zombie._finish(None))

    def test_leaving_its_block_says_so(self, zombie: Process) -> None:
        with pytest.raises(FencedError):
            zombie.leave()
        assert isinstance(zombie.leave(FencedError("as raised by a step")), FencedError)

    def test_an_error_of_its_own_is_not_hidden(self, zombie: Process) -> None:
        with pytest.raises(FencedError):
            zombie.step("a", never)
        assert zombie.leave(LookupError()) is None

    def test_it_is_told_once(self, zombie: Process) -> None:
        told: list[int] = []
        zombie._attempt.on_fenced = lambda: told.append(1)
        for _ in range(3):
            with pytest.raises(FencedError) as caught:
                zombie.step("a", never)
        assert isinstance(caught.value.__cause__, FencedError | StaleEpochError)
        assert told == [1]

    def test_an_agent_that_was_cancelled_stops(self, journal: FakeAgents) -> None:
        agent = Process(journal).attach()
        agent.lost_answers = [AgentFinishedError("it is cancelled", state="cancelled")]
        for _ in range(2):
            with pytest.raises(FencedError, match="the agent is cancelled"):
                agent.step("a", never)

    def test_a_forked_child_is_not_the_owner(
        self, journal: FakeAgents, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        agent = Process(journal).attach()
        monkeypatch.setattr("os.getpid", lambda: 1)
        with pytest.raises(FencedError, match="forked"):
            agent.step("a", never)

    def test_nothing_can_be_asked_before_it_is_attached(self, journal: FakeAgents) -> None:
        with pytest.raises(RuntimeError, match="not attached"):
            Process(journal).step("a", never)


class TestLeaving:
    def test_leaving_normally_finishes(self, journal: FakeAgents) -> None:
        assert Process(journal).attach().leave() is None
        assert journal.named("Terminated") == [{"reason": "Completed"}]

    def test_an_end_that_could_not_be_recorded_is_recorded_first(self, journal: FakeAgents) -> None:
        agent = Process(journal).attach()
        step = agent.drive(agent._steps.begin("ask", name="model"))
        ending = agent._steps.complete(step, 1)
        next(ending)
        with pytest.raises(OverloadedError):
            ending.throw(OverloadedError("in the test"))
        assert agent.leave() is None
        assert names(journal)[-3:] == ["StepStarted", "StepCompleted", "Terminated"]

    def test_what_is_finished_is_not_finished_again(self, journal: FakeAgents) -> None:
        agent = Process(journal).attach()
        agent.drive(agent._finish({"answer": Question(1, "x")}))
        assert agent.leave() is None
        (end,) = journal.named("Terminated")
        assert end["result"] == {"answer": {"id": 1, "text": "x"}}
        with pytest.raises(FencedError, match="has ended"):
            agent.step("a", never)

    @pytest.mark.parametrize(
        "error", [LookupError("x"), KeyboardInterrupt(), SystemExit(1), Killed()], ids=repr
    )
    def test_an_exception_leaves_it_to_be_resumed(
        self, journal: FakeAgents, error: BaseException
    ) -> None:
        assert Process(journal).attach().leave(error) is None
        assert journal.state == "running"

    @pytest.mark.parametrize(
        ("error", "is_failed"),
        [
            (LookupError("no such page"), True),
            (StepError("k", "n", "LookupError", "x", None), True),
            (KeyboardInterrupt(), False),
            (SystemExit(1), False),
            (ReplayMismatchError("x"), False),
            (StepInDoubtError("x", None), False),
            (ConnectionLostError("x"), False),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_an_exception_of_the_programs_ends_it_where_it_says_so(
        self, journal: FakeAgents, error: BaseException, *, is_failed: bool
    ) -> None:
        assert Process(journal, on_error="fail").attach().leave(error) is None
        assert (journal.state == "failed") is is_failed
        if is_failed:
            (end,) = journal.named("Terminated")
            assert end["error"] == {"type": type(error).__name__, "message": str(error)}

    def test_a_finished_agent_is_not_attached_again(self, journal: FakeAgents) -> None:
        Process(journal).attach().leave()
        with pytest.raises(AgentFinishedError):
            Process(journal).attach()
