"""What the supervisor does about agents that are not running, with time stepped by hand."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self
from unittest import mock

import pytest

from agent_journal.errors import OverloadedError
from agent_journal.model import AgentId, Uid
from agent_journal.service.attempt_output import Outcome
from agent_journal.service.config import Config
from agent_journal.service.config_resume import LauncherOptions, Resume
from agent_journal.service.launch_systemd import LaunchError
from agent_journal.service.launchers import Means
from agent_journal.service.recovery import bury, recover
from agent_journal.service.supervisor import LINGER_SECONDS, RETRY_SECONDS, Supervisor
from agent_journal.service.turns import TURN_SECONDS
from agent_journal.store.base import AgentRecord
from agent_journal.store.memory import MemoryStore
from helpers import Client, Service, codes_of, settled, terminated

ME = Uid(os.geteuid())  # commands are run for the daemon's own user alone
KILLED = Outcome(how="signalled", signal="SIGKILL")
COMMAND = {"argv": ["agent", "--it"], "cwd": "/work", "env": {"WORD": "x"}}


async def some_turns() -> None:
    """Let others go on, in the middle of what a test waits for."""
    for _ in range(100):
        await asyncio.sleep(0)


class FakeAttempt:
    """An attempt that goes on until a test, or the supervisor, ends it."""

    def __init__(self, pid: int) -> None:
        self.pid: int | None = pid
        self.is_over = False
        self.is_asked_to_end = False
        self.is_closed = False
        self.how = KILLED
        self._on_end: Callable[[], None] | None = None

    def watch(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end

    async def outcome(self) -> Outcome:
        return self.how

    def end(self) -> None:
        self.is_asked_to_end = True

    def close(self) -> None:
        self._on_end = None
        self.is_closed = True

    def ends(self, how: Outcome = KILLED) -> None:
        self.is_over, self.how = True, how
        if self._on_end is not None:
            self._on_end()


class FakeLaunchers:
    """Starts what a test looks at."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.means: list[Means] = []
        self.attempts: dict[str, FakeAttempt] = {}
        self.refusals: dict[str, str] = {}
        self.while_starting: Callable[[FakeAttempt], Any] | None = None
        self.survivors: dict[str, FakeAttempt] = {}
        self.survivor_number = 0  # the present attempt's, if no other is said

    async def launch(self, record: AgentRecord, means: Means, config: Config) -> FakeAttempt:
        self.started.append(f"{record.agent_id}:{record.attempts}")
        self.means.append(means)
        if record.agent_id in self.refusals:
            raise LaunchError(self.refusals[record.agent_id])
        launched = self.attempts[record.agent_id] = FakeAttempt(5000 + len(self.started))
        if self.while_starting is not None:
            await self.while_starting(launched)
        return launched

    def find(self, record: AgentRecord) -> FakeAttempt | None:
        if self.survivor_number not in (0, record.attempts):
            return None
        return self.survivors.get(record.agent_id)

    def find_living(self, record: AgentRecord) -> tuple[int, FakeAttempt] | None:
        survivor = self.survivors.get(record.agent_id)
        return None if survivor is None else (self.survivor_number or record.attempts, survivor)

    @property
    def news(self) -> list[str]:
        """Who was started since this was asked the last time."""
        started, self.started = self.started, []
        return started


class Host:
    """A daemon with agents, stepped by hand."""

    def __init__(self, store: MemoryStore | None = None, **resume: Any) -> None:
        self.service = Service(store)
        self.launchers = FakeLaunchers()
        given = {"backoff_seconds_initial": 10, "per_second": 10_000, "outbreak_agents": 0}
        config = self.service.context.config
        self.service.context.config = replace(config, resume=Resume(**{**given, **resume}))
        environ: Mapping[str, str] = {"PATH": "/bin", "SECRET": "s"}
        self.supervisor = Supervisor(self.service.context, self.launchers, environ)  # type: ignore[arg-type]
        self.service.context.resumer = self.supervisor

    async def __aenter__(self) -> Self:
        await self.service.__aenter__()
        self.service.clock.next_chance = 1.0
        self.supervisor.begin(self.service.tasks)
        return self

    async def __aexit__(self, *error: object) -> None:
        await settled()
        self.supervisor.close()
        await self.service.__aexit__(*error)

    async def attach(self, agent_id: str = "a", pid: int | None = None, **members: Any) -> Client:
        """Have a process attach; return its connection."""
        client = self.service.connect(ME, pid=pid)
        if not {"command", "launcher"} & {*members}:
            members["command"] = COMMAND
        request = {"op": "attach", "agent_id": agent_id, **members}
        reply = await client.ask_one(request)
        assert reply["ok"], reply
        client.epoch = reply["epoch"]  # type: ignore[attr-defined]
        return client

    async def attach_launched(self, agent_id: str = "a") -> Client:
        return await self.attach(agent_id, self.launchers.attempts[agent_id].pid)

    async def take_over_and_attach(self, started: FakeAttempt) -> None:
        """Have another process hold what is being started, and be lost; then attach it."""
        for pid in (None, started.pid):
            client = self.service.connect(ME, pid=pid)
            client.send({"op": "attach", "agent_id": "a"})
            await some_turns()
            assert client.replies[0]["ok"]
            if pid is None:
                client.die()
                await some_turns()

    async def crash(self, *agent_ids: str) -> None:
        """Have agents that a person started die."""
        for agent_id in agent_ids:
            client = await self.attach(agent_id)
            client.die()
            await settled()

    async def end(self, agent_id: str = "a", how: Outcome = KILLED) -> None:
        """Have what was launched end, attached or not."""
        attempt = self.launchers.attempts[agent_id]
        for client in self.service.clients:
            if client.pid == attempt.pid and not client.sink.is_gone:
                client.die()
        attempt.ends(how)
        await settled()

    async def step(self, client: Client, agent_id: str = "a", **content: Any) -> None:
        event = {"StepCompleted": {"key": "k", **content}}
        epoch = client.epoch  # type: ignore[attr-defined]
        request = {"op": "append", "agent_id": agent_id, "event": event, "epoch": epoch}
        assert (await client.ask_one(request))["ok"]

    async def pass_by(self, seconds: float) -> list[str]:
        """Let time pass; return who was started."""
        self.service.clock.advance(seconds)
        for _ in range(10):  # the pace lets one go after the other
            self.supervisor.look()
            await settled()
            self.service.clock.advance(0.0002)
        return self.launchers.news

    async def now(self) -> list[str]:
        return await self.pass_by(0.01)

    @contextmanager
    def slow(self, agent_id: str) -> Iterator[asyncio.Event]:
        """Have an agent's record take long to be read: until the event is set."""
        goes_on = asyncio.Event()
        store = self.service.store.store
        load = store.load

        async def load_slowly(names: Any) -> Any:
            if (ME, agent_id) in names:
                await goes_on.wait()
            return await load(names)

        with mock.patch.object(store, "load", load_slowly):
            yield goes_on

    async def describe(self, agent_id: str = "a") -> dict[str, Any]:
        client = self.service.connect(ME)
        reply = await client.ask_one({"op": "describe", "agent_id": agent_id})
        agent: dict[str, Any] = reply["agent"]
        return agent

    async def state(self, agent_id: str = "a") -> str:
        return str((await self.describe(agent_id))["state"])

    async def events(self, agent_id: str = "a") -> list[dict[str, Any]]:
        client = self.service.connect(ME)
        reply = await client.ask_one({"op": "read", "agent_id": agent_id})
        return [entry["event"] for entry in reply["entries"]]


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with Host() as host:
        yield host


