"""Reading while others write: complete, in order, of what is durable, and at nobody's cost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent_journal.testing.daemon import RawConnection, RunningDaemon
from integration.observed import (
    MIB,
    descriptors,
    error_of,
    line_of,
    noted,
    rss_bytes,
    send_until_blocked,
    wait_until,
    wait_until_alone,
)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path) as running:
        yield running


def append(connection: RawConnection, count: int, **members: object) -> list[int]:
    """Append *count* entries, pipelined; return their positions."""
    positions = []
    for start in range(0, count, 500):
        some = range(start, min(start + 500, count))
        connection.send(b"".join(line_of(noted(str(index), **members)) for index in some))
        positions += [reply["position"] for reply in connection.replies(len(some))]
    return positions


def tail(connection: RawConnection, **members: object) -> None:
    connection.send_line({"id": "tail", "op": "tail", **members})


def entries_of(connection: RawConnection, count: int) -> list[dict[str, Any]]:
    lines = connection.replies(count)
    assert all(line["id"] == "tail" for line in lines), lines[:2]
    return [line["entry"] for line in lines]


def read_all(connection: RawConnection, **members: object) -> list[dict[str, Any]]:
    """Read an agent page by page."""
    found: list[dict[str, Any]] = []
    more = True
    while more:
        page = connection.request({"op": "read", "from_sequence": len(found), **members})
        assert page["next_sequence"] == len(found) + len(page["entries"])
        assert page["entries"] or not page["more"]
        found += page["entries"]
        more = page["more"]
    return found


@pytest.mark.parametrize("limit", [1, 7, 1000, 100_000])
def test_pages_of_any_size_give_every_entry_once(daemon: RunningDaemon, limit: int) -> None:
    """Also across a restart, where what was in memory is found again on the disk."""
    with daemon.connect() as connection:
        for agent_id in ("a", "b", "a"):
            append(connection, 150, agent_id=agent_id)
        before = read_all(connection, agent_id="a", limit=limit)
    assert [entry["sequence"] for entry in before] == [*range(300)]
    assert [entry["event"]["Noted"] for entry in before] == [*map(str, range(150))] * 2
    for stop in (daemon.kill, daemon.stop):
        stop()
        daemon.start()
        with daemon.connect() as connection:
            assert read_all(connection, agent_id="a", limit=limit) == before


def test_a_page_ends_at_its_bytes_and_a_large_entry_comes_alone(tmp_path: Path) -> None:
    config = '[limits]\nreply_bytes_max = "64KiB"\n'
    with RunningDaemon(tmp_path, config=config) as daemon, daemon.connect() as connection:
        for size in (10, 30_000, 30_000, 30_000, 200_000, 10):
            assert connection.request(noted("x" * size))["ok"]
        sizes = []
        sequence, more = 0, True
        while more:
            connection.send_line({"op": "read", "agent_id": "a", "from_sequence": sequence})
            line = connection.line()
            page = json.loads(line)
            sizes.append((len(page["entries"]), len(line)))
            sequence, more = page["next_sequence"], page["more"]
        assert sequence == 6
        assert all(size < 66_000 or count == 1 for count, size in sizes), sizes
        assert len(sizes) < 6


def test_a_reader_sees_each_append_before_it_on_its_connection(daemon: RunningDaemon) -> None:
    with daemon.connect() as connection:
        for turn in range(50):
            lines = [noted(str(index)) for index in range(turn)]
            connection.send(b"".join(map(line_of, lines)))
            connection.send_line(
                {"op": "describe", "agent_id": "a", "id": "d"} if turn else noted()
            )
            reply = connection.replies(turn + 1)[-1]
            if turn:
                assert reply["agent"]["entries"] == 1 + turn * (turn + 1) // 2


def test_a_tail_shows_everything_in_commit_order_while_many_write(daemon: RunningDaemon) -> None:
    with daemon.connect() as before:
        append(before, 700, agent_id="early")
    tails = [daemon.connect() for _ in range(3)]
    for connection in tails:
        tail(connection, from_position=0)

    def write(name: str) -> None:
        with daemon.connect() as connection:
            append(connection, 1500, agent_id=name)

    writers = [threading.Thread(target=write, args=(f"w{index}",)) for index in range(4)]
    for writer in writers:
        writer.start()
    shown = [entries_of(connection, 700 + 4 * 1500) for connection in tails]
    for writer in writers:
        writer.join()
    assert shown[0] == shown[1] == shown[2]
    positions = [entry["position"] for entry in shown[0]]
    assert all(one < other for one, other in pairwise(positions))
    for name in ("early", "w0", "w1", "w2", "w3"):
        of_agent = [entry for entry in shown[0] if entry["agent_id"] == name]
        assert [entry["sequence"] for entry in of_agent] == [*range(len(of_agent))]
    for connection in tails:
        connection.close()
    wait_until_alone(daemon)


def test_a_tail_resumes_behind_what_was_shown_also_over_a_restart(daemon: RunningDaemon) -> None:
    with daemon.connect() as connection:
        positions = append(connection, 30)
    with daemon.connect() as connection:
        tail(connection, from_position=positions[10])
        assert [entry["position"] for entry in entries_of(connection, 5)] == positions[10:15]
    daemon.kill()
    daemon.start()
    with daemon.connect() as connection, daemon.connect() as writer:
        tail(connection, from_position=positions[14] + 1)
        assert [entry["position"] for entry in entries_of(connection, 15)] == positions[15:]
        later = append(writer, 1)
        assert [entry["position"] for entry in entries_of(connection, 1)] == later


@pytest.mark.parametrize(("last", "shown"), [(0, 0), (1, 1), (9, 9), (10, 10), (2**63 - 1, 10)])
def test_a_tail_begins_with_the_last_entries(daemon: RunningDaemon, last: int, shown: int) -> None:
    with daemon.connect() as connection:
        append(connection, 10)
        append(connection, 200, agent_id="other")
        for where, count in (({"agent_id": "a"}, shown), ({}, min(last, 210))):
            tail(connection, last=last, follow=False, **where)
            entries_of(connection, count)
            assert connection.reply()["ok"]


def test_a_tail_of_one_agent_shows_that_one_alone(daemon: RunningDaemon) -> None:
    with daemon.connect() as connection, daemon.connect() as writer:
        tail(connection, agent_id="b", from_position=0)  # which does not exist yet
        append(writer, 20, agent_id="a")
        append(writer, 20, agent_id="b")
        append(writer, 20, agent_id="a")
        append(writer, 1, agent_id="b")
        shown = entries_of(connection, 21)
        assert [entry["sequence"] for entry in shown] == [*range(21)]
        assert {entry["agent_id"] for entry in shown} == {"b"}


def test_what_was_compacted_is_not_tailed_any_more(daemon: RunningDaemon) -> None:
    with daemon.connect() as connection:
        append(connection, 100, agent_id="goes")
        append(connection, 10, agent_id="stays")
        assert connection.request({"op": "compact", "agent_id": "goes", "force": True})["removed"]
        append(connection, 1, agent_id="goes")
        for _ in range(2):
            tail(connection, from_position=0, follow=False)
            shown = entries_of(connection, 11)
            assert [entry["agent_id"] for entry in shown] == ["stays"] * 10 + ["goes"]
            assert connection.reply()["ok"]
            read = connection.request({"op": "read", "agent_id": "goes"})
            assert [entry["sequence"] for entry in read["entries"]] == [0]


def test_a_tail_takes_nothing_but_close(daemon: RunningDaemon) -> None:
    with daemon.connect() as connection, daemon.connect() as writer:
        tail(connection, last=0)
        error = error_of(connection.request({"op": "ping", "id": 2}))
        assert error["code"] == "invalid"
        error = error_of(connection.request(b"nonsense\n"))
        assert error["code"] in ("invalid", "malformed")
        append(writer, 1)
        entries_of(connection, 1)
        connection.send_line({"op": "close", "id": "bye"})
        assert connection.rest()[-1] == {"id": "bye", "ok": True}


def test_the_replies_around_a_tail_come_in_the_order_of_the_requests(
    daemon: RunningDaemon,
) -> None:
    talk = [
        noted(id=0),
        {"op": "tail", "id": "tail", "agent_id": "none"},
        {"op": "read", "agent_id": "a", "id": 2},
        {"op": "close", "id": 3},
    ]
    replies = daemon.exchange(b"".join(map(line_of, talk)))
    assert [reply["id"] for reply in replies] == [0, 2, 3]


def test_a_line_that_is_too_long_on_a_stream_is_called_that(daemon: RunningDaemon) -> None:
    with daemon.connect() as connection:
        tail(connection, last=0)
        connection.send(b"x" * (5 * MIB) + b"\n")
        assert error_of(connection.reply())["code"] == "frame_too_large"


@pytest.mark.parametrize("how", ["closed", "half closed, then closed", "killed in between"])
def test_a_tail_whose_client_has_gone_ends_although_nothing_is_written(
    daemon: RunningDaemon, how: str
) -> None:
    """A journal may be quiet for days, and descriptors are finite."""
    with daemon.connect() as connection:
        append(connection, 1)
        before = descriptors(daemon)
    for _ in range(20):
        connection = daemon.connect()
        tail(connection, from_position=0)
        if how != "killed in between":
            entries_of(connection, 1)
        if how == "half closed, then closed":
            connection.shutdown_write()
        connection.close()
    wait_until_alone(daemon)
    wait_until(lambda: descriptors(daemon) <= before, "no descriptor is left")


def test_a_half_closed_tail_goes_on(daemon: RunningDaemon) -> None:
    with daemon.connect() as connection, daemon.connect() as writer:
        tail(connection, last=0)
        connection.shutdown_write()
        append(writer, 3)
        assert len(entries_of(connection, 3)) == 3


def test_a_tail_that_is_not_read_costs_neither_memory_nor_time(daemon: RunningDaemon) -> None:
    with daemon.connect() as writer:
        append(writer, 3000, agent_id="much", event={"Noted": "x" * 4000})
        before = rss_bytes(daemon)
        silent = [daemon.connect() for _ in range(30)]
        for connection in silent:
            tail(connection, from_position=0)
            connection.socket.settimeout(20)
        append(writer, 200, agent_id="meanwhile")
        assert rss_bytes(daemon) - before < 40 * MIB
        # Nothing was left out for the one who was slow.
        shown = entries_of(silent[0], 3200)
        assert [entry["agent_id"] for entry in shown] == ["much"] * 3000 + ["meanwhile"] * 200
        for connection in silent:
            connection.close()
    wait_until_alone(daemon)


def test_replies_that_are_not_read_hold_up_nobody(daemon: RunningDaemon) -> None:
    """Many large reads are asked for at once, and none of the replies is taken."""
    with daemon.connect() as writer:
        append(writer, 500, agent_id="large", event={"Noted": "x" * 4000})
        before = rss_bytes(daemon)
        request = line_of({"op": "read", "agent_id": "large", "limit": 1000})
        silent = [daemon.connect() for _ in range(50)]
        for connection in silent:
            send_until_blocked(connection, request * 50)
        append(writer, 100, agent_id="meanwhile")
        assert rss_bytes(daemon) - before < 128 * MIB
        for connection in silent:
            connection.close()
    wait_until_alone(daemon)


def test_keys_that_are_on_their_way_are_not_remembered_for_ever(daemon: RunningDaemon) -> None:
    """One busy writer with a key for each entry: what is committed is the store's to know."""
    count = 300_000
    pad = "k" * 200
    with daemon.connect() as connection:
        append(connection, 5000, key=None)
        before = rss_bytes(daemon)

        def send() -> None:
            for start in range(0, count, 1000):
                lines = [
                    b'{"op":"append","agent_id":"a","event":{"A":1},"key":"%b%09d"}\n'
                    % (pad.encode(), start + index)
                    for index in range(1000)
                ]
                connection.send(b"".join(lines))

        sender = threading.Thread(target=send)
        sender.start()
        replied = 0
        while replied < count:
            received = connection.socket.recv(MIB)
            assert received, "the daemon closed"
            replied += received.count(b"\n")
        sender.join()
        assert rss_bytes(daemon) - before < 48 * MIB
        reply = connection.request(noted(event={"A": 1}, key=f"{pad}{7:09d}"))
        assert reply["duplicate"]
