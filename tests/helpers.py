"""A daemon without sockets: sessions and the committer on a store in memory, stepped by hand.

Time stands still, and the loop turns only as far as it can by itself
(``settled``), so a test says exactly what has happened when.  Leaving a
``Service`` holds the daemon to what it owes everybody: each line was answered
once, in order; nothing is left in flight; the store holds what was acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final, Self

from structlog.testing import CapturingLogger

from agent_journal.errors import StorageFailedError
from agent_journal.model import AgentId, Micros, Uid
from agent_journal.service.admission import Admission
from agent_journal.service.attaching import keep_owners
from agent_journal.service.committer import Committer
from agent_journal.service.config import Config, Limits
from agent_journal.service.context import Context
from agent_journal.service.heads import HEADS_MAX, Head, Heads
from agent_journal.service.metrics import Metrics
from agent_journal.service.owners import Owners
from agent_journal.service.peer import Peer
from agent_journal.service.session import Session
from agent_journal.store.base import Filter, Store
from agent_journal.store.memory import MemoryStore
from agent_journal.testing.clock import ManualClock
from agent_journal.testing.plain_journal import list_all, read_all, scan_all
from agent_journal.testing.stores import FaultyStore

ROOT: Final = Uid(0)
ALICE: Final = Uid(4_000_000_001)  # hardly the uid that runs the tests, which is an admin's
BOB: Final = Uid(4_000_000_002)
STEPS_MAX: Final = 100_000

Message = dict[str, Any]


async def settled() -> None:
    """Let the loop turn until nothing more can happen by itself."""
    loop = asyncio.get_running_loop()
    for _ in range(STEPS_MAX):
        await asyncio.sleep(0)
        if not loop._ready:  # type: ignore[attr-defined]
            return
    raise AssertionError("the loop does not come to rest: something spins")


def encoded(lines: Iterable[Message | bytes | str]) -> bytes:
    """Return *lines* as a client sends them."""
    return b"".join(
        (one if isinstance(one, bytes) else one.encode() if isinstance(one, str) else _json(one))
        + b"\n"
        for one in lines
    )


def _json(message: Message) -> bytes:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def append(agent_id: str = "a", event: str = "Noted", **fields: Any) -> Message:
    """Return an append of a small event."""
    return {"op": "append", "agent_id": agent_id, "event": {event: 1}, **fields}


def terminated(agent_id: str = "a", reason: str = "Completed", **fields: Any) -> Message:
    """Return an agent's last append."""
    return {
        "op": "append",
        "agent_id": agent_id,
        "event": {"Terminated": {"reason": reason}},
        **fields,
    }


class ScriptedSink:
    """A client's end of the connection, which reads when the test says so."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.writes = 0
        self.is_reading = True
        self.is_closed = False
        self.is_gone = False
        self.unsent_bytes = 0
        self._drained: asyncio.Future[None] | None = None

    def write(self, data: bytes) -> None:
        if self.is_gone:
            return  # as a transport does
        assert not self.is_closed, f"written behind the end: {data!r}"
        self.written += data
        self.writes += 1

    async def drained(self) -> None:
        while self.unsent_bytes and not self.is_closed:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def close(self) -> None:
        self.is_closed = True

    def wake(self) -> None:
        """Let go on who waits for the client to read."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)


class FakeProcess:
    """A process that lives until a test ends it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.start_time: int | None = 1_000_000 + pid
        self.is_alive = True
        self.is_closed = False
        self._on_exit: Callable[[], None] | None = None

    def watch(self, on_exit: Callable[[], None]) -> None:
        self._on_exit = on_exit

    def close(self) -> None:
        self.is_closed, self._on_exit = True, None

    def end(self) -> None:
        self.is_alive = False
        if self._on_exit is not None:
            self._on_exit()


class FakeProcesses:
    """The processes of a host: every pid is alive until it is ended, but those unseen."""

    def __init__(self) -> None:
        self.unseen: set[int] = {0}
        self.opened: list[FakeProcess] = []
        self.start_times: dict[int, int] = {}
        self._ended: set[int] = set()

    def find(self, pid: int) -> FakeProcess | None:
        if pid in self.unseen or pid in self._ended:
            return None
        process = FakeProcess(pid)
        process.start_time = self.start_times.get(pid, process.start_time)
        self.opened.append(process)
        return process

    def revive(self, pid: int) -> None:
        """Give the pid of a process that has ended to a new one."""
        self._ended.discard(pid)
        self.start_times[pid] = self.start_times.get(pid, 1_000_000 + pid) + 1

    def end(self, pid: int) -> None:
        self._ended.add(pid)
        for process in self.opened:
            if process.pid == pid and not process.is_closed:
                process.end()


class RecordingResumer:
    """Starts nothing, and remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.launchers: set[str] = set()
        self.reports: set[int] = set()  # attempts whose end it will report

    @property
    def news(self) -> list[tuple[Any, ...]]:
        """What it was told since this was asked the last time."""
        told, self.told = self.told, []
        return told

    def interrupted(self, uid: Uid, agent_id: AgentId) -> None:
        self.told.append(("interrupted", uid, agent_id))

    def woken(self, uid: Uid, agent_id: AgentId) -> None:
        self.told.append(("woken", uid, agent_id))

    def attached(self, uid: Uid, agent_id: AgentId) -> None:
        self.told.append(("attached", uid, agent_id))

    def finished(self, uid: Uid, agent_id: AgentId) -> None:
        self.told.append(("finished", uid, agent_id))

    def waiting(self, uid: Uid, agent_id: AgentId, wake_at: Micros | None) -> None:
        self.told.append(("waiting", uid, agent_id, wake_at))

    def will_report(self, uid: Uid, agent_id: AgentId, attempt: int) -> bool:
        return attempt in self.reports

    def knows_launcher(self, name: str, uid: Uid) -> bool:
        return name in self.launchers


