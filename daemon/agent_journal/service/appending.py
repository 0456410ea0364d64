"""Checks and numbers an append, against the agent's head in memory.

Nothing is changed before everything was checked, so an append that is refused
leaves no trace.  ``record_common`` takes what nearly every append is: one entry of
an agent that runs, and nothing against it.  Whatever else a request is or says,
``record`` finds out.  Where the head or an old idempotency key is not in memory,
it says so, and ``prepare`` asks the store; a key greater than any that its agent
ever used must be new, so rising keys cost no look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from typing import Final, Protocol

from msgspec import UNSET, Raw

from ..errors import (
    InvalidError,
    KeyConflictError,
    OverloadedError,
    SequenceConflictError,
    StaleEpochError,
)
from ..lifecycle import Change, advance, is_terminal
from ..model import AgentId, AgentState, Micros, Sequence, Uid
from ..store.base import AgentChange, AgentNumber, Entry, NewEntry
from ..wire import (
    Append,
    EntryFields,
    Request,
    RequestId,
    appended_reply,
    check_agent_id,
    check_key,
    event_name,
    is_key,
    is_same_event,
    micros_from,
    terminated_reason,
)
from .admission import RETRY_MS, Account
from .amending import head_of, settle
from .committer import shutting_down
from .context import Context
from .heads import Head, Namespace, recent_key, remember_key

TERMINATED: Final = "Terminated"
RUNNING: Final = AgentState.RUNNING
GIVEN_UP: Final = frozenset(
    {AgentState.WAITING, AgentState.INTERRUPTED, AgentState.RESUMING}
)  # of an agent that was attached to: nobody holds it


class Run(Protocol):
    """Where accepted appends go."""

    entries: list[NewEntry]
    changes: list[AgentChange]
    ids: list[RequestId]
    sequences: list[int]
    counts: dict[int, int]


class Recorder:
    """Turns appends into entries of a run."""

    def __init__(self, context: Context, uid: Uid, account: Account) -> None:
        self.now = Micros(0)  # the time of receipt
        self._context = context
        self._heads = context.heads
        self._admission = context.admission
        self._account = account
        self._own = context.heads.namespace(uid)
        self._own_heads = self._own.heads
        self._is_refusing = False  # nothing is recorded now, whatever it is

    def begin(self) -> None:
        """Take the time of receipt, and the bounds, for what is looked at now."""
        self.now = Micros(self._context.clock.wall_us())
        admission = self._admission
        self._is_refusing = self._context.committer.is_closing or (
            admission.is_tight and admission.is_overfull(self._account)
        )

    def record_common(
        self, lines: Iterator[bytes], run: Run, decode: Callable[[bytes], Request]
    ) -> Request | None:
        """Add the common appends that *lines* begin with to *run*; return the first other request.

        This is what happens for each entry, so it is written out.  What is returned
        was decoded and left alone: ``record`` says what becomes of it, or who else.

        Raises:
            RefusedLineError: a line is no request; *lines* go on behind it.
        """
        own, now = self._own, self.now
        find, submission = self._own_heads.get, own.submitted + 1
        add_entry, add_id, add_sequence = run.entries.append, run.ids.append, run.sequences.append
        for line in lines:
            request = decode(line)
            if type(request) is not Append or self._is_refusing:
                return request
            head = find(request.agent_id)
            if (
                head is None
                or head.state is not RUNNING
                or head.is_new
                or request.entries is not None
                or request.uid is not None
                or request.timestamp is not None
                or (request.epoch or 0) != head.epoch
                or request.expected_sequence not in (None, head.next_sequence)
                or ((key := request.key) is not None and not (is_key(key) and key > head.key_high))
            ):
                return request
            event, sequence = request.event, head.next_sequence
            try:
                is_common = event_name(event) != TERMINATED
            except InvalidError:
                is_common = False
            if not is_common:
                return request
            add_entry(
                NewEntry(head.number, sequence, now, request.iteration, bytes(event), key)  # type: ignore[arg-type] # event_name saw that it is there
            )
            add_id(request.id)
            add_sequence(sequence)
            head.next_sequence = sequence + 1  # type: ignore[assignment] # still a sequence
            head.submission = submission
            if key is not None:
                remember_key(own, head, key, sequence)
        return None

    def record(self, request: Append, run: Run) -> bool:
        """Add what *request* records to *run*; False: ``prepare`` has to be asked first.

        Raises:
            RequestError: it is refused, and nothing was changed.
            OverloadedError: too much is in flight.
        """
        self._check_closing()
        if self._is_refusing:
            raise OverloadedError(
                f"too much is in flight; nothing of this was recorded, try again in {RETRY_MS} ms",
                retry_ms=RETRY_MS,
            )
        check_agent_id(request.agent_id)
        head = self._own_heads.get(request.agent_id)
        if head is None or request.uid is not None:
            return False
        check_entries(request)
        if any(key <= head.key_high for key in keys_of(request)) or _may_be_repeat(head, request):
            return False
        self._record_all(self._own, head, request, run)
        return True

    def record_prepared(self, uid: Uid, request: Append, run: Run) -> None:
        """Add what ``prepare`` found to be new."""
        self.begin()
        self._check_closing()
        namespace = self._heads.namespace(uid)
        self._record_all(namespace, namespace.heads[request.agent_id], request, run)

    def _check_closing(self) -> None:
        """Refuse everything once nothing more is committed.

        What is queued will be, still, and the heads that knew it may be gone: nothing
        that they say then is to be told.
        """
        if self._context.committer.is_closing:
            raise shutting_down()

    def _record_all(self, namespace: Namespace, head: Head, request: Append, run: Run) -> None:
        """Add the entries of *request*, whose form and keys were checked."""
        _check_open(head, request)
        sources: Seq[Append | EntryFields] = request.entries or [request]
        first = head.next_sequence
        for source in sources:
            self._add(namespace, head, run, event_name(source.event), source)
        if len(sources) > 1:
            run.counts[len(run.ids)] = len(sources)
        run.ids.append(request.id)
        run.sequences.append(first)

    def _add(
        self, namespace: Namespace, head: Head, run: Run, name: str, source: Append | EntryFields
    ) -> None:
        """Add one entry, and what it means for its agent's state."""
        given = source.timestamp
        timestamp = self.now if given is None else micros_from(given)
        sequence = head.next_sequence
        event = bytes(source.event)  # type: ignore[arg-type] # event_name saw that it is there
        if head.is_new or name == TERMINATED or head.state is not RUNNING:
            if head.is_new:
                head.created_at = timestamp
            head.updated_at = timestamp
            if name == TERMINATED and head.attachment is not None:
                self._context.owners.ending((head.uid, head.agent_id), head.epoch)
            _change(head, name, event)
            run.changes.append(head.change(len(run.entries)))
        run.entries.append(
            NewEntry(head.number, sequence, timestamp, source.iteration, event, source.key)
        )
        head.next_sequence = Sequence(sequence + 1)
        if source.key is not None:
            remember_key(namespace, head, source.key, sequence)
        head.submission = namespace.submitted + 1

    async def prepare(self, uid: Uid, request: Append) -> bytes | None:
        """Bring into memory what ``record`` needs; return the reply if it is a repeat.

        On ``None`` the keys are known to be new, until the next await.

        Raises:
            RequestError: a key was used for something else.
        """
        check_entries(request)
        keys = keys_of(request)
        sources: Seq[Append | EntryFields] = request.entries or [request]
        places = [place for place, source in enumerate(sources) if source.key is not None]
        heads = self._heads.namespace(uid).heads
        while True:
            await self._heads.load(uid, AgentId(request.agent_id))
            head = heads.get(request.agent_id)
            if head is None:
                continue
            if _may_be_repeat(head, request):
                reply = await self._repeat_in_place(uid, request, head.number)
                if reply is not None:
                    return reply
                head = await head_of(self._context, uid, head.agent_id)
                _check_open(head, request)  # it is no repeat, so it is refused
                continue
            number, turns = head.number, head.keys_turns
            used = {key: await self._context.store.find_key(number, key) for key in keys}
            if heads.get(request.agent_id) is not head or head.number != number:
                continue  # compacted, or forgotten, while the store was asked
            if head.keys_turns > turns + 1:
                continue  # what was used meanwhile may not be remembered any more
            used |= {key: at for key in keys if (at := recent_key(head, key)) is not None}
            sequences = [used[key] for key in keys]
            if all(sequence is None for sequence in sequences):
                return None
            # Where the append began, if each of its keys was used as it uses it.
            begins = {
                None if sequence is None else sequence - place
                for sequence, place in zip(sequences, places, strict=True)
            }
            reply = await self._repeat(uid, request, number, begins)
            if reply is not None:
                return reply

    async def _repeat_in_place(
        self, uid: Uid, request: Append, number: AgentNumber
    ) -> bytes | None:
        """Answer an attached writer's append that is recorded where it belongs, if it is."""
        await settle(self._context, uid)  # the first write may still be on its way
        first = request.expected_sequence or 0
        recorded = await self._recorded(number, first, events_of(request))
        if recorded is None:
            return None
        return appended_reply(
            request.id, first, recorded[0].position, len(recorded), is_duplicate=True
        )

    async def _repeat(
        self, uid: Uid, request: Append, number: AgentNumber, begins: set[int | None]
    ) -> bytes | None:
        """Answer an append whose keys were used before; ``None``: they were removed meanwhile."""
        await settle(self._context, uid)  # the first write may still be on its way
        first = min(begin for begin in begins if begin is not None)
        if len(begins) != 1 or first < 0:
            raise KeyConflictError(
                "some of these keys were used before and some were not, or in another order; "
                "repeat an append as it was, or use new keys",
                sequence=max(first, 0),
            )
        recorded = await self._recorded(number, first, events_of(request))
        if recorded is None:
            head = await head_of(self._context, uid, AgentId(request.agent_id))
            if head.number != number:
                return None
            raise KeyConflictError(
                f"the key was used for another event, at sequence {first}; use a new key",
                sequence=first,
            )
        return appended_reply(
            request.id, first, recorded[0].position, len(recorded), is_duplicate=True
        )

    async def _recorded(
        self, number: AgentNumber, first: int, events: list[bytes]
    ) -> list[Entry] | None:
        """Return the entries from *first* on, if they are what *events* say."""
        recorded: list[Entry] = []
        while len(recorded) < len(events):
            some = await self._context.store.read(
                number,
                from_sequence=first + len(recorded),
                limit=len(events) - len(recorded),
                bytes_max=self._context.config.limits.reply_bytes_max,
            )
            if not some:
                return None
            recorded += some
        is_same = all(
            is_same_event(old.event, new) for old, new in zip(recorded, events, strict=True)
        )
        return recorded if is_same else None


