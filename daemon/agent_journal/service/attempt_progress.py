"""What an attempt recorded: new steps, and the tokens that its events say it used.

Nothing is counted while entries are written, which must stay fast.  An
attempt's entries are read once, when it is over, in slices.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..model import Micros, Sequence
from ..store.base import AgentRecord, Store
from .resume_policy import SECOND, Progress

SLICE_ENTRIES: Final = 512
SLICE_BYTES: Final = 256 * 1024

_STEP_ENDS: Final = (b'{"StepCompleted"', b'{"StepFailed"')
_USAGE: Final = b'"usage"'
_decode: Final = msgspec.json.Decoder().decode


async def progress_of(store: Store, record: AgentRecord, ended_at: Micros | None) -> Progress:
    """Return what the present attempt of an agent recorded, and for how long it went on.

    Without *ended_at* it went on until its last entry, as far as anybody knows.
    """
    attachment = record.attachment
    begun = attachment.attempt_sequence if attachment is not None else 0
    steps = tokens = 0
    first: Micros | None = None
    last: Micros | None = None
    sequence = begun
    while sequence < record.next_sequence:
        entries = await store.read(
            record.number, from_sequence=sequence, limit=SLICE_ENTRIES, bytes_max=SLICE_BYTES
        )
        if not entries:
            break  # compacted meanwhile
        for entry in entries:
            steps += entry.event.startswith(_STEP_ENDS)
            if _USAGE in entry.event:
                tokens += tokens_in(entry.event)
        first = entries[0].timestamp if first is None else first
        last = entries[-1].timestamp
        sequence = Sequence(entries[-1].sequence + 1)
    last = last if ended_at is None else ended_at
    seconds = 0.0 if first is None or last is None else (last - first) / SECOND
    return Progress(steps=steps, tokens=tokens, seconds=max(seconds, 0.0))


def tokens_in(event: bytes) -> int:
    """Return how many tokens an event says were used, in and out."""
    try:
        decoded = _decode(event)
    except msgspec.MsgspecError:
        return 0
    content = next(iter(decoded.values()), None) if isinstance(decoded, dict) else None
    usage = content.get("usage") if isinstance(content, dict) else None
    if not isinstance(usage, dict):
        return 0
    parts = _number(usage, "input_tokens") + _number(usage, "output_tokens")
    return parts or _number(usage, "total_tokens")


def _number(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        return 0
    return max(value, 0)
