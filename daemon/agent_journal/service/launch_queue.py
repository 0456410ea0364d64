"""Who is to be started next: in order, at a pace, and not too many at once.

An agent that crashed as many others did (an outbreak) is held back while
another one of them tries; see ``crash_signatures``.  Nothing here does
anything but decide who is next: ``start`` is called with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..clock import Clock
from .config_resume import Resume
from .crash_signatures import Outbreaks
from .owners import Name
from .resume_policy import Cause
from .schedule import Schedule

_PACE: Final = "pace"


class LaunchQueue:
    """The agents on their way to being started."""

    def __init__(self, clock: Clock, start: Callable[[Name, Cause], object]) -> None:
        self._clock = clock
        self._start = start
        self._resume = Resume()
        self._ready: dict[Name, Cause] = {}
        self._held: dict[str, dict[Name, Cause]] = {}  # by the signature of the outbreak
        self._starting: set[Name] = set()
        self._signatures: dict[Name, str] = {}  # of the last crash
        self._outbreaks = Outbreaks(agents_min=0, window_seconds=0)
        self._next_at = clock.monotonic()  # when the pace allows the next one
        self._schedule: Schedule[str] = Schedule(clock, self._due)
        self._is_open = False

    def __len__(self) -> int:
        return len(self._ready) + sum(map(len, self._held.values()))

    def configure(self, resume: Resume) -> None:
        """Take over the limits."""
        self._resume = resume
        self._outbreaks.agents_min = resume.outbreak_agents
        self._outbreaks.window_seconds = resume.outbreak_seconds
        self.look()

    def open(self) -> None:
        """Start agents from now on."""
        self._is_open = True
        self.look()

    def close(self) -> None:
        """Start nobody any more."""
        self._is_open = False
        self._schedule.close()

    # Who comes and goes

    def put(self, name: Name, cause: Cause) -> None:
        """Have an agent be started when its turn comes."""
        if name not in self._starting:
            self._ready.setdefault(name, cause)
            self._next()

    def drop(self, name: Name) -> None:
        """Have an agent not be started."""
        self._ready.pop(name, None)
        for signature, held in list(self._held.items()):
            held.pop(name, None)
            if not held:
                del self._held[signature]

    def is_starting(self, name: Name) -> bool:
        """Tell whether an agent was started, and has neither attached nor ended."""
        return name in self._starting

    def hold_place(self, name: Name) -> None:
        """Count an agent as starting that was started before the daemon was."""
        self._starting.add(name)

    def started(self, name: Name) -> None:
        """Take note that an agent is on its way no more: the next one may be."""
        self._starting.discard(name)
        self._next()

    # Crashes that many have

    def remember(self, name: Name, signature: str | None) -> None:
        """Take note of how an agent crashed last."""
        if signature is None:
            self._signatures.pop(name, None)
        else:
            self._signatures[name] = signature

    def crashed(self, name: Name, signature: str | None, seconds: float) -> bool:
        """Take note of a crash, after which to wait; tell whether an outbreak begins with it."""
        probed = self._outbreaks.signature_probed_by(name)
        self.remember(name, signature)
        if signature is None:
            self._let_others_try(self._outbreaks.withdrew(name), 0.0)
            return False
        begins = self._outbreaks.crashed(name, signature, self._clock.monotonic())
        if probed == signature:
            self._let_others_try(probed, seconds)
        elif probed is not None:
            self._release(probed)
        return begins

    def withdrew(self, name: Name) -> None:
        """Take note that an agent that was to be started is not: the next one may be."""
        self._let_others_try(self._outbreaks.withdrew(name), 0.0)
        self.started(name)

    def is_probe(self, name: Name) -> bool:
        """Tell whether the others of an outbreak wait for what becomes of this agent."""
        return self._outbreaks.signature_probed_by(name) is not None

    def got_on(self, name: Name) -> None:
        """Take note that an agent did better than to crash as before."""
        self.remember(name, None)
        signature = self._outbreaks.recovered(name)
        if signature is not None:
            self._release(signature)

    def _let_others_try(self, signature: str | None, seconds: float) -> None:
        if signature is not None and self._held.get(signature):
            self._schedule.after(signature, seconds)

    def _release(self, signature: str) -> None:
        """Let all go on whom an outbreak held back."""
        for name, cause in self._held.pop(signature, {}).items():
            self._ready.setdefault(name, cause)
        self._next()

    def _due(self, key: str) -> None:
        if key == _PACE:
            self._next()
        else:
            for name, cause in self._held.get(key, {}).items():
                self._ready.setdefault(name, cause)  # it keeps its place among those held
                break
            self._next()

    # Whose turn it is

    def look(self) -> None:
        """Do what is due by the clock; a timer does so too."""
        self._schedule.look()
        self._next()

    def _next(self) -> None:
        """Start those whose turn it is."""
        while self._is_open and self._ready and len(self._starting) < self._resume.at_once_max:
            now = self._clock.monotonic()
            if now < self._next_at:
                self._schedule.after(_PACE, self._next_at - now)
                return
            name = next(iter(self._ready))
            cause = self._ready.pop(name)
            if (turn := self._turn(name, cause)) is None:
                continue
            name, cause = turn
            interval = 1 / self._resume.per_second
            # What a timer was late is made up for, but not what nobody asked for.
            self._next_at = max(self._next_at, now - interval) + interval
            self._starting.add(name)
            self._start(name, cause)

    def _turn(self, name: Name, cause: Cause) -> tuple[Name, Cause] | None:
        """Return who is to be started where it is this one's turn; ``None``: nobody is."""
        signature = self._signatures.get(name)
        if signature is None:
            return name, cause
        held = self._held.setdefault(signature, {})
        held[name] = cause
        # One that waits for longer goes first; but for whom the others wait must not
        # wait behind them.
        first = name if self.is_probe(name) else next(iter(held))
        if not self._outbreaks.may_launch(first, signature):
            return None
        cause = held.pop(first)
        if not held:
            del self._held[signature]
        return first, cause
