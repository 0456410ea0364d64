"""What is said of the blocking client alone: threads, forks, interruptions, no asyncio."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import agent_journal.client as package
from agent_journal.client import AppendRequest, Client, connect
from agent_journal.errors import ConnectionLostError, TooManyConnectionsError


@pytest.fixture
def client(daemon: Any) -> Any:
    with connect(daemon.path, retry_s=10) as journal:
        yield journal


def test_threads_take_turns(client: Client, daemon: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: client.append("a", {f"E{number}": 1}), range(200)))
    assert sorted(answer.sequence for answer in answers) == list(range(200))
    assert len(daemon.peers) == 1
    assert len({request["key"] for request in daemon.requests}) == 200


def test_a_pipeline_and_other_threads_do_not_disturb_each_other(
    client: Client, daemon: Any
) -> None:
    def pipeline(agent_id: str) -> list[int]:
        appends = [AppendRequest(agent_id, {f"E{number}": 1}) for number in range(100)]
        return [answer.sequence for answer in client.append_pipelined(appends, window=7)]  # type: ignore[union-attr]

    with ThreadPoolExecutor(3) as pool:
        for sequences in pool.map(pipeline, ["a", "b", "c"]):
            assert sequences == list(range(100))
    for agent_id in ("a", "b", "c"):
        assert daemon.journal.names(agent_id) == [f"E{number}" for number in range(100)]


def test_close_ends_a_call_that_waits_in_another_thread(daemon: Any) -> None:
    asked = threading.Event()

    def silent(peer: Any) -> None:
        peer.read()
        asked.set()
        peer.read()

    daemon.script(silent)
    journal = connect(daemon.path)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(journal.append, "a", {"E": 1})
        assert asked.wait(10)
        journal.close()
        with pytest.raises(ConnectionLostError, match="closed"):
            waiting.result(10)


def test_close_ends_a_call_that_waits_for_a_daemon(daemon: Any) -> None:
    journal = connect(daemon.path, retry_s=1e6)
    journal.ping()
    daemon.stop()
    daemon.hang_up()
    backed_off = threading.Event()

    def far_away() -> float:
        backed_off.set()
        return 1e6

    # Behind the interface: the back-off must not end by itself.
    journal._channel._conversation._random = far_away
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(journal.ping)
        assert backed_off.wait(10)
        journal.close()
        with pytest.raises(ConnectionLostError, match="closed"):
            waiting.result(10)


# Later Pythons warn of what is tested here.
forking = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@forking
def test_a_forked_child_has_a_connection_and_keys_of_its_own(client: Client, daemon: Any) -> None:
    client.append("a", {"Before": 1})
    child = os.fork()
    if child == 0:
        status = 1
        try:
            client.append("a", {"Child": 1})
            client.close()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0
    client.append("a", {"After": 1})
    assert daemon.journal.names("a") == ["Before", "Child", "After"]
    assert [len(peer.seen) for peer in daemon.peers] == [2, 1]
    keys = [request["key"][13:23] for request in daemon.requests]
    assert keys[0] == keys[1] != keys[2]


@forking
def test_a_child_forked_within_a_call_of_another_thread_does_not_hang(
    daemon: Any,
) -> None:
    """The lock is held then by a thread that the child does not have."""
    asked, answer = threading.Event(), threading.Event()

    def slow(peer: Any) -> None:
        peer.serve(1)
        held = peer.read()
        asked.set()
        assert answer.wait(10)
        peer.reply_to(held)
        peer.serve()

    daemon.script(slow)
    with connect(daemon.path) as journal, ThreadPoolExecutor(1) as pool:
        journal.ping()
        waiting = pool.submit(journal.append, "a", {"Parent": 1})
        assert asked.wait(10)
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            status = 1
            try:
                journal.append("a", {"Child": 1})
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        answer.set()
        assert status == 0
        assert waiting.result(10).sequence == 1
    assert daemon.journal.names("a") == ["Child", "Parent"]


def test_a_send_that_a_fork_cut_off_does_not_keep_the_child_from_closing(client: Client) -> None:
    """In the child the sending thread is gone, and what it held stays held."""
    # Behind the interface: no thread can be stopped within a send at will.
    held = memoryview(client._channel._link._outgoing)
    client.close()
    held.release()


@forking
def test_an_iterator_of_before_the_fork_is_refused_in_the_child(
    client: Client, daemon: Any
) -> None:
    client.append("a", {"E": 1})
    entries = client.tail(from_position=0)
    next(entries)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            next(entries)
        except RuntimeError:
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0


def test_an_interrupted_call_leaves_the_client_usable(daemon: Any) -> None:
    """Ctrl-C while waiting: the late answer is never taken for another's."""
    main = threading.get_ident()

    def interrupting(peer: Any) -> None:
        held = peer.read()
        signal.pthread_kill(main, signal.SIGINT)
        peer.connection.settimeout(10)
        with pytest.raises(EOFError):  # the client gave the connection up
            peer.read()
        peer.journal.replies(held)

    daemon.script(interrupting)
    with connect(daemon.path) as journal:
        with pytest.raises(KeyboardInterrupt):
            journal.append("a", {"E": 1})
        assert journal.append("b", {"F": 1}).sequence == 0
        assert journal.describe("b").agent_id == "b"


