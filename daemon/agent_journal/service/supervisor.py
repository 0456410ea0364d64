"""Starts interrupted and waiting agents again, within limits, for as long as the daemon runs.

What happens to agents is told here after it is durable (``Resumer``), and what
is decided here is recorded before it is done: an attempt is counted before its
process is started.  Each agent is a task of its own on the way, so one that
hangs or crashes keeps nobody else waiting.

What ends an attempt depends on who held the agent.  Where the attempt attached,
its owner's loss does (``will_report``): a process may outlive the one that was
started.  Where it never did, the end of what was started does, and after
``attach_seconds`` that is brought about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

from ..errors import JournalError, ShuttingDownError
from ..model import AgentId, AgentState, Micros, Uid
from ..store.attachment import NOTHING
from ..store.base import AgentRecord, Unfinished
from . import attaching
from .amending import surely
from .attempt_output import Outcome, cleaned
from .context import Context
from .crash_signatures import signature_of
from .incidents import ParkError, after_end, counted, ended, record_outcome
from .launch_queue import LaunchQueue
from .launch_systemd import LaunchError
from .launched import Alarm, Launched, Launching, find_again
from .launchers import Launchers, Means
from .owners import Name
from .resume_policy import SECOND, Cause, Decision, Park
from .schedule import Schedule
from .turns import Turn, Turns
from .unfinished import unfinished

LINGER_SECONDS: Final = 5.0  # until a process is made to end that lost its agent, or gave it up
RETRY_SECONDS: Final = 5.0  # until what could not be recorded (a full disk) is tried again

Work = Callable[[], Coroutine[Any, Any, None]]

_HELD: Final = (AgentState.RUNNING, AgentState.RESUMING)
_STARTABLE: Final = (AgentState.INTERRUPTED, AgentState.WAITING)


class Supervisor:
    """The resumer of a running daemon."""

    def __init__(self, context: Context, launchers: Launchers, environ: Mapping[str, str]) -> None:
        self._context = context
        self._launchers = launchers
        self._environ = environ
        self._log = context.log
        self._queue = LaunchQueue(context.clock, self._start)
        self._turns = Turns(context.clock)
        self._newest: WeakValueDictionary[Name, Turn] = WeakValueDictionary()  # of each on its way
        self._schedule: Schedule[tuple[Alarm, Name]] = Schedule(context.clock, self._due)
        self._launched: dict[Name, Launched] = {}
        self._launching: dict[Name, Launching] = {}
        # Whose change is recorded, and followed up, here; whether a loss was told meanwhile.
        self._recording: dict[Name, bool] = {}
        self._restarted: set[Name] = set()  # who was lost with the daemon or the host
        self._tasks: asyncio.TaskGroup | None = None
        self._at_work: set[asyncio.Task[None]] = set()
        self._applied: tuple[object, object] = ()  # type: ignore[assignment] # nothing yet
        self.configure()

    def configure(self) -> None:
        """Take over what the configuration says now."""
        config = self._context.config
        before, self._applied = self._applied, (config.resume, config.launchers)
        self._queue.configure(config.resume)
        if self._tasks is not None and before != self._applied:
            self._track(self._tasks.create_task(self._find_startable()))

    async def _find_startable(self) -> None:
        """Queue those again whom only the configuration kept from being started."""
        async for agent in unfinished(self._context):
            if agent.state in _STARTABLE and self._tasks is not None:
                self.found(agent)

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Start agents from now on; each on its way is one of *tasks*."""
        self._tasks = tasks
        self._queue.open()
        self._schedule.look()

    def close(self) -> None:
        """Start nothing more, and leave alone what was started."""
        self._tasks = None
        self._schedule.close()
        self._queue.close()
        self._turns.close()
        for task in self._at_work:
            task.cancel()
        for launched in self._launched.values():
            launched.attempt.close()
        self._launched.clear()

    def look(self) -> None:
        """Do what is due by the clock; a timer does so too."""
        self._schedule.look()
        self._turns.look()
        self._queue.look()

    # What is told

    def interrupted(self, uid: Uid, agent_id: AgentId) -> None:
        """Take note that an agent's owner is gone, or that a launched attempt ended."""
        name = uid, agent_id
        if name in self._recording:
            self._recording[name] = True
        elif name in self._restarted:
            self._queue.put(name, Cause.RESTART)
        else:
            self._begin(name, lambda: self._consider_loss(name))

    def woken(self, uid: Uid, agent_id: AgentId) -> None:
        """Take note that an agent is due now: a signal came, or a person asked."""
        name = uid, agent_id
        self._forget_alarms(name)
        self._queue.drop(name)
        self._queue.remember(name, None)
        self._queue.put(name, Cause.REQUEST)

    def attached(self, uid: Uid, agent_id: AgentId) -> None:
        """Take note that a process holds the agent."""
        name = uid, agent_id
        self._leave(name)
        launched = self._launched.get(name)
        if launched is not None:
            launched.may_be_late = False
            launched.then = None
            if launched.attempt.is_over:
                self._forget(name)  # another one holds the agent now, whose end is its own
        if self._queue.is_probe(name):
            self._schedule.after((Alarm.PROBE, name), self._context.config.resume.attach_seconds)
        self._queue.started(name)

    def finished(self, uid: Uid, agent_id: AgentId) -> None:
        """Take note that an agent has ended, or is parked: nothing of it is to be started."""
        name = uid, agent_id
        self._leave(name)
        if name not in self._recording:
            self._queue.got_on(name)
        self._queue.started(name)
        launched = self._launched.get(name)
        if launched is not None and launched.attempt.is_over:
            self._over(name, launched)  # its connection was the last that was heard of it
        elif launched is not None and launched.may_be_late:  # it will be refused, if it attaches
            self._schedule.after((Alarm.LINGER, name), LINGER_SECONDS)

    def _leave(self, name: Name) -> None:
        """Start the agent no more, for whatever it was to be started."""
        self._forget_alarms(name)
        self._queue.drop(name)
        if (launching := self._launching.get(name)) is not None:
            launching.then = None

    def waiting(self, uid: Uid, agent_id: AgentId, wake_at: Micros | None) -> None:
        """Take note that an agent was given up until *wake_at*, or until a signal comes."""
        name = uid, agent_id
        self.finished(uid, agent_id)
        if wake_at is not None:
            self._schedule.at((Alarm.WAKE, name), wake_at)

    def will_report(self, uid: Uid, agent_id: AgentId, attempt: int) -> bool:
        """Tell whether ``record_end`` will be called for an attempt whose owner is gone."""
        name = uid, agent_id
        launching = self._launching.get(name)
        if launching is not None and launching.number == attempt:
            launching.is_missed = True  # it is looked at when its start is through
            return True
        launched = self._launched.get(name)
        if launched is None or launched.number != attempt:
            return False
        if launched.attempt.is_over:
            launched.is_awaited = True
            self._over(name, launched)
        else:
            # Something of it lives on, which may attach again: what was
            # started may only be what starts the agent.
            self._schedule.after((Alarm.LINGER, name), LINGER_SECONDS)
        return True

    def knows_launcher(self, name: str, uid: Uid) -> bool:
        """Tell whether the configuration names such a launcher for agents of *uid*."""
        launcher = self._context.config.launchers.get(name)
        return launcher is not None and launcher.is_for(uid)

    def found(self, record: Unfinished | AgentRecord) -> bool:
        """Take over an unfinished agent as it is; return False where its attempt is lost."""
        name = record.uid, record.agent_id
        attachment = record.attachment or NOTHING
        if record.state not in _HELD:
            self._find_again(record)  # its last process may be on its way out
        match record.state:
            case AgentState.PARKED if attachment.owner or attachment.is_launched:
                return self._goes_on(record)
            case AgentState.INTERRUPTED:
                self._queue.remember(name, attachment.incident.signature)
                if (at := attachment.incident.next_attempt_at) is None:
                    self._queue.put(name, Cause.RESTART)
                else:
                    # Further off than any back-off: the clock was set back.
                    longest = self._context.config.resume.of(record.kind).backoff_seconds_max
                    self._launch_after(name, min((at - self._context.now) / SECOND, longest))
            case AgentState.WAITING:
                if attachment.wake_at is not None:
                    self._schedule.at((Alarm.WAKE, name), attachment.wake_at)
            case AgentState.RUNNING:
                # Where nobody ever attached there is nothing to resume.
                return self._goes_on(record) or attachment.owner is None
            case AgentState.RESUMING:
                if not self._find_again(record):
                    return False
                self._queue.hold_place(name)
                seconds = self._context.config.resume.of(record.kind).attach_seconds
                self._schedule.after((Alarm.ATTACH, name), seconds)
            case _:
                pass
        return True

    def _goes_on(self, record: Unfinished | AgentRecord) -> bool:
        """Tell whether something of an attempt that had attached lives; it is watched."""
        is_there = self._find_again(record)
        is_kept = attaching.keep_living_owner(self._context, record)
        if is_there and not is_kept:  # it may attach again, for as long as without a restart
            self._schedule.after((Alarm.LINGER, (record.uid, record.agent_id)), LINGER_SECONDS)
        return is_there or is_kept

    def _find_again(self, record: Unfinished | AgentRecord) -> bool:
        """Take over what goes on of an agent; tell whether that is its present attempt."""
        name = record.uid, record.agent_id
        if name not in self._launched and (found := find_again(self._launchers, record)):
            self._watch(name, found)
        launched = self._launched.get(name)
        return launched is not None and launched.number == record.attempts

    async def bury(self, record: Unfinished | AgentRecord) -> None:
        """Record that an attempt ended while nobody looked, and queue its agent."""
        await self._guarded((record.uid, record.agent_id), lambda: self._bury(record))

    async def _bury(self, record: Unfinished | AgentRecord) -> None:
        name = uid, agent_id = record.uid, record.agent_id
        self._restarted.add(name)
        try:
            attempt = self._launchers.find(record)
            if attempt is None and record.state is AgentState.RUNNING:
                loss = attaching.record_loss(self._context, uid, agent_id, record.epoch)
                await surely(self._context, uid, loss)
                return
            outcome = Outcome(how="lost")
            if attempt is not None:
                outcome = await ended(self._context, attempt)
                attempt.close()
            end = record_outcome(self._context, name, record.attempts, outcome)
            await surely(self._context, uid, end)
        finally:
            self._restarted.discard(name)

    def _launch_after(self, name: Name, seconds: float) -> None:
        if seconds <= 0:
            self._queue.put(name, Cause.CRASH)
        else:
            self._schedule.after((Alarm.RESUME, name), seconds)

    def _forget_alarms(self, name: Name) -> None:
        for alarm in Alarm:
            self._schedule.cancel((alarm, name))

    def _due(self, key: tuple[Alarm, Name]) -> None:
        alarm, name = key
        launched = self._launched.get(name)
        match alarm:
            case Alarm.RESUME:
                self._queue.put(name, Cause.CRASH)
            case Alarm.WAKE:
                self._queue.put(name, Cause.DUE)
            case Alarm.RETRY:
                self._begin(name, lambda: self._look_again(name))
            case Alarm.PROBE:
                self._queue.got_on(name)
            case Alarm.ATTACH if launched is not None and launched.may_be_late:
                self._log.warning("attach_missed", uid=name[0], agent_id=name[1])
                launched.complaint = "it did not attach in time and was made to end"
                launched.attempt.end()
            case Alarm.LINGER if launched is not None:
                launched.attempt.end()

    def _begin(self, name: Name, work: Work) -> None:
        if self._tasks is not None:
            self._track(self._tasks.create_task(self._guarded(name, work)))

    def _track(self, task: asyncio.Task[None]) -> None:
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)

    async def _guarded(self, name: Name, work: Work) -> None:
        """Do something about one agent; what fails costs only that one, and only a while."""
        try:
            await work()
        except ShuttingDownError:
            pass  # the daemon ends, and the next one begins with what is recorded
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            if self._context.committer.failure is not None:
                return  # likewise
            say = self._log.warning if isinstance(error, JournalError) else self._log.exception
            say("resume_failed", uid=name[0], agent_id=name[1], error=str(error))
            self._schedule.after((Alarm.RETRY, name), RETRY_SECONDS)
            self._queue.withdrew(name)

    async def _look_again(self, name: Name) -> None:
        """Go on with an agent as it is recorded, after something went wrong."""
        record = await self._record(name)
        launched = self._launched.get(name)
        is_on_its_way = name in self._launching or self._queue.is_starting(name)
        if launched and launched.attempt.is_over and record and launched.number != record.attempts:
            self._forget(name)  # its own end is told: the attempt that is recorded is another
            launched = None
        if launched is not None and launched.attempt.is_over:
            self._over(name, launched)
        elif record is not None and not is_on_its_way:
            will_tell = launched is not None and launched.number == record.attempts
            if not (will_tell and record.state in _HELD) and not self.found(record):
                await self.bury(record)

    async def _record(self, name: Name) -> AgentRecord | None:
        (record,) = await self._context.store.load([name])
        return record

    def _start(self, name: Name, cause: Cause) -> None:
        turn = self._newest[name] = self._turns.take()
        self._begin(name, lambda: self._launch(name, cause, turn))

    async def _launch(self, name: Name, cause: Cause, turn: Turn) -> None:
        record = attempt = None
        with turn:
            if not self._must_wait_for_the_last(name, cause):
                record = await self._record(name)
            if record is not None and record.state in _STARTABLE:
                try:
                    attempt = await counted(self._context, record, cause, self._environ, turn)
                except ParkError as error:
                    await self._park(record, str(error))
        if record is not None and attempt is not None:
            await self._start_counted(record, *attempt)
        elif self._newest.get(name) is turn:  # else it was begun anew, and has that one's place
            self._queue.withdrew(name)

    async def _start_counted(self, record: AgentRecord, number: int, means: Means) -> None:
        """Start an attempt that is recorded, and see whether it is needed still."""
        name = uid, agent_id = record.uid, record.agent_id
        config = self._context.config
        launching = self._launching[name] = Launching(number)
        try:
            counted = await self._record(name) or record
            attempt = await self._launchers.launch(counted, means, config)
        except LaunchError as error:
            outcome = Outcome(how="launch_failed", stderr=cleaned(str(error)))
            while not await self._end(name, number, outcome) and launching.is_missed:
                launching.is_missed = False  # whoever held it then is gone now
            return
        finally:
            del self._launching[name]
            if launching.then is not None:
                self._queue.put(name, launching.then)
        self._log.info("agent_resumed", uid=uid, agent_id=agent_id, attempt=number, pid=attempt.pid)
        is_starting = self._queue.is_starting(name)  # it may have attached already
        if is_starting:
            seconds = config.resume.of(record.kind).attach_seconds
            self._schedule.after((Alarm.ATTACH, name), seconds)
        self._watch(name, Launched(number, attempt, may_be_late=is_starting))
        if launching.is_missed and self._context.owners.holder(name) is None:
            self.will_report(uid, agent_id, number)

    def _must_wait_for_the_last(self, name: Name, cause: Cause) -> bool:
        """Tell whether what was launched before is still there: never two at once.

        It gave the agent up, or lost it, and is made to end if it does not.
        """
        if (launching := self._launching.get(name)) is not None:
            launching.then = cause
            return True
        launched = self._launched.get(name)
        if launched is None or launched.attempt.is_over:
            return False
        launched.then = cause
        if (Alarm.LINGER, name) not in self._schedule:
            self._schedule.after((Alarm.LINGER, name), LINGER_SECONDS)
        return True

    async def _park(self, record: AgentRecord, reason: str) -> None:
        name = record.uid, record.agent_id
        self._log.warning("agent_parked", uid=name[0], agent_id=name[1], reason=reason)
        self._recording[name] = False
        try:
            parked = attaching.park(self._context, *name, reason=reason)
            await surely(self._context, name[0], parked)
        finally:
            self._recording.pop(name, None)

    def _watch(self, name: Name, launched: Launched) -> None:
        self._forget(name)
        self._launched[name] = launched
        launched.attempt.watch(lambda: self._process_ended(name, launched))

    def _forget(self, name: Name) -> None:
        launched = self._launched.pop(name, None)
        if launched is not None:
            launched.attempt.close()

    def _process_ended(self, name: Name, launched: Launched) -> None:
        if self._launched.get(name) is not launched:
            return
        self._schedule.cancel((Alarm.LINGER, name))
        hold = self._context.owners.holder(name)
        if hold is None or hold.pid != launched.attempt.pid:
            self._over(name, launched)
        else:  # its loss will tell, but where its attach is refused after all
            self._schedule.after((Alarm.RETRY, name), RETRY_SECONDS)

    def _over(self, name: Name, launched: Launched) -> None:
        if not launched.is_ending:
            launched.is_ending = True
            self._begin(name, lambda: self._finish(name, launched))

    async def _finish(self, name: Name, launched: Launched) -> None:
        try:
            outcome = await ended(self._context, launched.attempt)
            if launched.complaint:
                outcome = outcome.with_note(f"agent-journald: {launched.complaint}")
            while True:
                launched.is_awaited = False
                if await self._end(name, launched.number, outcome) or not launched.is_awaited:
                    break
        finally:
            launched.is_ending = False  # where that failed, it is tried again
        if self._launched.get(name) is launched:
            self._forget(name)
        if launched.then is not None:
            self._queue.put(name, launched.then)

    async def _end(self, name: Name, attempt: int, outcome: Outcome) -> bool:
        """Record how an attempt ended, and what follows from it, as one, if it is to be."""
        record = await self._record(name)
        if record is None or record.attempts != attempt or record.state not in _HELD:
            # Whatever made it so gave its place back; the agent may be on its way anew.
            if record is not None and record.state is AgentState.PARKED:
                await record_outcome(self._context, name, attempt, outcome)
            return False
        signature = signature_of(outcome, name[1])
        incident, decision = await after_end(self._context, record, Cause.CRASH, signature)
        reason = None
        if isinstance(decision, Park):
            reason = f"{decision.reason}; the last one {outcome}"
        self._recording[name] = False
        try:
            end = record_outcome(
                self._context, name, attempt, outcome, incident=incident, park_reason=reason
            )
            is_recorded = await surely(self._context, name[0], end)
        finally:
            is_told = self._recording.pop(name, False)
        if is_recorded:
            self._queue.started(name)
            self._log.warning(
                "attempt_ended", uid=name[0], agent_id=name[1], attempt=attempt, how=str(outcome)
            )
            self._follow_up(name, signature, decision)
        elif is_told:  # of a later attempt, which nobody else looks at
            await self._consider_loss(name)
        return is_recorded

    async def _consider_loss(self, name: Name) -> None:
        """Decide about an agent whose owner is gone, of which nothing more is known."""
        record = await self._record(name)
        if record is None or record.state is not AgentState.INTERRUPTED:
            return
        incident, decision = await after_end(self._context, record, Cause.CRASH, None)
        if isinstance(decision, Park):
            await self._park(record, f"{decision.reason}; the last one was lost")
        else:
            await attaching.update_attachment(self._context, *name, incident=incident)
        self._follow_up(name, None, decision)

    def _follow_up(self, name: Name, signature: str | None, decision: Decision) -> None:
        if isinstance(decision, Park):
            seconds = 0.0
            self._log.warning("agent_parked", uid=name[0], agent_id=name[1], reason=decision.reason)
        else:
            self._launch_after(name, seconds := max(decision.at - self._context.now, 0) / SECOND)
        if self._queue.crashed(name, signature, seconds):
            self._log.warning("outbreak_began", signature=signature)
        if isinstance(decision, Park):
            self._queue.remember(name, None)
