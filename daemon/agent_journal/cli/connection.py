"""How commands reach the daemon."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..client import Client


def connected(arguments: argparse.Namespace) -> Client:
    """Return a client for the socket, and with the patience, of the command line."""
    from ..client import connect  # noqa: PLC0415 - imported when there is something to ask

    return connect(arguments.socket, retry_s=arguments.wait)