class TestCrash:
    async def test_it_is_started_again_when_its_back_off_is_over(self, host: Host) -> None:
        await host.crash("a")
        assert await host.state() == "interrupted"
        assert (await host.describe())["next_attempt_at"] == "2023-11-14T22:13:30.000000Z"
        assert await host.pass_by(9.9) == []
        assert await host.pass_by(0.1) == ["a:2"]
        assert await host.state() == "resuming"
        (means,) = host.launchers.means
        assert (means.argv, means.cwd, means.env) == (("agent", "--it"), "/work", {"WORD": "x"})
        client = await host.attach_launched()
        assert await host.state() == "running"
        await client.ask_one(terminated("a", epoch=client.epoch))  # type: ignore[attr-defined]
        await host.end()
        assert await host.state() == "completed"
        assert await host.pass_by(10_000) == []

    async def test_a_recorded_step_has_it_start_again_at_once(self, host: Host) -> None:
        client = await host.attach()
        await host.step(client)
        client.die()
        await settled()
        assert await host.now() == ["a:2"]

    async def test_each_crash_without_a_step_is_waited_for_longer_until_it_is_parked(
        self, host: Host
    ) -> None:
        await host.crash("a")
        for attempt, seconds in ((2, 10), (3, 20), (4, 40), (5, 80), (6, 160)):
            assert await host.pass_by(seconds - 1) == []
            assert await host.pass_by(1) == [f"a:{attempt}"]
            await host.attach_launched()
            await host.end(how=Outcome(how="exited", exit_code=1, stderr="no key"))
        described = await host.describe()
        assert described["state"] == "parked"
        assert described["reason"].startswith("resumed 5 times without finishing")
        assert "exited with status 1" in described["reason"]
        ended, parked = (await host.events())[-2:]
        assert ended == {
            "AttemptEnded": {"attempt": 6, "how": "exited", "exit_code": 1, "stderr": "no key"}
        }
        assert parked["Parked"]["stderr"] == "no key"
        assert await host.pass_by(10**6) == []

    async def test_the_end_of_what_was_launched_is_recorded_once(self, host: Host) -> None:
        await host.crash("a")
        await host.pass_by(10)
        await host.attach_launched()
        await host.end()
        names = [next(iter(event)) for event in await host.events()]
        assert names.count("AttemptEnded") == 2
        incident = (await host.describe())["incident"]
        assert incident["attempts"] == 1

    async def test_a_process_that_ends_before_it_attaches_is_a_crash(self, host: Host) -> None:
        await host.crash("a")
        assert await host.pass_by(10) == ["a:2"]
        await host.end(how=Outcome(how="exited", exit_code=2))
        assert await host.state() == "interrupted"
        assert await host.pass_by(19) == []
        assert await host.pass_by(1) == ["a:3"]

    async def test_one_that_attaches_and_ends_while_it_is_being_started_is_told_once(
        self, host: Host
    ) -> None:
        async def attach_and_die(launched: FakeAttempt) -> None:
            client = host.service.connect(ME, pid=launched.pid)
            client.send({"op": "attach", "agent_id": "a", "command": COMMAND})
            await some_turns()
            client.die()
            await some_turns()
            launched.is_over = True
            launched.watch = lambda on_end: on_end()  # type: ignore[method-assign]

        host.launchers.while_starting = attach_and_die
        await host.crash("a")
        await host.pass_by(10)
        host.launchers.while_starting = None
        ends = [event for event in await host.events() if "AttemptEnded" in event]
        assert [end["AttemptEnded"]["how"] for end in ends] == ["lost", "signalled"]
        assert await host.pass_by(19) == []
        assert await host.pass_by(1) == ["a:3"]

    async def test_one_that_went_on_calmly_for_long_has_a_new_budget(self, host: Host) -> None:
        await host.crash("a")
        await host.pass_by(10)
        client = await host.attach_launched()
        await host.pass_by(3600)
        await host.step(client)
        await host.end()
        assert await host.now() == ["a:3"]
        assert (await host.describe())["incident"] == {"attempts": 1, "steps": 1, "tokens": 0}

    async def test_what_can_not_be_started_is_tried_again_and_parked_in_the_end(
        self, host: Host
    ) -> None:
        host.launchers.refusals["a"] = "no such file"
        await host.crash("a")
        started = [await host.pass_by(300) for _ in range(6)]
        assert [len(one) for one in started] == [1, 1, 1, 1, 1, 0]
        assert await host.state() == "parked"
        ended, parked = (await host.events())[-2:]
        assert ended["AttemptEnded"]["how"] == "launch_failed"
        assert parked["Parked"]["stderr"] == "no such file"


