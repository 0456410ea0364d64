"""The worlds find what they are there to find: daemons that mix users up in one place each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agent_journal.errors import ForbiddenError, NotFoundError
from agent_journal.model import Uid
from agent_journal.service import listing, operations
from agent_journal.service.operations import Caller
from agent_journal.service.peer import Peer
from agent_journal.store.memory import MemoryStore
from isolation.test_every_op import BURSTS
from isolation.worlds import UIDS, differences, leaked, play

WORLDS_MAX = 4

Patch = pytest.MonkeyPatch


def everybody_is_an_administrator(patch: Patch) -> None:
    patch.setattr(Peer, "is_admin", lambda _self, _group: True)


def a_tail_shows_all(patch: Patch) -> None:
    real = operations.Filter

    def of_all(*, uid: object, agent_id: Any) -> Any:
        return real(uid=None, agent_id=agent_id)

    patch.setattr(operations, "Filter", of_all)


def a_list_shows_all(patch: Patch) -> None:
    real = MemoryStore.agents

    async def of_all(self: MemoryStore, **wanted: Any) -> Any:
        return await real(self, **{**wanted, "uid": None})

    patch.setattr(MemoryStore, "agents", of_all)


def a_key_is_looked_for_everywhere(patch: Patch) -> None:
    real = MemoryStore.find_key
    seen: set[Any] = set()

    async def anywhere(self: MemoryStore, number: Any, key: str) -> Any:
        seen.add(number)
        for one in sorted(seen):
            if (found := await real(self, one, key)) is not None:
                return found
        return None

    patch.setattr(MemoryStore, "find_key", anywhere)


def what_another_has_is_forbidden_and_not_missing(patch: Patch) -> None:
    real = Caller.agent

    async def honest(self: Caller, uid: Uid, agent_id: str) -> Any:
        try:
            return await real(self, uid, agent_id)
        except NotFoundError:
            others = [(Uid(one), agent_id) for one in UIDS]
            if any(await self.context.store.load(others)):  # type: ignore[arg-type]
                raise ForbiddenError("it is another's") from None
            raise

    patch.setattr(Caller, "agent", honest)


def a_listing_goes_on_behind_another_s_agent(patch: Patch) -> None:
    real = listing._after

    async def behind_anybodys(caller: Caller, uid: Any, after: Any, begin: int) -> int:
        names = [(Uid(one), after) for one in UIDS if isinstance(after, str)]
        found = [one for one in await caller.context.store.load(names) if one is not None]
        return found[0].first_position if found else await real(caller, uid, after, begin)

    patch.setattr(listing, "_after", behind_anybodys)


def a_prefix_is_looked_for_among_all(patch: Patch) -> None:
    real = MemoryStore.agents_named

    async def of_all(self: MemoryStore, uid: Uid, prefix: str, **wanted: Any) -> Any:
        found = [await real(self, Uid(one), prefix, **wanted) for one in (uid, *UIDS)]
        return [record for records in found for record in records][: wanted["limit"]]

    patch.setattr(MemoryStore, "agents_named", of_all)


def counters_are_the_host_s(patch: Patch) -> None:
    patch.setattr(operations.Caller, "is_admin", property(lambda _self: True))
    patch.setattr(Caller, "namespace", lambda self, _uid: self.peer.uid)


@pytest.mark.parametrize(
    "break_it",
    [
        everybody_is_an_administrator,
        a_tail_shows_all,
        a_list_shows_all,
        a_key_is_looked_for_everywhere,
        what_another_has_is_forbidden_and_not_missing,
        a_listing_goes_on_behind_another_s_agent,
        a_prefix_is_looked_for_among_all,
        counters_are_the_host_s,
    ],
    ids=lambda one: str(one.__name__),
)
async def test_it_is_found(break_it: Callable[[Patch], None], monkeypatch: Patch) -> None:
    break_it(monkeypatch)
    for number in range(WORLDS_MAX):
        players = await play(f"teeth/{number}", BURSTS)
        found = leaked(players)
        for uid in UIDS:
            alone = await play(f"teeth/{number}", BURSTS, only=uid)
            found += differences(players[uid].actor, alone[uid].actor)
        if found:
            return
    pytest.fail(f"{WORLDS_MAX} worlds did not find it")
