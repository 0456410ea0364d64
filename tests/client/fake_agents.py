"""The daemon's rules for an attached agent, in memory, and a driver that can die anywhere.

``FakeAgents`` takes the very requests that would be sent and reads what is on
their lines.  ``Process`` carries a program's actions out as a process would,
and is killed before or behind the action whose number it is told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import Any

from agent_journal.client._agent import DurableAgentBase
from agent_journal.client._attempt import AgentOptions
from agent_journal.client._current import current_step_variable
from agent_journal.client._history import ABSENT
from agent_journal.client._programs import AskAhead, Invoke, Program
from agent_journal.client._requests import Request
from agent_journal.client._step import Call
from agent_journal.errors import error_from_code
from agent_journal.testing.clock import ManualClock

Fields = dict[str, Any]

CREATED_AT = "2026-01-02T03:04:05.678901Z"


class Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


class FakeAgents:
    """One agent and its owner, by the rules of the wire contract."""

    def __init__(self) -> None:
        self.entries: list[Fields] = []
        self.epoch = 0
        self.attempts = 0
        self.state = "running"
        self.created_at = CREATED_AT
        self.detached: Fields | None = None
        self.page_entries = 3
        self.requests: list[Fields] = []
        self._keys: dict[str, int] = {}

    def answer(self, request: Request[Any]) -> Any:
        """Return the answer as the client's core would have it, or raise the refusal."""
        fields = json.loads(request.line(1))
        self.requests.append(fields)
        return request.parse(getattr(self, "_" + fields["op"])(fields))

    def record(self, event: Fields, iteration: int = 0) -> int:
        """Record an entry as the daemon itself does."""
        sequence = len(self.entries)
        self.entries.append({"sequence": sequence, "iteration": iteration, "event": event})
        return sequence

    def named(self, name: str) -> list[Any]:
        """Return what stands under the events called *name*."""
        return [entry["event"][name] for entry in self.entries if name in entry["event"]]

    def _attach(self, request: Fields) -> Fields:
        if self.state in {"completed", "failed"}:
            raise _refusal("agent_finished", state=self.state)
        resumed = bool(self.entries)
        self.epoch += 1
        self.attempts += 1
        self.state, self.detached = "running", None
        self.record({"AttemptStarted": {"attempt": self.attempts, "epoch": self.epoch}})
        return {
            "epoch": self.epoch,
            "attempt": self.attempts,
            "state": "running",
            "next_sequence": len(self.entries),
            "resumed": resumed,
        }

    def _describe(self, request: Fields) -> Fields:
        return {
            "agent": {
                "agent_id": request["agent_id"],
                "state": self.state,
                "uid": 0,
                "entries": len(self.entries),
                "latest_sequence": len(self.entries) - 1,
                "next_sequence": len(self.entries),
                "last_completed_iteration": 0,
                "epoch": self.epoch,
                "attempts": self.attempts,
                "created_at": self.created_at,
                "updated_at": self.created_at,
                "first_position": 1,
            }
        }

    def _read(self, request: Fields) -> Fields:
        start = request["from_sequence"]
        page = self.entries[start : start + self.page_entries]
        end = start + len(page)
        copied = json.loads(json.dumps(page))
        return {"entries": copied, "next_sequence": end, "more": end < len(self.entries)}

    def _append(self, request: Fields) -> Fields:
        if request.get("epoch") != self.epoch or self.state != "running":
            raise _refusal("stale_epoch", current=self.epoch)
        known = self._keys.get(request["key"])
        if known is not None:
            assert self.entries[known]["event"] == request["event"]
            return {"sequence": known, "position": known, "duplicate": True}
        self._keys[request["key"]] = sequence = self.record(
            request["event"], request.get("iteration", 0)
        )
        terminated = request["event"].get("Terminated")
        if terminated is not None:
            self.state = "completed" if terminated["reason"] == "Completed" else "failed"
        return {"sequence": sequence, "position": sequence}

    def _detach(self, request: Fields) -> Fields:
        if request["epoch"] != self.epoch:
            raise _refusal("stale_epoch", current=self.epoch)
        self.state, self.detached = "waiting", request
        return {"state": self.state}

    def _park(self, request: Fields) -> Fields:
        self.state = "parked"
        self.record({"Parked": {"reason": request["reason"]}})
        return {"state": self.state}