class TestNobodyElse:
    async def test_one_that_never_attaches_delays_nobody_and_is_ended(self) -> None:
        async with Host(at_once_max=2) as host:
            await host.crash("hangs", "a", "b")
            assert await host.pass_by(10) == ["hangs:2", "a:2"]
            await host.attach_launched("a")
            assert await host.now() == ["b:2"]
            attempt = host.launchers.attempts["hangs"]
            await host.pass_by(29)
            assert not attempt.is_asked_to_end
            await host.pass_by(1)
            assert attempt.is_asked_to_end
            await host.end("hangs", Outcome(how="signalled", signal="SIGTERM", stderr="loading"))
            ended = (await host.events("hangs"))[-1]["AttemptEnded"]
            assert ended["signal"] == "SIGTERM"
            assert ended["stderr"].startswith("loading\nagent-journald: it did not attach in time")

    @pytest.mark.parametrize("op", ["cancel", "park"])
    async def test_one_that_may_not_attach_any_more_is_ended_soon(self, op: str) -> None:
        """It is refused when it attaches; what never does would go on unwatched."""
        async with Host() as host:
            await host.crash("a")
            assert await host.pass_by(10) == ["a:2"]
            assert (await host.service.connect(ME).ask_one({"op": op, "agent_id": "a"}))["ok"]
            attempt = host.launchers.attempts["a"]
            await host.pass_by(LINGER_SECONDS - 1)
            assert not attempt.is_asked_to_end
            await host.pass_by(1)
            assert attempt.is_asked_to_end
            before = await host.state()
            await host.end("a")
            assert await host.state() == before
            assert await host.pass_by(600) == []

    async def test_agents_are_started_in_the_order_in_which_they_came(self) -> None:
        async with Host(at_once_max=1) as host:
            await host.crash("c", "a", "b")
            order = await host.pass_by(10)
            for agent_id in ("c", "a", "b"):
                await host.attach_launched(agent_id)
                order += await host.now()
            assert order == ["c:2", "a:2", "b:2"]

    async def test_one_that_takes_longer_to_be_prepared_keeps_its_place(self, host: Host) -> None:
        await host.crash("a", "b")
        with host.slow("a") as goes_on:
            assert await host.pass_by(10) == []
            goes_on.set()
            assert await host.now() == ["a:2", "b:2"]

    async def test_one_that_takes_too_long_is_gone_past(self, host: Host) -> None:
        await host.crash("a", "b", "c")
        with host.slow("a") as goes_on:
            assert await host.pass_by(10) == []
            assert await host.pass_by(TURN_SECONDS - 0.01) == []
            assert await host.pass_by(0.01) == ["b:2", "c:2"]
            goes_on.set()
            assert await host.now() == ["a:2"]

    async def test_one_that_was_attached_and_lost_while_it_waited_is_started_anew(
        self, host: Host
    ) -> None:
        """By what its loss decided: a back-off, and one more failure of the budget."""
        await host.crash("a", "b")
        with host.slow("a") as goes_on:
            assert await host.pass_by(10) == []
            await host.crash("b")
            goes_on.set()
            assert await host.now() == ["a:2"]
        assert await host.pass_by(19.9) == []
        assert await host.pass_by(0.1) == ["b:3"]

    async def test_one_that_is_begun_twice_has_the_place_of_the_newer(self) -> None:
        """It was attached and lost while it waited, and is due at once: it got on."""
        async with Host(at_once_max=2) as host:
            await host.crash("a", "b")
            with host.slow("a") as goes_on:
                assert await host.pass_by(10) == []
                client = await host.attach("b")
                await host.step(client, "b")
                client.die()
                await settled()
                assert await host.now() == []
                goes_on.set()
                assert await host.now() == ["a:2", "b:3"]
            await host.crash("c")
            assert await host.pass_by(10) == [], "two are being started"
            await host.attach_launched("b")
            assert await host.now() == ["c:2"]

    async def test_nobody_waits_for_one_that_can_not_be_started(self, host: Host) -> None:
        await host.crash("a", "b")
        with host.slow("a") as goes_on:
            assert await host.pass_by(10) == []
            host.service.store.fail_next_as_full()
            goes_on.set()
            assert await host.now() == ["b:2"]
            assert await host.pass_by(RETRY_SECONDS) == ["a:2"]

    async def test_the_same_crash_in_many_agents_is_tried_by_one(self) -> None:
        same = Outcome(how="exited", exit_code=1, stderr="model 17 is down")
        async with Host(outbreak_agents=3) as host:
            await host.crash("a", "b", "c", "d")
            assert len(await host.pass_by(10)) == 4
            for agent_id in ("a", "b", "c"):
                await host.end(agent_id, same)
            assert await host.pass_by(20) == ["a:3"], "one probe"
            await host.end("a", same)
            assert await host.pass_by(39) == []
            assert await host.pass_by(1) == ["b:3"], "the next one"
            await host.attach_launched("b")
            assert await host.pass_by(29) == []
            started = await host.pass_by(1)
            assert sorted(started) == ["a:4", "c:3"], "it goes on: the others follow"

    async def test_a_probe_that_could_not_be_started_lets_others_try(self) -> None:
        """Else everybody would wait, for ever, for one that waits behind them."""
        same = Outcome(how="exited", exit_code=1, stderr="model 17 is down")
        async with Host(outbreak_agents=2) as host:
            await host.crash("a", "b")
            await host.pass_by(10)
            for agent_id in ("a", "b"):
                await host.end(agent_id, same)
            host.service.store.fail_next_as_full()
            started = await host.pass_by(20)
            started += await host.pass_by(1)
            started += await host.pass_by(RETRY_SECONDS)
            assert started == ["b:3"], "a could not be recorded as started"
            await host.attach_launched("b")
            assert await host.pass_by(30) == ["a:3"]