def test_what_the_daemon_said_before_it_hung_up_is_heard(daemon: Any) -> None:
    """The client only finds out when it sends, and that error says nothing."""
    daemon.script(lambda peer: peer.refuse(None, "too_many_connections"))
    with connect(daemon.path, retry_s=0) as journal:
        _wait_for(lambda: daemon.peers and daemon.peers[0].connection.fileno() < 0)
        with pytest.raises(TooManyConnectionsError):
            journal.ping()
        journal.ping()


def test_sigpipe_does_not_kill(daemon: Any) -> None:
    """A command line program may have set SIGPIPE back to what ends it."""
    program = f"""
import signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
from agent_journal.client import connect
journal = connect({str(daemon.path)!r})
for number in range(3):
    journal.append("a", {{"E": number}})
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, env=_environment()
    ) as process:
        assert process.stdin is not None
        for count in range(3):
            _wait_for(lambda count=count: len(daemon.journal.log) > count)  # type: ignore[misc]
            daemon.hang_up()
            process.stdin.write(b"\n")
            process.stdin.flush()
        process.stdin.close()
        assert process.wait(20) == 0


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _wait_for(is_done: Any) -> None:
    deadline = time.monotonic() + 20
    while not is_done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


FORBIDDEN = "asyncio aiosqlite msgspec uvloop structlog watchfiles"


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        (
            "import agent_journal.client",
            FORBIDDEN + " typing dataclasses json socket enum re datetime pathlib",
        ),
        (
            "from agent_journal.client import connect, connect_async, find_socket",
            FORBIDDEN + " typing dataclasses json socket enum re datetime pathlib",
        ),
        (
            "from agent_journal.client import Entry, Appended, AppendRequest",
            FORBIDDEN + " dataclasses inspect",
        ),
        (
            "from agent_journal.client import connect\nwith connect() as journal: journal.ping()",
            FORBIDDEN + " dataclasses inspect",
        ),
        (
            "from agent_journal.client import Client, connect",
            FORBIDDEN + " hashlib agent_journal.client._steps agent_journal.client._sync_agent",
        ),
        (
            "from agent_journal.client import connect\nconnect().agent('a')",
            FORBIDDEN,
        ),
        (
            "from agent_journal.client import AsyncClient; assert 'asyncio' in sys.modules",
            "aiosqlite msgspec uvloop structlog watchfiles",
        ),
    ],
    ids=[
        "package",
        "functions",
        "results",
        "blocking client at work",
        "blocking client",
        "blocking agent",
        "asyncio client",
    ],
)
def test_what_is_not_used_is_not_imported(daemon: Any, statement: str, forbidden: str) -> None:
    program = f"import sys\n{statement}"
    program += f"\nprint(*sorted(set(sys.modules) & set({forbidden!r}.split())))"
    # -S: the interpreter's own start imports some of these for editable installs.
    found = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={**_environment(), "AGENT_JOURNAL_SOCKET": str(daemon.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == []


def test_every_public_name_is_there() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
    with pytest.raises(AttributeError, match="nonesuch"):
        package.nonesuch  # noqa: B018
