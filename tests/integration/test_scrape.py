"""``GET /metrics`` on the journal's own socket, beside clients that speak the protocol."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent_journal.service.exposition import FAMILIES, PREFIX
from agent_journal.service.http_requests import HEAD_BYTES_MAX, METHODS
from agent_journal.testing.daemon import RunningDaemon
from integration.observed import descriptors, noted, rss_bytes, stats, wait_until
from integration.test_access import ALICE, OPEN, identity

GET = b"GET /metrics HTTP/1.1\r\nHost: j\r\n\r\n"
MIB = 1 << 20


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    """Return a daemon of all tests that leave it as it was."""
    with RunningDaemon(config=OPEN) as running:
        running.directory.chmod(0o711)
        yield running


@pytest.fixture
def own_daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


def said(path: Path, *pieces: bytes, shuts: bool = False) -> bytes:
    """Send *pieces*, and return all that comes until the daemon closes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        received = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
            if shuts:
                connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65_536):
                received += data
        except (BrokenPipeError, ConnectionResetError):
            pass  # it closes with what we sent unread
        return received


def scraped(path: Path) -> dict[str, Any]:
    """Return the families of a scrape, by name."""
    head, _, body = said(path, GET).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
    return {family.name: family for family in text_string_to_metric_families(body.decode())}


def value(families: dict[str, Any], name: str, **labels: str) -> float:
    (found,) = [s.value for s in families[PREFIX + name].samples if s.labels == labels]
    return float(found)


def test_a_scrape_tells_what_was_done(own_daemon: RunningDaemon) -> None:
    """Every family there is, with figures that are those of ``stats``."""
    for number in range(3):
        assert own_daemon.request(noted(str(number)))["ok"]
    own_daemon.request(noted(agent_id="b", expected_sequence=7))
    event = {"Terminated": {"reason": "Completed"}}
    own_daemon.request({"op": "append", "agent_id": "c", "event": event})
    names = {PREFIX + family.name.removesuffix("_total") for family in FAMILIES}
    wait_until(lambda: names <= {*scraped(own_daemon.socket)}, "all were counted, and scrubbed")
    with own_daemon.connect():
        families = scraped(own_daemon.socket)
    assert value(families, "committed_entries") == 4
    assert value(families, "refused", code="sequence_conflict") == 1
    assert value(families, "agents", state="running") == 1
    assert value(families, "agents", state="completed") == 1
    assert value(families, "connections", uid=str(os.geteuid())) == 2
    assert value(families, "damaged") == value(families, "storage_full") == 0
    assert value(families, "database_bytes") == own_daemon.database.stat().st_size
    assert 1 <= value(families, "open_fds") < value(families, "max_fds")
    assert 5 * MIB < value(families, "resident_memory_bytes") < 500 * MIB
    counted = {s.name: s.value for s in families[PREFIX + "commit_seconds"].samples}
    assert counted[PREFIX + "commit_seconds_count"] == value(families, "commits") == 4


