"""Every operation from eight uids at once: what each is answered does not depend on the others."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

import pytest

from isolation import real_users
from isolation.worlds import UIDS, differences, leaked, play

if TYPE_CHECKING:
    from conftest import Figures, Size

BURSTS = 110  # of a world: some 450 requests


@pytest.mark.sized
@pytest.mark.timeout(3600)
async def test_nobody_learns_anything_of_anybody_else(
    size: Size, seed: str, figures: Figures
) -> None:
    """No reply holds a byte of what another wrote, or is another for his being there."""
    wanted = size(1800, 180_000)
    requests = worlds = replies = 0
    while requests < wanted:
        world = f"{seed}/{worlds}"
        players = await play(world, BURSTS)
        found = leaked(players)
        for uid in UIDS:
            alone = await play(world, BURSTS, only=uid)
            found += differences(players[uid].actor, alone[uid].actor)
        assert not found, f"in world {world}: " + "\n".join(found)
        requests += sum(player.requests for player in players.values())
        replies += sum(len(player.actor.seen) for player in players.values())
        worlds += 1
    figures(requests=requests, replies=replies, worlds=worlds, uids=len(UIDS), leaks=0, seed=seed)


@pytest.mark.sized
@pytest.mark.timeout(3600)
def test_nor_do_processes_of_other_uids(size: Size, seed: str, figures: Figures) -> None:
    """Through the kernel's word for who connects, a real socket, and a journal on the disk."""
    each = size(200, 20_000) // len(real_users.UIDS)
    with real_users.open_daemon() as daemon:
        together = real_users.asked_by(real_users.UIDS, daemon.socket, seed, each)
    found = [leak for told in together.values() for leak in told.leaks]
    for uid, told in together.items():
        with real_users.open_daemon() as daemon:
            alone = real_users.asked_by((uid,), daemon.socket, seed, each)[uid]
        pairs = enumerate(zip_longest(told.seen, alone.seen))
        found += [f"uid {uid}, {at}: {one}\n alone: {other}" for at, (one, other) in pairs
                  if one != other][:1]  # fmt: skip
        found += [f"uid {uid}: positions"] * (told.order != alone.order)
    assert not found, "\n".join(found)
    figures(requests=each * len(together), uids=len(together), leaks=0, seed=seed)
