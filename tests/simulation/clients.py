"""What clients do: record, hold agents, steer them, watch, and misbehave.

Each is a script that runs outside of the daemon, and meets every refusal and every
broken connection as a client has to: it comes again, with the same request.
"""

# ruff: noqa: C901, PLR0911 - a script is read from its top to its end

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from simulation.host import HostProcess, Name
from simulation.launching import Kept
from simulation.ledger import Asked, Message
from simulation.network import ClientEnd

if TYPE_CHECKING:
    from simulation.world import World

TRIES_MAX: Final = 400
LATER: Final = frozenset({"overloaded", "shutting_down", "storage_full", "storage_failed"})

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Talk(ClientEnd):
    """One connection, with its replies matched to its requests."""

    def __init__(self, world: World, uid: int, process: HostProcess) -> None:
        super().__init__(world.loop, world.chance, world.host.listener)
        self.number = world.next_connection()
        self.uid = uid
        self.streamed: list[Message] = []
        self.is_streaming = False
        self.is_raw = False  # it sends what is in no ledger
        self._world = world
        self._process = process
        self._buffer = b""
        self._waiting: deque[tuple[Asked, asyncio.Future[Asked]]] = deque()

    def open(self) -> bool:
        """Connect; False: no daemon is there."""
        if not self.connect(self.uid, self._process.pid):
            return False
        self._world.talks[self] = None
        self._process.on_end.append(self.close)
        return True

    def ask(self, request: Message, tags: tuple[str, ...] = ()) -> asyncio.Future[Asked]:
        """Send a request; the future is done when it is answered, or never will be."""
        (asked,) = self.ask_all([(request, tags)])
        return asked

    def ask_all(
        self, requests: Sequence[tuple[Message, tuple[str, ...]]]
    ) -> list[asyncio.Future[Asked]]:
        """Send requests in one go."""
        world, futures, lines = self._world, [], []
        for request, tags in requests:
            asked = Asked(self.number, len(self._waiting), request, world.loop.now, None, tags)
            request["__uid"] = request.get("uid", self.uid)
            done = world.loop.create_future()
            futures.append(done)
            if not self.is_open:
                done.set_result(asked)
                continue
            world.ledger.asked.append(asked)
            self._waiting.append((asked, done))
            lines.append(_encode(request))
        if lines:
            lines.append(b"")
            self.send(b"\n".join(lines))
        return futures

    def take(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._heard(_decode(line))

    def _heard(self, reply: Message) -> None:
        world = self._world
        world.trace("heard", self.number, reply)
        if "entry" in reply:
            self.streamed.append(reply["entry"])
            return
        code = reply.get("error", {}).get("code")
        if code == "too_many_connections":
            return  # said of the connection, which ends
        if not self._waiting:
            if self.is_raw:
                return  # to a line that is in no ledger
            world.fault(f"connection {self.number} was answered what it did not ask: {reply}")
            return
        behind = self._waiting[1][0].request if len(self._waiting) > 1 else {}
        if self.is_streaming and reply.get("id") == behind.get("id"):
            self._waiting.popleft()  # a stream has an answer only where it is cut short
        asked, done = self._waiting.popleft()
        wanted = asked.request.get("id")
        if reply.get("id") != wanted and code not in {"overloaded", "frame_too_large"}:
            world.fault(f"connection {self.number}: {asked.request} was answered {reply}")
        asked.reply = reply
        world.ledger.answered(asked, world.loop.now)
        world.heard(asked)
        if not done.done():
            done.set_result(asked)

    def gone(self) -> None:
        self._world.trace("connection ends", self.number)
        self._give_up()

    def close(self) -> None:
        super().close()
        self._give_up()

    def _give_up(self) -> None:
        self._world.talks.pop(self, None)
        self._process.on_end = [act for act in self._process.on_end if act != self.close]
        self._check_delay()
        while self._waiting:
            asked, done = self._waiting.popleft()
            if not done.done():
                done.set_result(asked)

    def _check_delay(self) -> None:
        """Hold against the daemon what it did not answer for too long."""
        if self._waiting and not self.is_streaming:
            asked = self._waiting[0][0]
            delay = self._world.loop.now - asked.sent_at
            self._world.waited(asked, delay)

    def unanswered(self) -> Asked | None:
        """Return what waits for its answer the longest."""
        return self._waiting[0][0] if self._waiting and not self.is_streaming else None

    def __hash__(self) -> int:
        return self.number


class Script:
    """What a process does."""

    def __init__(self, world: World, process: HostProcess, uid: int) -> None:
        self.world = world
        self.process = process
        self.uid = uid
        self.chance = world.chance
        self._ids = 0

    async def rest(self, seconds: float) -> None:
        """Do nothing for up to a while."""
        await asyncio.sleep(self.chance.random() * seconds)

    async def connected(self) -> Talk:
        """Return a connection, as soon as somebody is there."""
        while True:
            talk = Talk(self.world, self.uid, self.process)
            if talk.open():
                return talk
            await self.rest(0.3)

    def request(self, op: str, **members: Any) -> Message:
        """Return a request with a number of its own."""
        self._ids += 1
        return {"id": self._ids, "op": op, **members}

    async def settled(self, request: Message, tags: tuple[str, ...] = ()) -> Asked:
        """Ask until it is answered for good; over new connections, if need be."""
        for _ in range(TRIES_MAX):
            talk = await self.connected()
            asked = await talk.ask(dict(request), tags)
            talk.close()
            if asked.reply is not None and asked.code not in LATER:
                return asked
            await self.rest(0.5)
        raise AssertionError(f"never answered: {request}")


class Writer(Script):
    """Records, without holding anything: pipelined, with and without keys, many at once."""

    async def run(self, rounds: int) -> None:
        chance, world = self.chance, self.world
        talk = await self.connected()
        for _ in range(rounds):
            if not talk.is_open or talk.has_ended or chance.random() < 0.05:
                talk.close()
                talk = await self.connected()
            requests = [self._append() for _ in range(1 + chance.randrange(6))]
            if chance.random() < 0.15:
                requests.insert(chance.randrange(len(requests) + 1), (self._look(), ()))
            if chance.random() < 0.04:
                talk.stall(chance.random() * 8)
            answers = talk.ask_all(requests)
            if chance.random() < 0.06:
                await self.rest(0.002)
                if chance.random() < 0.5:
                    talk.end()
                else:
                    talk.close()
            if chance.random() < 0.7:
                for answer in answers:
                    asked = await answer
                    if asked.reply is None and "key" in asked.request:
                        await self._repeat(asked)
            await self.rest(0.05 if chance.random() < 0.8 else world.pause)
        for _ in range(2):
            talk.close()
            talk = await self.connected()
            if (await talk.ask(self.request("ping"))).reply is not None:
                break
        talk.close()

    def _append(self) -> tuple[Message, tuple[str, ...]]:
        chance, world = self.chance, self.world
        agent_id = chance.choice(world.plain_agents)
        count = 1 if chance.random() < 0.85 else 2 + chance.randrange(4)
        tags = tuple(world.next_tag() for _ in range(count))
        entries: list[Message] = [
            {"event": {"Noted": {"tag": tag, "text": world.filler()}}} for tag in tags
        ]
        if chance.random() < 0.4:
            for entry, tag in zip(entries, tags, strict=True):
                entry["key"] = f"{chance.randrange(3)}-{tag}"
        request = self.request("append", agent_id=agent_id)
        if count == 1:
            request |= entries[0]
        else:
            request["entries"] = entries
        if chance.random() < 0.03:
            request["expected_sequence"] = chance.randrange(40)
        if chance.random() < 0.03:
            request["agent_id"] = "-not an id"
        return request, tags

    def _look(self) -> Message:
        agent_id = self.chance.choice(self.world.plain_agents)
        match self.chance.randrange(5):
            case 0:
                return self.request("ping")
            case 1:
                return self.request("describe", agent_id=agent_id)
            case 2:
                return self.request("agents", limit=3)
            case 3:
                return self.request("read", agent_id=agent_id, limit=5)
            case _:
                return self.request("tail", last=3, follow=False)

    async def _repeat(self, asked: Asked) -> None:
        """Send what may or may not be recorded again; it is, once."""
        request = {**asked.request, "repeat": True}
        answer = await self.settled(request, asked.tags)
        if not answer.is_acknowledged and answer.code not in {"agent_finished", "forbidden"}:
            is_refused_anyway = (
                "expected_sequence" in request
                or request["agent_id"].startswith("-")
                or (request["__uid"], request["agent_id"]) in self.world.ledger.compacted
            )
            if not is_refused_anyway:
                self.world.fault(f"a repeat with a key was refused: {answer}")


class Watcher(Script):
    """Follows the journal, and checks that nothing is left out, or comes twice."""

    async def run(self, rounds: int) -> None:
        position = 0
        for _ in range(rounds):
            talk = await self.connected()
            request = self.request("tail", from_position=position, uid="*", follow=True)
            talk.is_streaming = True
            talk.ask(request)
            await self.rest(self.world.pause)
            if self.chance.random() < 0.4:
                talk.stall(self.chance.random() * 4)
            await self.rest(self.world.pause)
            if self.chance.random() < 0.5:
                talk.ask(self.request("close"))
                await self.rest(1)
            talk.close()
            positions = [entry["position"] for entry in talk.streamed]
            if positions != sorted(set(positions)) or (positions and positions[0] < position):
                self.world.fault(f"a tail from {position} showed {positions}")
            if positions:
                self.world.shown.append((position, positions))
                position = positions[-1] + 1


class Rude(Script):
    """Sends halves, nonsense and too much, does not read, and leaves in the middle."""

    async def run(self, rounds: int) -> None:
        chance = self.chance
        for _ in range(rounds):
            talk = await self.connected()
            talk.is_raw = True
            match chance.randrange(6):
                case 0:
                    talk.send(b'{"op":"append","agent_id":"a')
                case 1:
                    talk.send(b"\n\nnonsense\n{}\n[]\n" * 5)
                case 2:
                    talk.stall(5)
                    talk.send(b'{"op":"agents"}\n' * 200)
                case 3:
                    talk.send(b"x" * (1 + chance.randrange(12_000)))
                case 4:
                    tag = self.world.next_tag()
                    event = {"Noted": {"tag": tag, "text": ""}}
                    request = self.request("append", agent_id="half", event=event)
                    talk.ask(request, (tag,))
                    talk.end()
                case _:
                    talk.stall(3)
                    requests = [(self.request("read", agent_id="w0"), ()) for _ in range(20)]
                    talk.ask_all(requests)
            await self.rest(6 if chance.random() < 0.3 else 0.01)
            talk.close()
            await self.rest(self.world.pause)


class Operator(Script):
    """Signals, parks, resumes, cancels, looks, compacts and forks."""

    async def run(self, rounds: int) -> None:
        chance, world = self.chance, self.world
        for number in range(rounds):
            await self.rest(world.pause * 2)
            uid, agent_id = chance.choice(world.held_agents)
            request = self._request(agent_id, number)
            request["uid"] = uid
            if request["op"] == "resume":
                world.reset((uid, agent_id))
            if request["op"] == "compact":
                world.ledger.compacted.add((uid, agent_id))
            talk = await self.connected()
            asked = await talk.ask(request)
            if asked.reply is None and request["op"] == "signal":
                asked = await self.settled({**request, "repeat": True})
                if asked.code == "key_conflict":
                    world.fault(f"a repeated signal was refused: {asked}")
            talk.close()

    def _request(self, agent_id: str, number: int) -> Message:
        chance = self.chance
        where = {"agent_id": agent_id}
        luck = chance.random()
        if luck < 0.3:
            name = chance.choice(["go", "stop"])
            return self.request("signal", **where, name=name, key=f"{self.process.pid}-{number}")
        if luck < 0.45:
            return self.request("park", **where, reason="a look")
        if luck < 0.75:
            return self.request("resume", **where)
        if luck < 0.78:
            return self.request("cancel", **where)
        if luck < 0.8:
            return self.request("compact", **where, force=True)
        if luck < 0.84:
            new = f"fork{self.process.pid}-{number}"
            return self.request("fork", **where, **{"as": new, "at_sequence": chance.randrange(4)})
        return self.request(chance.choice(["describe", "agents", "stats"]), **where)


class Agent(Script):
    """Holds an agent, and records its steps; one attempt."""

    def __init__(self, world: World, process: HostProcess, name: Name, kept: Kept | None) -> None:
        super().__init__(world, process, name[0])
        self.name = name
        self.kept = kept
        self._epoch = 0
        self._next = 0
        self._talk: Talk | None = None
        self._goes_by_keys = self.chance.random() < 0.5  # and not by sequences

    async def run(self) -> None:
        chance, world = self.chance, self.world
        luck = chance.random() if not world.is_calm else 1.0
        if luck < 0.1:
            return  # it crashes at once
        if luck < 0.16:
            await asyncio.sleep(200)  # it hangs before it attaches
            return
        if luck < 0.25:
            await self.rest(6)  # it is late, perhaps too late
        else:
            await self.rest(0.2)
        if not await self._attach():
            return
        steps = 1 + chance.randrange(3)
        for _ in range(steps):
            if chance.random() < 0.2 and not world.is_calm:
                return  # it crashes
            await self.rest(0.5)
            if not await self._record("StepCompleted", 1 + chance.randrange(3)):
                await self.rest(8)  # it noticed that it lost its agent, and goes
                return
        luck = chance.random() if not world.is_calm else 1.0
        if luck < 0.15:
            await self.rest(100)  # it hangs
        elif luck < 0.35:
            await self._detach()
        elif luck < 0.45:
            return  # it ends without an end
        else:
            await self._record("Terminated", 1)
            await self.rest(1)

    async def _talking(self) -> Talk:
        talk = self._talk
        if talk is None or not talk.is_open:
            talk = self._talk = await self.connected()
        elif self.chance.random() < 0.03:
            talk.close()
            talk = self._talk = await self.connected()
        return talk

    async def _attach(self) -> bool:
        chance, world = self.chance, self.world
        for _ in range(TRIES_MAX):
            talk = await self._talking()
            request = self.request("attach", agent_id=self.name[1])
            if self.kept is None and self.name not in world.without_means:
                request["launcher"] = "start"
            if self.kept is None and chance.random() < 0.5:
                request["take_over"] = True
            asked = await talk.ask(request)
            if asked.reply is None:
                await self.rest(0.05)
            elif asked.code in LATER:
                await self.rest(0.5)
            elif asked.code == "agent_attached" and asked.reply["error"]["pid"] == self.process.pid:
                await self.rest(0.05)  # the end of its last connection was not heard of yet
            elif asked.code is not None:
                return False
            else:
                self._epoch = asked.reply["epoch"]
                self._next = asked.reply["next_sequence"]
                world.granted(self.name, self._epoch, self._next)
                return True
        return False

    async def _record(self, event: str, count: int) -> bool:
        """Record entries, each once; False: the agent is another's."""
        world, chance = self.world, self.chance
        tags = [world.next_tag() for _ in range(count)]
        contents: list[Message] = [
            {"tag": tag, "epoch": self._epoch, "key": tag, "text": world.filler()} for tag in tags
        ]
        if event == "Terminated":
            contents[-1]["reason"] = "Completed"
        left = [*range(count)]
        in_doubt: dict[int, int] = {}  # by place, the sequence that it was sent for
        is_again = False
        for _ in range(TRIES_MAX):
            # What may be recorded already is asked for again, as it was, before all else.
            sent = dict(in_doubt) or {place: self._next + index for index, place in enumerate(left)}
            requests = [
                (self._append({event: contents[place]}, expected, is_again), (tags[place],))
                for place, expected in sent.items()
            ]
            is_again = True
            answers = (await self._talking()).ask_all(requests)
            for (place, expected), answer in zip(sent.items(), answers, strict=True):
                asked: Asked = await answer
                if asked.is_acknowledged:
                    left.remove(place)
                    in_doubt.pop(place, None)
                    self._next = max(self._next, expected + 1)
                elif asked.reply is None or asked.code == "storage_failed":
                    in_doubt[place] = expected
                elif asked.code == "sequence_conflict":
                    in_doubt.pop(place, None)
                elif asked.code not in LATER:
                    return False
            if not left:
                return True
            await self.rest(0.3 if chance.random() < 0.7 else 2)
            if not in_doubt and not await self._look():
                return False
        return False

    def _append(self, event: Message, expected: int, is_again: bool) -> Message:  # noqa: FBT001
        again = {"repeat": True} if is_again else {}
        where = {"agent_id": self.name[1], "epoch": self._epoch}
        if self._goes_by_keys:
            ((_, content),) = event.items()
            return self.request("append", event=event, key=content["tag"], **where, **again)
        return self.request("append", event=event, expected_sequence=expected, **where, **again)

    async def _look(self) -> bool:
        """Find out where to go on; False: the agent is another's."""
        talk = await self._talking()
        told = await talk.ask(self.request("describe", agent_id=self.name[1]))
        if told.reply is None or not told.is_acknowledged:
            return True
        agent = told.reply["agent"]
        self._next = agent["next_sequence"]
        return bool(agent["epoch"] == self._epoch)

    async def _detach(self) -> None:
        chance, world = self.chance, self.world
        members: dict[str, Any] = {"agent_id": self.name[1], "epoch": self._epoch}
        luck = chance.random()
        if luck < 0.6:
            members["wake_at"] = world.time_in(chance.random() * 5)
        elif luck < 0.9:
            members |= {"wait_for": ["go"], "wake_at": world.time_in(30)}
        for _ in range(TRIES_MAX):
            talk = await self._talking()
            asked = await talk.ask(self.request("detach", **members))
            if asked.reply is not None and asked.code not in LATER:
                return
            await self.rest(0.3)
