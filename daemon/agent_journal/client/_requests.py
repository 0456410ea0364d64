"""Every request the clients can make: how it is written, how its answer is read.

A ``Request`` is the line to send, but for its id, and what turns the answer's
fields into a result.  It also says what the retry has to know: whether it may
be repeated when nobody knows if the first try was carried out (``may_repeat``).
An append may, because it carries a key; reading may; removing by force may
not, since it could remove what was written in between.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from ..clock import Clock
from ..errors import InvalidError
from ..model import PROTOCOL_VERSION
from ._encoding import CheckedText, event_text, json_string, members, timestamp_text
from ._results import (
    Agent,
    Appended,
    AppendRequest,
    Entry,
    NewEntry,
    agent_from,
    appended_from,
    entry_from,
)

T = TypeVar("T")
Reply = Mapping[str, Any]

# Enough to be quick, and small enough for a page to be decoded in one go.
READ_PAGE_ENTRIES: Final = 1000
AGENTS_PAGE: Final = 1000

# Appends underway at once: two or three full batches of the daemon's keep it busy.
WINDOW_REQUESTS: Final = 1024


class Request(Generic[T]):
    """One line to send, without its id, and how to read the answer.

    ``body`` is what follows the id, up to and with the newline.  An append has the
    ``agent_id`` that it must not overtake, and the ``keys`` under which it can be repeated.
    """

    def __init__(  # noqa: PLR0913 - what a request consists of
        self,
        *,
        op: str,
        body: bytes,
        parse: Callable[[Reply], T],
        may_repeat: bool = True,
        agent_id: str | None = None,
        keys: Sequence[str] = (),
    ) -> None:
        self.op = op
        self.body = body
        self.parse = parse
        self.may_repeat = may_repeat
        self.agent_id = agent_id
        self.keys = keys

    def line(self, request_id: int) -> bytes:
        """Return the bytes that ask this."""
        # The op stands first: the daemon's decoder looks for it.
        return b'{"op":"%b","id":%d%b' % (self.op.encode(), request_id, self.body)

    @property
    def is_stream(self) -> bool:
        """Tell whether the answer has many lines."""
        return False

    @property
    def is_full(self) -> bool:
        """Tell whether parts of the answer must be taken away before there is room for more."""
        return False

    def take(self, reply: Reply) -> bool:  # noqa: ARG002 - a stream's does
        """Take a part of the answer; true where more of it will follow."""
        return False


class KeyMaker:
    """Makes idempotency keys: unique, and rising.

    A key above all that an agent has had is new to the daemon at a glance.  A
    key is the microsecond, which never falls, a random name of this maker, and
    a count, which makes it unique even where two threads get one microsecond.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._name = os.urandom(5).hex()
        self._latest_us = 0
        self._count = itertools.count()

    def __call__(self) -> str:
        """Return a key that was never returned before."""
        self._latest_us = latest_us = max(self._clock.wall_us(), self._latest_us + 1)
        return f"{latest_us:013x}{self._name}{next(self._count):x}"


def append(request: AppendRequest, next_key: Callable[[], str]) -> Request[Appended]:
    """Ask to record one entry."""
    key = next_key() if request.key is None else request.key
    fields: dict[str, object] = {"agent_id": request.agent_id, "iteration": request.iteration}
    if request.timestamp is not None:
        fields["timestamp"] = timestamp_text(request.timestamp)
    if request.expected_sequence is not None:
        fields["expected_sequence"] = request.expected_sequence
    if request.epoch is not None:
        fields["epoch"] = request.epoch
    fields["key"] = key
    if request.uid is not None:
        fields["uid"] = request.uid
    body = b'%b,"event":%b}\n' % (members(fields), event_text(request.event))
    return _appending(request.agent_id, body, [key])


def append_own(  # noqa: PLR0913 - the operation has so many fields
    agent: bytes, event: CheckedText, *, agent_id: str, iteration: int, epoch: int, key: str
) -> Request[Appended]:
    """Ask to record an entry of the agent that this process holds; *agent* is its id in JSON.

    What a step asks twice, so it is written in one go.
    """
    fields = b',"agent_id":%b,"iteration":%d,"epoch":%d,"key":%b' % (
        agent,
        iteration,
        epoch,
        json_string(key, "key"),
    )
    return _appending(agent_id, b'%b,"event":%b}\n' % (fields, event), [key])


def append_many(  # noqa: PLR0913 - the operation has so many fields
    agent_id: str,
    entries: Iterable[NewEntry],
    *,
    expected_sequence: int | None,
    epoch: int | None,
    uid: int | None,
    next_key: Callable[[], str],
) -> Request[Appended]:
    """Ask to record *entries*, all or none."""
    keyed = [(entry, next_key() if entry.key is None else entry.key) for entry in entries]
    texts = b",".join(_entry(entry, key) for entry, key in keyed)
    fields = _pruned(agent_id=agent_id, expected_sequence=expected_sequence, epoch=epoch, uid=uid)
    body = b'%b,"entries":[%b]}\n' % (members(fields), texts)
    return _appending(agent_id, body, [key for _, key in keyed])


