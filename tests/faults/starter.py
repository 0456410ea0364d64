"""Starts daemons by forking: a program that has imported the daemon already.

Most of a daemon's start is Python's reading of modules, which has nothing to do
with a system call that fails, and there are thousands to be tried.  What is
forked is the daemon's own ``main`` with its own arguments, on its own files, in
a session of its own; only the imports are shared.

    LD_PRELOAD=calls.so python starter.py SOCKET

Each connection is one daemon: in goes a line of JSON that says what to start,
out come its pid and, when it has ended, its exit status.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import random
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import agent_journal.__main__ as program
from agent_journal.service import config_watch
from agent_journal.store import sqlite

PR_SET_PDEATHSIG = 1


def hurry(entries: int) -> None:
    """Settle the index every few entries: what takes thousands otherwise happens all the time."""
    if entries:
        sqlite.SETTLE_SLICE_ENTRIES_MIN = 4  # type: ignore[misc]
        kwdefaults = sqlite.SqliteStore.__init__.__kwdefaults__
        kwdefaults["settle_entries"] = entries
        sqlite.SqliteStore._entries_since_settling = property(  # type: ignore[assignment]
            lambda _: 0, lambda *_: None
        )


def look_often() -> None:
    """Have the thread that watches the configuration notice the end at once."""
    config_watch.QUIET_MS = 10  # type: ignore[misc]


def die_with_parent() -> None:
    """Be killed when who started this process ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def run(order: dict[str, Any]) -> int:
    """Be the daemon; return its exit code."""
    os.setsid()
    os.chdir(order["cwd"])
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.closerange(3, 1024)
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = ["agent-journald", *order["argv"]]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    random.seed()
    look_often()
    hurry(order["hurried"])
    sys.path.insert(0, str(Path(__file__).parents[1]))
    for module in order["modules"]:
        importlib.import_module(module)
    for name, (soft, hard) in order["limits"].items():
        import resource  # noqa: PLC0415 - few tests ask for it

        resource.setrlimit(getattr(resource, name), (soft, hard))
    if order["control"]:
        # Looked up from here on: preloaded, it is among the names of the program.
        began = ctypes.CDLL(None).faults_begin(
            order["control"].encode(), order["under"].encode(), order["trace"].encode()
        )
        if began != 0:
            raise OSError("the control block cannot be mapped")
    return program.main()


def be_the_daemon(order: dict[str, Any]) -> None:
    """Run, and end as an interpreter does: behind its threads, and with a code."""
    code = 1
    try:
        code = run(order)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - as the interpreter would
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def keep(connection: socket.socket) -> None:
    """Start what the connection asks for, and say how it ends."""
    with connection.makefile("rb") as lines:
        order = json.loads(lines.readline())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    keeper = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        if os.getppid() != keeper:
            os._exit(1)
        connection.close()
        be_the_daemon(order)
    connection.sendall(b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def main() -> None:
    """Serve until whoever started this ends."""
    die_with_parent()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)  # noqa: T201 - who started us waits for it
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            die_with_parent()
            listener.close()
            keep(connection)
            os._exit(0)
        connection.close()


if __name__ == "__main__":
    main()
