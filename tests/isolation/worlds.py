"""Worlds of many users, and the same world with all but one of them taken out of it.

What a user is answered must be the same in both, but for positions, which are
shared, and of which only the order is compared: then nothing of what the others did
and have could be learnt by him (noninterference).  It is played on the daemon's
core in memory, with a clock that stands still, so that nothing else differs.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final

from agent_journal.model import Uid
from helpers import Client, Message, Service, settled
from isolation.actor import Actor, mark_of

UIDS: Final = tuple(4_000_000_010 + index for index in range(8))
HEADS_MAX: Final = 12  # so few that everybody's heads push everybody else's out
FOLLOWING: Final[Message] = {"op": "tail", "id": "f", "from_position": 0}

Prepare = Callable[[Service], None]


def is_compact(requests: list[Message]) -> bool:
    """Tell whether *requests* are a compact."""
    return any(request["op"] == "compact" for request in requests)


@dataclass(slots=True)
class Player:
    """An actor at its connections."""

    actor: Actor
    pid: int
    received: bytearray = field(default_factory=bytearray)
    client: Client | None = None
    follower: Client | None = None
    held: list[Message] = field(default_factory=list)  # for its next turn
    requests: int = 0

    def send(self, service: Service, count: int) -> None:
        """Ask for some things in one piece."""
        if self.client is None:
            self.client = service.connect(Uid(self.actor.uid), pid=self.pid)
        # A compact goes alone: whether a stream still shows what it removes is its own race.
        requests, self.held = self.held, []
        while len(requests) < count and not (self.held or is_compact(requests)):
            request = self.actor.next_request()
            (self.held if is_compact([request]) and requests else requests).append(request)
        self.client.send(*requests)
        self.requests += len(requests)

    def follow(self, service: Service) -> None:
        """See everything that comes from now on, and what was."""
        if self.follower is None:
            self.follower = service.connect(Uid(self.actor.uid), pid=self.pid)
            self.follower.send(FOLLOWING)
            self.requests += 1

    def leave(self, *, dead: bool) -> None:
        """Lose the connection, or the process with it."""
        if self.client is not None:
            if dead:
                self.client.die()
                self.pid += 1
            else:
                self.client.lose()
            self.client = None

    def hear(self) -> None:
        """Take what was answered."""
        for client in (self.client, self.follower):
            if client is not None:
                data = bytes(client.sink.written)
                client.sink.written.clear()
                self.received += data
                for line in data.splitlines():
                    self.actor.take(line)


async def play(seed: str, bursts: int, only: int | None = None) -> dict[int, Player]:
    """Play a world to its end, with all users in it or with one; return who played."""
    schedule = random.Random(seed)  # noqa: S311 - not for secrets
    players = {
        uid: Player(Actor(uid, [one for one in UIDS if one != uid], seed), 100_000 * index + 7)
        for index, uid in enumerate(UIDS, 1)
    }
    async with Service(heads_max=HEADS_MAX) as service:
        names = {f"of-{uid}": Uid(uid) for uid in UIDS}
        service.resumer.launchers = {"everybodys": None, **names}
        for _ in range(bursts):
            service.clock.advance(1)
            # Drawn for all, whoever is there: the schedule is the same in every world.
            turns = [(uid, schedule.random(), schedule.choice([1, 1, 1, 2, 4])) for uid in
                     schedule.sample(UIDS, schedule.randrange(1, 5))]  # fmt: skip
            for uid, draw, count in turns:
                player = players[uid]
                if only not in {None, uid}:
                    continue
                if draw < 0.03:
                    player.leave(dead=draw < 0.02)
                elif draw < 0.06:
                    player.follow(service)
                else:
                    player.send(service, count)
            await settled()
            for player in players.values():
                player.hear()
    return players


def leaked(players: dict[int, Player]) -> list[str]:
    """Return what anybody was told that another wrote."""
    return [
        f"uid {uid} was told a mark of uid {other}: {line!r}"
        for uid, player in players.items()
        for line in bytes(player.received).splitlines()
        for other in UIDS
        if other != uid and mark_of(other).encode() in line
    ]


def differences(together: Actor, alone: Actor) -> list[str]:
    """Return where a user was answered otherwise than if there were nobody else."""
    for number, (one, other) in enumerate(zip_longest(together.seen, alone.seen)):
        if one != other:
            where = f"uid {together.uid} was answered, as number {number}"
            return [f"{where}:\n  {one}\n  and alone:\n  {other}"]
    if together.order() != alone.order():
        return [f"uid {together.uid} saw positions in another order"]
    return []
