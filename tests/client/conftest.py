"""A scripted daemon on a real Unix socket, and both clients behind one face.

The scripted daemon holds a small journal of its own (with keys, sequences and
positions as the wire contract says), so that a test can look at what was
recorded, and does to each connection what its script says: refuse it, serve it,
break it off before the request is read, behind it, behind the recording of it,
or in the middle of the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import queue
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from agent_journal.client import AsyncClient, Client, connect, connect_async

# Long enough for a busy machine; only a test that fails waits for it.
PATIENCE_S = 10.0

Message = dict[str, Any]


class Peer:
    """The scripted daemon's end of one connection."""

    def __init__(self, connection: socket.socket, journal: FakeJournal) -> None:
        self.connection = connection
        self.journal = journal
        self.seen: list[Message] = []
        self._lines = connection.makefile("rb")

    def read(self) -> Message:
        """Return the next request; ``EOFError`` where the client hung up."""
        try:
            line = self._lines.readline()
        except ConnectionResetError:
            line = b""
        if not line.endswith(b"\n"):
            raise EOFError
        self.seen.append(json.loads(line))
        return self.seen[-1]

    def send(self, message: Message) -> None:
        """Send one line."""
        self.connection.sendall(json.dumps(message).encode() + b"\n")

    def answer(self, request: Message, **fields: Any) -> None:
        """Say yes to *request*."""
        self.send({"id": request["id"], "ok": True, **fields})

    def refuse(self, request: Message | None, code: str, **details: Any) -> None:
        """Say no, as the daemon does."""
        retryable = code in {
            "overloaded",
            "too_many_connections",
            "shutting_down",
            "storage_full",
        }
        error = {
            "code": code,
            "message": f"{code}, in the test",
            "retryable": retryable,
            "outcome": "not_recorded",
            **details,
        }
        self.send({"id": request and request.get("id"), "ok": False, "error": error})

    def serve(self, count: int | None = None) -> None:
        """Answer *count* requests, or all."""
        while count is None or count > 0:
            self.reply_to(self.read())
            count = None if count is None else count - 1

    def reply_to(self, request: Message) -> None:
        """Do what *request* asks and answer."""
        for reply in self.journal.replies(request):
            self.send({"id": request["id"], **reply})

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self.connection.close()


class FakeJournal:
    """What is recorded, by the rules of the wire contract."""

    def __init__(self) -> None:
        self.agents: dict[str, list[Message]] = {}
        self.log: list[Message] = []
        self.page_entries = 3
        self._keys: dict[tuple[str, str], Message] = {}
        self._first_positions: dict[str, int] = {}

    def replies(self, request: Message) -> list[Message]:
        """Return what is answered to *request*."""
        answer = getattr(self, "_" + request["op"])(request)
        return answer if isinstance(answer, list) else [answer]

    def names(self, agent_id: str) -> list[str]:
        """Return the names of the agent's events, in order."""
        return [next(iter(entry["event"])) for entry in self.agents.get(agent_id, [])]

    def _append(self, request: Message) -> Message:
        members = request.get("entries", [request])
        agent_id = request["agent_id"]
        entries = self.agents.setdefault(agent_id, [])
        known = self._keys.get((agent_id, members[0]["key"]))
        if known is not None:
            if known["event"] != members[0]["event"]:
                return _error("key_conflict", sequence=known["sequence"])
            place = {name: known[name] for name in ("sequence", "position")}
            return {"ok": True, **place, "count": len(members), "duplicate": True}
        expected = request.get("expected_sequence", len(entries))
        if expected != len(entries):
            return _error("sequence_conflict", expected=expected, actual=len(entries))
        first = {"sequence": len(entries), "position": len(self.log) + 1}
        for member in members:
            entry = {
                "sequence": len(entries),
                "position": len(self.log) + 1,
                "timestamp": member.get("timestamp", "2026-01-02T03:04:05.678901Z"),
                "agent_id": agent_id,
                "iteration": member["iteration"],
                "event": member["event"],
            }
            entries.append(entry)
            self.log.append(entry)
            self._keys[agent_id, member["key"]] = entry
            self._first_positions.setdefault(agent_id, entry["position"])
        return {"ok": True, **first, "count": len(members)}

    def _read(self, request: Message) -> Message:
        if request["agent_id"] not in self.agents:
            return _error("not_found")
        entries = self.agents[request["agent_id"]][request.get("from_sequence", 0) :]
        page = entries[: min(self.page_entries, request.get("limit", 1000))]
        next_sequence = request.get("from_sequence", 0) + len(page)
        return {
            "ok": True,
            "entries": page,
            "next_sequence": next_sequence,
            "more": len(page) < len(entries),
        }

    def _describe(self, request: Message) -> Message:
        if request["agent_id"] not in self.agents:
            return _error("not_found")
        return {"ok": True, "agent": self._agent(request["agent_id"])}

    def _agent(self, agent_id: str) -> Message:
        entries = self.agents[agent_id]
        return {
            "agent_id": agent_id,
            "kind": None,
            "state": "running",
            "uid": os.geteuid(),
            "entries": len(entries),
            "latest_sequence": max(0, len(entries) - 1),
            "next_sequence": len(entries),
            "last_completed_iteration": 0,
            "epoch": 0,
            "attempts": 0,
            "created_at": "2026-01-02T03:04:05.678901Z",
            "updated_at": "2026-01-02T03:04:05.678901Z",
            "first_position": self._first_positions[agent_id],
        }

    def _agents(self, request: Message) -> Message:
        behind = [
            self._agent(agent_id)
            for agent_id, position in self._first_positions.items()
            if position > request.get("after", -1)
        ]
        page = behind[: min(self.page_entries, request.get("limit", 100))]
        return {"ok": True, "agents": page, "more": len(page) < len(behind)}

    def _compact(self, request: Message) -> Message:
        removed = len(self.agents[request["agent_id"]])
        self.agents[request["agent_id"]] = []
        return {"ok": True, "removed": removed}

    def _tail(self, request: Message) -> list[Message]:
        is_open = "from_position" not in request and "last" not in request
        first = len(self.log) + 1 if is_open and request.get("follow", True) else 0
        entries = [
            entry
            for entry in self.log
            if entry["position"] >= request.get("from_position", first)
            and entry["agent_id"] == request.get("agent_id", entry["agent_id"])
        ]
        if "last" in request:
            entries = entries[len(entries) - request["last"] :]
        lines: list[Message] = [{"entry": entry} for entry in entries]
        if request.get("follow") is False:
            lines.append({"ok": True, "position": len(self.log) + 1})
        return lines

    def _stats(self, request: Message) -> Message:
        return {"ok": True, "entries": len(self.log)}

    def _ping(self, request: Message) -> Message:
        return {"ok": True}

    def _hello(self, request: Message) -> Message:
        return {"ok": True, "server": "scripted", "protocol": request["protocol"]}


