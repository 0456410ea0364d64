"""Tells whether a journal is what its clients were promised, by a ledger kept outside it.

The promise is one sentence: *what is stored is what a prefix of each
connection's requests would have left, and the prefix holds every request that
was answered.*  From it follows all that is usually asked one by one:
acknowledged is a part of stored and stored is a part of attempted, nothing
twice, ``entries`` all or none, sequences without a gap, the order of each
connection kept, compactions whole or not at all, keys remembered.  The checker
looks for such a prefix of each ``Talk``; where there is none, it says which of
these is broken, since that is what one wants to know.

Positions are looked at one by one: they only rise, are never given twice, not
even over restarts and compactions, and an answer names the right one.

An agent is written by one connection between two checks (then its content, and
every answer, is known exactly), or *shared* by several that only append.

    checker = Checker()
    run(talks)  # by whatever means, through crashes and all
    checker.check(daemon, talks)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from agent_journal.testing.daemon import RunningDaemon
from crash.ledger import Attempt, BrokenJournalError, Item, Name, Reply, Talk
from crash.model import AgentModel, Models, is_refused_for_now, recorded, said
from crash.snapshot import Snapshot, Stored, take_snapshot
from crash.witness import Witness

__all__ = ["BrokenJournalError", "Checker"]


class Checker:
    """What must be in the journal, from one check to the next."""

    def __init__(self) -> None:
        self.models: Models = {}
        self.next_position = 0  # every position below it was given, or never will be
        self.acknowledged = 0  # requests, for the record
        self.in_doubt = 0
        self.recorded_in_doubt = 0

    def next_sequence(self, name: Name) -> int:
        """Return what the next entry of an agent will be, as of the last check."""
        model = self.models.get(name)
        return len(model.entries) if model else 0

    def check(
        self,
        daemon: RunningDaemon,
        talks: Sequence[Talk] = (),
        witnesses: Sequence[Witness] = (),
    ) -> Snapshot:
        """Compare the journal with what was in it at the last check, and *talks* since.

        Raises:
            BrokenJournalError: a promise was not kept.
        """
        found = take_snapshot(daemon)
        replies = [talk.replies() for talk in talks]
        shared = _shared(talks)
        problems = [
            *_invented_or_doubled(found, self.models, talks),
            *_wrong_positions(found, self.models, talks, replies, self.next_position),
        ]
        models: Models = {}
        for talk, answers in zip(talks, replies, strict=True):
            problems += self._check_talk(talk, answers, shared, found, models)
        problems += self._check_shared(shared, talks, found, models)
        problems += self._check_untouched(found, models)
        compacted = {
            attempt.agent for talk in talks for attempt in talk.attempts if not attempt.items
        }
        for witness in witnesses:
            problems += witness.problems(found.entries, compacted)
        if problems:
            raise BrokenJournalError(problems)
        self.models |= models
        self.next_position = found.next_position
        return found

    def _check_talk(
        self,
        talk: Talk,
        replies: Sequence[Reply],
        shared: set[Name],
        found: Snapshot,
        models: Models,
    ) -> Iterator[str]:
        """Find the prefix of *talk* that explains what is stored; add its agents' new models."""
        search = _PrefixSearch(talk, replies, shared, found, self.models)
        prefix = search.run()
        if search.problems:
            yield from search.problems
        elif prefix is None:
            lost = list(_lost(talk, replies, shared, found))
            yield from lost
            if not lost:
                yield (
                    f"{talk.name}: no prefix of its requests between {len(replies)} (answered) "
                    f"and {talk.sent} (sent) leaves what is stored: {search.nearest()} "
                    f"(the connection ended by: {talk.ended_by})"
                )
        else:
            wanted = search.models_at(prefix)
            yield from _not_as_asked(wanted, found)
            models |= {name: _settled(name, model, found) for name, model in wanted.items()}
            self.acknowledged += len(replies)
            self.in_doubt += talk.sent - len(replies)
            self.recorded_in_doubt += prefix - len(replies)

    def _check_shared(
        self, shared: set[Name], talks: Sequence[Talk], found: Snapshot, models: Models
    ) -> Iterator[str]:
        """Check agents with several writers: nothing old changed, new appends came whole."""
        attempts = {
            (attempt.agent, attempt.items[0].event): attempt
            for talk in talks
            for attempt in talk.attempts
            if attempt.agent in shared
        }
        for name in shared:
            model = self.models.get(name, AgentModel()).copy()
            entries = found.entries.get(name, [])
            while len(model.entries) < len(entries):
                event = entries[len(model.entries)].event
                attempt = attempts.get((name, event))
                if attempt is None:
                    yield f"{name}: {len(model.entries)} begins no append: {event[:80]!r}"
                    break
                model.serve(attempt)
            yield from _not_as_asked({name: model}, found)
            models[name] = _settled(name, model, found)

    def _check_untouched(self, found: Snapshot, models: Models) -> Iterator[str]:
        for name in (set(self.models) | set(found.states)) - set(models):
            yield from _not_as_asked({name: self.models.get(name, AgentModel())}, found)


