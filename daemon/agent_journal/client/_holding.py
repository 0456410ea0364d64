"""Requests with which an agent is held, given up, told something and steered.

An attach may be repeated when its answer was lost: the same process gets
another epoch, and the one that it never heard of is of no use to anybody.
What steers an agent is not repeated blindly: a second ``decide`` or ``cancel``
would be refused because of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from ..errors import InvalidError
from ._encoding import members, timestamp_text
from ._requests import Reply, Request, ask
from ._results import Attached, Forked, Timestamp, attached_from

# What is decoded of a page is looked at and let go while it is still in the processor's
# caches: of pages of a thousand a replay takes a quarter longer.
HISTORY_PAGE_ENTRIES: Final = 250
PAGES_AHEAD: Final = 8  # some megabytes at the most

# After so many whole pages larger ones are tried again: one that has no room costs
# those that were asked for behind it.
WHOLE_PAGES: Final = 16

# Told from None, which is a result like any other.
NO_RESULT: Final[Any] = object()


def attach(  # noqa: PLR0913 - the operation has so many fields
    agent_id: str,
    *,
    kind: str | None = None,
    launcher: str | None = None,
    command: Mapping[str, Any] | None = None,
    take_over: bool = False,
    uid: int | None = None,
) -> Request[Attached]:
    """Ask to become the agent's owner."""
    return ask(
        "attach",
        attached_from,
        agent_id=agent_id,
        kind=kind,
        launcher=launcher,
        command=command,
        take_over=take_over or None,
        uid=uid,
    )


def detach(  # noqa: PLR0913 - the operation has so many fields
    agent_id: str,
    epoch: int,
    *,
    wake_at: Timestamp | None = None,
    wait_for: Iterable[str] = (),
    seen_sequence: int | None = None,
    uid: int | None = None,
) -> Request[None]:
    """Ask to be rid of the agent until it is due.

    *seen_sequence* is the first sequence that the caller has not seen: a signal
    that came at the last moment, behind that, wakes the agent at once.
    """
    return ask(
        "detach",
        lambda _: None,
        agent_id=agent_id,
        epoch=epoch,
        wake_at=timestamp_text(wake_at),
        wait_for=[*wait_for] or None,
        seen_sequence=seen_sequence,
        uid=uid,
    )


def signal(
    agent_id: str, name: str, payload: object, *, key: str, uid: int | None = None
) -> Request[int]:
    """Ask to tell the agent something."""
    return ask("signal", _sequence, agent_id=agent_id, name=name, payload=payload, key=key, uid=uid)


def decide(  # noqa: PLR0913 - the operation has so many fields
    agent_id: str,
    step: str,
    *,
    rerun: bool = False,
    result: object = NO_RESULT,
    error: Mapping[str, Any] | None = None,
    uid: int | None = None,
) -> Request[int]:
    """Ask to record a person's word on a step in doubt."""
    if rerun + (result is not NO_RESULT) + (error is not None) != 1:
        raise InvalidError("say one of rerun=True, result=... and error=...", field="rerun")
    fields: dict[str, object] = {"agent_id": agent_id, "step": step}
    if rerun:
        fields["rerun"] = True
    elif error is not None:
        fields["error"] = dict(error)
    else:
        fields["result"] = result
    if uid is not None:
        fields["uid"] = uid
    return Request(op="decide", body=b"%b}\n" % members(fields), parse=_sequence, may_repeat=False)


def fork(
    agent_id: str, *, at_sequence: int, new_agent_id: str, uid: int | None = None
) -> Request[Forked]:
    """Ask for a new agent with the entries of this one before *at_sequence*."""

    def forked(reply: Reply) -> Forked:
        return Forked(agent_id=reply["agent_id"], next_sequence=reply["next_sequence"])

    named = {"as": new_agent_id}
    return _once(ask("fork", forked, agent_id=agent_id, at_sequence=at_sequence, uid=uid, **named))


def steer(op: str, agent_id: str, *, reason: str | None, uid: int | None) -> Request[str]:
    """Ask to ``resume``, ``park`` or ``cancel`` an agent; the answer is its state then."""
    return _once(ask(op, _state, agent_id=agent_id, reason=reason, uid=uid))


class HistoryPages:
    """Reads an agent's entries as they came, without making ``Entry`` values of them.

    Several pages are asked for ahead, so that the daemon reads the next ones while
    this process looks at the last.  A page may end early (it has a limit in
    bytes): those that were asked for behind it are passed over then, and asked
    for again from where it ended, each for no more entries than had room.
    """

    def __init__(
        self,
        agent_id: str,
        from_sequence: int,
        take: Callable[[list[Mapping[str, Any]]], None],
        *,
        until: int = 0,
    ) -> None:
        self._agent_id = agent_id
        self._take_entries = take
        self._next_sequence = from_sequence  # behind what was taken
        self._asked_sequence = from_sequence  # behind what was asked for
        self._until = until  # where the entries end, as far as is known
        self._underway: list[int] = []  # where pages begin that were asked for
        self._page_entries = HISTORY_PAGE_ENTRIES
        self._whole_pages = 0  # in a row
        self._has_more = True

    def next_request(self) -> Request[None] | None:
        """Return what asks for another page; ``None`` where it is not known whether there is one.

        That is so behind the last one, and as long as the next one is underway.
        """
        if not self._has_more:
            return None
        if self._next_sequence not in self._underway:
            start = self._next_sequence
        elif self._asked_sequence < self._until:
            start = self._asked_sequence
        else:
            return None
        self._underway.append(start)
        self._asked_sequence = end = start + self._page_entries

        def take(reply: Reply) -> None:
            self._underway.remove(start)
            if start == self._next_sequence:
                self._take(reply, end)
            else:  # it is of no use before the one that is missing
                self._asked_sequence = self._until

        return ask("read", take, agent_id=self._agent_id, from_sequence=start, limit=end - start)

    def _take(self, reply: Reply, end: int) -> None:
        entries = reply["entries"]
        self._has_more = reply["more"]
        if self._has_more and not entries:
            raise ValueError("an empty page says that there is more")
        self._next_sequence = reply["next_sequence"]
        self._whole_pages += 1
        if self._next_sequence < end:
            self._page_entries, self._whole_pages = max(len(entries), 1), 0
        elif self._whole_pages % WHOLE_PAGES == 0:
            self._page_entries = min(2 * self._page_entries, HISTORY_PAGE_ENTRIES)
        self._take_entries(entries)


def _once(request: Request[Any]) -> Request[Any]:
    request.may_repeat = False
    return request


def _sequence(reply: Reply) -> int:
    return int(reply["sequence"])


def _state(reply: Reply) -> str:
    return str(reply["state"])
