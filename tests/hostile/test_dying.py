"""Clients that die at every byte of a conversation: whole lines count, and nothing stays behind.

The conversation is cut behind each of its bytes in turn, and then the client is gone, in
each of the ways in which one can be.  What is recorded of it are its first so many
appends, in order; all of the complete ones where it waited for the answers.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from agent_journal.testing.daemon import RunningDaemon
from helpers import Service, settled
from integration.observed import descriptors, stats, wait_until, wait_until_alone

Size = Callable[[int, int], int]
Figures = Callable[..., None]

# What one client says in one go; NAME is its own agent's.  Every form of an append is
# there, and between them what has to wait for the store.
TALK: Final = (
    {"op": "append", "id": 1, "agent_id": "NAME", "event": {"Said": 0}},
    {"op": "append", "id": 2, "agent_id": "NAME", "event": {"Said": 1}, "key": "k1"},
    {"op": "read", "id": 3, "agent_id": "NAME"},
    {
        "op": "append",
        "id": 4,
        "agent_id": "NAME",
        "entries": [{"event": {"Said": n}} for n in (2, 3)],
    },
    {"op": "append", "id": 5, "agent_id": "NAME", "event": {"Said": 1}, "key": "k1"},
    {"op": "nonsense", "id": 6},
    {"op": "append", "id": 7, "agent_id": "NAME", "event": {"Said": 4}, "expected_sequence": 4},
    {"op": "tail", "id": 8, "agent_id": "NAME", "from_position": 0, "follow": False},
    {"op": "append", "id": 9, "agent_id": "NAME", "event": {"Said": "é😀"}},
    {"op": "close", "id": 10},
)
RECORDED_BY: Final = (1, 1, 0, 2, 0, 0, 1, 0, 1, 0)  # how many entries each line adds


def talk_of(name: str) -> bytes:
    """Return the whole conversation of one client."""
    lines = [json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in TALK]
    return ("\n".join(lines) + "\n").replace("NAME", name).encode()


def name_of(number: int) -> str:
    """Return an agent's name, all of one length."""
    return f"dies-{number:06d}"


def complete_in(prefix: bytes) -> int:
    """Return how many entries the complete lines of *prefix* add."""
    return sum(RECORDED_BY[: prefix.count(b"\n")])


# Ways to be gone


def _close(connected: socket.socket) -> None:
    connected.close()


def _reset(connected: socket.socket) -> None:
    """Close with what was answered unread, which is a reset for a Unix socket."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connected.close()


def _wait(connected: socket.socket) -> None:
    """Say that this was all, and read everything."""
    connected.shutdown(socket.SHUT_WR)
    while connected.recv(1 << 16):
        pass
    connected.close()


def _stop_reading(connected: socket.socket) -> None:
    connected.shutdown(socket.SHUT_RD)
    connected.close()


WAYS: Final = (_close, _reset, _wait, _stop_reading)


def entries_of(daemon: RunningDaemon, names: list[str]) -> list[list[Any] | None]:
    """Return what each agent said, ``None`` where there is no such agent."""
    found: list[list[Any] | None] = []
    with daemon.connect() as connection:
        for name in names:
            reply = connection.request({"op": "read", "agent_id": name})
            entries = [entry["event"]["Said"] for entry in reply.get("entries", [])]
            found.append(entries if reply["ok"] else None)
    return found


@pytest.mark.sized
@pytest.mark.timeout(600)
def test_a_client_may_die_behind_every_byte(tmp_path: Path, size: Size, figures: Figures) -> None:
    whole = len(talk_of(name_of(0)))
    rounds = size(1, len(WAYS))  # at each byte another way; in the full run, every way
    said = [0, 1, 2, 3, 4, "é😀"]
    with RunningDaemon(tmp_path) as daemon:
        assert stats(daemon)["connections"] == 1
        before = descriptors(daemon)
        expected: dict[str, tuple[int, bool]] = {}
        for turn in range(rounds):
            for length in range(whole + 1):
                name = name_of(len(expected))
                way = WAYS[(length + turn) % len(WAYS)]
                prefix = talk_of(name)[:length]
                with daemon.connect() as connection:
                    connection.send(prefix)
                    way(connection.socket)
                expected[name] = complete_in(prefix), way is _wait
        wait_until_alone(daemon)
        for name, found in zip(expected, entries_of(daemon, [*expected]), strict=True):
            count, is_sure = expected[name]
            recorded = found or []
            assert recorded == said[: len(recorded)], f"{name}: not the first ones, in order"
            assert len(recorded) <= count, f"{name}: what was no whole line was recorded"
            if is_sure:
                assert len(recorded) == count, f"{name}: a whole line was not served"
        after = stats(daemon)
        assert (after["connections"], after["queued_entries"]) == (1, 0)
        wait_until(lambda: descriptors(daemon) <= before, "all descriptors are closed")
        assert "request_failed" not in daemon.log
    figures(clients=len(expected), bad=0)


@pytest.mark.parametrize("held", [None, "commit", "read", "load", "find_key", "scan"])
async def test_a_client_may_die_behind_every_byte_while_the_daemon_waits(held: str | None) -> None:
    """Whatever the store was asked at that moment; ``Service`` sees that nothing is left."""
    whole = len(talk_of(name_of(0)))
    for start in range(0, whole, 60):
        async with Service() as service:
            for length in range(start, min(start + 60, whole + 1)):
                client = service.connect()
                if held is not None:
                    service.store.hold(held)
                client.send_bytes(talk_of(name_of(length))[:length])
                await settled()
                client.lose()
                if held is not None:
                    service.store.release(held)
                await settled()
                admission = service.context.admission
                assert admission.bytes_in_flight == admission.partial_bytes == 0
                assert service.committer.queued_bytes == 0
                assert not service.context.admission.accounts
                count = await service.next_sequence(name_of(length))
                assert count <= complete_in(talk_of(name_of(length))[:length])


@pytest.mark.parametrize("held", [None, "commit", "read", "load", "find_key", "scan"])
async def test_the_input_may_end_behind_every_byte(held: str | None) -> None:
    """Each complete line is answered, in order, and what is behind the last one refused."""
    whole = len(talk_of(name_of(0)))
    for start in range(0, whole, 60):
        async with Service() as service:
            for length in range(start, min(start + 60, whole + 1)):
                client = service.connect()
                if held is not None:
                    service.store.hold(held)
                prefix = talk_of(name_of(length))[:length]
                client.send_bytes(prefix)
                client.end()
                await settled()
                if held is not None:
                    service.store.release(held)
                await settled()
                assert client.sink.is_closed
                lines = prefix.split(b"\n")
                ids = [json.loads(line)["id"] for line in lines[:-1]]
                if lines[-1] and 10 not in ids:
                    ids.append(None)  # malformed
                replies = [one for one in client.replies if "entry" not in one]
                assert [one["id"] for one in replies] == ids
                assert await service.next_sequence(name_of(length)) == complete_in(prefix)
                client.lose()