class Client:
    """A connection to the daemon, as the server would drive it."""

    def __init__(self, service: Service, uid: Uid, pid: int) -> None:
        peer = Peer(uid=uid, gid=uid, pid=pid, groups=frozenset())
        self.uid = uid
        self.pid = pid
        self.sink = ScriptedSink()
        self.sent = 0  # lines
        self._service = service
        self._taken = 0
        service.context.admission.opened(uid)
        self.session = Session(service.context, peer, self.sink, service.tasks)

    def send(self, *lines: Message | bytes | str) -> None:
        """Send lines in one piece."""
        self.sent += len(lines)
        self.send_bytes(encoded(lines))

    def send_bytes(self, data: bytes) -> None:
        """Send *data* in one piece."""
        assert not self.sink.is_closed, "sent behind the end"
        self.session.receive(data)

    @property
    def replies(self) -> list[Message]:
        """All that was answered since this was asked the last time."""
        lines = bytes(self.sink.written).split(b"\n")
        assert lines.pop() == b"", "a reply does not end in a newline"
        found = [json.loads(line) for line in lines[self._taken :]]
        self._taken = len(lines)
        return found

    async def ask(self, *lines: Message | bytes | str) -> list[Message]:
        """Send lines, let the daemon do what it can, and return what it answered."""
        self.send(*lines)
        await settled()
        return self.replies

    async def ask_one(self, line: Message | bytes | str) -> Message:
        """Send a line and return the one reply to it."""
        (reply,) = await self.ask(line)
        return reply

    def end(self) -> None:
        """Send nothing more, but go on reading."""
        self.session.end()

    def stall(self, size: int = 100_000) -> None:
        """Stop reading: replies pile up."""
        self._unsent(size)

    def catch_up(self) -> None:
        """Read all that has piled up."""
        self._unsent(0)
        self.sink.wake()

    def _unsent(self, size: int) -> None:
        before, self.sink.unsent_bytes = self.sink.unsent_bytes, size
        admission = self._service.context.admission
        admission.change(admission.account(self.uid), size - before)
        self.session.resume()

    def lose(self) -> None:
        """Be gone."""
        self.sink.is_closed = True
        self.sink.is_gone = True
        self._unsent(0)
        self.session.lost()
        self._service.context.admission.closed(self.uid)
        self.sink.wake()

    def die(self) -> None:
        """Be killed: the process ends, and the kernel closes its connection."""
        self.lose()
        self._service.processes.end(self.pid)