def _may_be_repeat(head: Head, request: Append) -> bool:
    """Tell whether an attached writer may be asking for an answer that it never saw.

    Its epoch fences all others off, and so nobody else recorded, at the sequence
    that it expects, just what it wants to record.
    """
    expected = request.expected_sequence
    return (
        head.epoch > 0
        and request.epoch == head.epoch
        and expected is not None
        and expected < head.next_sequence
    )


def _check_open(head: Head, request: Append) -> None:
    """Refuse an append that comes too late, or was made with another state in mind.

    An agent that has ended says so to everybody.  Then who is fenced off is told so,
    and the owner that the agent is parked, before anything of sequences: an entry of the
    daemon's own (``Parked``, ``Cancelled``) has moved these, and is what matters.
    """
    is_over = is_terminal(head.state)
    if is_over and head.next_sequence:  # one that was emptied may begin again
        _check_state(head)
    _check_epoch(head, request.epoch or 0)
    if not is_over:
        _check_state(head)
    expected = request.expected_sequence
    if expected is not None and expected != head.next_sequence:
        raise SequenceConflictError(
            f"the next sequence of {head.agent_id} is {head.next_sequence}, not {expected}; "
            "read what was recorded since, then decide",
            expected=expected,
            actual=head.next_sequence,
        )


