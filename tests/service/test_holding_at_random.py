"""Any order of attaches, appends, deaths and steering: an agent has one writer at a time.

Every event that a client records names the process and the epoch that it was
recorded under, so the journal itself tells whether the rules were kept.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_journal.model import TERMINAL, AgentId, AgentState
from agent_journal.service import attaching
from helpers import ALICE, Client, Service, settled

A: Final = AgentId("a")
PIDS: Final = (11, 12, 13)

_actions = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "attach",
                "attach",
                "take_over",
                "append",
                "append",
                "append",
                "repeat",
                "detach",
                "lose",
                "die",
                "signal",
                "park",
                "resume",
                "launch",
                "end",
                "full",
                "settle",
                "settle",
                "hold",
                "release",
                "restart",
            ]
        ),
        st.integers(0, 2),
    ),
    max_size=40,
)


class Host:
    """Three processes that write to one agent, as far as they are let."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.clients: dict[int, Client] = {}
        self.epochs: dict[int, int] = {}  # that each process was granted last
        self.granted: list[tuple[int, int]] = []
        self.acknowledged: dict[int, dict[str, Any]] = {}  # events by sequence
        self.next_event = 0
        self._asked: dict[int, list[tuple[str, Any]]] = {pid: [] for pid in PIDS}

    def client(self, pid: int) -> Client:
        if pid not in self.clients:
            self.clients[pid] = self.service.connect(pid=pid)
            self._asked[pid] = []
        return self.clients[pid]

    def send(self, pid: int, what: str, request: dict[str, Any], known: Any = None) -> None:
        self._asked[pid].append((what, known))
        self.client(pid).send({"agent_id": "a", **request})

    def collect(self) -> None:
        """Take note of what was answered."""
        for pid, client in self.clients.items():
            for reply in client.replies:
                what, known = self._asked[pid].pop(0)
                if not reply["ok"]:
                    continue
                if what == "attach":
                    self.epochs[pid] = reply["epoch"]
                    self.granted.append((reply["epoch"], pid))
                elif what == "append":
                    before = self.acknowledged.setdefault(reply["sequence"], known)
                    assert before == known, "two entries were acknowledged at one sequence"

    def act(self, what: str, pid: int) -> None:
        epoch = self.epochs.get(pid, 0)
        match what:
            case "attach" | "take_over":
                request = {"op": "attach", "take_over": what == "take_over"}
                self.client(pid)
                self.send(pid, "attach", request)
            case "append":
                self.client(pid)
                event = {"Said": {"by": pid, "epoch": epoch, "n": self.next_event}}
                self.next_event += 1
                self.send(pid, "append", {"op": "append", "epoch": epoch, "event": event}, event)
            case "repeat" if self.acknowledged:
                sequence, event = max(self.acknowledged.items())
                said = event["Said"]
                request = {"op": "append", "epoch": said["epoch"], "event": event}
                self.client(said["by"])
                self.send(said["by"], "append", {**request, "expected_sequence": sequence}, event)
            case "detach":
                self.client(pid)
                self.send(pid, what, {"op": "detach", "epoch": epoch})
            case "signal":
                self.client(pid)
                self.send(pid, what, {"op": "signal", "name": "n"})
            case "park" | "resume":
                self.client(pid)
                self.send(pid, what, {"op": what})
            case "lose" if pid in self.clients:
                self.clients.pop(pid).lose()
            case "die" if pid in self.clients:
                self.clients.pop(pid).die()
                self.service.processes.revive(pid)
                self.epochs.pop(pid, None)


async def play(actions: list[tuple[str, int]]) -> None:
    host: Host | None = None
    store = None
    left = list(actions)
    history: list[Host] = []
    while left or host is None:
        async with Service(store) as service:
            now = Host(service)
            if host is not None:
                now.__dict__.update({k: v for k, v in host.__dict__.items() if k not in _OF_A_LIFE})
            host = now
            history.append(host)
            while left:
                what, which = left.pop(0)
                if what == "restart":
                    break
                await _act(service, host, what, PIDS[which])
            service.store.release()
            await settled()
            host.collect()
        store = service.store.store
    await check(service, host)


_OF_A_LIFE: Final = {"service", "clients", "_asked"}


async def _act(service: Service, host: Host, what: str, pid: int) -> None:
    match what:
        case "full":
            service.store.fail_next_as_full()
        case "hold":
            service.store.hold()
        case "release":
            service.store.release()
        case "settle":
            await settled()
            host.collect()
        case "launch" | "end":
            service.store.release()
            await settled()
            (record,) = await service.store.store.load([(ALICE, A)])
            if record is not None and not service.store._failures:
                if what == "launch":
                    await attaching.record_launch(service.context, ALICE, A, command="x")
                else:
                    await attaching.record_end(
                        service.context, ALICE, A, record.attempts, how="exited", pid=pid
                    )
        case _:
            host.collect()
            host.act(what, pid)


async def check(service: Service, host: Host) -> None:
    """Hold the journal to the rules."""
    (record,) = await service.store.store.load([(ALICE, A)])
    if record is None:
        assert not host.acknowledged
        return
    events = await service.payloads()
    for sequence, event in host.acknowledged.items():
        ((name, value),) = event.items()
        assert events[sequence] == (name, value), "acknowledged, and not recorded there"
    epochs = [epoch for epoch, _ in host.granted]
    assert len(set(epochs)) == len(epochs), "an epoch was granted twice"
    said = [value for name, value in events if name == "Said"]
    assert len({value["n"] for value in said}) == len(said), "recorded twice"
    written = [value["epoch"] for value in said]
    assert written == sorted(written), "an older epoch wrote behind a newer one"
    is_held = False
    started = 0
    for name, value in events:
        match name:
            case "AttemptStarted":
                assert value["epoch"] > started, "an epoch was started twice"
                started, is_held = value["epoch"], True
            case "AttemptEnded":
                assert is_held, "ended twice"
                is_held = False
            case "Said" if value["epoch"]:
                assert is_held, "written while nobody held it"
                assert value["epoch"] >= started
    assert record.epoch >= max([0, *epochs])
    assert record.state is not AgentState.RUNNING or is_held or not record.epoch
    assert record.state not in TERMINAL


@given(actions=_actions)
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_an_agent_has_one_writer_at_a_time(actions: list[tuple[str, int]]) -> None:
    asyncio.run(play(actions))
