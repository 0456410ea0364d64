"""Checks and numbers an append, against the agent's head in memory.

Nothing is changed before everything was checked, so an append that is refused
leaves no trace.  Where the head or an old idempotency key is not in memory,
``record`` says so, and ``prepare`` asks the store; a key greater than any that
its agent ever used must be new, so rising keys cost no look-up.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from datetime import datetime

from msgspec import UNSET, Raw, UnsetType

from ..errors import (
    InvalidError,
    KeyConflictError,
    SequenceConflictError,
    StaleEpochError,
)
from ..lifecycle import Change, advance, is_terminal
from ..model import AgentId, AgentState, Sequence, Uid
from ..store.base import AgentChange, Entry, NewEntry
from ..wire import (
    Append,
    EntryFields,
    appended_reply,
    check_agent_id,
    check_key,
    event_name,
    is_same_event,
    micros_from,
    terminated_reason,
)
from .committer import Submission
from .context import Context
from .heads import Head, remember_key
from .operations import Caller, settle

TERMINATED = "Terminated"


class Recorder:
    """Turns appends into entries of a submission."""

    def __init__(self, context: Context, uid: Uid) -> None:
        self._context = context
        self._heads = context.heads
        self._own = context.heads.namespace(uid)

    def record(
        self,
        request: Append,
        submission: Submission,
        *,
        uid: Uid | None = None,
        are_keys_new: bool = False,
    ) -> Sequence | None:
        """Add what *request* records to *submission*; return its first sequence.

        ``None``: the store has to be asked first, see ``prepare``.

        Raises:
            RequestError: it is refused, and nothing was changed.
        """
        heads = self._own if uid is None else self._heads.namespace(uid)
        head = heads.get(request.agent_id)
        if head is None:
            check_agent_id(request.agent_id)
            return None
        if request.entries is not None:
            return self._record_many(head, request, submission, are_keys_new=are_keys_new)
        event, key = request.event, request.key
        if isinstance(event, UnsetType):
            raise InvalidError('"event" is missing, or "entries" in its place', field="event")
        name = event_name(event)
        if key is not None:
            check_key(key)
            if key <= head.key_high and not are_keys_new:
                return None
        self._check(head, request)
        first = head.next_sequence
        self._add(head, submission, name, event, request)
        return first

    def _record_many(
        self, head: Head, request: Append, submission: Submission, *, are_keys_new: bool
    ) -> Sequence | None:
        names = check_entries(request)
        if not are_keys_new and any(key <= head.key_high for key in keys_of(request)):
            return None
        self._check(head, request)
        first = head.next_sequence
        for name, fields in zip(names, request.entries or (), strict=True):
            assert isinstance(fields.event, Raw)  # noqa: S101 - check_entries saw to it
            self._add(head, submission, name, fields.event, fields)
        return first

    def _check(self, head: Head, request: Append) -> None:
        epoch = request.epoch or 0
        if epoch != head.epoch:
            raise StaleEpochError(
                f"{head.agent_id} is held by epoch {head.epoch}, this append carries {epoch}; "
                "another attempt took over: stop writing",
                current=head.epoch,
            )
        expected = request.expected_sequence
        if expected is not None and expected != head.next_sequence:
            raise SequenceConflictError(
                f"the next sequence of {head.agent_id} is {head.next_sequence}, not {expected}; "
                "read what was recorded since, then decide",
                expected=expected,
                actual=head.next_sequence,
            )
        if head.next_sequence or not is_terminal(head.state):
            advance(head.state, Change.RECORDED)

    def _add(
        self,
        head: Head,
        submission: Submission,
        name: str,
        event: Raw,
        fields: Append | EntryFields,
    ) -> None:
        """Add one entry; everything was checked."""
        given = fields.timestamp
        timestamp = micros_from(given) if isinstance(given, datetime) else self._context.now
        sequence = head.next_sequence
        raw = bytes(event)
        if head.is_new or name == TERMINATED or head.state is not AgentState.RUNNING:
            head.updated_at = timestamp
            _change(head, name, raw)
            submission.changes.append(AgentChange(len(submission.entries), head.record()))
        submission.entries.append(
            NewEntry(head.number, sequence, timestamp, fields.iteration, raw, fields.key)
        )
        head.next_sequence = Sequence(sequence + 1)
        if fields.key is not None:
            is_committed = self._heads.is_committed(head)
            remember_key(head, fields.key, sequence, is_committed=is_committed)
        head.batch = self._heads.batch

    async def prepare(self, caller: Caller, uid: Uid, request: Append) -> bytes | None:
        """Bring into memory what ``record`` needs; return the reply if it is a repeat.

        On ``None`` the keys are known to be new, until the next await.

        Raises:
            RequestError: a key was used for something else.
        """
        check_entries(request)
        keys = keys_of(request)
        heads = self._heads.namespace(uid)
        while True:
            await self._heads.load(uid, AgentId(request.agent_id))
            head = heads.get(request.agent_id)
            if head is None:
                continue
            number = head.number
            used = {key: await self._context.store.find_key(number, key) for key in keys}
            head = heads.get(request.agent_id)
            if head is None or head.number != number:
                continue  # compacted, or forgotten, while the store was asked
            used |= {key: head.keys[key] for key in keys if key in head.keys}
            sequences = [used[key] for key in keys]
            if all(sequence is None for sequence in sequences):
                return None
            return await self._repeat(caller, uid, request, head, sequences)

    async def _repeat(
        self,
        caller: Caller,
        uid: Uid,
        request: Append,
        head: Head,
        sequences: Seq[Sequence | None],
    ) -> bytes:
        """Answer an append whose keys were used before."""
        number = head.number
        await settle(caller, uid)  # the first write may still be on its way
        first = min(sequence for sequence in sequences if sequence is not None)
        events = events_of(request)
        if list(sequences) != list(range(first, first + len(events))):
            raise KeyConflictError(
                "some of these keys were used before and some were not, or in another order; "
                "repeat an append as it was, or use new keys",
                sequence=first,
            )
        recorded: list[Entry] = []
        while len(recorded) < len(events):
            some = await self._context.store.read(
                number,
                from_sequence=first + len(recorded),
                limit=len(events) - len(recorded),
                bytes_max=self._context.config.limits.reply_bytes_max,
            )
            if not some:
                break
            recorded += some
        if len(recorded) != len(events) or not all(
            is_same_event(old.event, new) for old, new in zip(recorded, events, strict=True)
        ):
            raise KeyConflictError(
                f"the key was used for another event, at sequence {first}; use a new key",
                sequence=first,
            )
        return appended_reply(
            request.id, first, recorded[0].position, len(events), is_duplicate=True
        )


def _change(head: Head, name: str, event: bytes) -> None:
    """Move the head's state as the event says."""
    if head.state is not AgentState.RUNNING:  # compacted: it begins again
        head.state, head.reason = AgentState.RUNNING, None
    if name == TERMINATED:
        reason = terminated_reason(event)
        change = Change.COMPLETED if reason == "Completed" else Change.FAILED
        head.state, head.reason = advance(head.state, change), reason
    head.is_new = False


