"""Holds what is stored against what was asked and answered, however the daemon ended.

Appends and compactions: some prefix of the requests, no shorter than what was
answered, leaves exactly what is stored (as ``crash.checker`` has it).  The rest:
what was acknowledged is there, what was refused is not, nothing is there twice,
and nothing that nobody asked for.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from agent_journal.testing.daemon import RunningDaemon
from crash.ledger import REFUSED_FOR_NOW, BrokenJournalError, Item, Name, Reply, Talk
from crash.model import AgentModel, Models, said
from crash.snapshot import Snapshot, Stored, take_snapshot
from faults.scenario import Deed, Story

PATIENCE_S = 20.0
STATE_BY = {"park": "parked", "cancel": "cancelled", "detach": "waiting", "attach": "running"}
_TOKEN = re.compile(rb'"t":\s*"([^"]+)"')


def check(daemon: RunningDaemon, stories: Sequence[Story]) -> Snapshot:
    """Compare the journal with *stories*, each told by a daemon of its own.

    Raises:
        BrokenJournalError: a promise was not kept.
    """
    found = _at_rest(daemon)
    problems = list(_doubled(found, stories))
    for story in stories:
        problems += story.problems
        problems += _of_talk(story.talk, found)
        problems += _of_deeds(story, found)
        problems += _epochs(daemon, story)
        problems += _shown(story, found)
    if problems:
        raise BrokenJournalError(problems)
    return found


def _at_rest(daemon: RunningDaemon) -> Snapshot:
    """Return a snapshot in which the launched agents do not move."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return take_snapshot(daemon)
        except BrokenJournalError as error:
            is_moving = all("-launched" in problem for problem in error.problems)
            if not is_moving or time.monotonic() > deadline:
                raise


def token_of(event: bytes) -> str | None:
    """Return the token of an event that a test made."""
    found = _TOKEN.search(event)
    return found[1].decode() if found else None


def tokens(found: Snapshot) -> dict[str, list[tuple[Name, Stored]]]:
    """Return where each token is stored."""
    places: dict[str, list[tuple[Name, Stored]]] = {}
    for name, entries in found.entries.items():
        for entry in entries:
            token = token_of(entry.event)
            if token is not None:
                places.setdefault(token, []).append((name, entry))
    return places


def _doubled(found: Snapshot, stories: Sequence[Story]) -> Iterator[str]:
    asked = Counter[str | None]()
    for story in stories:
        for attempt in story.talk.attempts[: story.talk.sent]:
            asked.update({token_of(item.event) for item in attempt.items})
        asked.update(deed.token for deed in story.deeds)
    copied = {name for name in found.entries if name[1].endswith("-fork")}
    for token, places in tokens(found).items():
        own = [name for name, _ in places if name not in copied]
        if token not in asked:
            yield f"nobody asked for {token}, which is in {places}"
        if len(own) > 1 or len(places) > 2:
            yield f"{token} is stored {len(places)} times: {places}"


def _shown(story: Story, found: Snapshot) -> Iterator[str]:
    """Yield what a tail showed that is not so, is out of order, or was left out."""
    if story.tail is None:
        return
    story.tail.join(PATIENCE_S)
    if story.tail.is_alive():
        yield "a tail does not end with its daemon"
    compacted = {attempt.agent for attempt in story.talk.attempts if not attempt.items}
    shown = story.tail.shown
    for name, stored in shown:
        entries = found.entries.get(name, [])
        if name not in compacted and entries[stored.sequence : stored.sequence + 1] != [stored]:
            yield f"a tail showed {name} {stored}, which is not there"
    positions = [stored.position for _, stored in shown]
    if positions != sorted(set(positions)):
        yield f"a tail showed positions out of order: {positions}"
    for name, entries in found.entries.items():
        copies = len(entries) if name[1].endswith("-fork") else 0
        for stored in entries[copies:]:
            if positions and stored.position < positions[-1] and stored.position not in positions:
                yield f"a tail left out {name} {stored}"


# Appends and compactions


def _is_refused_for_now(reply: Reply | None) -> bool:
    """Tell whether nothing was done; what could not be read from the disk is ``damaged``."""
    if reply is None or reply.error is None:
        return False
    return reply.error.code in REFUSED_FOR_NOW or reply.error.code == "damaged"


def _of_talk(talk: Talk, found: Snapshot) -> Iterator[str]:
    replies = talk.replies()
    if wrong := list(_wrong_answers(talk, replies)):
        yield from wrong
        return
    yield from _refused_and_there(talk, found)
    for prefix in range(len(replies), talk.sent + 1):
        models = _models(talk, replies, prefix)
        if all(_is_there(name, model, found) for name, model in models.items()):
            return
    differences = [
        f"{name[1]}: {len(model.entries)} entries and {model.state} by what was answered, "
        f"{len(found.entries.get(name, []))} and {found.states.get(name)} found"
        for name, model in _models(talk, replies, len(replies)).items()
        if not _is_there(name, model, found)
    ]
    yield (
        f"{talk.name}: no prefix between {len(replies)} (answered) and {talk.sent} (sent) "
        f"of its requests leaves what is stored: {'; '.join(differences)}"
    )