class TestWaiting:
    async def detach(self, host: Host, client: Client, **members: Any) -> None:
        epoch = client.epoch  # type: ignore[attr-defined]
        request = {"op": "detach", "agent_id": "a", "epoch": epoch, **members}
        assert (await client.ask_one(request))["ok"]

    async def test_it_is_started_when_its_time_has_come(self, host: Host) -> None:
        client = await host.attach()
        await self.detach(host, client, wake_at="2023-11-14T22:14:20Z")
        client.die()
        assert await host.pass_by(59) == []
        assert await host.pass_by(1) == ["a:2"]

    async def test_that_is_no_crash_and_costs_nothing_of_the_budget(self, host: Host) -> None:
        client = await host.attach()
        await self.detach(host, client, wake_at="2023-11-14T22:13:21Z")
        client.die()
        assert await host.pass_by(1) == ["a:2"]
        await host.attach_launched()
        await host.end()
        assert await host.pass_by(9) == []
        assert await host.pass_by(1) == ["a:3"]
        assert (await host.describe())["incident"]["attempts"] == 1

    async def test_a_process_that_gave_it_up_and_goes_on_is_waited_for_then_ended(
        self, host: Host
    ) -> None:
        """Never two at once."""
        await host.crash("a")
        await host.pass_by(10)
        client = await host.attach_launched()
        first = host.launchers.attempts["a"]
        await self.detach(host, client, wake_at="2023-11-14T22:13:31Z")
        assert await host.pass_by(10) == []
        await host.pass_by(LINGER_SECONDS)
        assert first.is_asked_to_end
        assert await host.now() == []
        client.die()
        first.ends()
        await settled()
        assert await host.now() == ["a:3"]

    async def test_a_signal_starts_it(self, host: Host) -> None:
        client = await host.attach()
        await self.detach(host, client, wait_for=["approval"])
        client.die()
        assert await host.pass_by(10**6) == []
        other = host.service.connect(ME)
        await other.ask_one({"op": "signal", "agent_id": "a", "name": "approval"})
        assert await host.now() == ["a:2"]

    async def test_a_person_cuts_a_back_off_short(self, host: Host) -> None:
        await host.crash("a")
        other = host.service.connect(ME)
        assert (await other.ask_one({"op": "resume", "agent_id": "a"}))["ok"]
        assert len(await host.now()) == 1
        assert await host.pass_by(20) == [], "nor is it started again when that would be over"


class TestOthers:
    async def test_an_agent_that_a_person_started_meanwhile_is_left_alone(self, host: Host) -> None:
        await host.crash("a")
        await host.attach("a")
        assert await host.pass_by(100) == []

    async def test_one_that_a_person_starts_while_it_is_resumed_keeps_it(self, host: Host) -> None:
        """What was launched is told that the agent is attached, and ends; that is no crash."""
        await host.crash("a")
        await host.pass_by(10)
        client = await host.attach("a", 7777)
        host.launchers.attempts["a"].ends(Outcome(how="exited", exit_code=1))
        await settled()
        assert await host.state() == "running"
        client.die()
        await settled()
        assert (await host.events())[-1]["AttemptEnded"]["how"] == "lost"
        assert await host.pass_by(30) == ["a:3"]

    async def test_a_wrapper_whose_agent_died_may_start_it_again_itself(self, host: Host) -> None:
        """If it does not it is ended before the daemon starts the next one."""
        await host.crash("a")
        await host.pass_by(10)
        wrapper = host.launchers.attempts["a"]
        for pid in (7001, 7002):
            client = await host.attach("a", pid)
            client.die()
            assert await host.pass_by(1) == []
            assert not wrapper.is_asked_to_end
        started = [await host.pass_by(LINGER_SECONDS) for _ in range(5)]
        assert not any(started)
        assert wrapper.is_asked_to_end
        wrapper.ends()
        await settled()
        assert len(await host.now()) == 1

    async def test_a_parked_agent_is_not_started(self, host: Host) -> None:
        await host.crash("a")
        other = host.service.connect(ME)
        assert (await other.ask_one({"op": "park", "agent_id": "a"}))["ok"]
        assert await host.pass_by(10**5) == []

    async def test_an_agent_without_a_command_stays_interrupted(self, host: Host) -> None:
        client = host.service.connect(ME)
        await client.ask_one({"op": "attach", "agent_id": "a"})
        client.die()
        assert await host.pass_by(10**5) == []
        assert await host.state() == "interrupted"

    async def test_resuming_that_is_switched_off_leaves_it_to_a_person(self) -> None:
        async with Host(enabled=False) as host:
            await host.crash("a")
            assert await host.pass_by(10**5) == []
            other = host.service.connect(ME)
            await other.ask_one({"op": "resume", "agent_id": "a"})
            assert len(await host.now()) == 1

    async def test_resuming_that_is_switched_on_again_resumes_those_who_waited_for_it(
        self,
    ) -> None:
        async with Host(enabled=False) as host:
            await host.crash("b", "a")
            client = await host.attach("due")
            wake_at = "2023-11-14T22:13:21Z"
            await client.ask_one(
                {"op": "detach", "agent_id": "due", "epoch": 1, "wake_at": wake_at}
            )
            client.die()
            assert await host.pass_by(10**5) == []
            config = host.service.context.config
            host.service.context.config = replace(
                config, resume=replace(config.resume, enabled=True)
            )
            host.supervisor.configure()
            assert sorted(await host.now()) == ["a:2", "b:2", "due:2"]


