"""Which agents a command line asks for, read from the daemon as cheaply as it can tell.

The daemon's index has agents in the order of their first entries, all together
and by state, from either end; and by id.  So the newest, those of a state, those
that began within a span of time and those whose ids begin alike cost what is
shown.  A kind is looked for agent by agent, and any other order wants them all.

Times are what clients said, so the order of first entries is only roughly the
order of time: behind a bound, as many as ``STRAGGLERS_MAX`` agents in a row are
passed over before the search ends.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from ..model import TERMINAL, AgentState
from ..value import Value
from .failures import usage_error

if TYPE_CHECKING:
    from ..client import Agent, Client

STRAGGLERS_MAX: Final = 1000
PAGE_AGENTS: Final = 1000
GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "unfinished": tuple(state.value for state in AgentState if state not in TERMINAL),
    "finished": tuple(state.value for state in AgentState if state in TERMINAL),
}


def states_named(text: str) -> tuple[str, ...]:
    """Read one or more states, or a group of them.

    Raises:
        CommandError: there is no such state.
    """
    found: list[str] = []
    for name in (part.strip().lower() for part in text.split(",")):
        if name not in GROUPS and name not in set(AgentState):
            known = ", ".join([*AgentState, *GROUPS])
            raise usage_error(f"there is no state {name!r}", f"one or more of {known}")
        found += GROUPS.get(name, (name,))
    return tuple(dict.fromkeys(found))


class Query(Value, kw_only=True):
    """What is asked for."""

    prefix: str | None = None
    states: tuple[str, ...] = ()
    kind: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    uid: int | str | None = None
    newest: bool = True
    wanted: int | None = None  # so many will be taken at the most

    def agents(self, journal: Client) -> Iterator[Agent]:
        """Yield the agents by first position, or by id where a prefix is given."""
        if self.prefix is not None:
            return (agent for agent in self._named(journal) if self._is_within(agent))
        if len(self.states) > 1:
            lists = [self._listed(journal, state) for state in self.states]
            return heapq.merge(*lists, key=_first_position, reverse=self.newest)
        return self._listed(journal, self.states[0] if self.states else None)

    def _named(self, journal: Client) -> Iterator[Agent]:
        is_whole = not self.states and self.since is None and self.until is None
        limit = self.wanted if is_whole else None
        found = journal.agents(prefix=self.prefix, kind=self.kind, uid=self.uid, limit=limit)
        return (agent for agent in found if not self.states or agent.state in self.states)

    def _listed(self, journal: Client, state: str | None) -> Iterator[Agent]:
        begin, end = (self.until, self.since) if self.newest else (self.since, self.until)
        after = None if begin is None else self._place_of(journal, begin)
        passed = 0
        for agent in self._pages(journal, state, after):
            if self._is_within(agent):
                passed = 0
                yield agent
            elif end is not None and self._is_beyond(agent, end):
                passed += 1
                if passed >= STRAGGLERS_MAX:
                    return

    def _pages(self, journal: Client, state: str | None, after: int | None) -> Iterator[Agent]:
        """Yield all agents behind *after*; the first page is no larger than what is wanted."""
        size = PAGE_AGENTS if self.wanted is None else min(self.wanted, PAGE_AGENTS)
        while size:
            page = list(
                journal.agents(
                    state=state,
                    kind=self.kind,
                    uid=self.uid,
                    newest=self.newest,
                    after=after,
                    limit=size,
                )
            )
            yield from page
            if len(page) < size:
                return
            after, size = page[-1].first_position, PAGE_AGENTS

    def _is_within(self, agent: Agent) -> bool:
        began = agent.created_at
        return (self.since is None or began >= self.since) and (
            self.until is None or began <= self.until
        )

    def _is_beyond(self, agent: Agent, end: datetime) -> bool:
        return agent.created_at < end if self.newest else agent.created_at > end

    def _place_of(self, journal: Client, moment: datetime) -> int | None:
        """Return behind which position the list of a span begins, ``None`` for its first end."""

        def newest_before(position: int | None) -> Agent | None:
            found = journal.agents(newest=True, limit=1, after=position, uid=self.uid)
            return next(found, None)

        def is_late(position: int) -> bool:
            agent = newest_before(position)
            if agent is None:
                return False
            return agent.created_at > moment if self.newest else agent.created_at >= moment

        last = newest_before(None)
        if last is None:
            return None
        # The first late agent is the one just below this position.
        place = first_place(0, last.first_position + 2, is_late)
        if self.newest:
            return place - 1
        return place - 2 if place >= 2 else None  # noqa: PLR2004 - one for each bound


def first_place(low: int, high: int, is_behind: Callable[[int], bool]) -> int:
    """Return the first place in ``low…high`` that *is_behind*, or *high*, asking log2 of them."""
    while low < high:
        middle = (low + high) // 2
        if is_behind(middle):
            high = middle
        else:
            low = middle + 1
    return low


def sorted_by(
    agents: Iterator[Agent],
    key: Callable[[Agent], str | float],
    *,
    rising: bool,
    limit: int | None,
) -> Sequence[Agent]:
    """Return the first *limit* of *agents* in another order: all are read, so many are kept."""
    if limit is None:
        return sorted(agents, key=key, reverse=not rising)
    chosen = heapq.nsmallest if rising else heapq.nlargest
    return chosen(limit, agents, key=key)


def _first_position(agent: Agent) -> int:
    return agent.first_position