def _models(talk: Talk, replies: Sequence[Reply], prefix: int) -> Models:
    models: Models = {attempt.agent: AgentModel() for attempt in talk.attempts}
    for index, attempt in enumerate(talk.attempts[:prefix]):
        if not _is_refused_for_now(replies[index] if index < len(replies) else None):
            models[attempt.agent].serve(attempt)
    return models


def _wrong_answers(talk: Talk, replies: Sequence[Reply]) -> Iterator[str]:
    models: Models = {attempt.agent: AgentModel() for attempt in talk.attempts}
    for index, reply in enumerate(replies):
        attempt = talk.attempts[index]
        if _is_refused_for_now(reply):
            continue
        expected = models[attempt.agent].serve(attempt)
        if said(reply) != expected:
            yield f"{talk.lines[index][:120]!r} was answered {said(reply)!r}, not {expected!r}"


def _refused_and_there(talk: Talk, found: Snapshot) -> Iterator[str]:
    """Yield what was refused for sure and is there, behind what is in doubt, too.

    What was asked for again is not looked at: it may have been granted then.
    """
    stored = {entry.event for entries in found.entries.values() for entry in entries}
    asked = Counter(item.event for attempt in talk.attempts[: talk.sent] for item in attempt.items)
    for index, line in enumerate(bytes(talk.received).split(b"\n")[:-1]):
        reply: dict[str, Any] = json.loads(line)
        once = {item.event for item in talk.attempts[index].items if asked[item.event] == 1}
        is_refused = not reply["ok"] and reply["error"]["outcome"] == "not_recorded"
        if is_refused and once & stored:
            yield f"request {index} was answered {reply['error']['code']}, and it is there"


def _is_there(name: Name, model: AgentModel, found: Snapshot) -> bool:
    entries = found.entries.get(name, [])
    if found.states.get(name) != model.state or len(entries) != len(model.entries):
        return False
    return all(
        isinstance(wanted, Item)
        and (stored.event, stored.iteration) == (wanted.event, wanted.iteration)
        and wanted.timestamp in (None, stored.timestamp)
        for stored, wanted in zip(entries, model.entries, strict=True)
    )


# All the rest


def _of_deeds(story: Story, found: Snapshot) -> Iterator[str]:
    places = tokens(found)
    uid = os.geteuid()
    for deed in story.deeds:
        if deed.token is not None:
            yield from _told(deed, (uid, deed.agent), places)
        if deed.message["op"] == "fork":
            yield from _forked(deed, uid, found)
    yield from _states(story, uid, found)


def _told(deed: Deed, name: Name, places: dict[str, list[tuple[Name, Stored]]]) -> Iterator[str]:
    there = places.get(deed.token or "", [])
    if deed.is_certainly_not_done and there:
        yield f"{deed.message} was answered {deed.reply}, and it is there"
    if deed.is_done and deed.reply is not None:
        wanted = [(name, deed.reply["sequence"])]
        if [(found, entry.sequence) for found, entry in there] != wanted:
            yield f"{deed.message} was answered {deed.reply}, and there is {there}"


def _forked(deed: Deed, uid: int, found: Snapshot) -> Iterator[str]:
    copy = found.entries.get((uid, deed.message["as"]))
    if deed.is_certainly_not_done and copy is not None:
        yield f"a fork was answered {deed.reply}, and it is there"
    if deed.is_done and copy is None:
        yield f"a fork was acknowledged and is not there: {deed.message}"
    if copy is not None:
        source = found.entries.get((uid, deed.agent), [])
        at = deed.message["at_sequence"]
        names = [entry.event[:10] for entry in copy[at : at + 1]]
        if [one.event for one in copy[:at]] != [one.event for one in source[:at]]:
            yield f"a fork has not its source's entries: {copy} of {source}"
        if names != [b'{"Forked":'[:10]]:
            yield f"a fork does not begin with Forked: {copy}"


def _states(story: Story, uid: int, found: Snapshot) -> Iterator[str]:
    """Yield agents whose state nobody asked for; those that are launched go on by themselves."""
    possible: dict[str, set[str | None]] = {}
    for deed in story.deeds:
        agent = deed.message.get("as", deed.agent) if deed.message["op"] == "fork" else deed.agent
        after = "waiting" if deed.message["op"] == "fork" else STATE_BY.get(deed.message["op"])
        if after is None or agent.endswith("-launched"):
            continue
        known = possible.setdefault(agent, {None})
        if deed.is_done:
            possible[agent] = {after}
        elif deed.is_in_doubt:
            known.add(after)
    for agent, states in possible.items():
        state = found.states.get((uid, agent))
        if state not in states:
            yield f"{agent} is {state}, and should be one of {states}"


def _epochs(daemon: RunningDaemon, story: Story) -> Iterator[str]:
    """Yield agents whose epoch was not granted, or lost."""
    granted: Counter[str] = Counter()
    doubted: Counter[str] = Counter()
    for deed in story.deeds:
        if deed.message["op"] == "attach":
            granted[deed.agent] += deed.is_done
            doubted[deed.agent] += deed.is_in_doubt
    for agent, count in granted.items():
        reply = daemon.request({"op": "describe", "agent_id": agent})
        epoch = reply["agent"]["epoch"] if reply["ok"] else 0
        counted = epoch if agent.endswith("-launched") else doubted[agent]  # a launch counts one
        if not count <= epoch <= count + counted:
            yield f"{agent} has epoch {epoch}, and {count} were granted"
