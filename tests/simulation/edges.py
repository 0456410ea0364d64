"""The daemon's edges to the real host, replaced while a schedule runs; and constants made small.

What is a thousand in life is three here, at times: what happens at a bound then
happens in every schedule.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest import mock

from agent_journal.service import (
    app,
    committer,
    figures,
    forking,
    heads,
    operations,
    server,
    session,
    unfinished,
)
from agent_journal.service.server import Connection

NOTHING = SimpleNamespace(
    collect=lambda: None,
    freeze=lambda: None,
    set_threshold=lambda *_: None,
    configure=lambda _: None,
)


class NumberedConnection(Connection):
    """A connection whose place in a set is the same in every run of a seed."""

    numbers = count(1)

    def __init__(self, owner: Any) -> None:
        super().__init__(owner)
        self._number = next(NumberedConnection.numbers)

    def __hash__(self) -> int:
        return self._number


class KnownServer(server.Server):
    """A server that can be looked at."""

    latest: server.Server

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        KnownServer.latest = self


async def _until_the_stop(*_: object, stop: asyncio.Event, **__: object) -> None:
    await stop.wait()


@contextmanager
def patched(chance: random.Random, boot_id: Callable[[], str]) -> Iterator[None]:
    """Replace the edges, and make some constants small."""
    NumberedConnection.numbers = count(1)
    small = chance.random() < 0.7
    replaced: list[tuple[Any, str, Any]] = [
        (app, "_boot_id", boot_id),
        (app, "Server", KnownServer),
        (app, "gc", NOTHING),
        (app, "logs", NOTHING),
        (app, "watch", _until_the_stop),
        (figures, "os", SimpleNamespace(getpid=lambda: 1)),
        (figures, "_process_figures", dict),
        (server, "raise_descriptor_limit", lambda: 1000),
        (server, "overflow_uid", lambda: 65534),
        (server, "_is_closed", lambda descriptor: descriptor.is_closed),
        (server, "Connection", NumberedConnection),
    ]
    if small:
        window = chance.choice([300, 2000])
        replaced += [
            (session, "WINDOW_BYTES", window),
            (session, "ANSWERS_MAX", chance.choice([1, 3])),
            (server, "WINDOW_BYTES", chance.choice([200, 5000])),
            (server, "UNSENT_BYTES_MAX", chance.choice([300, 4000])),
            (committer, "BATCH_ENTRIES_MIN", chance.choice([1, 4])),
            (committer, "QUANTUM_BYTES", chance.choice([100, 1000])),
            (heads, "KEYS_MAX", chance.choice([1, 3])),
            (app, "Heads", partial(heads.Heads, heads_max=chance.choice([1, 4]))),
            (unfinished, "SLICE_AGENTS", 2),
            (operations, "TAIL_SLICE_ENTRIES", 2),
            (forking, "SLICE_ENTRIES", 1),
        ]
    with ExitStack() as stack:
        for where, name, value in replaced:
            stack.enter_context(mock.patch.object(where, name, value))
        yield
