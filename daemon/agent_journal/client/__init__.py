"""The client library: record what an agent does, and read it back.

    from agent_journal.client import connect

    with connect() as journal:
        journal.append("report-42", {"Started": {"goal": "sum up"}})
        for entry in journal.read("report-42"):
            print(entry.sequence, entry.name, entry.payload)

An agent that is to go on where it was when it is killed attaches, and makes its
calls steps (docs/RESUME.md):

    with connect() as journal, journal.agent("report-42", kind="report") as agent:
        plan = agent.step("plan", call_model, "sum up")  # called once, ever

``connect_async`` gives the same under asyncio.  Needs nothing but the standard
library, and importing this package loads none of it: what a program does not
use, it does not wait for.  The blocking client never loads asyncio.

An append that returned is durable.  One that raised says in ``error.outcome``
whether the entry can have been recorded all the same.  Within ``retry_s`` both
clients connect again and repeat what was not answered; an append carries a key
then, so that a repeat is never recorded twice.
"""

# ruff: noqa: PLC0415 - importing late is the point

from __future__ import annotations

# Not typing.TYPE_CHECKING: typing alone takes longer to import than all of this.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from pathlib import Path

    from ._agent_errors import (
        EXIT_SUSPENDED,
        FencedError,
        NotSerializableError,
        ReplayMismatchError,
        ReplayWarning,
        ResultTypeError,
        StepError,
        StepInDoubtError,
        StepKeyUsedError,
        Suspended,
        ValueTooLargeError,
        WaitTimeoutError,
    )
    from ._aio import AsyncClient
    from ._aio_agent import AsyncDurableAgent
    from ._core import DaemonNotRunningError
    from ._durable import current_agent, current_step, step
    from ._history import Effect
    from ._replies import ProtocolError
    from ._results import (
        Agent,
        Appended,
        AppendRequest,
        Attached,
        Entry,
        Event,
        Forked,
        NewEntry,
        Timestamp,
    )
    from ._step import Reconciled, Step
    from ._sync import Client
    from ._sync_agent import DurableAgent

__all__ = [
    "EXIT_SUSPENDED",
    "Agent",
    "AppendRequest",
    "Appended",
    "AsyncClient",
    "AsyncDurableAgent",
    "Attached",
    "Client",
    "DaemonNotRunningError",
    "DurableAgent",
    "Effect",
    "Entry",
    "Event",
    "FencedError",
    "Forked",
    "NewEntry",
    "NotSerializableError",
    "ProtocolError",
    "Reconciled",
    "ReplayMismatchError",
    "ReplayWarning",
    "ResultTypeError",
    "Step",
    "StepError",
    "StepInDoubtError",
    "StepKeyUsedError",
    "Suspended",
    "Timestamp",
    "ValueTooLargeError",
    "WaitTimeoutError",
    "connect",
    "connect_async",
    "current_agent",
    "current_step",
    "find_socket",
    "step",
]

_HOME_OF = {
    "EXIT_SUSPENDED": "_agent_errors",
    "Agent": "_results",
    "AppendRequest": "_results",
    "Appended": "_results",
    "AsyncClient": "_aio",
    "AsyncDurableAgent": "_aio_agent",
    "Attached": "_results",
    "Client": "_sync",
    "DaemonNotRunningError": "_core",
    "DurableAgent": "_sync_agent",
    "Effect": "_history",
    "Entry": "_results",
    "Event": "_results",
    "FencedError": "_agent_errors",
    "Forked": "_results",
    "NewEntry": "_results",
    "NotSerializableError": "_agent_errors",
    "ProtocolError": "_replies",
    "Reconciled": "_step",
    "ReplayMismatchError": "_agent_errors",
    "ReplayWarning": "_agent_errors",
    "ResultTypeError": "_agent_errors",
    "Step": "_step",
    "StepError": "_agent_errors",
    "StepInDoubtError": "_agent_errors",
    "StepKeyUsedError": "_agent_errors",
    "Suspended": "_agent_errors",
    "Timestamp": "_results",
    "ValueTooLargeError": "_agent_errors",
    "WaitTimeoutError": "_agent_errors",
    "current_agent": "_durable",
    "current_step": "_durable",
    "step": "_durable",
}


def __getattr__(name: str) -> object:
    """Import what is asked for at the first asking."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def connect(
    socket: str | os.PathLike[str] | None = None,
    *,
    timeout_s: float | None = None,
    retry_s: float = 30.0,
) -> Client:
    """Return a blocking client; it connects when entered, or at its first call.

    Without *socket* it is found as ``find_socket`` does.  *timeout_s* bounds
    each call, retries included; ``None`` waits for an answer for as long as
    the daemon keeps the connection open.  *retry_s* bounds for how long a call
    is repeated after the connection was lost or the daemon asked to come
    again; 0 never repeats.
    """
    from ._sync import Client

    return Client(socket, timeout_s=timeout_s, retry_s=retry_s)


def connect_async(
    socket: str | os.PathLike[str] | None = None,
    *,
    timeout_s: float | None = None,
    retry_s: float = 30.0,
) -> AsyncClient:
    """Return a client for asyncio; the arguments mean what they do for ``connect``."""
    from ._aio import AsyncClient

    return AsyncClient(socket, timeout_s=timeout_s, retry_s=retry_s)


def find_socket() -> Path:
    """Return where the daemon's socket is, or would be if the daemon ran.

    ``$AGENT_JOURNAL_SOCKET`` where it is set; else the first that exists of
    the user's own (``$XDG_RUNTIME_DIR/agent-journal/journal.sock``, or under
    ``/tmp/agent-journal-<uid>`` where that variable is unset) and the host's
    (``/run/agent-journal/journal.sock``); else the first of these.
    """
    from pathlib import Path

    from ._discovery import socket_path

    return Path(socket_path())
