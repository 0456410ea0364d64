"""What the supervisor does about agents that are not running, with time stepped by hand."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any, Self

import pytest

from agent_journal.errors import OverloadedError
from agent_journal.model import Uid
from agent_journal.service.attempt_output import Outcome
from agent_journal.service.config import Config
from agent_journal.service.config_resume import LauncherOptions, Resume
from agent_journal.service.launch_systemd import LaunchError
from agent_journal.service.launchers import Means
from agent_journal.service.recovery import bury, recover
from agent_journal.service.supervisor import LINGER_SECONDS, RETRY_SECONDS, Supervisor
from agent_journal.store.base import AgentRecord
from agent_journal.store.memory import MemoryStore
from helpers import Client, Service, settled, terminated

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
        return self.survivors.get(record.agent_id)

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

    async def test_agents_are_started_in_the_order_in_which_they_came(self) -> None:
        async with Host(at_once_max=1) as host:
            await host.crash("c", "a", "b")
            order = await host.pass_by(10)
            for agent_id in ("c", "a", "b"):
                await host.attach_launched(agent_id)
                order += await host.now()
            assert order == ["c:2", "a:2", "b:2"]

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
    async def test_a_full_disk_puts_a_resume_off(self, host: Host) -> None:
        await host.crash("a")
        host.service.store.fail_next_as_full()
        assert await host.pass_by(10) == []
        assert await host.state() == "interrupted"
        assert await host.pass_by(RETRY_SECONDS) == ["a:2"]

    async def test_an_end_that_could_not_be_recorded_is_recorded_later(self, host: Host) -> None:
        await host.crash("a")
        await host.pass_by(10)
        host.service.store.fail_next_as_full()
        await host.end(how=Outcome(how="exited", exit_code=4))
        assert await host.state() == "resuming"
        await host.pass_by(RETRY_SECONDS)
        assert (await host.events())[-1]["AttemptEnded"]["exit_code"] == 4


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