class TestLaunchers:
    async def test_one_that_is_not_in_the_configuration_any_more_parks_the_agent(
        self, host: Host
    ) -> None:
        context = host.service.context
        mine = LauncherOptions(argv=("/bin/agent", "{agent_id}"))
        context.config = replace(context.config, launchers={"mine": mine})
        client = await host.attach(launcher="mine")
        client.die()
        await settled()
        context.config = replace(context.config, launchers={})
        assert await host.pass_by(10) == []
        assert "[launchers.mine]" in (await host.describe())["reason"]

    async def test_it_gets_nothing_of_the_client_s_environment(self, host: Host) -> None:
        context = host.service.context
        mine = LauncherOptions(argv=("/bin/agent", "{agent_id}"))
        context.config = replace(context.config, launchers={"mine": mine})
        client = await host.attach(launcher="mine")
        client.die()
        await settled()
        assert await host.pass_by(10) == ["a:2"]
        (means,) = host.launchers.means
        assert means.env == {"PATH": "/bin"}
        assert (means.shown, means.cwd, means.is_pattern) == ("mine", "/", True)


class TestTrouble:
    async def test_a_loss_right_before_the_end_is_left_to_the_next_daemon(self, host: Host) -> None:
        await host.attach()
        host.supervisor.interrupted(ME, AgentId("a"))
        host.supervisor.close()
        await settled()
        gc.collect()  # a coroutine that nobody awaits would complain now

    async def test_a_full_disk_puts_a_resume_off(self, host: Host) -> None:
        await host.crash("a")
        host.service.store.fail_next_as_full()
        assert await host.pass_by(10) == []
        assert await host.state() == "interrupted"
        assert await host.pass_by(RETRY_SECONDS) == ["a:2"]

    async def test_who_was_due_while_an_attach_was_on_its_way_that_failed_is_started(
        self, host: Host
    ) -> None:
        """What speaks against a launch has to be on the disk first."""
        client = await host.attach()
        await client.ask_one(
            {"op": "detach", "agent_id": "a", "epoch": 1, "wake_at": "2023-11-14T22:13:25Z"}
        )
        client.die()
        await settled()
        host.service.store.fail_next_as_full()
        host.service.store.hold("commit")
        other = host.service.connect(ME)
        other.send({"op": "attach", "agent_id": "a"})
        await settled()
        assert await host.pass_by(6) == []
        host.service.store.release("commit")
        await settled()
        assert not other.replies[0]["ok"]
        assert await host.pass_by(RETRY_SECONDS) == ["a:2"]

    async def test_an_end_that_met_an_attach_that_failed_is_recorded(self, host: Host) -> None:
        await host.crash("a")
        await host.pass_by(10)
        host.service.store.fail_next_as_full()
        host.service.store.hold("commit")
        other = host.service.connect(ME)
        other.send({"op": "attach", "agent_id": "a"})
        await settled()
        host.launchers.attempts["a"].ends(Outcome(how="exited", exit_code=4))
        await settled()
        host.service.store.release("commit")
        await settled()
        other.die()
        await settled()
        await host.pass_by(RETRY_SECONDS)
        assert await host.state() == "interrupted"
        assert (await host.events())[-1]["AttemptEnded"]["exit_code"] == 4

    async def test_an_end_that_could_not_be_recorded_is_recorded_later(self, host: Host) -> None:
        await host.crash("a")
        await host.pass_by(10)
        host.service.store.fail_next_as_full()
        await host.end(how=Outcome(how="exited", exit_code=4))
        assert await host.state() == "resuming"
        await host.pass_by(RETRY_SECONDS)
        assert (await host.events())[-1]["AttemptEnded"]["exit_code"] == 4

    @pytest.mark.parametrize("restarts", [False, True])
    async def test_the_end_of_one_that_is_parked_is_recorded(self, *, restarts: bool) -> None:
        async with Host() as host:
            await host.crash("a")
            await host.pass_by(10)
            client = await host.attach_launched()
            await client.ask_one({"op": "park", "agent_id": "a"})
            if not restarts:
                await host.end(how=Outcome(how="exited", exit_code=3))
                assert (await host.events())[-1] == {
                    "AttemptEnded": {"attempt": 2, "how": "exited", "exit_code": 3}
                }
                assert len(host.service.context.owners) == 0
                assert await host.state() == "parked"
                return
        async with await TestRecovery().restarted(host) as again:
            again.service.processes.unseen = {1000, client.pid}
            await TestRecovery().start(again)
            assert (await again.events())[-1] == {"AttemptEnded": {"attempt": 2, "how": "lost"}}
            assert await again.state() == "parked"
            assert await again.pass_by(1000) == []

    @pytest.mark.parametrize("by", ["attach", "park"])
    async def test_an_end_that_is_overtaken_is_let_go(self, by: str) -> None:
        """It could not be recorded yet, and what a person did in between says it all."""
        async with Host() as host:
            await host.crash("a")
            await host.pass_by(10)
            attempt = host.launchers.attempts["a"]
            host.service.store.fail_next_as_full()
            await host.end()
            assert not attempt.is_closed
            if by == "attach":
                await host.attach("a")
            else:
                await host.service.connect(ME).ask_one({"op": "park", "agent_id": "a"})
            await settled()
            assert attempt.is_closed

    async def test_one_that_is_let_go_on_while_it_is_started_is_not_started_twice(
        self, host: Host
    ) -> None:
        """It was parked and resumed by a person; what is on its way belongs to before."""

        async def park_and_resume(_: FakeAttempt) -> None:
            host.launchers.while_starting = None
            client = host.service.connect(ME)
            client.send({"op": "park", "agent_id": "a"}, {"op": "resume", "agent_id": "a"})
            await some_turns()
            assert codes_of(client.replies) == [None, None]

        await host.crash("a")
        host.launchers.while_starting = park_and_resume
        assert await host.pass_by(10) == ["a:2"]
        assert await host.pass_by(LINGER_SECONDS - 1) == []
        assert await host.pass_by(1) == []
        assert host.launchers.attempts["a"].is_asked_to_end
        await host.end()
        assert await host.now() == ["a:1"]

    async def test_a_loss_that_could_not_be_considered_is_while_another_process_lives(
        self, host: Host
    ) -> None:
        """What was launched was replaced, and goes on; who replaced it is gone."""
        await host.crash("a")
        await host.pass_by(10)
        await host.attach_launched()
        other = await host.attach("a", take_over=True)
        host.service.store.hold("read")
        other.die()
        await settled()
        assert await host.state() == "interrupted"
        host.service.store.fail_next_as_full()
        host.service.store.release("read")
        await settled()
        started = await host.pass_by(RETRY_SECONDS)
        started += await host.pass_by(60)
        started += await host.pass_by(LINGER_SECONDS)
        assert started == []
        assert host.launchers.attempts["a"].is_asked_to_end
        await host.end()
        assert await host.now() == ["a:4"]

    async def test_a_second_look_at_one_that_runs_does_not_lose_sight_of_it(
        self, host: Host
    ) -> None:
        client = await host.attach()
        await host.supervisor._look_again((ME, AgentId("a")))
        client.die()
        await settled()
        assert await host.state() == "interrupted"

    async def test_a_second_look_leaves_one_alone_that_is_being_started(self, host: Host) -> None:
        """It was put off, and something else had it started before that was over."""

        async def look_again(_: FakeAttempt) -> None:
            await host.supervisor._look_again((ME, AgentId("a")))
            await some_turns()

        await host.crash("a")
        host.launchers.while_starting = look_again
        assert await host.pass_by(10) == ["a:2"]
        assert await host.state() == "resuming"
        await host.attach_launched()
        assert await host.state() == "running"

    @pytest.mark.parametrize("order", ["end, attach", "attach, end"])
    async def test_who_took_over_from_one_that_ended_is_missed_when_it_is_gone_too(
        self, host: Host, order: str
    ) -> None:
        """However close its loss follows upon the end that is being recorded."""
        store = host.service.store
        await host.crash("a")
        await host.pass_by(10)
        other = host.service.connect(ME)
        if order == "end, attach":
            store.fail_next_as_full()
            await host.end()
        store.hold("commit")
        other.send({"op": "attach", "agent_id": "a"})
        await settled()
        store.release("commit")
        store.hold("commit")  # of what comes behind it
        await settled()
        assert other.replies[0]["ok"]
        host.launchers.attempts["a"].ends()
        await settled()
        other.die()
        await settled()
        store.release("commit")
        await settled()
        assert await host.state() == "interrupted"
        assert await host.pass_by(100) == ["a:3"]

    async def test_who_took_over_while_a_start_failed_is_missed_when_it_is_gone_too(
        self, host: Host
    ) -> None:
        """The end of the attempt is looked at while it holds, its loss before that is through."""
        store = host.service.store
        other = host.service.connect(ME)

        async def taken_over(_: FakeAttempt) -> None:
            store.hold("commit")
            other.send({"op": "attach", "agent_id": "a"})
            await some_turns()
            raise LaunchError("no such file")

        await host.crash("a")
        host.launchers.while_starting = taken_over
        assert await host.pass_by(10) == ["a:2"]
        other.die()
        await settled()
        store.release("commit")
        await settled()
        assert await host.state() == "interrupted"
        host.launchers.while_starting = None
        assert await host.pass_by(100) == ["a:3"]

    async def test_one_that_another_took_over_from_and_lost_is_made_to_end(
        self, host: Host
    ) -> None:
        """What was started has no agent any more, unless it attaches again."""

        async def taken_over(_: FakeAttempt) -> None:
            other = host.service.connect(ME)
            other.send({"op": "attach", "agent_id": "a"})
            await some_turns()
            assert other.replies[0]["ok"]
            other.die()
            await some_turns()

        await host.crash("a")
        host.launchers.while_starting = taken_over
        assert await host.pass_by(10) == ["a:2"]
        assert await host.pass_by(LINGER_SECONDS) == []
        assert host.launchers.attempts["a"].is_asked_to_end
        host.launchers.while_starting = None
        await host.end()
        assert await host.state() == "interrupted"
        assert await host.pass_by(100) == ["a:3"]

    async def test_one_that_attaches_behind_who_took_over_is_left_alone(self, host: Host) -> None:
        await host.crash("a")
        host.launchers.while_starting = host.take_over_and_attach
        assert await host.pass_by(10) == ["a:2"]
        await host.pass_by(LINGER_SECONDS)
        assert not host.launchers.attempts["a"].is_asked_to_end
        assert await host.state() == "running"

    async def test_a_loss_that_could_not_be_considered_is_when_a_later_attempt_has_ended_too(
        self, host: Host
    ) -> None:
        """What was started for one attempt attached as the next, and is gone."""
        await host.crash("a")
        host.launchers.while_starting = host.take_over_and_attach
        assert await host.pass_by(10) == ["a:2"]
        host.launchers.while_starting = None
        attempt = host.launchers.attempts["a"]
        (client,) = [one for one in host.service.clients if one.pid == attempt.pid]
        host.service.store.hold("read")
        host.service.processes.end(client.pid)
        attempt.ends()  # its connection is heard of later
        client.lose()
        await settled()
        host.service.store.fail_next_as_full()
        host.service.store.release("read")
        await settled()
        assert await host.state() == "interrupted"
        assert await host.pass_by(RETRY_SECONDS) == ["a:4"]

    async def test_a_loss_that_is_told_while_an_older_end_is_recorded_is_considered(
        self, host: Host
    ) -> None:
        store = host.service.store
        await host.crash("a")
        assert await host.pass_by(10) == ["a:2"]
        (await host.attach()).die()
        await settled()
        store.hold("read")
        host.launchers.attempts["a"].ends()
        await settled()
        third = await host.attach()
        store.hold("commit")
        third.die()
        await settled()
        store.release("read")  # the end is that of an attempt before
        await settled()
        store.release("commit")
        await settled()
        assert await host.state() == "interrupted"
        assert await host.pass_by(100) == ["a:4"]

    async def test_an_older_end_does_not_give_the_place_of_the_next_start_back(self) -> None:
        async with Host(at_once_max=1) as host:
            await host.crash("a")
            assert await host.pass_by(10) == ["a:2"]
            host.service.store.hold("read")
            host.launchers.attempts["a"].ends()
            await settled()
            person = host.service.connect(ME)
            await person.ask_one({"op": "park", "agent_id": "a"})
            await person.ask_one({"op": "resume", "agent_id": "a"})
            host.service.store.release("read")
            await settled()
            assert await host.now() == ["a:1"]
            await host.crash("b")
            assert await host.pass_by(10) == []
            await host.attach_launched("a")
            assert await host.now() == ["b:2"]

    async def test_one_that_ends_before_its_end_was_told_is_let_go(self, host: Host) -> None:
        """Its process is gone first, its connection later: nothing of it stays behind."""
        await host.crash("a")
        await host.pass_by(10)
        client = await host.attach_launched()
        host.service.store.hold("commit")
        client.send(terminated("a", epoch=client.epoch))  # type: ignore[attr-defined]
        await settled()
        attempt = host.launchers.attempts["a"]
        host.service.processes.end(client.pid)
        attempt.ends(Outcome(how="exited", exit_code=0))
        await settled()
        client.lose()
        host.service.store.release("commit")
        await settled()
        assert await host.state() == "completed"
        assert attempt.is_closed


