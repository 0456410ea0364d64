"""Why an agent is not running, and what to type next: a paragraph out of what is known of it.

Pure: what ``describe`` says and the agent's timeline go in.  Every state has
its own sentences; a newer daemon's state is told with what there is.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any, Final

from ..clock import Clock
from .details import detail
from .timeline import Attempt, Timeline
from .timestamps import age, clock_time, duration, in_future

STDERR_LINES_SHOWN: Final = 12
SIGNALS_SHOWN: Final = 5


class Explanation:
    """The paragraph, the commands to type next, and the last words of the process."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.tries: list[str] = []
        self.stderr: list[str] = []

    @property
    def text(self) -> str:
        """The paragraph."""
        return " ".join(self.sentences)


def explain(agent: Mapping[str, Any], timeline: Timeline, clock: Clock) -> Explanation:
    """Say why *agent* is where it is, and what follows."""
    case = _Case(agent, timeline, clock)
    _BY_STATE.get(case.state, _Case.unknown)(case)
    return case.explanation


class _Case:
    """One agent, looked at."""

    def __init__(self, agent: Mapping[str, Any], timeline: Timeline, clock: Clock) -> None:
        self.agent = agent
        self.timeline = timeline
        self.clock = clock
        self.name = str(agent["agent_id"])
        self.state = str(agent["state"])
        self.explanation = Explanation()

    def say(self, sentence: str) -> None:
        self.explanation.sentences.append(sentence)

    def hint(self, command: str) -> None:
        self.explanation.tries.append(f"agent-journal {command}")

    def _hint_of(self, verb: str, word: str, option: str = "") -> None:
        """Tell what to type with *word*, which an agent said, and which no shell is to obey."""
        words = [self.name, shlex.quote(word)]
        options = [option] if option else []
        told = [*options, "--", *words] if word.startswith("-") else [*words, *options]
        self.hint(" ".join([verb, *told]))

    def _hint_by_hand(self) -> None:
        self.explanation.tries.append(f"AGENT_JOURNAL_AGENT_ID={self.name} CMD")

    # The states.

    def running(self) -> None:
        owner = self.agent.get("owner")
        if not isinstance(owner, Mapping):
            self.say(
                f"{self.name} is running as far as its entries tell, but nobody attached to it: "
                "the daemon does not know its process, and cannot resume it."
            )
            self.hint(f"tail {self.name}")
            return
        if owner.get("alive") is False:
            self.say(
                f"{self.name}'s process {owner.get('pid')} is gone; that was noticed just now."
            )
            self.hint(f"why {self.name}")
            return
        self.say(f"{self.name} is running: process {owner.get('pid')} is alive{self._attempt()}.")
        for run in self.timeline.running[:1]:
            began = f" for {age(run.started_at, clock=self.clock)}" if run.started_at else ""
            self.say(f"It is in step {run.key}{began.removesuffix(' ago')}.")
        self.say(f"Its last entry came {age(self.agent['updated_at'], clock=self.clock)}.")
        self.hint(f"tail {self.name}")

    def waiting(self) -> None:
        signals = self.agent.get("wait_for")
        names = [str(name) for name in signals] if isinstance(signals, list) else []
        wake_at = self.agent.get("wake_at")
        waits = []
        if names:
            told = ", ".join(names[:SIGNALS_SHOWN]) + (", …" if len(names) > SIGNALS_SHOWN else "")
            waits.append(f"for the signal {told}" if len(names) == 1 else f"for a signal of {told}")
        if isinstance(wake_at, str):
            waits.append(f"until {self._moment(wake_at)}")
        if waits:
            self.say(f"{self.name} waits {' or '.join(waits)}, and has given up its process.")
            self._say_who_launches("It is resumed then")
        else:
            self.say(f"{self.name} was given up cleanly and waits for somebody to resume it.")
            self._say_who_launches("It can be")
        if names:
            self._hint_of("signal", names[0])
        if self._is_launchable():
            self.hint(f"resume {self.name}")
        else:
            self._hint_by_hand()

    def interrupted(self) -> None:
        self.say(f"{self.name} is interrupted: {self._last_attempt()}.")
        self._tell_stderr()
        if self._say_in_doubt():
            return
        if not self._is_launchable():
            self.say(
                "No command was recorded for it, so the daemon cannot start it: start its "
                "program again, and it goes on behind the last recorded step."
            )
            self._hint_by_hand()
            return
        due = self.agent.get("next_attempt_at")
        if isinstance(due, str):
            self.say(f"The next attempt follows at {self._moment(due)}.")
        else:
            self.say(
                "It is resumed when its turn comes (unless [resume] in the daemon's "
                "configuration says otherwise)."
            )
        self.hint(f"resume {self.name}")

    def resuming(self) -> None:
        attempt = self.timeline.attempts[-1] if self.timeline.attempts else None
        if attempt is None:
            self.say(f"{self.name} is being resumed.")
        else:
            pid = f" as process {attempt.pid}" if attempt.pid else ""
            since = age(attempt.started_at, clock=self.clock)
            self.say(
                f"{self.name} is being resumed: attempt {attempt.number} was launched{pid} "
                f"{since}, and its program has not attached yet."
            )
        self.hint(f"why {self.name}")

    def parked(self) -> None:
        parked = self.timeline.last_moment("Parked")
        when = f" {age(parked.timestamp, clock=self.clock)}" if parked else ""
        payload = parked.payload if parked and isinstance(parked.payload, Mapping) else {}
        reason = self.agent.get("reason") or payload.get("reason")
        told = f": {reason}" if reason else ""
        self.say(f"{self.name} was parked{when}{told}.")
        if self.timeline.attempts and self.timeline.attempts[-1].how:
            self.say(f"Before that, {self._last_attempt()}.")
        self._tell_stderr(payload.get("stderr"))
        self._say_budget()
        decided = self.timeline.last_moment("Decided")
        if not self._say_in_doubt():
            if decided and parked and decided.sequence > parked.sequence:
                self.say(f"Since then somebody decided: {detail(decided.event)}.")
            self.say("It is not started again until somebody says so.")
        self.hint(f"resume {self.name}")

    def finished(self) -> None:
        self.say(f"{self.name} has ended{self._how_it_ended()}.")
        if self.state == "completed":
            self.say("There is nothing left to do.")
            self.hint(f"show {self.name}")
            return
        self._tell_stderr()
        self.say("An agent that has ended is not resumed; a fork of it can go on instead.")
        at = self.agent.get("next_sequence", 1)
        terminal = self.timeline.last_moment("Terminated", "Cancelled")
        self.hint(
            f"fork {self.name} --at {terminal.sequence if terminal else at} --as {self.name}-2"
        )

    def unknown(self) -> None:
        reason = self.agent.get("reason")
        self.say(f"{self.name} is {self.state}{f': {reason}' if reason else ''}.")
        self.hint(f"show {self.name}")

    # What several states have to say.

    def _attempt(self) -> str:
        number = self.agent.get("attempts")
        return f" in attempt {number}" if isinstance(number, int) and number > 1 else ""

    def _last_attempt(self) -> str:
        attempt = self.timeline.attempts[-1] if self.timeline.attempts else None
        if attempt is None:
            return "its process is gone"
        when = f" {age(attempt.ended_at, clock=self.clock)}" if attempt.ended_at else ""
        return f"attempt {attempt.number} {_how(attempt)}{when}{_after(attempt)}"

    def _how_it_ended(self) -> str:
        ending = self.timeline.last_moment("Terminated", "Cancelled")
        told = detail(ending.event) if ending else ""
        when = f" {age(ending.timestamp, clock=self.clock)}" if ending else ""
        return f"{when} and is {self.state}{f' ({told})' if told else ''}"

    def _tell_stderr(self, told: object = None) -> None:
        attempt = self.timeline.attempts[-1] if self.timeline.attempts else None
        text = told if isinstance(told, str) and told else attempt.stderr if attempt else None
        if text:
            self.explanation.stderr = text.splitlines()[-STDERR_LINES_SHOWN:]

    def _say_budget(self) -> None:
        incident = self.agent.get("incident")
        if isinstance(incident, Mapping):
            told = [
                f"{incident[name]:,} {name if incident[name] != 1 else name.removesuffix('s')}"
                for name in ("attempts", "steps", "tokens")
                if isinstance(incident.get(name), int) and incident[name]
            ]
            if told:
                self.say(f"This incident has taken {', '.join(told)}.")

    def _say_in_doubt(self) -> bool:
        """Tell of the steps that wait for a decision; true where there are some."""
        waiting = [run for run in self.timeline.in_doubt if run.effect in {None, "unsafe"}]
        for run in waiting[:1]:
            more = f" (and {len(waiting) - 1} more)" if len(waiting) > 1 else ""
            self.say(
                f"Step {run.key}{more} is in doubt: it was begun in attempt {run.attempt}, and "
                "nobody knows whether it took effect. Find out, then decide."
            )
            self._hint_of("decide", run.key, "--rerun")
            self._hint_of("decide", run.key, "--result JSON")
        return bool(waiting) and self.state == "parked"

    def _say_who_launches(self, begin: str) -> None:
        if self._is_launchable():
            self.say(f"{begin}, with what was recorded when it attached.")
        else:
            self.say("No command was recorded for it, so its program has to be started by hand.")

    def _is_launchable(self) -> bool:
        return bool(self.agent.get("command") or self.agent.get("launcher"))

    def _moment(self, timestamp: str) -> str:
        told = clock_time(timestamp, clock=self.clock)
        return f"{told} ({in_future(timestamp, clock=self.clock)})"


def _how(attempt: Attempt) -> str:
    return {
        "exited": f"exited with {attempt.exit_code}",
        "signalled": f"was killed by {attempt.signal}",
        "lost": "ended without a word",
        "detached": "gave it up",
        "replaced": "was replaced by another process",
        "launch_failed": "could not be launched",
    }.get(attempt.how or "", "ended")


def _after(attempt: Attempt) -> str:
    if attempt.ended_at is None:
        return ""
    seconds = (attempt.ended_at - attempt.started_at).total_seconds()
    return f", having run for {duration(max(seconds, 0.0))}"


_BY_STATE: Final[Mapping[str, Callable[[_Case], None]]] = {
    "running": _Case.running,
    "waiting": _Case.waiting,
    "interrupted": _Case.interrupted,
    "resuming": _Case.resuming,
    "parked": _Case.parked,
    "completed": _Case.finished,
    "failed": _Case.finished,
    "cancelled": _Case.finished,
}