def _refusal(code: str, **details: object) -> Exception:
    return error_from_code(code, f"{code}, in the test", details)


class Process(DurableAgentBase):
    """An attempt that dies where it is told to."""

    def __init__(
        self,
        journal: FakeAgents,
        *,
        die_at: int | None = None,
        is_done_first: bool = False,
        clock: ManualClock | None = None,
        suspend_after_s: float = 5.0,
        **options: Any,
    ) -> None:
        self.clock = clock or ManualClock()
        self._numbers = iter(range(1, 1 << 30))
        # Keys of one attempt are unlike those of any other.
        name = f"{journal.epoch + 1}-{len(journal.requests)}"
        super().__init__(
            "report-42",
            AgentOptions(suspend_after_s=suspend_after_s, command=False, **options),
            clock=self.clock,
            next_key=lambda: f"{name}-{next(self._numbers)}",
        )
        self.journal = journal
        self.actions = 0
        self.waited_s = 0.0
        self.lost_answers: list[BaseException] = []  # raised instead of the next answers
        self._die_at = die_at
        self._is_done_first = is_done_first

    def attach(self) -> Process:
        """Attach and replay."""
        self.drive(self._attempt.attach())
        return self

    def step(
        self, key: str | None, function: Callable[..., Any], *args: Any, **options: Any
    ) -> Any:
        """Ask for a step."""
        kwargs = options.pop("kwargs", {})
        call = Call(key=key, function=function, args=args, kwargs=kwargs, **options)
        again = self._steps.handed_again(
            key,
            function,
            args,
            kwargs,
            call.name,
            call.effect,
            call.inputs,
            call.result_type,
        )
        if again is not ABSENT:
            return again
        step = self._steps.asked(call)
        if step.is_done:
            return self._steps.handed(step, call)
        return self.drive(self._steps.carry_out(step, call))

    def leave(self, error: BaseException | None = None) -> BaseException | None:
        """Leave the block."""
        return self.drive(self._leave(error, ()))

    def drive(self, program: Program[Any]) -> Any:
        """Carry out what *program* asks for."""
        try:
            action = next(program)
            while True:
                try:
                    answer = self._do(action)
                except Killed:
                    program.close()  # no code of the program's runs
                    raise
                except BaseException as error:  # noqa: BLE001 - the program's to judge
                    action = program.throw(error)
                else:
                    action = program.send(answer)
        except StopIteration as stop:
            return stop.value

    def started(self, program: Program[Any]) -> Generator[Any, Any, Any]:
        """Carry *program* out one action at a time, so that others come in between."""
        answer: Any = None
        try:
            action = next(program)
            while True:
                yield action
                try:
                    answer = self._do(action)
                except BaseException as error:  # noqa: BLE001 - the program's to judge
                    action = program.throw(error)
                else:
                    action = program.send(answer)
        except StopIteration as stop:
            return stop.value

    def _do(self, action: Any) -> Any:
        self.actions += 1
        is_last = self.actions == self._die_at
        if is_last and not self._is_done_first:
            raise Killed
        try:
            return self._carry_out(action)
        finally:
            if is_last:
                raise Killed

    def _carry_out(self, action: Any) -> Any:
        match action:
            case Request():
                answer = self.journal.answer(action)
                if self.lost_answers:
                    raise self.lost_answers.pop(0)
                return answer
            case AskAhead():
                while (request := action.next_request()) is not None:
                    self.journal.answer(request)
                return None
            case Invoke():
                token = current_step_variable.set(action.step)
                try:
                    return action.function(*action.args, **action.kwargs)
                finally:
                    current_step_variable.reset(token)
            case _:
                self.waited_s += action.seconds
                self.clock.advance(action.seconds)
                return None
