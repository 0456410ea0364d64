"""What is to be made of an attempt's end: the policy, asked about an agent of this journal.

``resume_policy`` decides from numbers; here they come from the agent's record,
its entries, the configuration and the clock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from msgspec.structs import replace

from ..store.attachment import NOTHING, Incident
from ..store.base import AgentRecord
from .amending import settle
from .attaching import record_end, record_launch
from .attempt_output import Outcome
from .attempt_progress import progress_of
from .context import Context
from .launchers import Attempt, Means, NoMeansError, means_for
from .owners import Name
from .resume_policy import Cause, Decision, Launch, Park, after, decide
from .turns import Turn


class ParkError(Exception):
    """The agent is not to be started any more; the message is the reason."""


async def after_end(
    context: Context, record: AgentRecord, cause: Cause, signature: str | None
) -> tuple[Incident, Decision]:
    """Return the incident as an attempt's end leaves it, and what to do about the agent."""
    limits = context.config.resume.of(record.kind)
    ended_at = context.now if cause is Cause.CRASH else None
    progress = await progress_of(context.store, record, ended_at)
    before = (record.attachment or NOTHING).incident
    incident = after(before, cause, progress, limits)
    decision = decide(incident, cause, limits, now=context.now, chance=context.clock.chance())
    at = decision.at if isinstance(decision, Launch) else None
    return replace(incident, signature=signature, next_attempt_at=at), decision


async def counted(
    context: Context, record: AgentRecord, cause: Cause, environ: Mapping[str, str], turn: Turn
) -> tuple[int, Means] | None:
    """Record, in its *turn*, that an attempt begins; return its number and what to start.

    ``None``: nothing is to start the agent now.

    Raises:
        ParkError: nothing is to start it until a person says so.
    """
    ready = await _prepared(context, record, cause, environ)
    if ready is None:
        return None
    means, incident = ready
    await turn.comes()
    number = await record_launch(
        context,
        record.uid,
        record.agent_id,
        command=means.shown,
        incident=incident,
        epoch=record.epoch,
    )
    if number is None:
        await settle(context, record.uid)  # as ``surely`` does
        return None
    return number, means


async def _prepared(
    context: Context, record: AgentRecord, cause: Cause, environ: Mapping[str, str]
) -> tuple[Means, Incident] | None:
    """Return what to start an agent with, and the incident as this launch leaves it."""
    if record.attachment is None:
        return None
    if cause is not Cause.REQUEST and not context.config.resume.of(record.kind).enabled:
        return None
    try:
        means = means_for(record, context.config, environ)
    except NoMeansError as error:
        if error.is_final:
            raise ParkError(str(error)) from None
        return None
    if cause in (Cause.DUE, Cause.REQUEST):
        return means, Incident()
    incident = record.attachment.incident
    if cause is Cause.RESTART:
        # Counted here and not when it was lost: the daemon starts with thousands
        # of these, and reads their entries at the pace of starting them.
        incident, decision = await after_end(context, record, cause, None)
        if isinstance(decision, Park):
            raise ParkError(decision.reason)
    return means, replace(incident, attempts=incident.attempts + 1, next_attempt_at=None)


async def ended(context: Context, attempt: Attempt) -> Outcome:
    """Return how an attempt ended, as it may be recorded."""
    outcome = await attempt.outcome()
    if context.boundary is None:
        return outcome
    return dataclasses.replace(outcome, stderr=context.boundary.text(outcome.stderr))


async def record_outcome(  # noqa: PLR0913 - what record_end takes
    context: Context,
    name: Name,
    attempt: int,
    outcome: Outcome,
    *,
    incident: Incident | None = None,
    park_reason: str | None = None,
) -> bool:
    """Record how an attempt ended, and what follows; return whether that was to be recorded."""
    return await record_end(
        context,
        *name,
        attempt,
        how=outcome.how,
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        stderr=outcome.stderr or None,
        incident=incident,
        park_reason=park_reason,
    )
