"""A life of the model and its daemon: what happens next is chance's choice."""

from __future__ import annotations

import os
import random
from typing import Final

from agent_journal.store.base import Store
from hostile.model_host import UIDS, Host

ACTIONS: Final = (
    *["ask"] * 12,
    *["burst"] * 4,
    *["together"] * 4,
    *("connect", "again", "leave", "die", "stream", "close", "full", "wait", "read"),
    *["hand over"] * 2,
)
CLIENTS_MAX: Final = 5
RESTARTS: Final = 0.02


async def play(chance: random.Random, store: Store, steps: int) -> int:
    """Play *steps* actions on a fresh daemon; return how many requests were held to the model.

    Raises:
        Differs: the daemon and the model are not of one mind.
    """
    host = Host(chance, store, daemon_uid=os.geteuid())
    await host.begin()
    for _ in range(2):
        host.connect(chance.choice(UIDS))
    for _ in range(steps):
        await act(host, chance)
    await host.check_entries()
    await host.end()
    return host.asked


async def act(host: Host, chance: random.Random) -> None:  # noqa: C901, PLR0912 - a table
    """Do one thing."""
    if chance.random() < RESTARTS:
        living = sorted(host.model.living)
        await host.restart(dead=[pid for pid in living if chance.random() < 0.3])
        return
    numbers = sorted(host.clients)
    action = chance.choice(ACTIONS)
    if len(numbers) < 2 or (action == "connect" and len(numbers) < CLIENTS_MAX):
        host.connect(chance.choice(UIDS))
        return
    number = chance.choice(numbers)
    talkers = [one for one in numbers if host.model.peers[one].stream is None]
    match action:
        case "ask":
            await host.ask(number, [host.make(number)])
        case "burst" if number in talkers:
            await host.ask(number, [host.make(number) for _ in range(chance.randint(2, 5))])
        case "full" if number in talkers:
            host.service.store.fail_next_as_full()
            await host.ask(number, [host.make(number)], is_full=True)
            host.service.store._failures.clear()
        case "together" if len(talkers) > 1:
            chosen = chance.sample(talkers, min(len(talkers), chance.choice([2, 2, 3])))
            talks = {
                one: [host.make(one) for _ in range(turns(host, chance, one))] for one in chosen
            }
            await host.ask_together(talks, is_held=chance.random() < 0.5)
        case "hand over" if number in talkers:
            await host.ask(number, hand_over(host, chance, number))
        case "again" if len(numbers) < CLIENTS_MAX:
            peer = host.model.peers[number]
            host.connect(peer.uid, peer.pid)
        case "leave":
            await host.leave(number)
        case "die":
            await host.end_process(host.model.peers[number].pid)
        case "stream" if number in talkers:
            await host.stream(number, tail(host, chance, number))
        case "close":
            await host.close(number)
        case "wait":
            host.service.clock.advance(chance.choice([0.000001, 1.5, 3600]))
        case "read":
            await host.check_entries()


def turns(host: Host, chance: random.Random, number: int) -> int:
    """Return how much a client says at once while others speak.

    An administrator one thing: what it appends in two namespaces has no order.
    """
    return 1 if host.model.is_admin(host.model.peers[number]) else chance.choice([1, 1, 2, 3])


def hand_over(host: Host, chance: random.Random, number: int) -> list[dict[str, object]]:
    """Return what gives an agent up that may be told something at the same time."""
    uid = host.model.peers[number].uid
    held = [agent for agent in host.model.agents.values() if agent.uid == uid and agent.owner]
    if not held:
        return [{"op": "attach", "agent_id": "a"}]
    agent = chance.choice(held)
    about: dict[str, object] = {"agent_id": agent.agent_id}
    signal = about | {"op": "signal", "name": chance.choice(["n", "m"])}
    detach = about | {"op": "detach", "epoch": agent.epoch, "wait_for": ["n"]}
    if chance.random() < 0.5:
        detach["seen_sequence"] = max(0, len(agent.entries) + chance.choice([-1, 0, 1]))
    talk = [signal, detach, about | {"op": "describe"}]
    chance.shuffle(talk)
    compact = about | {"op": "compact", "force": True}
    return [compact, *talk] if chance.random() < 0.3 else talk


def tail(host: Host, chance: random.Random, number: int) -> dict[str, object]:
    """Return a request to follow what is recorded."""
    request: dict[str, object] = {"op": "tail", "id": chance.choice([1, "s"])}
    if chance.random() < 0.4:
        request["agent_id"] = chance.choice(["a", "b", "nobody"])
    if chance.random() < 0.6:
        seen = host.model.seen_position + 1
        request |= chance.choice([{"last": 0}, {"last": 3}, {"from_position": seen}])
    if chance.random() < 0.4:
        request["uid"] = chance.choice(["*", host.model.peers[number].uid])
    return request