class _PrefixSearch:
    """Executes a conversation against the model, and sees when it has what is stored."""

    def __init__(
        self,
        talk: Talk,
        replies: Sequence[Reply],
        shared: set[Name],
        found: Snapshot,
        models: Models,
    ) -> None:
        self.problems: list[str] = []
        self._talk = talk
        self._replies = replies
        self._shared = shared
        self._found = found
        self._models = models
        self._sent = talk.attempts[: talk.sent]
        self._names = {attempt.agent for attempt in self._sent} - shared
        self._shared_events = {
            name: {one.event for one in found.entries.get(name, [])} for name in shared
        }

    def run(self) -> int | None:
        """Return the length of the shortest prefix that explains everything."""
        models = self._begin()
        wrong = {name for name in self._names if not self._is_there(name, models[name])}
        shared_left = sum(self._is_shared_and_there(attempt) for attempt in self._sent)
        if not (self._replies or wrong or shared_left):
            return 0
        for index, attempt in enumerate(self._sent):
            reply = self._reply(index)
            if is_refused_for_now(reply):
                pass  # as if it had never been sent
            elif attempt.agent in self._shared:
                if reply is not None:
                    self._compare_shared(index, attempt, reply)
                elif not self._is_shared_and_there(attempt):
                    return None  # it was not reached, so nothing behind it was
                shared_left -= self._is_shared_and_there(attempt)
            else:
                self._serve(index, attempt, reply, models[attempt.agent])
                is_there = self._is_there(attempt.agent, models[attempt.agent])
                (wrong.discard if is_there else wrong.add)(attempt.agent)
            if index + 1 >= len(self._replies) and not (wrong or shared_left):
                return index + 1
        return None

    def models_at(self, prefix: int) -> Models:
        """Return what the talk's own agents are after *prefix* requests."""
        models = self._begin()
        for index, attempt in enumerate(self._sent[:prefix]):
            if attempt.agent not in self._shared and not is_refused_for_now(self._reply(index)):
                models[attempt.agent].serve(attempt)
        return models

    def nearest(self) -> str:
        """Say where the answered requests alone would have left something else."""
        models = self.models_at(len(self._replies))
        differences = [
            f"{name}: {len(model.entries)} entries by what was answered, "
            f"{len(self._found.entries.get(name, []))} found"
            for name, model in models.items()
            if not self._is_there(name, model)
        ]
        return "; ".join(differences[:4])

    def _reply(self, index: int) -> Reply | None:
        return self._replies[index] if index < len(self._replies) else None

    def _begin(self) -> Models:
        nothing = AgentModel()
        return {name: self._models.get(name, nothing).copy() for name in self._names}

    def _is_shared_and_there(self, attempt: Attempt) -> bool:
        events = self._shared_events.get(attempt.agent, ())
        return bool(attempt.items) and attempt.items[0].event in events

    def _is_there(self, name: Name, model: AgentModel) -> bool:
        # No event is like another: where the number and the last one agree, this
        # is the right prefix, and _not_as_asked looks at every byte of it.
        entries = self._found.entries.get(name, [])
        if len(entries) != len(model.entries) or self._found.states.get(name) != model.state:
            return False
        return not entries or entries[-1].event == model.entries[-1].event

    def _serve(self, index: int, attempt: Attempt, reply: Reply | None, model: AgentModel) -> None:
        expected = model.serve(attempt)
        if reply is not None and said(reply) != expected:
            self.problems.append(
                f"{self._talk.name}: request {index} {self._talk.lines[index][:120]!r} "
                f"was answered {said(reply)!r}, not {expected!r}"
            )

    def _compare_shared(self, index: int, attempt: Attempt, reply: Reply) -> None:
        entries = self._found.entries.get(attempt.agent, [])
        first = reply.sequence or 0
        there = [entry.event for entry in entries[first : first + len(attempt.items)]]
        words = recorded(first, len(attempt.items))
        asked = [item.event for item in attempt.items]
        if said(reply) not in (words, words + " duplicate") or there != asked:
            self.problems.append(
                f"{self._talk.name}: request {index} to {attempt.agent} was answered "
                f"{said(reply)!r} and is not there"
            )


def _shared(talks: Sequence[Talk]) -> set[Name]:
    writers = Counter(
        name for talk in talks for name in {attempt.agent for attempt in talk.attempts}
    )
    return {name for name, count in writers.items() if count > 1}