def _entry(entry: NewEntry, key: str) -> bytes:
    fields = _pruned(iteration=entry.iteration, timestamp=timestamp_text(entry.timestamp), key=key)
    return b'{"event":%b%b}' % (event_text(entry.event), members(fields))


def _appending(agent_id: str, body: bytes, keys: list[str]) -> Request[Appended]:
    return Request(op="append", body=body, parse=appended_from, agent_id=agent_id, keys=keys)


def describe(agent_id: str, uid: int | None) -> Request[Agent]:
    """Ask what is known of one agent."""
    return ask("describe", lambda reply: agent_from(reply["agent"]), agent_id=agent_id, uid=uid)


def compact(agent_id: str, *, force: bool, uid: int | None) -> Request[int]:
    """Ask to remove all entries of an agent."""

    def removed(reply: Reply) -> int:
        return int(reply["removed"])

    request = ask("compact", removed, agent_id=agent_id, force=force or None, uid=uid)
    request.may_repeat = not force
    return request


def forget(agent_id: str, *, force: bool, wait: bool, uid: int | None) -> Request[int]:
    """Ask to remove an agent, and all that is left of it."""

    def removed(reply: Reply) -> int:
        return int(reply["removed"])

    request = ask(
        "forget", removed, agent_id=agent_id, force=force or None, wait=wait and None, uid=uid
    )
    request.may_repeat = False  # by then another agent may have the id
    return request


def stats(uid: int | str | None) -> Request[dict[str, Any]]:
    """Ask for the daemon's counters."""
    return ask("stats", _fields, uid=uid)


def hello() -> Request[dict[str, Any]]:
    """Ask who the daemon is and what its limits are."""
    return ask("hello", _fields, protocol=PROTOCOL_VERSION)


NOTHING: Final = ""


def nothing() -> Request[None]:
    """Ask nothing: answered by the connection's being there."""
    return Request(op=NOTHING, body=b"", parse=lambda _: None)


def ping() -> Request[None]:
    """Ask for an answer."""
    return ask("ping", lambda _: None)


_REPEATABLE: Final = frozenset({"agents", "describe", "hello", "ping", "read", "stats"})

# Those that change nothing: whatever becomes of one, nothing is in doubt.
READING: Final = _REPEATABLE | {"disk_usage", "export", "tail", "verify", NOTHING}


def raw(fields: Mapping[str, object]) -> Request[dict[str, Any]]:
    """Ask what *fields* ask; the answer keeps the id that *fields* have, or has none.

    Raises:
        InvalidError: ``op`` is missing, or turns the connection into a stream.
    """
    op = fields.get("op")
    if not isinstance(op, str) or not op.isascii() or not op.isprintable() or set(op) & {'"', "\\"}:
        raise InvalidError('"op" must be the name of an operation', field="op")
    if op in {"tail", "close"}:
        raise InvalidError(f'"{op}" cannot be called: it ends the conversation', field="op")

    def parse(reply: Reply) -> dict[str, Any]:
        answer = dict(reply)
        del answer["id"]
        return {"id": fields["id"], **answer} if "id" in fields else answer

    others = {name: value for name, value in fields.items() if name not in {"op", "id"}}
    request = Request(op=op, body=b"%b}\n" % members(others), parse=parse)
    request.may_repeat = op in _REPEATABLE or (op == "append" and _is_keyed(fields))
    if op == "append":
        request.agent_id = str(fields.get("agent_id"))
    return request


def _is_keyed(fields: Mapping[str, object]) -> bool:
    entries = fields.get("entries")
    if isinstance(entries, list | tuple):
        return all(isinstance(entry, Mapping) and entry.get("key") for entry in entries)
    return bool(fields.get("key"))


class Pages(Protocol[T]):
    """An answer too long for one reply."""

    def next_request(self) -> Request[list[T]] | None:
        """Return what asks for the next page, or ``None`` behind the last one."""
        ...


class ReadPages:
    """Reads an agent's entries page by page, each page asked for when it is wanted."""

    def __init__(
        self, agent_id: str, *, from_sequence: int, limit: int | None, uid: int | None
    ) -> None:
        self._fields = {"agent_id": agent_id, "uid": uid}
        self._from_sequence = from_sequence
        self._left = limit

    def next_request(self) -> Request[list[Entry]] | None:
        """Return what asks for the next page, or ``None`` behind the last one."""
        if self._left == 0:
            return None
        return ask(
            "read",
            self._take,
            **self._fields,
            from_sequence=self._from_sequence,
            limit=_page_limit(READ_PAGE_ENTRIES, self._left),
        )

    def _take(self, reply: Reply) -> list[Entry]:
        entries = [entry_from(fields) for fields in reply["entries"]]
        _check_progress(entries, reply)
        self._from_sequence = reply["next_sequence"]
        self._left = _left(self._left, len(entries), more=reply["more"])
        return entries