def _check_state(head: Head) -> None:
    if head.epoch and head.state in GIVEN_UP:
        raise StaleEpochError(
            f"{head.agent_id} is {head.state}: the attempt of epoch {head.epoch} is over; "
            "stop writing, or attach again",
            current=head.epoch,
        )
    advance(head.state, Change.RECORDED, head.agent_id)


def _check_epoch(head: Head, epoch: int) -> None:
    if epoch == head.epoch:
        return
    if not head.epoch:
        text = (
            f"nobody ever attached to {head.agent_id}, and this append carries epoch {epoch}; "
            "append without one, or attach first"
        )
    elif epoch:
        text = (
            f"{head.agent_id} is at epoch {head.epoch}, and this append carries {epoch}: "
            "another attempt took over, stop writing"
        )
    else:
        text = (
            f"{head.agent_id} is at epoch {head.epoch}, and this append carries none: "
            'its owner alone writes, with the "epoch" of its attach'
        )
    raise StaleEpochError(text, current=head.epoch)


def _change(head: Head, name: str, event: bytes) -> None:
    """Move the head's state as the event says."""
    if is_terminal(head.state):  # compacted: it begins again
        head.attempts = 0
    if head.state is not RUNNING:
        head.state, head.reason = RUNNING, None
    if name == TERMINATED:
        reason = terminated_reason(event)
        change = Change.COMPLETED if reason == "Completed" else Change.FAILED
        head.state, head.reason = advance(head.state, change, head.agent_id), reason
        head.attachment = None
    head.is_new = False


def check_entries(request: Append) -> list[str]:
    """Return the names of an append's events, all of which are acceptable.

    Raises:
        InvalidError: naming the field of the first that is not.
    """
    check_agent_id(request.agent_id)
    entries = request.entries
    if entries is None:
        _check_fields(request)
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
        _check_fields(fields)
        return event_name(fields.event)
    except InvalidError as error:
        field = f"entries[{index}].{error.details['field']}"
        raise InvalidError(f"entries[{index}]: {error.message}", field=field) from None


def _check_fields(source: Append | EntryFields) -> None:
    if source.key is not None:
        check_key(source.key)
    if source.timestamp is not None:
        micros_from(source.timestamp)


def keys_of(request: Append) -> list[str]:
    """Return the idempotency keys of an append, in order."""
    if request.entries is None:
        return [] if request.key is None else [request.key]
    return [fields.key for fields in request.entries if fields.key is not None]


def events_of(request: Append) -> list[bytes]:
    """Return the events of an append, in order."""
    sources: Seq[Append | EntryFields] = [request] if request.entries is None else request.entries
    return [bytes(source.event) for source in sources if isinstance(source.event, Raw)]