def _settled(name: Name, model: AgentModel, found: Snapshot) -> AgentModel:
    """Return *model* with what was found in place of what was asked for."""
    return AgentModel(entries=[*found.entries.get(name, [])], keys=model.keys, state=model.state)


def _not_as_asked(models: Models, found: Snapshot) -> Iterator[str]:
    """Yield where the journal differs from what a model asks for, to the byte."""
    for name, model in models.items():
        entries = found.entries.get(name, [])
        if found.states.get(name) != model.state:
            yield f"{name}: its state is {found.states.get(name)}, not {model.state}"
        if len(entries) != len(model.entries):
            yield f"{name}: {len(entries)} entries stored, {len(model.entries)} asked for"
        for stored, wanted in zip(entries, model.entries, strict=False):
            if not _is_as_asked(stored, wanted):
                yield f"{name}: asked for {wanted!r:.300}, stored is {stored!r:.300}"
                break  # what follows is a consequence, as a rule


def _is_as_asked(stored: Stored, wanted: Stored | Item) -> bool:
    if isinstance(wanted, Stored):
        return stored == wanted
    return (
        stored.event == wanted.event
        and stored.iteration == wanted.iteration
        and wanted.timestamp in (None, stored.timestamp)
    )


def _invented_or_doubled(found: Snapshot, models: Models, talks: Sequence[Talk]) -> Iterator[str]:
    """Yield what is stored and was never asked for, and what is stored twice."""
    attempted: dict[Name, set[bytes]] = {}
    for name, model in models.items():
        attempted[name] = {entry.event for entry in model.entries}
    for talk in talks:
        for attempt in talk.attempts[: talk.sent]:
            attempted.setdefault(attempt.agent, set()).update(one.event for one in attempt.items)
    for name, entries in found.entries.items():
        known = attempted.get(name, set())
        for entry in entries:
            if entry.event not in known:
                yield f"{name}: nobody asked for {entry.sequence}: {entry.event[:80]!r}"
        events = Counter(entry.event for entry in entries)
        for event, count in events.items():
            if count > 1:
                yield f"{name}: stored {count} times: {event[:80]!r}"


def _lost(
    talk: Talk, replies: Sequence[Reply], shared: set[Name], found: Snapshot
) -> Iterator[str]:
    """Yield what was acknowledged and is not there, of agents that were not compacted."""
    compacted = {attempt.agent for attempt in talk.attempts if not attempt.items}
    for index, reply in enumerate(replies):
        attempt = talk.attempts[index]
        if not reply.ok or attempt.agent in compacted or attempt.agent in shared:
            continue
        first = reply.sequence or 0
        entries = found.entries.get(attempt.agent, [])[first : first + len(attempt.items)]
        if [entry.event for entry in entries] != [item.event for item in attempt.items]:
            yield (
                f"{talk.name}: request {index} was acknowledged and is lost: {attempt.agent} "
                f"{said(reply)}, of {len(found.entries.get(attempt.agent, []))} entries stored"
            )


def _wrong_positions(
    found: Snapshot,
    models: Models,
    talks: Sequence[Talk],
    replies: Sequence[Sequence[Reply]],
    floor: int,
) -> Iterator[str]:
    """Yield positions that were given twice, or that an answer had wrong."""
    given: dict[int, str] = {}
    for talk, answers in zip(talks, replies, strict=True):
        for index, reply in enumerate(answers):
            if reply.position is None or reply.duplicate:
                continue
            attempt = talk.attempts[index]
            what = f"{talk.name} request {index}"
            for position in range(reply.position, reply.position + len(attempt.items)):
                if position < floor or position in given:
                    yield f"{what} got position {position}, which was given before"
                given[position] = what
            yield from _misplaced(found, attempt, reply, what)
    if max([floor - 1, *given]) >= found.next_position:
        yield f"the end is at {found.next_position}, but {max([floor - 1, *given])} was given"
    old = {
        entry.position
        for model in models.values()
        for entry in model.entries
        if isinstance(entry, Stored)
    }
    for name, entries in found.entries.items():
        for entry in entries:
            if entry.position not in old and entry.position < floor:
                yield f"{name} sequence {entry.sequence} has the old position {entry.position}"


def _misplaced(found: Snapshot, attempt: Attempt, reply: Reply, what: str) -> Iterator[str]:
    entries = found.entries.get(attempt.agent, [])
    first, position = reply.sequence or 0, reply.position or 0
    for place, item in enumerate(attempt.items):
        if first + place < len(entries) and entries[first + place].event == item.event:
            stored = entries[first + place].position
            if stored != position + place:
                yield f"{what} got position {position + place}, it is stored at {stored}"
