"""What keeps a journal: moving agents in and out, checking it, and taking a copy of it.

Each of these is asked for again and again, a page at a time, so that the daemon
keeps nothing of it in mind and whoever is cut off goes on where it was.
"""

from __future__ import annotations

from typing import assert_never

from ..wire import ok_reply
from ..wire_requests import (
    Backup,
    DiskUsage,
    Export,
    Forget,
    HoldingRequest,
    Import,
    KeepingRequest,
    Vacuum,
    Verify,
)
from . import steering
from .copying import backup
from .forgetting import forget
from .moving import export, take_in
from .operations import Caller
from .room import disk_usage, vacuum
from .verifying import verify


async def serve(  # noqa: PLR0911 - one for each
    caller: Caller, request: HoldingRequest | KeepingRequest
) -> bytes:
    """Do what *request* asks for; return the reply."""
    if isinstance(request, HoldingRequest):
        return ok_reply(request.id, await steering.serve(caller, request))
    match request:
        case Export():
            return await export(caller, request)
        case Import():
            return ok_reply(request.id, await take_in(caller, request))
        case Backup():
            return ok_reply(request.id, await backup(caller, request))
        case Forget():
            return ok_reply(request.id, await forget(caller, request))
        case Vacuum():
            return ok_reply(request.id, await vacuum(caller, request))
        case DiskUsage():
            return ok_reply(request.id, await disk_usage(caller, request))
        case Verify():
            return ok_reply(request.id, await verify(caller, request))
        case _:
            assert_never(request)
