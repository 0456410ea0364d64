"""Calls and errors; each test run against the blocking one and the one for asyncio."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from agent_journal.client import (
    Agent,
    Appended,
    AppendRequest,
    DaemonNotRunningError,
    Entry,
    NewEntry,
)
from agent_journal.errors import (
    ERRORS,
    InvalidError,
    JournalError,
    KeyConflictError,
    NotFoundError,
)


def names(count: int) -> list[str]:
    return [f"E{number}" for number in range(count)]


def appends(count: int, **fields: Any) -> list[AppendRequest]:
    return [
        AppendRequest("a", {name: number}, **fields) for number, name in enumerate(names(count))
    ]


class TestCalls:
    def test_append_says_where_the_entry_is(self, journal: Any, daemon: Any) -> None:
        assert journal.append("a", {"Started": {"goal": "x"}}, iteration=3) == Appended(
            sequence=0, position=1, count=1, duplicate=False
        )
        assert journal.append("a", {"Noted": None}).sequence == 1
        (first, _) = daemon.journal.agents["a"]
        assert (first["event"], first["iteration"]) == ({"Started": {"goal": "x"}}, 3)

    def test_every_append_carries_a_key_and_keys_rise(self, journal: Any, daemon: Any) -> None:
        for name in names(50):
            journal.append("a", {name: 1})
        keys = [request["key"] for request in daemon.requests]
        assert len(set(keys)) == 50
        assert keys == sorted(keys, key=lambda key: key[:13])
        assert all(len(key) <= 32 for key in keys)

    def test_a_given_key_is_used(self, journal: Any) -> None:
        first = journal.append("a", {"E": 1}, key="k")
        again = journal.append("a", {"E": 1}, key="k")
        assert again == Appended(sequence=0, position=1, count=1, duplicate=True)
        assert not first.duplicate
        with pytest.raises(KeyConflictError) as raised:
            journal.append("a", {"E": 2}, key="k")
        assert raised.value.details["sequence"] == 0

    def test_append_many_is_one_request_with_a_key_each(self, journal: Any, daemon: Any) -> None:
        entries = [NewEntry({"A": 1}, 7), NewEntry(b'{"B":2}', key="mine"), NewEntry('{"C":3}')]
        assert journal.append_many("a", entries, expected_sequence=0).count == 3
        (request,) = daemon.requests
        keys = [entry["key"] for entry in request["entries"]]
        assert len(set(keys)) == 3
        assert keys[1] == "mine"
        assert daemon.journal.names("a") == ["A", "B", "C"]
        assert [entry["iteration"] for entry in request["entries"]] == [7, 0, 0]

    def test_optional_fields_are_sent_only_where_given(self, journal: Any, daemon: Any) -> None:
        journal.append("a", {"E": 1})
        assert set(daemon.requests[0]) == {"op", "id", "agent_id", "iteration", "key", "event"}
        journal.append("a", {"F": 1}, expected_sequence=1, epoch=0, uid=0)
        sent = daemon.requests[1]
        assert (sent["expected_sequence"], sent["epoch"], sent["uid"]) == (1, 0, 0)

    def test_read_goes_over_all_pages(self, journal: Any, daemon: Any) -> None:
        journal.append_many("a", [NewEntry({name: 1}) for name in names(10)])
        entries = list(journal.read("a"))
        assert [entry.sequence for entry in entries] == list(range(10))
        assert [entry.name for entry in entries] == names(10)
        reads = [request for request in daemon.requests if request["op"] == "read"]
        assert [read["from_sequence"] for read in reads] == [0, 3, 6, 9]

    def test_read_begins_and_ends_where_it_is_told(self, journal: Any, daemon: Any) -> None:
        journal.append_many("a", [NewEntry({name: 1}) for name in names(10)])
        assert [entry.sequence for entry in journal.read("a", 2, 5)] == [2, 3, 4, 5, 6]
        assert [entry.sequence for entry in journal.read("a", from_sequence=9)] == [9]
        assert list(journal.read("a", limit=0)) == []
        asked = [request["limit"] for request in daemon.requests if request["op"] == "read"]
        assert asked == [5, 2, 1000]

    def test_an_entry_is_a_frozen_value(self, journal: Any) -> None:
        journal.append("a", {"Started": {"goal": "x"}})
        (entry,) = journal.read("a")
        assert isinstance(entry, Entry)
        assert entry.timestamp == datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
        assert (entry.name, entry.payload) == ("Started", {"goal": "x"})
        assert entry.uid is None
        with pytest.raises(AttributeError):
            entry.sequence = 5
        with pytest.raises((AttributeError, TypeError)):
            entry.another = 5

    def test_describe_and_agents_give_agents(self, journal: Any) -> None:
        for agent_id in ("a", "b", "c", "d"):
            journal.append(agent_id, {"Started": {}})
        agent = journal.describe("b")
        assert isinstance(agent, Agent)
        assert (agent.entries, agent.latest_sequence, agent.next_sequence) == (1, 0, 1)
        assert agent.created_at.tzinfo is not None
        assert (agent.kind, agent.reason, agent.is_terminal) == (None, None, False)
        assert [each.agent_id for each in journal.agents()] == ["a", "b", "c", "d"]
        assert [each.agent_id for each in journal.agents(limit=2)] == ["a", "b"]

    def test_agents_passes_its_filters_on(self, journal: Any, daemon: Any) -> None:
        assert list(journal.agents(state="running", kind="coder", uid="*")) == []
        (request,) = daemon.requests
        assert (request["state"], request["kind"], request["uid"]) == ("running", "coder", "*")

    def test_compact_stats_ping_hello(self, journal: Any) -> None:
        journal.append("a", {"Started": {}})
        assert journal.stats() == {"entries": 1}
        assert journal.compact("a") == 1
        assert journal.ping() is None
        assert journal.hello() == {"server": "scripted", "protocol": 1}

    def test_call_sends_what_it_is_given_and_returns_what_comes(
        self, journal: Any, daemon: Any
    ) -> None:
        journal.append("a", {"Started": {}})
        assert journal.call({"op": "stats", "colour": [1]}) == {"ok": True, "entries": 1}
        assert daemon.requests[-1]["colour"] == [1]
        assert journal.call({"op": "ping", "id": "mine"}) == {"id": "mine", "ok": True}
        with pytest.raises(NotFoundError):
            journal.call({"op": "describe", "agent_id": "nobody"})

    @pytest.mark.parametrize("request_", [{}, {"op": 5}, {"op": "tail"}, {"op": 'a"b'}], ids=str)
    def test_call_refuses_what_is_no_call(self, journal: Any, request_: Any) -> None:
        with pytest.raises(InvalidError):
            journal.call(request_)

    def test_an_answer_of_many_megabytes_comes_whole(self, journal: Any, daemon: Any) -> None:
        text = "ü" * 3_000_000
        journal.append("a", {"Big": text})
        daemon.journal.page_entries = 1
        assert [entry.payload for entry in journal.read("a")] == [text]

    def test_the_client_is_of_use_without_with(self, journal: Any) -> None:
        journal.ping()
        journal.close()
        journal.close()
        with pytest.raises(RuntimeError, match="closed"):
            journal.ping()


class TestErrors:
    @pytest.mark.parametrize(
        "code", sorted(set(ERRORS) - {"overloaded", "too_many_connections", "shutting_down"})
    )
    def test_each_code_is_raised_as_its_class(self, daemon: Any, opened: Any, code: str) -> None:
        def scene(peer: Any) -> None:
            while True:
                peer.refuse(peer.read(), code, actual=7)

        daemon.script(scene)
        with pytest.raises(ERRORS[code], match=f"{code}, in the test") as raised:
            opened().append("a", {"E": 1})
        assert type(raised.value) is ERRORS[code]
        assert raised.value.details == {"actual": 7}

    def test_an_unknown_code_is_kept(self, daemon: Any, opened: Any) -> None:
        daemon.script(lambda peer: peer.refuse(peer.read(), "from_the_future"))
        with pytest.raises(JournalError) as raised:
            opened().ping()
        assert raised.value.details["code"] == "from_the_future"

    def test_the_connection_goes_on_behind_an_error(self, journal: Any, daemon: Any) -> None:
        with pytest.raises(NotFoundError):
            journal.describe("nobody")
        journal.ping()
        assert len(daemon.peers) == 1

    def test_an_error_without_id_belongs_to_the_oldest_request(
        self, daemon: Any, opened: Any
    ) -> None:
        """The daemon cannot read the id of a line that is too long for it."""

        def scene(peer: Any) -> None:
            peer.read()
            peer.refuse(None, "frame_too_large")
            peer.serve()

        daemon.script(scene)
        journal = opened()
        with pytest.raises(ERRORS["frame_too_large"]):
            journal.append("a", {"E": "x" * 1000})
        journal.ping()
        assert len(daemon.peers) == 1

    @pytest.mark.parametrize(
        "event",
        [
            {"E": float("nan")},
            {"E": float("inf")},
            {"E": object()},
            {"E": "\ud800"},
            b'{"E":NaN}',
            b'{"E":1},"uid":0',
            b'{"E":1',
            b'{"E":"\xff"}',
            b'{"E":"a\nb"}',
            b"",
            '{"E":"\ud800"}',
            '{"E":' + "[" * 100_000 + "]" * 100_000 + "}",
            5,
        ],
        ids=lambda event: repr(event)[:20],
    )
    def test_what_is_no_json_is_refused_before_it_is_sent(
        self, journal: Any, daemon: Any, event: Any
    ) -> None:
        with pytest.raises(InvalidError, match="event") as raised:
            journal.append("a", event)
        assert raised.value.details["field"] == "event"
        journal.ping()
        assert [request["op"] for request in daemon.requests] == ["ping"]

    def test_json_text_over_many_lines_is_sent_as_one(self, journal: Any, daemon: Any) -> None:
        text = json.dumps({"E": {"a": ["\n", 1.50]}}, indent=2)
        journal.append("a", text)
        journal.append("a", text.replace("\n", "\r\n").encode())
        assert [entry["event"] for entry in daemon.journal.agents["a"]] == [json.loads(text)] * 2

    def test_a_naive_timestamp_is_refused(self, journal: Any) -> None:
        with pytest.raises(InvalidError, match="time zone"):
            journal.append("a", {"E": 1}, timestamp=datetime(2026, 1, 1))  # noqa: DTZ001

    def test_a_timestamp_is_sent_as_utc_with_microseconds(self, journal: Any, daemon: Any) -> None:
        east = timezone(timedelta(hours=2))
        journal.append("a", {"E": 1}, timestamp=datetime(2026, 1, 1, 12, tzinfo=east))
        journal.append("a", {"F": 1}, timestamp="2026-01-01T00:00:00Z")
        sent = [request["timestamp"] for request in daemon.requests]
        assert sent == ["2026-01-01T10:00:00.000000Z", "2026-01-01T00:00:00Z"]
        (entry, _) = journal.read("a")
        assert entry.timestamp == datetime(2026, 1, 1, 10, tzinfo=UTC)


class TestNobodyThere:
    def test_the_first_connect_fails_at_once_and_says_how_to_start_it(
        self, opened: Any, socket_path: Any
    ) -> None:
        with pytest.raises(DaemonNotRunningError, match="agent-journald") as raised:
            opened(retry_s=1e6).append("a", {"E": 1})
        assert str(socket_path) in str(raised.value)
        assert raised.value.outcome == "not_recorded"
        assert raised.value.retryable
        with pytest.raises(DaemonNotRunningError), opened(retry_s=1e6):
            pass
        with pytest.raises(DaemonNotRunningError):
            next(iter(opened(retry_s=1e6).tail()))

    def test_a_socket_nobody_listens_at_is_nobody_too(self, daemon: Any, opened: Any) -> None:
        daemon.stop()
        with daemon.path.open("w"):
            pass
        with pytest.raises(DaemonNotRunningError):
            opened().ping()

    def test_a_client_can_be_used_when_the_daemon_comes(self, daemon: Any, opened: Any) -> None:
        daemon.stop()
        journal = opened()
        with pytest.raises(DaemonNotRunningError):
            journal.ping()
        daemon.start()
        journal.ping()