def check_entries(request: Append) -> list[str]:
    """Return the names of an append's events, all of which are acceptable.

    Raises:
        InvalidError: naming the field of the first that is not.
    """
    check_agent_id(request.agent_id)
    entries = request.entries
    if entries is None:
        if isinstance(request.event, UnsetType):
            raise InvalidError('"event" is missing, or "entries" in its place', field="event")
        if request.key is not None:
            check_key(request.key)
        return [event_name(request.event)]
    if not entries:
        raise InvalidError('"entries" is empty; send one entry at least', field="entries")
    if request.event is not UNSET or request.key is not None or request.timestamp is not None:
        raise InvalidError(
            'with "entries", each of them has its own event, iteration, timestamp and key',
            field="entries",
        )
    names = [_entry_name(index, fields) for index, fields in enumerate(entries)]
    if TERMINATED in names[:-1]:
        field = f"entries[{names.index(TERMINATED)}].event"
        raise InvalidError(f'"{field}": nothing can follow Terminated', field=field)
    keys = keys_of(request)
    if len(set(keys)) != len(keys):
        raise InvalidError('"entries": two of them have the same key', field="entries")
    return names


def _entry_name(index: int, fields: EntryFields) -> str:
    try:
        if isinstance(fields.event, UnsetType):
            raise InvalidError('"event" is missing', field="event")  # noqa: TRY301
        if fields.key is not None:
            check_key(fields.key)
        return event_name(fields.event)
    except InvalidError as error:
        field = f"entries[{index}].{error.details['field']}"
        raise InvalidError(f"entries[{index}]: {error.message}", field=field) from None


def keys_of(request: Append) -> list[str]:
    """Return the idempotency keys of an append, in order."""
    if request.entries is None:
        return [] if request.key is None else [request.key]
    return [fields.key for fields in request.entries if fields.key is not None]


def events_of(request: Append) -> list[bytes]:
    """Return the events of an append, in order."""
    sources: Seq[Append | EntryFields] = (
        [request] if request.entries is None else request.entries
    )
    return [bytes(source.event) for source in sources if isinstance(source.event, Raw)]
