"""How commands reach the daemon."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..client import Client


def connected(arguments: argparse.Namespace) -> Client:
    """Return a client for the socket, and with the patience, of the command line.

    Where that names an agent which is there, by the beginning of its id perhaps,
    *arguments* have its whole id afterwards.
    """
    from ..client import connect  # noqa: PLC0415 - imported when there is something to ask

    journal = connect(arguments.socket, retry_s=arguments.wait)
    if getattr(arguments, "finds_agent", False) and arguments.agent is not None:
        from .naming import whole_id  # noqa: PLC0415 - asks

        try:
            arguments.agent = whole_id(journal, arguments.agent, arguments.uid)
        except BaseException:
            journal.close()
            raise
    return journal