class Service:
    """The daemon's core between a store and its clients."""

    def __init__(
        self,
        store: Store | None = None,
        *,
        heads_max: int = HEADS_MAX,
        batch_entries_max: int | None = None,
        batch_bytes_max: int | None = None,
        **limits: int,
    ) -> None:
        self.clock = ManualClock()
        self.store = FaultyStore(store or MemoryStore())
        self.log = CapturingLogger()
        heads = Heads(self.store, self.clock, heads_max=heads_max)
        metrics = Metrics(self.clock.monotonic())
        self.committer = Committer(self.store, heads, metrics, self.clock, self.log)
        if batch_entries_max is not None:
            self.committer.batch_entries_max = batch_entries_max
        if batch_bytes_max is not None:
            self.committer.batch_bytes_max = batch_bytes_max
        config = replace(Config(), limits=replace(Limits(), **limits))
        self.context = Context(
            config=config,
            store=self.store,
            heads=heads,
            committer=self.committer,
            admission=Admission(config.limits),
            metrics=metrics,
            clock=self.clock,
            log=self.log,
            boot_id="boot",
        )
        self.processes = FakeProcesses()
        self.resumer = RecordingResumer()
        self.context.owners = Owners(self.processes.find)
        self.context.resumer = self.resumer
        self.tasks = asyncio.TaskGroup()
        self.clients: list[Client] = []
        self.failure: BaseException | None = None
        self._writer: asyncio.Task[None]
        self._keeper: asyncio.Task[None]

    def connect(self, uid: Uid = ALICE, *, pid: int | None = None) -> Client:
        """Return a new connection, of a process of its own unless it is said which."""
        client = Client(self, uid, 1000 + len(self.clients) if pid is None else pid)
        self.clients.append(client)
        return client

    async def __aenter__(self) -> Self:
        await self.tasks.__aenter__()
        self._writer = self.tasks.create_task(self._write())
        self._keeper = self.tasks.create_task(keep_owners(self.context))
        return self

    async def _write(self) -> None:
        try:
            await self.committer.run()
        except Exception as error:  # noqa: BLE001 - looked at by the test
            self.failure = error

    async def __aexit__(self, kind: type[BaseException] | None, *rest: Any) -> None:  # noqa: PYI036
        if kind is not None:
            with contextlib.suppress(BaseExceptionGroup):  # the test's own failure says more
                await self.tasks.__aexit__(kind, *rest)
            return
        for operation in ("commit", "load", "find_key", "read", "scan", "agents"):
            self.store.release(operation)
        await settled()
        for client in self.clients:
            client.catch_up()
        await settled()
        await self.close()
        await self.tasks.__aexit__(None, None, None)
        self._check()
        await self._check_store()

    async def close(self) -> None:
        """Stop as the daemon does: take no more, commit what is queued, answer."""
        for client in self.clients:
            if not client.sink.is_gone:
                client.session.stop()
        self.committer.close()
        self._keeper.cancel()
        await settled()
        self.context.owners.close()
        assert all(process.is_closed for process in self.processes.opened)
        assert self._writer.done(), "the committer does not end"

    def _check(self) -> None:
        """Hold the daemon to what it owes everybody."""
        if self.failure is not None:
            assert isinstance(self.failure, StorageFailedError), repr(self.failure)
        admission = self.context.admission
        for client in self.clients:
            if not client.sink.is_gone:
                assert client.session.is_quiet(), "somebody waits for an answer"
                assert client.sink.is_closed
        assert self.committer.queued_entries == self.committer.queued_bytes == 0
        assert admission.bytes_in_flight == 0
        assert admission.partial_bytes == 0
        assert all(not account.bytes_in_flight for account in admission.accounts.values())
        assert not [call for call in self.log.calls if call.method_name == "exception"]

    async def _check_store(self) -> None:
        """Find each agent's history without a gap, and the log to be all of them."""
        found: dict[tuple[Uid, AgentId], list[int]] = {}
        positions = []
        for name, entry in await scan_all(self.store.store, Filter()):
            if entry.event.startswith(b'{"Forked"'):
                found[name] = [*range(entry.sequence)]  # copies, which a scan does not show
            found.setdefault(name, []).append(entry.sequence)
            positions.append(entry.position)
        assert positions == sorted(set(positions))
        for name, sequences in found.items():
            assert sequences == [*range(len(sequences))], name
        agents = await list_all(self.store.store)
        while await self.store.count_agents():
            pass
        counted = Counter(self.store.agent_counts)
        assert +counted == Counter((agent.uid, agent.state) for agent in agents)

    # Looking behind the wire

    def heads(self, uid: Uid = ALICE) -> dict[str, Head]:
        """Return the heads of a namespace that are in memory."""
        return self.context.heads.namespace(uid).heads

    async def events(self, agent_id: str = "a", uid: Uid = ALICE) -> list[str]:
        """Return the names of an agent's recorded events."""
        (record,) = await self.store.store.load([(uid, AgentId(agent_id))])
        if record is None:
            return []
        entries = await read_all(self.store.store, record)
        return [next(iter(json.loads(entry.event))) for entry in entries]

    async def payloads(self, agent_id: str = "a", uid: Uid = ALICE) -> list[tuple[str, Any]]:
        """Return an agent's recorded events, by name and value."""
        (record,) = await self.store.store.load([(uid, AgentId(agent_id))])
        assert record is not None
        entries = await read_all(self.store.store, record)
        return [pair for entry in entries for pair in json.loads(entry.event).items()]

    async def next_sequence(self, agent_id: str = "a", uid: Uid = ALICE) -> int:
        """Return how many entries of an agent are recorded."""
        return len(await self.events(agent_id, uid))


def code_of(reply: Message) -> str | None:
    """Return what a reply refuses with, if it does."""
    code: str | None = None if reply.get("ok", True) else reply["error"]["code"]
    return code


def codes_of(replies: Iterable[Message]) -> list[str | None]:
    """Return what each reply refuses with."""
    return [code_of(reply) for reply in replies]
