"""Crashes for one reason look alike, and one agent tries for the others."""

from __future__ import annotations

import pytest

from agent_journal.service.attempt_output import Outcome
from agent_journal.service.crash_signatures import (
    SIGNATURE_CHARACTERS_MAX,
    SIGNATURES_MAX,
    Outbreaks,
    signature_of,
)


def exited(stderr: str, code: int = 1) -> str:
    return signature_of(Outcome(how="exited", exit_code=code, stderr=stderr))


class TestSignature:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("KeyError: 17", "KeyError: 4"),
            ("at 0x7ffd12 in f", "at 0xDEAD in f"),
            ("id 3fa85f64-5717-4562-b3fc-2c963f66afa6", "id 11111111-2222-3333-4444-abcdef012345"),
            ("first\nTimeout after 30 s\n", "another\nTimeout after 31 s\n\n  \n"),
        ],
        ids=["digits", "addresses", "ids", "last line"],
    )
    def test_what_differs_by_process_does_not_count(self, one: str, other: str) -> None:
        assert exited(one) == exited(other)

    def test_the_agent_s_own_id_does_not_count(self) -> None:
        found = {
            signature_of(Outcome(how="lost", stderr=f"see journalctl -u a@{agent_id}"), agent_id)
            for agent_id in ("report-a", "report-b")
        }
        assert len(found) == 1

    def test_words_are_not_taken_for_numbers(self) -> None:
        assert exited("deadbeef faced") != exited("facade added")

    def test_another_message_another_end_another_signature(self) -> None:
        killed = signature_of(Outcome(how="signalled", signal="SIGKILL", stderr="x"))
        assert len({exited("x"), exited("y"), exited("x", 2), killed}) == 4

    def test_it_is_bounded(self) -> None:
        assert len(exited("x" * 10_000)) == SIGNATURE_CHARACTERS_MAX


@pytest.fixture
def outbreaks() -> Outbreaks:
    return Outbreaks(agents_min=3, window_seconds=60)


def begin(outbreaks: Outbreaks, signature: str = "s") -> None:
    began = [outbreaks.crashed(agent, signature, 0.0) for agent in ("a", "b", "c")]
    assert began == [False, False, True]


class TestOutbreak:
    def test_before_it_everybody_may_be_launched(self, outbreaks: Outbreaks) -> None:
        outbreaks.crashed("a", "s", 0.0)
        outbreaks.crashed("b", "s", 0.0)
        assert outbreaks.may_launch("a", "s")
        assert outbreaks.may_launch("b", "s")

    def test_one_agent_that_crashes_often_is_none(self, outbreaks: Outbreaks) -> None:
        assert not any(outbreaks.crashed("a", "s", float(when)) for when in range(9))

    def test_crashes_far_apart_are_none(self, outbreaks: Outbreaks) -> None:
        when = {"a": 0.0, "b": 50.0, "c": 100.0, "d": 150.0}
        assert not any(outbreaks.crashed(agent, "s", at) for agent, at in when.items())

    def test_one_tries_and_the_others_wait(self, outbreaks: Outbreaks) -> None:
        begin(outbreaks)
        assert [outbreaks.may_launch(agent, "s") for agent in ("b", "a", "c", "b")] == [
            True, False, False, True,
        ]  # fmt: skip
        assert outbreaks.may_launch("d", "another")
        assert outbreaks.may_launch("e", None)

    def test_if_the_probe_crashes_alike_it_is_another_s_turn(self, outbreaks: Outbreaks) -> None:
        begin(outbreaks)
        assert outbreaks.may_launch("a", "s")
        assert not outbreaks.crashed("a", "s", 1.0), "it goes on, and does not begin"
        assert outbreaks.may_launch("b", "s")
        assert not outbreaks.may_launch("a", "s")

    def test_it_outlasts_the_window(self, outbreaks: Outbreaks) -> None:
        """Those that wait crash no more; only a probe can tell that it is over."""
        begin(outbreaks)
        assert outbreaks.may_launch("a", "s")
        outbreaks.crashed("a", "s", 10_000.0)
        assert outbreaks.may_launch("b", "s")
        assert not outbreaks.may_launch("c", "s")

    def test_if_the_probe_gets_on_it_is_over(self, outbreaks: Outbreaks) -> None:
        begin(outbreaks)
        assert outbreaks.may_launch("a", "s")
        assert outbreaks.recovered("a") == "s"
        assert outbreaks.may_launch("b", "s")
        assert outbreaks.may_launch("c", "s")
        assert outbreaks.signature_probed_by("a") is None

    def test_if_the_probe_crashes_otherwise_it_is_over(self, outbreaks: Outbreaks) -> None:
        begin(outbreaks)
        assert outbreaks.may_launch("a", "s")
        outbreaks.crashed("a", "new", 1.0)
        assert outbreaks.may_launch("b", "s")
        assert outbreaks.may_launch("c", "s")

    def test_another_agent_s_recovery_says_nothing(self, outbreaks: Outbreaks) -> None:
        begin(outbreaks)
        assert outbreaks.may_launch("a", "s")
        assert outbreaks.recovered("b") is None
        assert not outbreaks.may_launch("c", "s")

    def test_a_probe_that_withdraws_leaves_it_to_another(self, outbreaks: Outbreaks) -> None:
        begin(outbreaks)
        assert outbreaks.may_launch("a", "s")
        assert outbreaks.withdrew("a") == "s"
        assert outbreaks.may_launch("b", "s")

    def test_it_can_be_switched_off(self) -> None:
        outbreaks = Outbreaks(agents_min=0, window_seconds=60)
        assert not any(outbreaks.crashed(agent, "s", 0.0) for agent in "abcdef")
        assert outbreaks.may_launch("a", "s")
        assert outbreaks.may_launch("b", "s")

    def test_only_so_many_signatures_are_remembered(self, outbreaks: Outbreaks) -> None:
        begin(outbreaks)
        for number in range(SIGNATURES_MAX):
            outbreaks.crashed("z", f"other {number}", 1.0)
        assert len(outbreaks._by_signature) == SIGNATURES_MAX
        assert outbreaks.may_launch("a", "s")
        assert outbreaks.may_launch("b", "s")
