"""Which of an agent's steps are in doubt: begun, and no word of how they ended.

A person may decide only about those.  The journal is read for it from the
beginning, in slices, which is worth it: a decision with a typing error in it
would look like one, and do nothing.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ..model import AgentId, Uid
from .amending import head_of, settle
from .context import Context
from .waiting import SLICE_BYTES, SLICE_ENTRIES


class Standing(Enum):
    """What is known of a step."""

    UNKNOWN = "unknown"  # no entry names it
    IN_DOUBT = "in doubt"
    DONE = "done"


class _Step(msgspec.Struct):
    key: str | None = None


class _Decision(msgspec.Struct):
    step: str | None = None
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


# Any client may write a name with escapes, and white space before it.
_may_tell: Final = re.compile(rb'[{\s]*"(?:Step|Decided"|[^"\\]*\\)').match
_decode_event: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_step: Final = msgspec.json.Decoder(_Step).decode
_decode_decision: Final = msgspec.json.Decoder(_Decision).decode


def standing_after(event: bytes, step: str, before: Standing) -> Standing:
    """Return how *step* stands behind *event*."""
    if not _may_tell(event):
        return before
    ((name, payload),) = _decode_event(event).items()
    try:
        match name:
            case "StepStarted" if _decode_step(payload).key == step:
                return Standing.IN_DOUBT
            case "StepCompleted" | "StepFailed" if _decode_step(payload).key == step:
                return Standing.DONE
            case "Decided":
                decision = _decode_decision(payload)
                # One that is to run again may be decided about until it does.
                is_done = decision.result is not UNSET or decision.error is not UNSET
                if decision.step == step:
                    return Standing.DONE if is_done else Standing.IN_DOUBT
            case _:
                pass
    except msgspec.DecodeError:
        pass  # a client's own, of another form
    return before


async def standing_of(context: Context, uid: Uid, agent_id: AgentId, step: str) -> Standing:
    """Return how *step* stands, which holds until the next await.

    What is queued counts too: two who decide at once must not both be obeyed.
    """
    number, sequence, standing = None, 0, Standing.UNKNOWN
    while True:
        head = await head_of(context, uid, agent_id)
        if head.number != number:  # compacted, maybe
            number, sequence, standing = head.number, 0, Standing.UNKNOWN
        if sequence >= head.next_sequence:
            return standing
        entries = await context.store.read(
            number, from_sequence=sequence, limit=SLICE_ENTRIES, bytes_max=SLICE_BYTES
        )
        if not entries:
            await settle(context, uid)  # they are on their way
        for entry in entries:
            standing = standing_after(entry.event, step, standing)
        sequence += len(entries)
