"""Lost connections and refusals; each test run against the blocking one and the one for asyncio."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent_journal.client import (
    AppendRequest,
    DaemonNotRunningError,
    NewEntry,
    ProtocolError,
)
from agent_journal.errors import (
    ERRORS,
    ConnectionLostError,
    InvalidError,
    JournalError,
    OverloadedError,
    SequenceConflictError,
    StorageFullError,
)


def names(count: int) -> list[str]:
    return [f"E{number}" for number in range(count)]


def appends(count: int, **fields: Any) -> list[AppendRequest]:
    return [
        AppendRequest("a", {name: number}, **fields) for number, name in enumerate(names(count))
    ]


# What can happen to a request; each ends the connection.


def unread(peer: Any) -> None:
    """Hang up before the request is read."""


def unrecorded(peer: Any) -> None:
    """Hang up when the request was read."""
    peer.read()


def unanswered(peer: Any) -> None:
    """Hang up when the request was carried out."""
    peer.journal.replies(peer.read())


def half_answered(peer: Any) -> None:
    """Hang up in the middle of the answer."""
    request = peer.read()
    (reply,) = peer.journal.replies(request)
    line = json.dumps({"id": request["id"], **reply}).encode()
    peer.connection.sendall(line[: len(line) // 2])


FAULTS = [unread, unrecorded, unanswered, half_answered]
faults = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)


class TestLostConnections:
    @faults
    def test_an_append_is_recorded_once(self, daemon: Any, opened: Any, fault: Any) -> None:
        daemon.script(fault, fault, fault)
        appended = opened().append("a", {"E": 1})
        assert (appended.sequence, appended.position) == (0, 1)
        assert daemon.journal.names("a") == ["E"]
        assert len({request["key"] for request in daemon.requests}) == 1
        assert len(daemon.peers) == 4

    @faults
    def test_an_append_that_expects_a_sequence_is_recorded_once(
        self, daemon: Any, opened: Any, fault: Any
    ) -> None:
        """The repeat finds its own first write, which is a success and no conflict."""
        daemon.script(fault)
        assert opened().append("a", {"E": 1}, expected_sequence=0).sequence == 0
        assert daemon.journal.names("a") == ["E"]

    @faults
    def test_append_many_is_recorded_once(self, daemon: Any, opened: Any, fault: Any) -> None:
        daemon.script(fault)
        opened().append_many("a", [NewEntry({name: 1}) for name in names(3)])
        assert daemon.journal.names("a") == names(3)

    @faults
    def test_reading_is_repeated(self, daemon: Any, opened: Any, fault: Any) -> None:
        journal = opened()
        journal.append_many("a", [NewEntry({name: 1}) for name in names(5)])
        daemon.hang_up()
        daemon.script(fault, fault)
        assert [entry.name for entry in journal.read("a")] == names(5)
        daemon.hang_up()
        daemon.script(fault)
        assert journal.describe("a").entries == 5

    @faults
    def test_pipelined_appends_are_recorded_once_in_order(
        self, daemon: Any, opened: Any, fault: Any
    ) -> None:
        def some_then(peer: Any) -> None:
            peer.serve(7)
            fault(peer)

        daemon.script(some_then, fault, some_then)
        answers = list(opened().append_pipelined(appends(40), window=10))
        assert [answer.sequence for answer in answers] == list(range(40))
        assert daemon.journal.names("a") == names(40)

    def test_a_connection_that_broke_while_idle_costs_nothing(
        self, daemon: Any, opened: Any
    ) -> None:
        journal = opened()
        for name in names(3):
            journal.append("a", {name: 1})
            daemon.hang_up()
        assert daemon.journal.names("a") == names(3)

    def test_a_restart_is_waited_for(self, daemon: Any, opened: Any) -> None:
        """Once connected, a daemon that is gone is expected back."""
        journal = opened()
        journal.append("a", {"E0": 1})
        daemon.stop()
        daemon.hang_up()
        refused: list[None] = []

        def come_back_at_third_try() -> float:
            refused.append(None)
            if len(refused) == 3:
                daemon.start()
            return 0.0

        _set_random(journal, come_back_at_third_try)
        journal.append("a", {"E1": 1})
        assert daemon.journal.names("a") == names(2)
        assert len(refused) >= 3

    def test_the_retry_ends(self, daemon: Any, opened: Any) -> None:
        journal = opened(retry_s=0.2)
        journal.append("a", {"E0": 1})
        daemon.stop()
        daemon.hang_up()
        with pytest.raises(DaemonNotRunningError):
            journal.append("a", {"E1": 1})

    def test_an_outcome_nobody_knows_is_called_unknown_and_names_the_key(
        self, daemon: Any, opened: Any
    ) -> None:
        def last_one(peer: Any) -> None:
            peer.journal.replies(peer.read())
            daemon.stop()

        daemon.script(last_one)
        with pytest.raises(ConnectionLostError, match="may have been recorded") as raised:
            opened(retry_s=0.2).append("a", {"E": 1}, key="k")
        assert raised.value.outcome == "unknown"
        assert raised.value.details == {"keys": ["k"]}

    def test_no_retry_where_none_is_wanted(self, daemon: Any, opened: Any) -> None:
        daemon.script(unanswered)
        with pytest.raises(ConnectionLostError):
            opened(retry_s=0).append("a", {"E": 1})
        assert len(daemon.requests) == 1

    def test_compacting_by_force_is_not_repeated(self, daemon: Any, opened: Any) -> None:
        """Between the two tries the agent may have begun anew."""
        journal = opened()
        journal.append("a", {"E": 1})
        daemon.hang_up()
        daemon.script(unanswered)
        with pytest.raises(ConnectionLostError, match="may have been carried out"):
            journal.compact("a", force=True)
        journal.append("a", {"F": 1})
        daemon.hang_up()
        daemon.script(unanswered)
        assert journal.compact("a") == 0

    def test_a_call_is_repeated_only_where_that_is_safe(self, daemon: Any, opened: Any) -> None:
        entry = {"op": "append", "agent_id": "a", "iteration": 0, "event": {"E": 1}}
        for request, is_repeated in [
            ({"op": "ping"}, True),
            ({**entry, "key": "k"}, True),
            (entry, False),
            ({"op": "attach", "agent_id": "a"}, False),
        ]:
            daemon.script(unrecorded)
            before = len(daemon.requests)
            journal = opened()
            if is_repeated:
                journal.call(request)
            else:
                with pytest.raises(ConnectionLostError):
                    journal.call(request)
            assert len(daemon.requests) - before == 1 + is_repeated


def _set_random(journal: Any, random: Any) -> None:
    """Have the back-off ask *random*; behind the interface, since time must not be slept away."""
    client = journal._client if hasattr(journal, "_client") else journal
    client._channel._conversation._random = random


class TestRefusals:
    @pytest.mark.parametrize("code", ["overloaded", "shutting_down", "storage_full"])
    def test_a_refusal_for_the_moment_is_tried_again(
        self, daemon: Any, opened: Any, code: str
    ) -> None:
        def scene(peer: Any) -> None:
            peer.refuse(peer.read(), code, retry_ms=1)
            peer.serve()

        daemon.script(scene)
        assert opened().append("a", {"E": 1}).sequence == 0
        assert len({request["key"] for request in daemon.requests}) == 1

    def test_overloaded_waits_as_long_as_the_daemon_asks(self, daemon: Any, opened: Any) -> None:
        """A wait beyond the retry's time is not waited for."""

        def scene(peer: Any) -> None:
            peer.refuse(peer.read(), "overloaded", retry_ms=3_600_000)
            peer.serve()

        daemon.script(scene)
        with pytest.raises(OverloadedError):
            opened().append("a", {"E": 1})

    def test_a_full_disk_is_reported_soon(self, daemon: Any, opened: Any) -> None:
        def scene(peer: Any) -> None:
            while True:
                peer.refuse(peer.read(), "storage_full")

        daemon.script(scene)
        with pytest.raises(StorageFullError):
            opened(retry_s=1e6).append("a", {"E": 1})
        assert len(daemon.requests) == 3

    def test_too_many_connections_is_knocked_at_again(self, daemon: Any, opened: Any) -> None:
        """The daemon says so without having been asked, and hangs up."""

        def full(peer: Any) -> None:
            peer.refuse(None, "too_many_connections")

        daemon.script(full, full)
        assert opened().append("a", {"E": 1}).sequence == 0
        assert len(daemon.peers) == 3

    def test_too_many_connections_is_raised_in_the_end(self, daemon: Any, opened: Any) -> None:
        def full(peer: Any) -> None:
            peer.refuse(None, "too_many_connections")
            peer.connection.shutdown(2)

        daemon.script(*[full] * 50)
        with pytest.raises(JournalError) as raised:
            opened(retry_s=0.2).append("a", {"E": 1})
        assert raised.value.code in {"too_many_connections", "connection_lost"}

    def test_shutting_down_finishes_what_is_underway_and_moves_on(
        self, daemon: Any, opened: Any
    ) -> None:
        def draining(peer: Any) -> None:
            peer.serve(3)
            for _ in range(3):
                peer.refuse(peer.read(), "shutting_down")
            peer.serve(0)

        daemon.script(draining)
        answers = list(opened().append_pipelined(appends(6)))
        assert [answer.sequence for answer in answers] == list(range(6))
        assert len(daemon.peers) == 2

    def test_what_is_no_daemon_is_told_from_one(self, daemon: Any, opened: Any) -> None:
        for answer in [b"HTTP/1.1 400 Bad Request\r\n", b"[1]\n", b'{"id":999,"ok":true}\n', b"\n"]:

            def scene(peer: Any, answer: bytes = answer) -> None:
                peer.read()
                peer.connection.sendall(answer)

            daemon.script(scene)
            with pytest.raises(ProtocolError):
                opened().ping()

    def test_an_answer_without_its_fields_is_not_passed_on(self, daemon: Any, opened: Any) -> None:
        daemon.script(lambda peer: peer.answer(peer.read(), entries=[], next_sequence=0, more=True))
        with pytest.raises(ProtocolError, match="more"):
            list(opened().read("a"))
        daemon.script(lambda peer: peer.answer(peer.read()))
        with pytest.raises(ProtocolError, match="sequence"):
            opened().append("a", {"E": 1})

    def test_a_time_out_says_that_nobody_knows(self, daemon: Any, opened: Any) -> None:
        def silent(peer: Any) -> None:
            held = peer.read()
            peer.read()
            peer.reply_to(held)
            peer.reply_to(peer.seen[-1])
            peer.serve()

        daemon.script(silent)
        journal = opened(timeout_s=0.1)
        with pytest.raises(ConnectionLostError, match=r"0\.1 s.*may have been recorded"):
            journal.append("a", {"E": 1})
        # The late answer is not taken for the next one's.
        assert journal.append("a", {"F": 1}).sequence == 1
        assert len(daemon.peers) == 1


