"""How commands reach the daemon."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from .terminal import harmless

if TYPE_CHECKING:
    import os

    from ..client import Client
    from ..errors import JournalError

SILENCE_S_MIN: Final = 2.0  # --wait 0 tries nothing again, and lets the daemon answer
GONE: Final = frozenset({"connection_lost", "daemon_not_running", "shutting_down"})
START_S_MAX: Final = 600.0  # a daemon that begins with a large log, as the daemon tells systemd


def client_for(
    socket: str | os.PathLike[str] | None,
    *,
    retry_s: float,
    silence_s: float,
    start_s: float = 0.0,
    on_lost: Callable[[JournalError], None] | None = None,
) -> Client:
    """Return a client that gives up when nothing at all was heard for *silence_s*."""
    from ..client._link import Patience  # noqa: PLC0415 - imported when there is something to ask
    from ..client._sync import Client  # noqa: PLC0415 - likewise

    patience = Patience(silence_s=max(silence_s, SILENCE_S_MIN), start_s=start_s)
    return Client(socket, retry_s=retry_s, patience=patience, on_lost=on_lost)


def connected(arguments: argparse.Namespace, *, follows: bool = False) -> Client:
    """Return a client for the socket, and with the patience, of the command line.

    One that *follows* says on standard error that it lost the daemon and waits for it.

    Where that names an agent which is there, by the beginning of its id perhaps,
    *arguments* have its whole id afterwards.

    Raises:
        CommandError: several begin so, or the command wants the id whole and it is not.
    """
    journal = client_for(
        arguments.socket,
        retry_s=arguments.wait,
        silence_s=arguments.wait,
        start_s=START_S_MAX,
        on_lost=_says_so(arguments.wait) if follows else None,
    )
    try:
        _find_agent(journal, arguments)
    except BaseException:
        journal.close()
        raise
    return journal


def _find_agent(journal: Client, arguments: argparse.Namespace) -> None:
    if getattr(arguments, "wants_whole_id", False):
        from .naming import check_whole  # noqa: PLC0415 - asks

        check_whole(journal, arguments.agent, arguments.uid, command=arguments.command)
    elif getattr(arguments, "finds_agent", False) and arguments.agent is not None:
        from .naming import whole_id  # noqa: PLC0415 - asks

        arguments.agent = whole_id(journal, arguments.agent, arguments.uid)


def _says_so(wait_s: float) -> Callable[[JournalError], None]:
    def say(error: JournalError) -> None:
        told = f"{error.message}; trying again for up to {wait_s:g} s"
        if error.code in GONE:
            told = f"the daemon is gone; waiting up to {wait_s:g} s for it to be back"
        sys.stdout.flush()  # what was read came before it
        sys.stderr.write(f"agent-journal: {harmless(told)}\n")
        sys.stderr.flush()

    return say
