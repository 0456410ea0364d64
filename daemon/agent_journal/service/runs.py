"""What of a connection goes to the committer together, and how it is answered.

A refusal on the ground of what another connection has queued goes there as well:
its reply says how an agent stands, and nobody may be told what is not durable.  Who
then reads finds what was told; and if the ground could not be recorded, the request
was not refused for it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ..errors import (
    AgentAttachedError,
    AgentFinishedError,
    AgentUnfinishedError,
    InvalidError,
    JournalError,
    ParkedError,
    SequenceConflictError,
    StaleEpochError,
)
from ..wire import RequestId, appended_replies, appended_reply, error_reply
from .committer import Submission

# What is said of how an agent stands; ``fork`` says of another that there is one.
GROUNDED: Final = (
    AgentAttachedError,
    AgentFinishedError,
    AgentUnfinishedError,
    InvalidError,
    ParkedError,
    SequenceConflictError,
    StaleEpochError,
)


class Run(Submission):
    """Neighbouring appends of one connection, and how to answer them."""

    ids: list[RequestId] = msgspec.field(default_factory=list)
    sequences: list[int] = msgspec.field(default_factory=list)  # each request's first one
    counts: dict[int, int] = msgspec.field(default_factory=dict)  # by place, of several entries

    def replies(self) -> bytes:
        """Return the replies, once it is known what became of the entries."""
        ids = self.ids
        if self.error is not None:
            return b"".join([error_reply(request_id, self.error) for request_id in ids])
        position: int = self.position or 0
        if not self.counts and set(map(type, ids)) == {int}:
            return appended_replies(ids, self.sequences, position)  # type: ignore[arg-type]
        replies = []
        for place, (request_id, sequence) in enumerate(zip(ids, self.sequences, strict=True)):
            count = self.counts.get(place, 1)
            replies.append(appended_reply(request_id, sequence, position, count))
            position += count
        return b"".join(replies)


class Refusal(Run):
    """A request that records nothing, and what is said when its ground is durable."""

    request_id: RequestId = None
    refusal: JournalError | None = None

    def replies(self) -> bytes:
        """Return the refusal, or why its ground could not be recorded."""
        error = self.error or self.refusal
        assert error is not None  # noqa: S101 - for the type: it has one
        return error_reply(self.request_id, error)