class TestPipelines:
    def test_answers_come_in_order_and_failures_in_their_places(
        self, journal: Any, daemon: Any
    ) -> None:
        requests = [
            AppendRequest("a", {"E0": 1}),
            AppendRequest("a", {"E1": 1}, expected_sequence=9),
            AppendRequest("a", {"E2": float("nan")}),
            AppendRequest("a", b'{"E3":1}'),
        ]
        first, second, third, fourth = journal.append_pipelined(requests)
        assert first.sequence == 0
        assert isinstance(second, SequenceConflictError)
        assert isinstance(third, InvalidError)
        assert fourth.sequence == 1
        assert daemon.journal.names("a") == ["E0", "E3"]

    def test_no_more_than_the_window_is_taken_from_the_iterable(
        self, daemon: Any, opened: Any
    ) -> None:
        taken: list[int] = []

        def endless() -> Any:
            while True:
                taken.append(1)
                yield AppendRequest("a", {"E": len(taken)})

        answers = opened().append_pipelined(endless(), window=5)
        for count in range(20):
            assert next(answers).sequence == count
            assert len(taken) <= count + 6
        answers.close()

    def test_all_of_the_window_is_sent_before_anything_is_answered(
        self, daemon: Any, opened: Any
    ) -> None:
        def patient(peer: Any) -> None:
            for request in [peer.read() for _ in range(8)]:
                peer.reply_to(request)
            peer.serve()

        daemon.script(patient)
        assert len(list(opened().append_pipelined(appends(20), window=8))) == 20

    def test_a_refused_append_is_not_overtaken_by_later_ones(
        self, daemon: Any, opened: Any
    ) -> None:
        """Those sent behind it with an expected sequence are repeated behind it."""

        def refusing(peer: Any) -> None:
            peer.serve(2)
            peer.refuse(peer.read(), "overloaded", retry_ms=1)
            peer.serve()

        daemon.script(refusing)
        requests = [
            AppendRequest("a", {name: 1}, expected_sequence=number)
            for number, name in enumerate(names(30))
        ]
        answers = list(opened().append_pipelined(requests, window=6))
        assert [answer.sequence for answer in answers] == list(range(30))
        assert daemon.journal.names("a") == names(30)

    def test_others_can_be_called_within_the_loop(self, journal: Any, daemon: Any) -> None:
        for answer in journal.append_pipelined(appends(10), window=4):
            assert journal.describe("a").next_sequence > answer.sequence

    def test_leaving_early_leaves_the_client_usable(self, journal: Any, daemon: Any) -> None:
        answers = journal.append_pipelined(appends(100), window=50)
        next(answers)
        answers.close()
        assert journal.ping() is None
        recorded = daemon.journal.names("a")
        assert recorded == names(100)[: len(recorded)]

    def test_what_was_left_is_not_repeated(self, daemon: Any, opened: Any) -> None:
        def answering_one(peer: Any) -> None:
            peer.serve(1)
            while True:
                peer.read()

        daemon.script(answering_one)
        journal = opened()
        answers = journal.append_pipelined(appends(20), window=10)
        assert next(answers).sequence == 0
        answers.close()
        daemon.hang_up()
        journal.ping()
        assert [request["op"] for request in daemon.peers[-1].seen] == ["ping"]

    def test_a_failing_iterable_fails_the_pipeline(self, journal: Any) -> None:
        def failing() -> Any:
            yield AppendRequest("a", {"E": 1})
            raise LookupError("no more")

        with pytest.raises(LookupError):
            list(journal.append_pipelined(failing()))
        journal.ping()