class TestRecovery:
    async def restarted(self, host: Host, **resume: Any) -> Host:
        """Return the next daemon on the same journal; processes of this boot may live on."""
        store = host.service.store.store
        assert isinstance(store, MemoryStore)
        again = Host(store, **resume)
        again.service.clock.advance(
            host.service.clock.monotonic() - again.service.clock.monotonic()
        )
        return again

    async def start(self, host: Host) -> None:
        """Do what the daemon does at its start."""
        lost = await recover(host.service.context, host.supervisor)
        await bury(host.service.context, host.supervisor, lost)
        await settled()

    async def test_the_dead_are_resumed_in_order_and_the_living_left_alone(self) -> None:
        async with Host() as host:
            for agent_id in ("d", "alive", "c", "b", "done"):
                client = await host.attach(agent_id)
                if agent_id == "done":
                    await client.ask_one(terminated("done", epoch=1))
        async with await self.restarted(host) as again:
            pids = {"alive": 1001}
            again.service.processes.unseen = {1000, 1002, 1003, 1004}
            await self.start(again)
            assert await again.now() == ["d:2", "c:2", "b:2"]
            described = await again.describe("alive")
            assert described["state"] == "running"
            assert described["owner"] == {"pid": pids["alive"], "alive": True}
            again.service.processes.end(pids["alive"])
            await settled()
            assert await again.pass_by(10) == ["alive:2"]

    async def test_a_restart_is_one_attempt_and_no_failure(self) -> None:
        async with Host() as host:
            await host.attach("a")
        async with await self.restarted(host) as again:
            again.service.processes.unseen = {1000}
            await self.start(again)
            assert await again.now() == ["a:2"]
            assert (await again.describe())["incident"]["attempts"] == 1
            await again.attach_launched()
            await again.end()
            assert await again.pass_by(9.9) == []
            assert await again.pass_by(0.1) == ["a:3"], "the first failure's back-off"

    async def test_back_offs_and_wake_times_hold_across_a_restart(self) -> None:
        async with Host() as host:
            await host.crash("a")
            client = await host.attach("b")
            await client.ask_one(
                {"op": "detach", "agent_id": "b", "epoch": 1, "wake_at": "2023-11-14T22:13:40Z"}
            )
        async with await self.restarted(host) as again:
            again.service.processes.unseen = {1000, 1001}
            await self.start(again)
            assert await again.pass_by(9.9) == []
            assert await again.pass_by(0.2) == ["a:2"]
            assert await again.pass_by(10) == ["b:2"]

    @pytest.mark.parametrize("how", ["parked", "detached", "lost"])
    async def test_a_process_that_outlived_its_turn_is_waited_for_after_a_restart(
        self, how: str
    ) -> None:
        """An agent never runs twice at once, whatever its last process is still at."""
        async with Host() as host:
            await host.crash("a")
            await host.pass_by(10)
            client = await host.attach_launched()
            epoch = client.epoch  # type: ignore[attr-defined]
            survivor = FakeAttempt(host.launchers.attempts["a"].pid or 0)
            if how == "parked":
                await client.ask_one({"op": "park", "agent_id": "a"})
            elif how == "detached":
                await client.ask_one({"op": "detach", "agent_id": "a", "epoch": epoch})
            else:
                # Another process took it over, and is gone.
                await (await host.attach("a", take_over=True)).ask_one({"op": "ping"})
                host.service.clients[-1].die()
                await settled()
                assert await host.state() == "interrupted"
        async with await self.restarted(host) as again:
            again.service.processes.unseen = {1000}
            again.launchers.survivors["a"] = survivor
            await self.start(again)
            client = again.service.connect(ME)
            reply = await client.ask_one({"op": "resume", "agent_id": "a"})
            assert await again.pass_by(LINGER_SECONDS - 1) == []
            if reply["state"] == "running":
                return  # parked in its hands, and let go on: it is the one that runs
            assert await again.pass_by(2) == []
            assert survivor.is_asked_to_end
            survivor.ends()
            await settled()
            assert len(await again.now()) == 1

    @pytest.mark.parametrize("number", [2, 3], ids=["the launched", "an earlier one's"])
    async def test_a_process_that_outlived_its_agent_s_owner_is_waited_for_too(
        self, number: int
    ) -> None:
        """The owner died with the daemon; what had been started for the agent did not."""
        async with Host() as host:
            await host.crash("a")
            await host.pass_by(10)
            survivor = FakeAttempt(7777)
            if number == 2:
                owner = await host.attach_launched()
            else:
                owner = await host.attach("a")  # a person, before what was launched did
        async with await self.restarted(host) as again:
            again.service.processes.unseen = {1000, owner.pid}
            again.launchers.survivors["a"] = survivor
            again.launchers.survivor_number = 2
            await self.start(again)
            assert await again.pass_by(LINGER_SECONDS - 1) == []
            await again.pass_by(2)
            assert survivor.is_asked_to_end
            assert await again.pass_by(100) == []
            survivor.ends()
            await settled()
            started = await again.now() + await again.pass_by(60)
            assert len(started) == 1

    async def test_a_loss_that_could_not_be_recorded_is_recorded_later(self) -> None:
        """What lives on of the agent is an earlier attempt's, which tells of its own end only."""
        async with Host() as host:
            await host.crash("a")
            await host.pass_by(10)
            await host.attach_launched()
            owner = await host.attach("a", take_over=True)
        async with await self.restarted(host) as again:
            survivor = again.launchers.survivors["a"] = FakeAttempt(7777)
            again.service.processes.unseen = {1000, owner.pid}
            again.launchers.survivor_number = 2
            again.service.store.fail_next_as_full()
            await self.start(again)
            assert await again.state() == "running"
            await again.pass_by(RETRY_SECONDS)
            assert await again.state() == "interrupted"
            await again.pass_by(LINGER_SECONDS)
            assert survivor.is_asked_to_end
            survivor.ends()
            await settled()
            assert len(await again.now() + await again.pass_by(60)) == 1

    async def test_one_that_was_being_started_is_found_again(self) -> None:
        async with Host() as host:
            await host.crash("a")
            await host.pass_by(10)
            survivor = FakeAttempt(host.launchers.attempts["a"].pid or 0)
        async with await self.restarted(host) as again:
            again.service.processes.unseen = {1000}
            again.launchers.survivors["a"] = survivor
            await self.start(again)
            assert await again.now() == []
            assert await again.state() == "resuming"
            await again.pass_by(30)
            assert survivor.is_asked_to_end
            survivor.ends(Outcome(how="exited", exit_code=5))
            await settled()
            assert (await again.events())[-1]["AttemptEnded"]["exit_code"] == 5

    async def test_one_whose_start_was_never_through_is_lost(self) -> None:
        async with Host() as host:
            await host.crash("a")
            await host.pass_by(10)
        async with await self.restarted(host) as again:
            again.service.processes.unseen = {1000}
            await self.start(again)
            ends = [one for one in await again.events() if "AttemptEnded" in one]
            assert ends[-1] == {"AttemptEnded": {"attempt": 2, "how": "lost"}}
            assert await again.now() == ["a:3"]

    async def test_an_agent_that_takes_the_host_down_is_parked(self) -> None:
        async with Host() as host:
            await host.attach("a")
        for _ in range(5):
            async with await self.restarted(host) as again:
                again.service.processes.unseen = set(range(10_000))
                await self.start(again)
                assert len(await again.now()) == 1
            host = again
        async with await self.restarted(host) as again:
            again.service.processes.unseen = set(range(10_000))
            await self.start(again)
            assert await again.now() == []
            assert await again.state() == "parked"

    async def test_what_can_not_be_read_for_a_moment_is_asked_for_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("agent_journal.service.unfinished.RETRY_SECONDS", 0)
        async with Host() as host:
            await host.attach("a")
        async with await self.restarted(host) as again:
            again.service.processes.unseen = {1000}
            unfinished, asked = again.service.store.unfinished, []

            async def at_the_second_time(**members: int) -> list[AgentRecord]:
                asked.append(members["after"])
                if len(asked) == 1:
                    raise OverloadedError("in a moment", retry_ms=1)
                return await unfinished(**members)

            monkeypatch.setattr(again.service.store, "unfinished", at_the_second_time)
            await self.start(again)
            assert asked[:2] == [-1, -1]
            assert await again.now() == ["a:2"]
