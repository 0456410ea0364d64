"""One connection to the daemon, one request after the other.

Not the project's client library: that one retries and reconnects, and here a
refusal is a result and a slow answer a figure.
"""

import json
import socket
import time
from typing import Any, Self

from servers import Journal, ServerError

ANSWER_S_MAX = 60.0


class Conversation:
    """Ask the daemon and time its answers."""

    def __init__(self, journal: Journal) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(ANSWER_S_MAX)
        self._socket.connect(str(journal.socket))
        self._lines = self._socket.makefile("rb")
        self.took_us = 0.0  # of the last answer, from the first byte sent to the newline read

    def ask(self, op: str, **fields: object) -> dict[str, Any]:
        """Return the daemon's answer.

        Raises:
            ServerError: the answer was an error.
        """
        request = json.dumps({"op": op, **fields}).encode() + b"\n"
        begun_ns = time.monotonic_ns()
        self._socket.sendall(request)
        line = self._lines.readline()
        self.took_us = (time.monotonic_ns() - begun_ns) / 1000
        answer: dict[str, Any] = json.loads(line) if line else {"ok": False, "error": "no answer"}
        if not answer["ok"]:
            raise ServerError(f"{op} {fields}: {answer['error']}")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()
