"""More than the daemon takes: it says so to whoever brings it, and serves the others."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
    stats,
    wait_until,
    wait_until_alone,
)

NARROW = """
[limits]
frame_bytes_max = "16KiB"
connection_bytes_in_flight_max = "16KiB"
uid_bytes_in_flight_max = "64KiB"
bytes_in_flight_max = "128KiB"
partial_bytes_max = "64KiB"
"""


def final_words(connection: RawConnection) -> list[dict[str, Any]]:
    """Return the lines up to the end, be it a reset: the daemon closes with our lines unread."""
    found = []
    with contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            found.append(connection.reply())
    return found


@contextmanager
def frozen(daemon: RunningDaemon) -> Iterator[None]:
    """Stop the daemon, so that what is sent meanwhile is there all at once."""
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


@contextmanager
def connections(daemon: RunningDaemon, count: int) -> Iterator[list[RawConnection]]:
    """Connect so many times, and close what is left of them in the end."""
    crowd = [daemon.connect() for _ in range(count)]
    try:
        yield crowd
    finally:
        for connection in crowd:
            connection.close()


def check_gapless(daemon: RunningDaemon, agent_id: str, count: int) -> None:
    """See that an agent has *count* entries, whose sequences have no gap."""
    found: list[int] = []
    more = True
    with daemon.connect() as connection:
        while more:
            request = {"op": "read", "agent_id": agent_id, "from_sequence": len(found)}
            page = connection.request(request)
            found += [entry["sequence"] for entry in page["entries"]]
            more = page["more"]
    assert found == [*range(count)]


# Connections


@pytest.mark.parametrize(
    ("config", "option"),
    [
        ("connections_max = 3\nconnections_per_uid_max = 3", "limits.connections_max"),
        ("connections_per_uid_max = 3", "limits.connections_per_uid_max"),
    ],
    ids=["of all", "of a uid"],
)
def test_one_connection_too_many_is_told_so(tmp_path: Path, config: str, option: str) -> None:
    daemon = RunningDaemon(tmp_path, config=f"[limits]\n{config}\n")
    with daemon, daemon.connect() as first, connections(daemon, 2) as others:
        kept = [first, *others]
        for connection in kept:
            assert connection.request({"op": "ping"})["ok"]
        for speaks_first in (False, True):
            with daemon.connect() as refused:
                if speaks_first:
                    with contextlib.suppress(BrokenPipeError):
                        refused.send_line({"op": "ping", "id": 1})
                (reply,) = final_words(refused)
            error = error_of(reply)
            assert reply["id"] is None
            assert error["code"] == "too_many_connections"
            assert error["retryable"]
            assert error["outcome"] == "not_recorded"
            assert option in error["message"], "whoever may change it is told what to change"
        for connection in kept:
            assert connection.request(noted())["ok"], "those who were there go on"
        assert stats_on(first)["connections_refused"] >= 2
        others.pop().close()
        wait_until(lambda: stats_on(first)["connections"] == 2, "one has left")
        with daemon.connect() as admitted:
            assert admitted.request(noted())["ok"]


def stats_on(connection: RawConnection) -> dict[str, Any]:
    return connection.request({"op": "stats"})


def test_a_limit_that_is_lowered_ends_nobody(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, config="") as daemon, connections(daemon, 5) as kept:
        for connection in kept:
            assert connection.request({"op": "ping"})["ok"]
        daemon.configuration.write_text(
            "[limits]\nconnections_max = 2\nconnections_per_uid_max = 2\n"
        )
        daemon.reload()
        daemon.wait_for_log("config_reloaded")
        for connection in kept:
            assert connection.request(noted())["ok"]
        with daemon.connect() as refused:
            (reply,) = final_words(refused)
        assert error_of(reply)["code"] == "too_many_connections"


def test_connections_that_come_and_go_leave_nothing_behind(tmp_path: Path) -> None:
    config = "[limits]\nconnections_max = 20\nconnections_per_uid_max = 20\n"
    with RunningDaemon(tmp_path, config=config) as daemon:
        with daemon.connect() as connection:
            assert connection.request(noted())["ok"]
            before = descriptors(daemon)
        for _ in range(10):
            with connections(daemon, 40) as crowd:
                answers = [word for connection in crowd[20:] for word in final_words_of(connection)]
            assert {error_of(answer)["code"] for answer in answers} == {"too_many_connections"}
            wait_until(lambda: is_alone(daemon), "all of them have left")
        wait_until(lambda: descriptors(daemon) <= before, "no descriptor is left")
        assert stats(daemon)["bytes_in_flight"] == 0, "nothing is counted twice, or never"


def final_words_of(connection: RawConnection) -> list[dict[str, Any]]:
    """Return why *connection* was refused, or nothing where it was not."""
    with contextlib.suppress(BrokenPipeError):
        connection.send_line({"op": "close"})
    return [reply for reply in final_words(connection) if not reply["ok"]]


def is_alone(daemon: RunningDaemon) -> bool:
    reply = stats(daemon)
    return bool(reply["ok"] and reply["connections"] == 1)


def test_descriptors_that_run_out_cost_new_clients_and_nobody_else(tmp_path: Path) -> None:
    """Under ``ulimit -n 128`` a crowd is told so, or closed on, and the journal goes on."""
    limited = (
        "import os, resource, sys;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128));"
        "os.execv(sys.executable, [sys.executable, '-m', 'agent_journal', *sys.argv[1:]])"
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1024:
        pytest.skip("this test may not open descriptors enough to use up the daemon's")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1024), hard))
    with RunningDaemon(tmp_path, argv=[sys.executable, "-c", limited]) as daemon:
        with daemon.connect() as old, connections(daemon, 400) as crowd:
            assert old.request(noted())["ok"]
            served, told = [], 0
            for connection in crowd:
                try:
                    reply = connection.request({"op": "ping"})
                except (EOFError, BrokenPipeError, ConnectionResetError):
                    words = final_words(connection)
                    told += len(words)
                    assert {error_of(word)["code"] for word in words} <= {"too_many_connections"}
                    continue
                if reply["ok"]:
                    served.append(connection)
                else:
                    assert error_of(reply)["code"] == "too_many_connections"
                    told += 1
            assert 32 <= len(served) < 128, "some are served, and descriptors are left"
            assert told > 0
            for connection in (old, *served):
                assert connection.request(noted())["ok"]
            # What needs a descriptor of the daemon's own still works: a checkpoint, a reload.
            daemon.configuration.write_text('[log]\nlevel = "debug"\n')
            daemon.reload()
            daemon.wait_for_log("config_reloaded")
            for connection in crowd:
                connection.close()
            wait_until(lambda: is_alone_but(old), "all of them have left")
            with daemon.connect() as again:
                assert again.request(noted())["ok"]
        assert daemon.stop() == 0


def is_alone_but(connection: RawConnection) -> bool:
    return bool(stats_on(connection)["connections"] == 1)


# What is in flight


def burst(count: int, agent_id: str) -> bytes:
    """Return *count* appends of some 500 bytes."""
    return b"".join(line_of(noted("x" * 400, agent_id=agent_id, id=i)) for i in range(count))


def test_beyond_twice_the_bound_appends_are_refused_as_overloaded(tmp_path: Path) -> None:
    """Each is told when to try again, and nothing of it is recorded; then the load is over."""
    with RunningDaemon(tmp_path, config=NARROW) as daemon, connections(daemon, 20) as crowd:
        for connection in crowd:
            assert connection.request({"op": "ping"})["ok"]
        with frozen(daemon):
            for number, connection in enumerate(crowd):
                connection.send(burst(100, f"b{number}"))
        recorded = refused = 0
        for number, connection in enumerate(crowd):
            replies = connection.replies(100)
            assert [reply["id"] for reply in replies] == [*range(100)]
            accepted = [reply for reply in replies if reply["ok"]]
            assert [reply["sequence"] for reply in accepted] == [*range(len(accepted))]
            for reply in replies:
                if reply["ok"]:
                    continue
                error = error_of(reply)
                assert error["code"] == "overloaded", error
                assert error["retryable"]
                assert error["outcome"] == "not_recorded"
                assert 0 < error["retry_ms"] <= 60_000
            if accepted:
                check_gapless(daemon, f"b{number}", len(accepted))
            recorded += len(accepted)
            refused += len(replies) - len(accepted)
        assert recorded > 0
        assert refused > 0
        # The load has gone: everybody is served again, and nothing is still counted.
        for number, connection in enumerate(crowd):
            replies = [connection.request(noted(agent_id=f"b{number}")) for _ in range(3)]
            assert all(reply["ok"] for reply in replies)
        assert stats(daemon)["bytes_in_flight"] == 0
        assert stats(daemon)["refused"]["overloaded"] == refused


def test_a_client_that_waits_is_never_overloaded(tmp_path: Path) -> None:
    """One connection that sends as fast as it can is held back, not refused."""
    with RunningDaemon(tmp_path, config=NARROW) as daemon:
        replies = daemon.exchange(burst(5000, "patient"))
        assert [reply["sequence"] for reply in replies] == [*range(5000)]
        check_gapless(daemon, "patient", 5000)


def test_an_append_as_large_as_its_bounds_is_recorded(tmp_path: Path) -> None:
    config = NARROW.replace('frame_bytes_max = "16KiB"', 'frame_bytes_max = "64KiB"')
    with RunningDaemon(tmp_path, config=config) as daemon, daemon.connect() as connection:
        for text in ("x" * 60_000, "y" * 60_000, "z"):
            assert connection.request(noted(text))["ok"]
        check_gapless(daemon, "a", 3)


# Lines that do not end


def test_unfinished_lines_are_bounded_together(tmp_path: Path) -> None:
    """The one that is too much is told so, in its turn, and its connection goes on."""
    with RunningDaemon(tmp_path, config=NARROW) as daemon, connections(daemon, 4) as slow:
        for connection in slow:  # 4 times 15,000 are within 64 KiB
            connection.send(b'{"op":"ping","id":1,"pad":"' + b"x" * 15_000)
        with daemon.connect() as greedy:
            assert greedy.request({"op": "ping"})["ok"], "a whole line is no partial one"
            greedy.send(b"x" * 15_000)
            error = error_of(greedy.reply())
            assert error["code"] == "overloaded"
            assert error["retry_ms"] > 0
            assert error["outcome"] == "not_recorded"
            greedy.send(b'"}\n')  # the rest of what was discarded
            assert greedy.request(noted(id="goes on"))["id"] == "goes on"
        for connection in slow:
            connection.send(b'"}\n')
            assert connection.reply() == {"id": 1, "ok": True}
        with daemon.connect() as later:
            later.send(b'{"op":"ping","id":2,"pad":"' + b"x" * 15_000)
            later.send(b'"}\n')
            assert later.reply() == {"id": 2, "ok": True}, "there is room again"


def test_unfinished_lines_of_those_who_leave_are_not_counted_any_more(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, config=NARROW) as daemon:
        for how in ("closed", "half closed", "too long"):
            for _ in range(3):
                with connections(daemon, 4) as crowd:
                    for connection in crowd:
                        connection.send(b"x" * (20_000 if how == "too long" else 15_000))
                    for connection in crowd:
                        if how == "half closed":
                            connection.shutdown_write()
                            assert error_of(connection.reply())["code"] == "malformed"
                wait_until_alone(daemon)


# The others


FLOODS = {
    "appends": line_of(noted("x" * 100, agent_id="flood")),
    "pings": line_of({"op": "ping"}),
    "reads": line_of({"op": "read", "agent_id": "much"}),
    "nonsense": b"nonsense\n",
    "empty lines": b"\n",
    "a line without an end": b"x" * 1000,
}


@pytest.mark.parametrize("line", FLOODS.values(), ids=FLOODS.keys())
@pytest.mark.parametrize("is_read", [True, False], ids=["read", "unread"])
def test_a_flood_of_one_client_leaves_the_others_answered(
    tmp_path: Path, line: bytes, *, is_read: bool
) -> None:
    with RunningDaemon(tmp_path) as daemon:
        with daemon.connect() as connection:
            connection.send(line_of(noted("x" * 1000, agent_id="much")) * 300)
            connection.replies(300)
        flood = daemon.connect()
        is_over = threading.Event()
        threads = [threading.Thread(target=pour, args=(flood, line, is_over))]
        if is_read:
            threads.append(threading.Thread(target=drain, args=(flood,)))
        for thread in threads:
            thread.start()
        try:
            with daemon.connect() as other:
                for index in range(40):
                    assert other.request({"op": "ping"})["ok"]
                    reply = other.request(noted(agent_id="other"))
                    assert reply["sequence"] == index
                    assert other.request({"op": "describe", "agent_id": "other"})["ok"]
            assert rss_bytes(daemon) < 150 * MIB
        finally:
            is_over.set()
            flood.socket.shutdown(2)
            for thread in threads:
                thread.join()
            flood.close()
        wait_until_alone(daemon)
        check_gapless(daemon, "other", 40)


def pour(flood: RawConnection, line: bytes, is_over: threading.Event) -> None:
    """Send *line* again and again."""
    data = line * (65_536 // len(line) + 1)
    flood.socket.settimeout(None)
    with contextlib.suppress(OSError):
        while not is_over.is_set():
            flood.send(data)


def drain(flood: RawConnection) -> None:
    """Take whatever comes."""
    with contextlib.suppress(OSError):
        while flood.socket.recv(MIB):
            pass


def test_bounds_that_one_client_has_filled_are_not_the_others(tmp_path: Path) -> None:
    """Replies that somebody does not read count against the bounds, and end with them."""
    with RunningDaemon(tmp_path, config=NARROW) as daemon:
        with daemon.connect() as connection:
            connection.send(line_of(noted("x" * 1000, agent_id="much")) * 100)
            connection.replies(100)
        with daemon.connect() as other:
            with connections(daemon, 3) as silent:
                for connection in silent:
                    reads = line_of({"op": "read", "agent_id": "much"}) * 2000
                    send_until_blocked(connection, reads)
                assert other.request({"op": "ping"})["ok"]
            wait_until(lambda: is_served(other), "there is room when they have gone")
        wait_until_alone(daemon)
        assert stats(daemon)["bytes_in_flight"] == 0


def is_served(connection: RawConnection) -> bool:
    reply = connection.request(noted(agent_id="other"))
    if not reply["ok"]:
        assert error_of(reply)["code"] == "overloaded"
    return bool(reply["ok"])