def record(peer: Any, name: str) -> None:
    """Record an entry as another client would."""
    append = {"op": "append", "agent_id": "a", "iteration": 0, "event": {name: 1}, "key": name}
    peer.journal.replies(append)


class TestTails:
    def test_without_follow_it_ends(self, journal: Any) -> None:
        journal.append_many("a", [NewEntry({name: 1}) for name in names(5)])
        assert [entry.name for entry in journal.tail(follow=False)] == names(5)
        assert [entry.name for entry in journal.tail("a", last=2, follow=False)] == names(5)[3:]
        assert [each.position for each in journal.tail(from_position=4, follow=False)] == [4, 5]
        assert list(journal.tail("b", follow=False)) == []

    @pytest.mark.parametrize("cut", [0, 1, 3])
    def test_it_goes_on_behind_the_last_entry_seen(
        self, daemon: Any, opened: Any, cut: int
    ) -> None:
        journal = opened()
        journal.append_many("a", [NewEntry({name: 1}) for name in names(10)])

        def breaking(peer: Any) -> None:
            request = peer.read()
            lines = peer.journal.replies(request)
            for line in lines[:cut]:
                peer.send({"id": request["id"], **line})
            if len(lines) > cut:
                peer.connection.sendall(b'{"id":1,"entry":{"sequ')

        daemon.script(breaking, breaking, breaking)
        assert [entry.name for entry in journal.tail(follow=False)] == names(10)

    def test_an_entry_that_comes_again_is_passed_over(self, daemon: Any, opened: Any) -> None:
        """Whatever a daemon takes from_position to mean, none comes twice."""
        journal = opened()
        journal.append_many("a", [NewEntry({name: 1}) for name in names(4)])

        def forgetful(peer: Any) -> None:
            request = peer.read()
            for line in peer.journal.replies({**request, "from_position": 0})[:3]:
                peer.send({"id": request["id"], **line})

        daemon.script(forgetful, forgetful)
        assert [entry.name for entry in journal.tail(follow=False)] == names(4)

    def test_with_follow_it_shows_what_is_recorded_from_now_on(
        self, daemon: Any, opened: Any
    ) -> None:
        journal = opened()
        journal.append("a", {"E0": 1})

        def following(peer: Any) -> None:
            peer.serve(1)
            request = peer.read()
            peer.send({"id": request["id"], "lagged": 3})
            record(peer, "E1")
            peer.reply_to(request)
            peer.read()

        daemon.script(following)
        entries = journal.tail()
        assert next(entries).name == "E1"
        entries.close()

    @pytest.mark.parametrize("served", [1, 2])
    def test_what_is_recorded_while_it_is_cut_off_is_not_missing(
        self, daemon: Any, opened: Any, served: int
    ) -> None:
        """Also where nothing was seen yet that it could go on behind."""
        journal = opened()
        journal.append("a", {"E0": 1})

        def breaking(peer: Any) -> None:
            peer.serve(served)
            record(peer, "E1")

        daemon.script(breaking)
        entries = journal.tail()
        assert next(entries).name == "E1"
        entries.close()

    @pytest.mark.parametrize(("last", "expected"), [(0, []), (2, ["E3", "E4"])])
    def test_with_follow_it_may_begin_before_now(
        self, daemon: Any, opened: Any, last: int, expected: list[str]
    ) -> None:
        journal = opened()
        journal.append_many("a", [NewEntry({name: 1}) for name in names(5)])

        def following(peer: Any) -> None:
            peer.serve(1)
            record(peer, "E5")
            peer.serve()

        daemon.script(following)
        entries = journal.tail("a", last=last)
        assert [next(entries).name for _ in [*expected, "E5"]] == [*expected, "E5"]
        entries.close()

    def test_a_refusal_ends_it_or_is_tried_again(self, daemon: Any, opened: Any) -> None:
        journal = opened()
        journal.append("a", {"E0": 1})
        daemon.script(lambda peer: peer.refuse(peer.read(), "forbidden"))
        with pytest.raises(ERRORS["forbidden"]):
            next(journal.tail(uid="*"))
        daemon.script(lambda peer: peer.refuse(peer.read(), "overloaded"))
        assert [entry.name for entry in journal.tail(follow=False)] == ["E0"]

    def test_both_beginnings_are_refused(self, journal: Any) -> None:
        with pytest.raises(InvalidError):
            journal.tail(from_position=1, last=1)

    def test_closing_the_client_ends_it(self, journal: Any) -> None:
        journal.append("a", {"E0": 1})
        entries = journal.tail(last=1)
        assert next(entries).name == "E0"
        journal.close()
        with pytest.raises((ConnectionLostError, StopIteration, RuntimeError)):
            next(entries)
