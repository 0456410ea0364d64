"""A daemon and the model of it, side by side: what is sent, what came back, where they differ."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from itertools import count
from typing import Any, Final

from agent_journal.model import Uid
from agent_journal.service import attaching
from agent_journal.store.base import Store
from agent_journal.wire import render_timestamp
from helpers import ALICE, BOB, ROOT, Client, FakeProcesses, Service, settled
from hostile.model import Model, is_of
from hostile.model_answers import Answer, Reply, Request, no, same, same_entry, yes
from hostile.model_requests import compose, encoded

UIDS: Final = (ALICE, ALICE, BOB, ROOT)
LIMITS: Final = {"read_entries_max": 12, "reply_bytes_max": 1000}

Asked = tuple[int, Request]


class Differs(AssertionError):  # noqa: N818 - it is a finding
    """The daemon and the model are not of one mind."""


class Counted:
    """A store that tells whether it is being asked something, maybe in another thread."""

    def __init__(self, store: Store) -> None:
        self.is_asked = 0
        self._store = store

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in ASKED:
            return found

        async def ask(*args: Any, **named: Any) -> Any:
            self.is_asked += 1
            try:
                return await found(*args, **named)
            finally:
                self.is_asked -= 1

        return ask


ASKED: Final = frozenset(
    [
        "load",
        "find_key",
        "read",
        "scan",
        "position_of_last",
        "agents",
        "agents_named",
        "unfinished",
        "maintain",
        "commit",
    ]
)


class Host:
    """One daemon without sockets, from life to life, and its clients."""

    def __init__(self, chance: random.Random, store: Store, *, daemon_uid: int) -> None:
        self.chance = chance
        self.store: Any = Counted(store)
        self.model = Model(daemon_uid=daemon_uid, now=self._now, limits=LIMITS)
        self.clients: dict[int, Client] = {}
        self.told: list[str] = []  # the whole story, for a failure
        self.asked = 0
        self._numbers = count(1)
        self._pids = count(1000)
        self._past: list[Asked] = []
        self._processes = FakeProcesses()
        self.service: Service

    def _now(self) -> str:
        return render_timestamp(self.service.clock.wall_us())

    async def _settled(self) -> None:
        """Let happen what can happen by itself, in the store's thread too."""
        await settled()
        while self.store.is_asked:
            await asyncio.sleep(0.0002)
            await settled()

    # Lives

    async def begin(self) -> None:
        """Start the daemon on what is stored, and find again who is alive."""
        wall_us = self.service.clock.wall_us() if hasattr(self, "service") else None
        self.service = Service(self.store, **LIMITS)
        if wall_us is not None:
            self.service.clock.advance((wall_us - self.service.clock.wall_us()) / 1e6)
        self.service.processes._ended = self._processes._ended
        self.service.processes.start_times = self._processes.start_times
        self._processes = self.service.processes
        await self.service.__aenter__()
        context = self.service.context
        for record in await self.store.unfinished(after=-1, limit=1000):
            had_owner = record.attachment is not None and record.attachment.owner is not None
            if had_owner and not attaching.keep_living_owner(context, record):
                name = record.uid, record.agent_id
                await attaching.record_loss(context, *name, record.epoch)
        await self._settled()

    async def end(self) -> None:
        """Stop the daemon; its clients lose their connections."""
        await self.service.__aexit__(None, None, None)
        self.clients.clear()
        for peer in self.model.peers.values():
            peer.is_open, peer.stream = False, None
            peer.due.clear()

    async def restart(self, *, dead: Sequence[int] = ()) -> None:
        """Begin another life; processes may end meanwhile."""
        self.told.append(f"restart, and {dead} end")
        await self.end()
        for pid in dead:
            self._processes._ended.add(pid)
            self.model.living.discard(pid)
        await self.begin()
        self.model.bury()
        await self.check()

    # Clients

    def connect(self, uid: int, pid: int | None = None) -> int:
        """Connect, from a process of its own unless it is said which; return its number."""
        number = next(self._numbers)
        pid = next(self._pids) if pid is None else pid
        self.told.append(f"{number} connects, uid {uid} pid {pid}")
        self.clients[number] = self.service.connect(Uid(uid), pid=pid)
        self.model.connect(number, uid, pid)
        return number

    async def leave(self, number: int) -> None:
        """Have a client close its connection."""
        self.told.append(f"{number} leaves")
        self.clients.pop(number).lose()
        await self._settled()
        self.model.close(number)
        await self.check()

    async def end_process(self, pid: int) -> None:
        """Have a process die, with all its connections."""
        self.told.append(f"process {pid} dies")
        for number, client in list(self.clients.items()):
            if client.pid == pid:
                self.clients.pop(number).lose()
        self.service.processes.end(pid)
        self._processes._ended.add(pid)
        await self._settled()
        self.model.end_process(pid)
        await self.check()

    # Talk

    def make(self, number: int) -> Request:
        """Return a request for a client: a new one, or one that was made before."""
        if self._past and self.chance.random() < 0.2:
            _, request = self.chance.choice(self._past[-12:])
        else:
            request = compose(self.chance, self.model, number)
        self._past.append((number, request))
        return request

    async def ask(self, number: int, requests: Sequence[Request], *, is_full: bool = False) -> None:
        """Send requests in one piece, and hold each reply to the model."""
        self._send(number, requests)
        await self._settled()
        replies = self._replies(number, requests)
        for request, (entries, reply) in zip(requests, replies, strict=True):
            self._take(self.model, number, request, entries, reply, is_full=is_full)
        await self.check()

    async def ask_together(self, talks: dict[int, list[Request]], *, is_held: bool) -> None:
        """Send from several clients at once; find an order in which the replies make sense."""
        if is_held:
            self.service.store.hold("commit")
        for number, requests in talks.items():
            self._send(number, requests)
        if is_held:
            await self._settled()
            self.service.store.release("commit")
        await self._settled()
        replies = {number: self._replies(number, asked) for number, asked in talks.items()}
        streamed = {number: self._entries(number) for number in self.model.peers}
        final = await self._observed()
        problems: list[str] = []
        found = self._order(self.model, talks, replies, streamed, final, problems)
        if found is None:
            raise Differs(self._story(f"no order explains {replies}: {problems[-5:]}"))
        self.model = found

    def _order(  # noqa: PLR0913, PLR0917 - the state of a search
        self,
        model: Model,
        talks: dict[int, list[Request]],
        replies: dict[int, list[tuple[list[Reply], Reply]]],
        streamed: dict[int, list[Reply]],
        final: Any,
        problems: list[str],
    ) -> Model | None:
        """Return the model behind one order of the requests, if there is one that fits."""
        if not any(talks.values()):
            try:
                self._check_streams(model, streamed)
                self._check_observed(model, *final)
            except AssertionError as problem:
                problems.append(str(problem))
                return None
            return model
        for number, requests in talks.items():
            if not requests:
                continue
            other = model.copy()
            try:
                self._take(other, number, requests[0], *replies[number][0])
            except AssertionError as problem:
                problems.append(f"{number}: {problem}"[-600:])
                continue
            found = self._order(
                other,
                talks | {number: requests[1:]},
                replies | {number: replies[number][1:]},
                streamed,
                final,
                problems,
            )
            if found is not None:
                return found
        return None

    def _send(self, number: int, requests: Sequence[Request]) -> None:
        self.asked += len(requests)
        lines = [encoded(self.chance, request) for request in requests]
        self.told += [f"{number} → {line.decode()}" for line in lines]
        self.clients[number].send_bytes(b"".join(line + b"\n" for line in lines))

    def _lines(self, number: int) -> list[Reply]:
        client = self.clients[number]
        lines = bytes(client.sink.written).split(b"\n")
        assert lines.pop() == b""
        client.sink.written.clear()
        self.told += [f"{number} ← {line.decode()}" for line in lines]
        return [Reply(line) for line in lines]

    def _replies(self, number: int, requests: Sequence[Request]) -> list[tuple[list[Reply], Reply]]:
        """Return what came back, for each request: a tail's entries, and the reply."""
        is_stream = self.model.peers[number].stream is not None
        found: list[tuple[list[Reply], Reply]] = []
        entries: list[Reply] = []
        kept: list[Reply] = []
        for reply in self._lines(number):
            if reply.entry is None:
                found.append((entries, reply))
                entries = []
            elif is_stream:
                kept.append(reply)
            else:
                entries.append(reply)
        if len(found) != len(requests) or entries:
            raise Differs(self._story(f"{len(found)} replies to {len(requests)} requests"))
        self._kept = {number: kept}
        return found

    _kept: dict[int, list[Reply]] = {}  # noqa: RUF012 - replaced, never changed

    def _entries(self, number: int) -> list[Reply]:
        """Return what a stream showed since it was asked the last time."""
        kept = self._kept.pop(number, [])
        if number in self.clients and self.model.peers[number].stream is not None:
            kept = kept + self._lines(number)
        return kept

    def _take(  # noqa: PLR0913 - what came for one request
        self,
        model: Model,
        number: int,
        request: Request,
        entries: list[Reply],
        reply: Reply,
        *,
        is_full: bool = False,
    ) -> None:
        """Hold one reply to the model, and have the model learn from it."""
        answers = model.answers(number, request)
        if is_full:
            answers = [*answers, no(request, "storage_full")]
        if request["op"] == "tail" and reply.members["ok"]:
            answers = [self._tailed(model, number, request, entries, answers)]
        elif entries:
            raise Differs(self._story(f"entries before {reply}"))
        problems = []
        for answer in answers:
            problem = answer.fits(reply)
            if problem is None:
                try:
                    answer.effect(reply)
                except AssertionError as wrong:
                    raise Differs(self._story(f"{number} {request}: {reply}: {wrong}")) from wrong
                return
            problems.append(problem)
        raise Differs(self._story(f"{number} {request} was answered {reply}: {problems}"))

    def _tailed(
        self,
        model: Model,
        number: int,
        request: Request,
        entries: list[Reply],
        answers: list[Answer],
    ) -> Answer:
        """Return the answer of a tail that does not follow, its entries checked."""
        peer = model.peers[number]
        wanted = request.get("uid", peer.uid)
        uid = None if wanted == "*" else peer.uid if wanted is None else wanted
        expected = model.shown_by_tail(uid, request)
        start = request.get("from_position")
        shown = [reply for reply in entries if reply.entry is not None]
        if start is not None:  # of some it is not known whether they stand before
            places = {reply.entry.position for reply in shown if reply.entry}
            assert all(place >= start for place in places)
            expected = expected[max(len(expected) - len(shown), 0) :]
        spare = _spare(expected, request)
        self._match(model, expected, shown, is_of_all=wanted == "*", spare=spare)
        return answers[0]

    def _match(
        self, model: Model, expected: Any, shown: list[Reply], *, is_of_all: bool, spare: int = 0
    ) -> None:
        """Hold entries that were shown to those that were due, in their order; *spare* more are."""
        left = list(expected)
        before = -1
        for reply in shown:
            entry = reply.entry
            assert entry is not None
            assert entry.position > before, "a tail went back"
            before = entry.position
            problems: list[str] = []
            for index, (name, due) in enumerate(left):
                try:
                    same_entry(due, entry, name[1], name[0] if is_of_all else None)
                except AssertionError as problem:
                    problems.append(str(problem))
                    if due.is_gone or (due.group and due.group == left[0][1].group):
                        continue
                    raise Differs(self._story(f"{reply} is not due: {problems}")) from None
                model.learn(due, entry.position)
                left[: index + 1] = [
                    pair for pair in left[:index] if pair[1].group and not pair[1].is_gone
                ]
                break
            else:
                raise Differs(self._story(f"{reply} is not due: {problems}"))
        missing = [due for _, due in left if not due.is_gone]
        if len(missing) > spare:
            raise Differs(self._story(f"{missing} were not shown"))

    # Streams

    async def stream(self, number: int, request: Request) -> None:
        """Have a client follow what is recorded."""
        self._send(number, [request])
        await self._settled()
        replies = self._lines(number)
        peer = self.model.peers[number]
        wanted = request.get("uid", peer.uid)
        if wanted != peer.uid and not self.model.is_admin(peer):
            (reply,) = replies
            problem = no(request, "forbidden").fits(reply)
            if problem:
                raise Differs(self._story(problem))
            return
        uid = None if wanted == "*" else wanted
        assert all(one.members.get("id") == request.get("id") for one in replies)
        expected = self.model.shown_by_tail(uid, request)
        spare = _spare(expected, request)
        self._match(self.model, expected, replies, is_of_all=wanted == "*", spare=spare)
        peer.stream = uid, request.get("agent_id"), wanted == "*"
        await self.check()

    async def close(self, number: int) -> None:
        """Have a client end its conversation."""
        self._send(number, [{"op": "close", "id": "end"}])
        await self._settled()
        *entries, last = self._lines(number)
        problem = yes({"id": "end"}).fits(last)
        if problem or entries or not self.clients[number].sink.is_closed:
            raise Differs(self._story(f"close was answered {entries} {last}: {problem}"))
        self.clients.pop(number).lose()
        await self._settled()
        self.model.close(number)
        await self.check()

    def _check_streams(self, model: Model, streamed: dict[int, list[Reply]]) -> None:
        for number, peer in model.peers.items():
            if peer.stream is not None:
                self._match(model, peer.due, streamed[number], is_of_all=peer.stream[2])
                peer.due.clear()

    # Looking at all of it

    async def check(self) -> None:
        """Hold what streams show, and all that an administrator can see, to the model."""
        streamed = {number: self._entries(number) for number in self.model.peers}
        self._check_streams(self.model, streamed)
        self._check_observed(self.model, *await self._observed())

    async def _observed(self) -> tuple[list[Reply], list[Any]]:
        observer = self.service.connect(ROOT)
        observer.send({"op": "tail", "uid": "*", "follow": False, "from_position": 0})
        await self._settled()
        *entries, _ = [Reply(line) for line in bytes(observer.sink.written).split(b"\n")[:-1]]
        agents: list[Any] = []
        more = True
        while more:
            after = agents[-1]["first_position"] if agents else None
            observer.sink.written.clear()
            observer.send({"op": "agents", "uid": "*", "limit": 1000, "after": after})
            await self._settled()
            page = Reply(bytes(observer.sink.written)).members
            agents += page["agents"]
            more = page["more"]
        observer.lose()
        self.service.clients.remove(observer)
        await self._settled()
        return entries, agents

    def _check_observed(self, model: Model, entries: list[Reply], agents: list[Any]) -> None:
        self._match(model, model.log, entries, is_of_all=True)
        model.check_order()
        expected = [model.description(agent) for agent in model.agents.values()]
        try:
            same(expected, agents, "agents")
        except AssertionError as problem:
            raise Differs(self._story(str(problem))) from None

    async def check_entries(self) -> None:
        """Read every agent from its beginning to its end, and compare."""
        number = self.connect(ROOT)
        for uid, agent_id in list(self.model.agents):
            start, more = 0, True
            while more:
                request = {"op": "read", "agent_id": agent_id, "uid": uid, "from_sequence": start}
                self._send(number, [request])
                await self._settled()
                ((entries, reply),) = self._replies(number, [request])
                self._take(self.model, number, request, entries, reply)
                start, more = reply.members["next_sequence"], reply.members["more"]
        await self.leave(number)

    def _story(self, problem: str) -> str:
        return "\n".join([problem, "", *self.told[-60:]])


def _spare(expected: Any, request: Request) -> int:
    """Return how many more are *expected* than were asked for: any of a group may be the last."""
    last = request.get("last")
    return 0 if last is None else max(len(expected) - last, 0)


__all__ = ["LIMITS", "UIDS", "Differs", "Host", "asyncio", "is_of"]