def test_agents_are_counted_again_after_a_restart(own_daemon: RunningDaemon) -> None:
    for number in range(40):
        own_daemon.request(noted(agent_id=f"a-{number}"))
    own_daemon.request({"op": "park", "agent_id": "a-7"})
    own_daemon.kill()
    own_daemon.start()
    wait_until(lambda: stats(own_daemon)["agents"] is not None, "the agents were counted")
    own_daemon.request({"op": "park", "agent_id": "a-8"})
    families = scraped(own_daemon.socket)
    assert value(families, "agents", state="running") == 38
    assert value(families, "agents", state="parked") == 2
    assert value(families, "parks") == 1, "since the daemon's start"


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl: a real client was not tried")
def test_curl_gets_what_the_command_prints(daemon: RunningDaemon) -> None:
    def curl(*argv: str) -> str:
        command = ["curl", "-sS", "--unix-socket", str(daemon.socket), *argv]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    printed = subprocess.run(
        [sys.executable, "-m", "agent_journal.cli", "-s", str(daemon.socket), "metrics"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip

    def names(text: str) -> list[str]:
        return [line.rpartition(" ")[0] for line in text.splitlines() if line[0] != "#"]

    assert names(curl("http://j/metrics")) == names(printed)
    assert curl("-I", "-0", "http://j/metrics").startswith("HTTP/1.1 200 OK")
    assert "nothing else" in curl("http://j/")
    assert "with GET" in curl("-d", "x", "http://j/metrics")


def test_another_user_is_told_of_his_own_alone(daemon: RunningDaemon) -> None:
    """What others do changes nothing of what he is told."""
    if os.geteuid() != 0:
        pytest.skip("not root: what other uids may see was not checked")
    with identity(ALICE, 60_000, []), daemon.connect() as alice:
        assert alice.request(noted())["ok"]

    def seen() -> dict[str, list[Any]]:
        with identity(ALICE, 60_000, []):
            families = scraped(daemon.socket)
        families.pop(PREFIX + "uptime_seconds")
        return {name: family.samples for name, family in families.items()}

    wait_until(lambda: PREFIX + "agents" in seen(), "the agents were counted")
    before = seen()
    with daemon.connect() as root:
        for number in range(20):
            assert root.request(noted("x" * 1000, agent_id=f"r-{number}"))["ok"]
            root.request("nonsense")
        assert seen() == before
    own = ("build_info", "agents", "connections", "in_flight_bytes")
    assert {*before} == {PREFIX + name for name in own}
    (agents,) = [s.value for s in before[PREFIX + "agents"] if s.labels["state"] == "running"]
    assert agents == 1
    assert [s.labels for s in before[PREFIX + "connections"]] == [{"uid": str(ALICE)}]


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_clients_of_the_protocol_notice_nothing(daemon: RunningDaemon, piece: int) -> None:
    """However their first bytes come, and whatever they are."""
    line = json.dumps({"id": "GET / HTTP/1.1", "op": "ping"}).encode() + b"\n"
    for begin in (b"", b"G\n", b"GETTER /x\n", b"get /metrics HTTP/1.1\n", b"PO\n", b"\n"):
        data = begin + line
        pieces = [data[at : at + piece] for at in range(0, len(data), piece)]
        *refusals, last = said(daemon.socket, *pieces, shuts=True).splitlines()
        assert json.loads(last) == {"id": "GET / HTTP/1.1", "ok": True}
        assert [json.loads(one)["error"]["code"] for one in refusals] == ["malformed"] * bool(begin)


def test_a_beginning_that_could_be_both_is_answered_when_it_ends(daemon: RunningDaemon) -> None:
    (reply,) = said(daemon.socket, b"GE", shuts=True).splitlines()
    assert json.loads(reply)["error"]["code"] == "malformed"
    assert said(daemon.socket, b"GET /metr", shuts=True).startswith(b"HTTP/1.1 400 ")


def test_after_the_first_line_http_is_not_spoken(daemon: RunningDaemon) -> None:
    with daemon.connect() as connection:
        assert connection.request({"op": "ping"})["ok"]
        assert connection.request("GET /metrics HTTP/1.0")["error"]["code"] == "malformed"


def test_heads_of_all_kinds_are_answered_and_held_by_nobody(daemon: RunningDaemon) -> None:
    """Never a crash, a hang or memory: whatever begins like HTTP gets one answer."""
    chance = random.Random(5)  # noqa: S311 - a seed, not a secret
    parts = [b"/metrics", b" ", b"HTTP/1.1", b"\r\n", b"\n", b"\0", b"Host: j", b"\xff", b"x" * 900]
    said(daemon.socket, GET)
    memory, open_before = rss_bytes(daemon), descriptors(daemon)
    for _ in range(300):
        data = chance.choice(METHODS) + b"".join(chance.choices(parts, k=chance.randrange(25)))
        answer = said(daemon.socket, data, shuts=True)
        assert answer.startswith(b"HTTP/1.1 ") or not answer
    idle = [daemon.connect() for _ in range(50)]
    for connection in idle:
        connection.send(b"GET /metrics HTTP/1.1\r\nX: " + b"y" * (HEAD_BYTES_MAX - 100))
    assert b" 431 " in said(daemon.socket, b"GET /metrics HTTP/1.1\r\n", b"a: b\r\n" * 5000)
    assert rss_bytes(daemon) < memory + 8 * MIB
    for connection in idle:
        connection.close()
    wait_until(lambda: descriptors(daemon) <= open_before, "the connections were ended")
    assert stats(daemon)["connections"] == 1
    assert daemon.request(noted())["ok"]
    assert "Traceback" not in daemon.log


def test_heads_that_do_not_end_have_the_budget_of_lines_that_do_not() -> None:
    limits = '[limits]\nframe_bytes_max = "16KiB"\npartial_bytes_max = "64KiB"\n'
    with RunningDaemon(config=limits) as daemon:
        idle = [daemon.connect() for _ in range(8)]
        for connection in idle:
            connection.send(b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 7900)
        wait_until(
            lambda: b" 503 " in said(daemon.socket, b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 6000),
            "there was no room for another",
        )
        for connection in idle:
            connection.close()
        wait_until(
            lambda: b" 200 " in said(daemon.socket, GET[:30], GET[30:]),
            "there was room again",
        )


def test_a_damaged_journal_is_told_of(own_daemon: RunningDaemon) -> None:
    """What says that something is wrong is there when something is wrong."""
    own_daemon.request(noted())
    own_daemon.stop()
    with own_daemon.database.open("r+b") as file:
        file.seek(0)
        file.write(b"x" * 100)
    own_daemon.start()
    families = scraped(own_daemon.socket)
    assert value(families, "damaged") == 1
    assert PREFIX + "agents" not in families
