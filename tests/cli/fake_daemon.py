"""A daemon that answers as it was told to, and what commands print as values."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Reply = Mapping[str, Any] | Sequence[Mapping[str, Any]] | Callable[[dict[str, Any]], Any]


def refused(code: str, message: str = "no", **details: object) -> dict[str, Any]:
    """Return the reply for an error."""
    return {"ok": False, "error": {"code": code, "message": message, **details}}


def entry(sequence: int, event: Mapping[str, object], **fields: object) -> dict[str, Any]:
    """Return an entry as the daemon sends it."""
    return {
        "sequence": sequence,
        "position": 10 + sequence,
        "timestamp": "2026-01-02T03:04:05.678901Z",
        "agent_id": "a",
        "iteration": sequence,
        "event": event,
        **fields,
    }


def agent(agent_id: str, **fields: object) -> dict[str, Any]:
    """Return an agent as the daemon sends it."""
    return {
        "agent_id": agent_id,
        "kind": None,
        "state": "running",
        "uid": 1000,
        "entries": 3,
        "latest_sequence": 2,
        "next_sequence": 3,
        "last_completed_iteration": 1,
        "epoch": 0,
        "attempts": 0,
        "created_at": "2026-01-02T03:04:05.000000Z",
        "updated_at": "2026-01-02T03:04:06.000000Z",
        "first_position": 7,
        **fields,
    }


class FakeDaemon:
    """Answers each op as it was told to, and keeps the requests it got.

    Of several replies to an op each is given once and the last one for ever;
    a sequence of replies is a stream.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: list[dict[str, Any]] = []
        self.received: Callable[[str], None] = lambda _line: None
        self.encode: Callable[[object], str] = json.dumps
        self._replies: dict[str, list[Reply]] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._connections: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def on(self, op: str, *replies: Reply) -> None:
        """Answer *op* with *replies*, which are ``ok`` unless they say otherwise."""
        self._replies[op] = list(replies)

    def of(self, op: str) -> list[dict[str, Any]]:
        """Return the requests for *op*, without their ids."""
        return [
            {name: value for name, value in request.items() if name != "id"}
            for request in self.requests
            if request.get("op") == op
        ]

    def close(self) -> None:
        # A plain close would leave accept() and recv() waiting.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._accepting.join(10)

    def _accept(self) -> None:
        threads = []
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                thread.start()
                threads.append(thread)
        for thread in threads:
            thread.join(10)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as lines:
            for line in lines:
                self.received(line.decode())
                request = json.loads(line)
                self.requests.append(request)
                for reply in self._answers(request):
                    whole = {"id": request.get("id"), "ok": True, **reply}
                    if "entry" in reply:
                        del whole["ok"]
                    connection.sendall(self.encode(whole).encode() + b"\n")

    def _answers(self, request: dict[str, Any]) -> list[Mapping[str, Any]]:
        replies = self._replies.get(request["op"])
        if not replies:
            return [refused("unknown_op", f"the test has no reply to {request['op']}")]
        reply: Any = replies.pop(0) if len(replies) > 1 else replies[0]
        if callable(reply):
            reply = reply(request)
        return [reply] if isinstance(reply, Mapping) else list(reply)


@dataclass
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        """What ``--json`` printed."""
        return [json.loads(line) for line in self.lines]

    @property
    def what(self) -> str:
        """The error's first line, of exactly two."""
        what, hint = self.err.splitlines()
        assert what.startswith("agent-journal: ")
        assert hint.startswith("try: ")
        return what.removeprefix("agent-journal: ")

    @property
    def hint(self) -> str:
        assert self.what
        return self.err.splitlines()[1].removeprefix("try: ")


Run = Callable[..., Result]
