"""Which of an agent's steps are in doubt: begun, and no word of how they ended.

A person may decide only about those.  The journal is read for it from the
beginning, in slices, which is worth it: a decision with a typing error in it
would look like one, and do nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ..store.base import AgentRecord, Store
from .waiting import SLICE_BYTES, SLICE_ENTRIES


class Standing(Enum):
    """What is known of a step."""

    UNKNOWN = "unknown"  # no entry names it
    IN_DOUBT = "in doubt"
    DONE = "done"


class _Step(msgspec.Struct):
    key: str | None = None
    step: str | None = None
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


_STEP_EVENTS: Final = (
    b'{"StepStarted"',
    b'{"StepCompleted"',
    b'{"StepFailed"',
    b'{"Decided"',
)
_decode_event: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_step: Final = msgspec.json.Decoder(_Step).decode


def standing_after(event: bytes, step: str, before: Standing) -> Standing:
    """Return how *step* stands behind *event*."""
    if not event.replace(b" ", b"").startswith(_STEP_EVENTS):
        return before
    ((name, payload),) = _decode_event(event).items()
    try:
        told = _decode_step(payload)
    except msgspec.DecodeError:
        return before  # a client's own, of another form
    if step not in (told.key, told.step):
        return before
    match name:
        case "StepStarted":
            return Standing.IN_DOUBT
        case "Decided" if told.result is UNSET and told.error is UNSET:
            return Standing.IN_DOUBT  # it is to run again, and until it does it may be changed
        case _:
            return Standing.DONE


async def standing_of(store: Store, record: AgentRecord, step: str) -> Standing:
    """Return how *step* stands in an agent's journal."""
    standing = Standing.UNKNOWN
    sequence = 0
    while sequence < record.next_sequence:
        entries = await store.read(
            record.number, from_sequence=sequence, limit=SLICE_ENTRIES, bytes_max=SLICE_BYTES
        )
        if not entries:
            break
        for entry in entries:
            standing = standing_after(entry.event, step, standing)
        sequence += len(entries)
    return standing
