"""The conversation without a socket: what hypothesis can make of losing and refusing."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_journal.client import AppendRequest, AsyncClient, Client, connect, connect_async
from agent_journal.client._core import Conversation
from agent_journal.client._replies import REPLY_BYTES_MAX, LineBuffer, ProtocolError, decode_reply
from agent_journal.client._requests import KeyMaker, Tail, append, compact, ping
from agent_journal.client._retry import BACKOFF_FIRST_S, BACKOFF_MAX_S, RETRY_S, backoff_s
from agent_journal.clock import Clock
from agent_journal.errors import ConnectionLostError, SequenceConflictError, ShuttingDownError


class StandingClock(Clock):
    """A wall clock that stands, and then falls."""

    def __init__(self) -> None:
        self.us = 1_000_000

    def wall_us(self) -> int:
        return self.us


def test_keys_rise_though_the_clock_stands_or_falls() -> None:
    clock = StandingClock()
    next_key = KeyMaker(clock)
    keys = []
    for _ in range(300):
        keys.append(next_key())
        clock.us -= 1
    assert keys == sorted(set(keys))


def test_two_makers_at_one_moment_make_different_keys() -> None:
    assert KeyMaker(StandingClock())() != KeyMaker(StandingClock())()


def test_the_functions_and_the_classes_have_the_same_patience() -> None:
    for make in (connect, connect_async, Client, AsyncClient):
        assert inspect.signature(make).parameters["retry_s"].default == RETRY_S


def test_the_first_repeat_is_at_once_and_the_others_back_off() -> None:
    def delays(fraction: float) -> list[float]:
        return [backoff_s(failures, lambda: fraction) for failures in range(1, 2000)]

    assert delays(0.0)[0] == delays(0.999)[0] == 0
    assert delays(0.0)[1] == BACKOFF_FIRST_S / 2
    assert delays(0.0) == sorted(delays(0.0))
    assert delays(0.0)[-1] == BACKOFF_MAX_S / 2
    assert BACKOFF_MAX_S * 0.99 < delays(0.999)[-1] <= BACKOFF_MAX_S


@given(st.lists(st.binary().filter(lambda line: b"\n" not in line)), st.data())
def test_any_cutting_gives_the_same_lines(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    buffer = LineBuffer()
    found = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        found += buffer.feed(stream[:cut])
        stream = stream[cut:]
    assert found == lines


def test_an_answer_without_an_end_is_not_kept_for_ever() -> None:
    buffer = LineBuffer()
    piece = b"x" * (REPLY_BYTES_MAX // 4)
    for _ in range(4):
        buffer.feed(piece)
    with pytest.raises(ProtocolError, match="does not end"):
        buffer.feed(piece)


def test_a_number_longer_than_python_reads_does_not_stop_a_reader() -> None:
    digits = "7" * 5000
    assert str(decode_reply(b'{"huge":%b,"small":7}' % digits.encode())["huge"]) == digits


def conversation(**options: Any) -> Conversation:
    return Conversation(**{"retry_s": 30.0, "timeout_s": None, "random": lambda: 0.0, **options})


def lines_of(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def test_what_never_left_is_not_in_doubt() -> None:
    """A connection that broke while idle shows at the send; the request did not leave."""
    talk = conversation(retry_s=0)
    talk.connected()
    ticket = talk.submit(compact("a", force=True, uid=None), now=0)
    talk.bytes_to_send(0)
    talk.take_back()
    talk.failed(ConnectionLostError("it broke"), now=0)
    with pytest.raises(ConnectionLostError, match=r"^it broke$"):
        ticket.outcome()

    talk = conversation()
    talk.connected()
    ticket = talk.submit(compact("a", force=True, uid=None), now=0)
    talk.bytes_to_send(0)
    talk.take_back()
    talk.failed(ConnectionLostError("it broke"), now=0)
    assert not ticket.is_settled  # certainly not carried out: may be repeated
    talk.connected()
    assert len(lines_of(talk.bytes_to_send(0))) == 1


def test_reads_do_not_wait_for_refused_appends() -> None:
    talk = conversation()
    talk.connected()
    talk.submit(append(AppendRequest("a", {"E": 1}), lambda: "k"), now=0)
    (asked,) = lines_of(talk.bytes_to_send(0))
    error = {"code": "overloaded", "message": "", "retryable": True, "retry_ms": 500}
    talk.receive(json.dumps({"id": asked["id"], "ok": False, "error": error}).encode() + b"\n", 0)
    talk.submit(append(AppendRequest("a", {"F": 1}), lambda: "l"), now=0)
    talk.submit(ping(), now=0)
    assert [line["op"] for line in lines_of(talk.bytes_to_send(0))] == ["ping"]
    assert talk.wake_s(0) == 0.5
    assert [line["key"] for line in lines_of(talk.bytes_to_send(0.5))] == ["k", "l"]


def test_a_refused_append_waits_until_those_behind_it_are_answered() -> None:
    """Sent any earlier it would land behind them."""
    talk = conversation()
    talk.connected()
    for number in range(2):
        request = AppendRequest("a", {"E": 1}, expected_sequence=number)
        talk.submit(append(request, str), now=0)
    talk.bytes_to_send(0)
    overloaded = {"code": "overloaded", "message": "", "retryable": True}
    conflict = {"code": "sequence_conflict", "message": "", "retryable": False}
    talk.receive(json.dumps({"id": 1, "ok": False, "error": overloaded}).encode() + b"\n", 0)
    assert talk.bytes_to_send(10) == b""
    assert talk.wake_s(10) is None
    talk.receive(json.dumps({"id": 2, "ok": False, "error": conflict}).encode() + b"\n", 10)
    assert [line["id"] for line in lines_of(talk.bytes_to_send(10))] == [1, 2]


def test_what_was_abandoned_before_it_was_sent_is_not_sent() -> None:
    talk = conversation()
    talk.connected()
    talk.abandon(talk.submit(ping(), now=0))
    assert talk.bytes_to_send(0) == b""


def test_nothing_new_is_asked_of_a_daemon_that_is_going() -> None:
    """What was asked before is still answered; then the connection is given up."""
    talk = conversation()
    talk.connected()
    refused, answered = talk.submit(ping(), now=0), talk.submit(ping(), now=0)
    talk.bytes_to_send(0)
    error = {"code": "shutting_down", "message": "", "retryable": True}
    talk.receive(json.dumps({"id": 1, "ok": False, "error": error}).encode() + b"\n", 0)
    talk.submit(ping(), now=0)
    assert talk.bytes_to_send(0) == b""
    with pytest.raises(ShuttingDownError) as raised:
        talk.receive(b'{"id":2,"ok":true}\n', 0)
    assert answered.is_settled
    assert not refused.is_settled
    talk.failed(raised.value, now=0)
    talk.connected()
    assert [line["id"] for line in lines_of(talk.bytes_to_send(1))] == [1, 3]


def test_a_stream_that_moves_has_all_its_time_again() -> None:
    """The retry's bound is for one break, not for all of a tail's life together."""
    talk = conversation(retry_s=30)
    tail = Tail(agent_id=None, from_position=0, last=None, follow=True, uid=None)
    (request,) = tail.requests()
    talk.connected()
    ticket = talk.submit(request, now=0)
    entry = {
        "sequence": 0,
        "position": 0,
        "timestamp": "2026-01-02T03:04:05.678901Z",
        "agent_id": "a",
        "iteration": 0,
        "event": {"E": 1},
    }
    for now in (0.0, 20.0, 40.0, 60.0):
        talk.bytes_to_send(now)
        line = {"id": 1, "entry": {**entry, "position": int(now)}}
        talk.receive(json.dumps(line).encode() + b"\n", now)
        assert [item.position for item in tail.take_items()] == [int(now)]
        talk.failed(ConnectionLostError("lost"), now=now)
        talk.connected()
    assert not ticket.is_settled
    talk.failed(ConnectionLostError("lost"), now=60)
    talk.failed(ConnectionLostError("lost"), now=91)
    assert ticket.is_settled


def test_nobody_is_left_waiting_when_the_conversation_is_closed() -> None:
    """Invariant: a ticket is settled exactly once, and none is left unsettled at the end."""
    settled: list[int] = []
    talk = conversation()
    talk.connected()
    tickets = [talk.submit(ping(), now=0) for _ in range(3)]
    talk.bytes_to_send(0)
    tickets += [talk.submit(ping(), now=0) for _ in range(3)]
    for ticket in tickets:
        ticket.on_settled = lambda number=ticket.number: settled.append(number)  # type: ignore[misc]
    talk.receive(b'{"id":1,"ok":true}\n', 0)
    talk.abandon(tickets[1])
    talk.close()
    talk.close()
    assert settled == [1, 3, 4, 5, 6]
    assert all(ticket.is_settled for ticket in tickets)
    assert not talk.needs_connection


class Wire:
    """A conversation, a journal, and what is on its way between them."""

    def __init__(self, journal: Any, *, random: Any) -> None:
        self.now = 0.0
        self.talk = conversation(retry_s=1e9, random=random)
        self.journal = journal
        self.to_daemon = b""
        self.to_client = b""
        self.is_connected = False
        self._unread = b""

    def connect(self) -> None:
        if not self.is_connected and not self.talk.pause_s(self.now):
            self.is_connected = True
            self.talk.connected()

    def send(self, size: int | None = None) -> None:
        """Bring some of what the client wants to say onto its way."""
        if self.is_connected:
            self._unread += self.talk.bytes_to_send(self.now)
            size = len(self._unread) if size is None else size
            self.to_daemon += self._unread[:size]
            self._unread = self._unread[size:]

    def serve(self, refusal: str | None = None) -> None:
        """Have the daemon answer one line."""
        line, newline, rest = self.to_daemon.partition(b"\n")
        if not newline:
            return
        self.to_daemon = rest
        request = json.loads(line)
        if refusal is not None:
            error = {"code": refusal, "message": "", "retryable": True, "retry_ms": 10}
            replies = [{"ok": False, "error": error}]
        else:
            replies = self.journal.replies(request)
        for reply in replies:
            self.to_client += json.dumps({"id": request["id"], **reply}).encode() + b"\n"

    def deliver(self, size: int | None = None) -> None:
        """Bring some of the answers to the client."""
        size = len(self.to_client) if size is None else size
        data, self.to_client = self.to_client[:size], self.to_client[size:]
        if data:
            try:
                self.talk.receive(data, self.now)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is given back
                self._end(error)

    def lose(self) -> None:
        if self.is_connected:
            self._end(ConnectionLostError("lost"))

    def _end(self, error: Any) -> None:
        self.is_connected = False
        self.to_daemon = self.to_client = self._unread = b""
        self.talk.failed(error, self.now)

    def pass_time(self) -> None:
        self.now += max(0.05, self.talk.wake_s(self.now) or 0.0)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from("abc")),
        st.tuples(st.just("send"), st.none() | st.integers(1, 300)),
        st.tuples(st.just("serve"), st.none()),
        st.tuples(st.just("serve"), st.none()),
        st.tuples(st.just("serve"), st.sampled_from(["overloaded", "shutting_down"])),
        st.tuples(st.just("deliver"), st.none() | st.integers(1, 100)),
        st.tuples(st.just("lose"), st.none()),
        st.tuples(st.just("connect"), st.none()),
        st.tuples(st.just("pass_time"), st.none()),
    ),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS, fraction=st.floats(0, 1, exclude_max=True))
def test_whatever_is_lost_or_refused_each_append_is_recorded_once_in_order(
    fake_journal: Any, steps: list[tuple[str, Any]], fraction: float
) -> None:
    """With expected sequences, over any number of broken connections and refusals."""
    wire = Wire(fake_journal(), random=lambda: fraction)
    next_key = KeyMaker(Clock())
    submitted: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    tickets = []
    for step, argument in steps:
        if step == "submit":
            names = submitted[argument]
            names.append(f"E{len(names)}")
            request = AppendRequest(argument, {names[-1]: 1}, expected_sequence=len(names) - 1)
            tickets.append((len(names) - 1, wire.talk.submit(append(request, next_key), wire.now)))
        elif argument is None:
            getattr(wire, step)()
        else:
            getattr(wire, step)(argument)
    for _ in range(1000):
        if all(ticket.is_settled for _, ticket in tickets):
            break
        wire.pass_time()
        wire.connect()
        wire.send()
        while wire.to_daemon:
            wire.serve()
        wire.deliver()
    assert [ticket.outcome().sequence for _, ticket in tickets] == [
        sequence for sequence, _ in tickets
    ]
    for agent_id, names in submitted.items():
        assert wire.journal.names(agent_id) == names
    assert not wire.talk.needs_connection
    assert wire.talk.wake_s(wire.now) is None


def test_a_conflict_that_nothing_refused_explains_is_raised() -> None:
    talk = conversation()
    talk.connected()
    ticket = talk.submit(append(AppendRequest("a", {"E": 1}, expected_sequence=5), str), now=0)
    talk.bytes_to_send(0)
    error = {"code": "sequence_conflict", "message": "", "retryable": False}
    talk.receive(json.dumps({"id": 1, "ok": False, "error": error}).encode() + b"\n", 0)
    with pytest.raises(SequenceConflictError):
        ticket.outcome()