def _error(code: str, **details: Any) -> Message:
    return {
        "ok": False,
        "error": {
            "code": code,
            "message": f"{code}, in the test",
            "retryable": False,
            "outcome": "not_recorded",
            **details,
        },
    }


Scene = Callable[[Peer], None]


def serve(peer: Peer) -> None:
    """Serve the connection to its end."""
    peer.serve()


class ScriptedDaemon:
    """Listens; each connection is given to the next scene of the script, then to ``serve``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = FakeJournal()
        self.peers: list[Peer] = []
        self.failures: list[BaseException] = []
        self._scenes: queue.Queue[Scene] = queue.Queue()
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    def script(self, *scenes: Scene) -> Self:
        """Say what happens to the next connections."""
        for scene in scenes:
            self._scenes.put(scene)
        return self

    def start(self) -> Self:
        """Listen."""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(16)
        self._run(self._accept, self._listener)
        return self

    def stop(self) -> None:
        """Stop listening; connections that are there are kept."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
            self.path.unlink()

    def hang_up(self) -> None:
        """End all connections."""
        for peer in self.peers:
            # A shutdown, since another thread may be reading there.
            with contextlib.suppress(OSError):
                peer.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End all, and fail the test if a scene failed."""
        self.stop()
        self.hang_up()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a scene does not end"
        for failure in self.failures:
            raise failure

    @property
    def requests(self) -> list[Message]:
        """All that was asked, over all connections."""
        return [request for peer in self.peers for request in peer.seen]

    def _run(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(PATIENCE_S)
            peer = Peer(connection, self.journal)
            self.peers.append(peer)
            scene = serve if self._scenes.empty() else self._scenes.get()
            self._run(self._play, scene, peer)

    def _play(self, scene: Scene, peer: Peer) -> None:
        try:
            scene(peer)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass  # the client went, which is its right
        except BaseException as failure:  # noqa: BLE001 - told to the test at its end
            self.failures.append(failure)
        finally:
            peer.close()


class Blocking:
    """The asyncio client behind the blocking client's face, for tests of what both promise."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._loop = asyncio.new_event_loop()

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            returned = attribute(*args, **kwargs)
            if inspect.isasyncgen(returned):
                return self._iterate(returned)
            return self._run(returned)

        return call

    def __enter__(self) -> Self:
        self._run(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()

    def shut(self) -> None:
        """Close the client and its loop."""
        if not self._loop.is_closed():
            self._run(self._client.close())
            self._run(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _iterate(self, iterator: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._run(anext(iterator))
                except StopAsyncIteration:
                    return
        finally:
            if not self._loop.is_closed():
                self._run(iterator.aclose())

    def _run(self, awaitable: Any) -> Any:
        async def wait() -> Any:
            return await asyncio.wait_for(awaitable, PATIENCE_S)

        return self._loop.run_until_complete(wait())


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """Give a path short enough for a socket's address."""
    directory = Path(tempfile.mkdtemp(prefix="aj-"))
    yield directory / "journal.sock"
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def fake_journal() -> type[FakeJournal]:
    """Give what makes journals that are only remembered."""
    return FakeJournal


@pytest.fixture
def daemon(socket_path: Path) -> Iterator[ScriptedDaemon]:
    """Run a scripted daemon."""
    scripted = ScriptedDaemon(socket_path).start()
    yield scripted
    scripted.close()


Opener = Callable[..., Any]


@pytest.fixture(params=["blocking", "asyncio"])
def opened(request: pytest.FixtureRequest, socket_path: Path) -> Iterator[Opener]:
    """Make clients of either kind, with the blocking one's face; closed at the end."""
    made: list[Client | Blocking] = []

    def open_client(**options: Any) -> Any:
        # A test that fails should do so soon.
        options = {"retry_s": PATIENCE_S, **options}
        if request.param == "blocking":
            made.append(connect(socket_path, **options))
        else:
            made.append(Blocking(connect_async(socket_path, **options)))
        return made[-1]

    yield open_client
    for client in made:
        client.close() if isinstance(client, Client) else client.shut()


@pytest.fixture
def journal(daemon: ScriptedDaemon, opened: Opener) -> Any:
    """Make a client of the scripted daemon."""
    return opened()