class AgentPages:
    """Lists agents page by page."""

    def __init__(  # noqa: PLR0913 - the operation has so many members
        self,
        *,
        state: str | None,
        kind: str | None,
        limit: int | None,
        uid: int | str | None,
        newest: bool = False,
        prefix: str | None = None,
        after: int | None = None,
    ) -> None:
        self._fields = {"state": state, "kind": kind, "uid": uid, "prefix": prefix}
        if newest:
            self._fields["order"] = "newest"
        self._is_by_id = prefix is not None
        self._after: int | str | None = after
        self._left = limit

    def next_request(self) -> Request[list[Agent]] | None:
        """Return what asks for the next page, or ``None`` behind the last one."""
        if self._left == 0:
            return None
        limit = _page_limit(AGENTS_PAGE, self._left)
        return ask("agents", self._take, **self._fields, after=self._after, limit=limit)

    def _take(self, reply: Reply) -> list[Agent]:
        agents = [agent_from(fields) for fields in reply["agents"]]
        _check_progress(agents, reply)
        if agents:
            self._after = agents[-1].agent_id if self._is_by_id else agents[-1].first_position
        self._left = _left(self._left, len(agents), more=reply["more"])
        return agents


def _page_limit(page: int, left: int | None) -> int:
    return page if left is None else min(page, left)


def _left(left: int | None, taken: int, *, more: bool) -> int | None:
    if not more:
        return 0
    return None if left is None else max(0, left - taken)


def _check_progress(page: Sequence[object], reply: Reply) -> None:
    if reply["more"] and not page:
        raise ValueError("an empty page says that there is more")


class Tail:
    """Follows the journal; knows where it is, so that what is lost is taken up again there.

    To follow from the end needs two requests: one that finds out where the end
    is, and one that goes on from there.  A single one would begin anew at a
    later end when its connection is lost before the first entry.
    """

    def __init__(  # noqa: PLR0913 - the operation has so many members
        self,
        *,
        agent_id: str | None,
        from_position: int | None,
        last: int | None,
        follow: bool,
        uid: int | str | None,
        before_position: int | None = None,
    ) -> None:
        if from_position is not None and last is not None:
            raise InvalidError("give from_position or last, not both", field="last")
        self.items: list[Entry] = []  # those that came and were not taken yet
        self._fields = {"agent_id": agent_id, "uid": uid, "before_position": before_position}
        self._position = from_position  # where to go on, when that is known
        self._last = last
        self._follow = follow

    def requests(self) -> Iterator[TailRequest]:
        """Yield what is to be asked, one behind the other."""
        if not self._follow:
            yield TailRequest(self, follow=False)
            return
        if self._position is None:
            self._last = self._last or 0
            yield TailRequest(self, follow=False)
        yield TailRequest(self, follow=True)

    def take_items(self) -> list[Entry]:
        """Return the entries that came since the last time."""
        items, self.items = self.items, []
        return items

    def fields(self) -> dict[str, object]:
        """Return what asks for all that was not seen yet."""
        start = (
            {"last": self._last} if self._position is None else {"from_position": self._position}
        )
        return _pruned(**self._fields, **start)

    def saw(self, entry: Entry) -> None:
        """Take *entry*, unless it is one that was seen."""
        if self._position is None or entry.position >= self._position:
            self._position = entry.position + 1
            self.items.append(entry)

    def reached(self, position: int) -> None:
        """Note that all entries before *position* were seen."""
        self._position = position


class TailRequest(Request[None]):
    """One stream of a ``Tail``; asked again, it asks for what the tail did not see yet."""

    def __init__(self, tail: Tail, *, follow: bool) -> None:
        super().__init__(op="tail", body=b"", parse=lambda reply: tail.reached(reply["position"]))
        self._tail = tail
        self._follow = follow

    @property
    def is_stream(self) -> bool:
        """A line comes for each entry."""
        return True

    @property
    def is_full(self) -> bool:
        """Entries came that nobody took."""
        return bool(self._tail.items)

    def line(self, request_id: int) -> bytes:
        """Return the bytes that ask for what was not seen yet."""
        self.body = b"%b}\n" % members({**self._tail.fields(), "follow": self._follow})
        return super().line(request_id)

    def take(self, reply: Reply) -> bool:
        """Take one line of the stream; true unless it is the last one."""
        if "entry" in reply:
            self._tail.saw(entry_from(reply["entry"]))
        return "ok" not in reply


def ask(op: str, parse: Callable[[Reply], T], **fields: object) -> Request[T]:
    """Ask *op* with those of *fields* that are not ``None``."""
    return Request(op=op, body=b"%b}\n" % members(_pruned(**fields)), parse=parse)


def _fields(reply: Reply) -> dict[str, Any]:
    return {name: value for name, value in reply.items() if name not in {"id", "ok"}}


def _pruned(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}
