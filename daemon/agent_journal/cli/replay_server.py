"""Serves a ``ReplayCheck`` on a private socket, to one program and whatever it starts."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import Final, Self

from .replay_check import ReplayCheck

SOCKET_NAME: Final = "journal.sock"


class ReplayServer:
    """Answers on ``path`` for as long as it is entered."""

    def __init__(self, check: ReplayCheck) -> None:
        self._check = check
        self._lock = threading.Lock()  # connections take turns: the check knows no threads
        self._connections: set[socket.socket] = set()
        self.is_over: Final = threading.Event()  # it is known how the replay ends
        self._directory = Path(tempfile.mkdtemp(prefix="agent-journal-", dir="/tmp"))
        self.path: Final = self._directory / SOCKET_NAME
        self._listener = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Self:
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # a plain close would leave accept() waiting
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)
        try:
            with connection, contextlib.suppress(OSError), connection.makefile("rb") as lines:
                for line in lines:
                    with self._lock:
                        reply = self._check.answer(line)
                        is_over = self._check.is_over
                    connection.sendall(reply.encode() + b"\n")
                    if is_over:
                        self.is_over.set()
        finally:
            with self._lock:
                self._connections.discard(connection)
