"""Signals that an agent waits for, and that may be there already.

A signal may be recorded while its agent is on its way to give itself up.  So
what the agent had not read when it did is looked through before it waits.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ..model import AgentId, Uid
from ..store.base import Entry
from .amending import head_of, settle
from .context import Context

SLICE_ENTRIES: Final = 512
SLICE_BYTES: Final = 1 << 20


class _Name(msgspec.Struct):
    name: str = ""


class _Signalled(msgspec.Struct):
    signalled: _Name | None = msgspec.field(default=None, name="Signalled")


_decode: Final = msgspec.json.Decoder(_Signalled).decode


def signal_in(entry: Entry) -> str | None:
    """Return the name of the signal that *entry* records, if it does."""
    if not entry.event.startswith(b'{"Signalled"'):
        return None  # the daemon wrote those that count
    signalled = _decode(entry.event).signalled
    return None if signalled is None else signalled.name


async def has_signal_behind(
    context: Context, uid: Uid, agent_id: AgentId, sequence: int, names: tuple[str, ...]
) -> bool:
    """Tell whether a signal of one of *names* is recorded from *sequence* on.

    On False it is known of all that is recorded or queued, until the next await.
    """
    while True:
        head = await head_of(context, uid, agent_id)
        if sequence >= head.next_sequence:
            return False
        number = head.number
        await settle(context, uid)
        entries = await context.store.read(
            number, from_sequence=sequence, limit=SLICE_ENTRIES, bytes_max=SLICE_BYTES
        )
        if any(signal_in(entry) in names for entry in entries):
            await head_of(context, uid, agent_id)
            return True
        if not entries:
            await head_of(context, uid, agent_id)
            return False  # compacted meanwhile
        sequence += len(entries)
