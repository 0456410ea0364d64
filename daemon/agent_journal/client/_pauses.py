"""Time, chance and waiting, recorded: an agent that is resumed sees what it saw before.

A wait records when it is over before it begins, so a resume does not begin it
anew.  A short one is waited for in the process.  For a longer one the agent is
given up (``detach``) and the process may exit; it is started again when the
time has come or the signal is there.

Waits side by side are given up together: for the earliest time of any and for
the names of all.  While a step is running nothing is given up, since its end
could not be recorded any more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from . import _holding as holding
from ._agent_errors import WaitTimeoutError
from ._attempt import Attempt
from ._encoding import moment_text, moment_us
from ._history import NOTHING, Record, Signal, Status
from ._programs import AskAhead, Program, Wait
from ._steps import Steps
from ._values import plain, text_of

LOOK_FIRST_S: Final = 0.05  # how soon to look for a signal again; doubled each time
LOOK_MAX_S: Final = 1.0

# A machine that slept does not know it by its monotonic clock.
NAP_S_MAX: Final = 60.0

# A longer payload is not written twice: the record says which signal it was.
PAYLOAD_CHARS_MAX: Final = 4096


@dataclass(slots=True, eq=False)
class _Pause:
    """One wait underway."""

    wake_us: int | None
    signal: str | None


class Pauses:
    """What an agent notes and waits for."""

    def __init__(self, attempt: Attempt, steps: Steps) -> None:
        self._attempt = attempt
        self._steps = steps
        self._pauses: list[_Pause] = []

    # Noted values.

    def now(self, key: str | None) -> Program[int]:
        """Return the time in microseconds."""
        record = yield from self._steps.note("now", key, None, self._now)
        return moment_us(record.result)

    def _now(self) -> tuple[str, Mapping[str, Any]]:
        return moment_text(self._attempt.clock.wall_us()), NOTHING

    def uuid(self, key: str | None) -> Program[str]:
        """Return a random UUID's text."""
        record = yield from self._steps.note("uuid", key, None, lambda: (_new_uuid(), NOTHING))
        return str(record.result)

    def random(self, key: str | None) -> Program[float]:
        """Return a number of 0 to 1, 1 excluded."""
        record = yield from self._steps.note("random", key, None, lambda: (_chance(), NOTHING))
        return float(record.result)

    # Waiting.

    def sleep(self, seconds: float, key: str | None) -> Program[None]:
        """Return when *seconds* have passed since the first attempt that came here."""
        record = yield from self._timer(seconds, key)
        wake_us = _wake_us(record)
        with self._pausing(_Pause(wake_us, None)):
            yield from self._until(wake_us)

    def _timer(self, seconds: float, key: str | None) -> Program[Record]:
        def set_timer() -> tuple[None, Mapping[str, Any]]:
            wake_us = self._attempt.clock.wall_us() + round(seconds * 1_000_000)
            return None, {"wake_at": moment_text(wake_us)}

        given = {"seconds": plain(seconds, "a time to wait")}
        return (yield from self._steps.note("sleep", key, given, set_timer))

    def _until(self, wake_us: int) -> Program[None]:
        look_s = LOOK_FIRST_S
        while (left_s := self._left_s(wake_us)) > 0:
            self._attempt.check()
            if left_s <= self._attempt.suspend_after_s:
                yield Wait(min(left_s, NAP_S_MAX))
            elif (yield from self._is_busy()):
                yield Wait(min(left_s, look_s))
                look_s = min(look_s * 2, LOOK_MAX_S)
            else:
                yield from self._give_up()

    def wait_for(self, name: str, timeout_s: float | None, key: str | None) -> Program[Any]:
        """Return the payload of the next signal called *name* that nobody received yet.

        Raises:
            WaitTimeoutError: none came in time; also on every replay of that.
        """
        if key is None:
            key = self._steps.key_for(f"wait_for:{name}")
        given = {"name": name, "timeout_s": plain(timeout_s, "a time to wait")}
        history = self._attempt.history
        known = history.records.get(key)
        is_known = known is not None and known.status is not Status.NEW
        deadline_us = None
        if timeout_s is not None:
            timer = yield from self._timer(timeout_s, f"{key}:timeout")
            deadline_us = _wake_us(timer)
        signal = None if is_known else (yield from self._signal(name, deadline_us))

        def noted() -> tuple[Any, Mapping[str, Any]]:
            if signal is None:
                return None, {"timed_out": True}
            is_short = len(text_of(signal.payload)) <= PAYLOAD_CHARS_MAX
            return signal.payload if is_short else None, {"signal_sequence": signal.sequence}

        try:
            record = yield from self._steps.note("wait_for", key, given, noted)
        except BaseException:
            if signal is not None:
                history.give_back(signal)
            raise
        if record.extra.get("timed_out"):
            raise WaitTimeoutError(f"no signal {name!r} came within {timeout_s:g} s")
        received = history.signal_at(record.extra.get("signal_sequence", -1))
        return record.result if received is None else received.payload

    def _signal(self, name: str, deadline_us: int | None) -> Program[Signal | None]:
        """Return the signal when it is there; ``None`` where the time is over."""
        attempt = self._attempt
        waited_s, look_s = 0.0, LOOK_FIRST_S
        with self._pausing(_Pause(deadline_us, name)):
            while (signal := attempt.history.next_signal(name)) is None:
                attempt.check()
                is_news = yield from self._look()
                if is_news:
                    continue
                left_s = None if deadline_us is None else self._left_s(deadline_us)
                if left_s is not None and left_s <= 0:
                    return None
                if waited_s >= attempt.suspend_after_s and not (yield from self._is_busy()):
                    yield from self._give_up()
                pause_s = look_s if left_s is None else min(left_s, look_s)
                yield Wait(pause_s)
                waited_s += pause_s
                look_s = min(look_s * 2, LOOK_MAX_S)
        return signal

    def _look(self) -> Program[bool]:
        """Read on; tell whether there was anything."""
        history = self._attempt.history
        before = history.next_sequence
        pages = holding.HistoryPages(self._attempt.agent_id, before, history.take_signals)
        yield AskAhead(pages.next_request, holding.PAGES_AHEAD)
        return history.next_sequence > before

    def _is_busy(self) -> Program[bool]:
        """Tell whether anything is still to be recorded, but for what can be at once."""
        yield from self._steps.record_endings()
        return self._steps.are_running

    def _give_up(self) -> Program[None]:
        times = [pause.wake_us for pause in self._pauses if pause.wake_us is not None]
        names = sorted({pause.signal for pause in self._pauses if pause.signal is not None})
        wake_us = min(times) if times else None
        due = [f"signal {name!r}" for name in names]
        if wake_us is not None:
            due.append(moment_text(wake_us))
        yield from self._attempt.detach(
            wake_us=wake_us, wait_for=names, reason=f"it waits for {' or '.join(due)}"
        )

    @contextmanager
    def _pausing(self, pause: _Pause) -> Iterator[None]:
        self._pauses.append(pause)
        try:
            yield
        finally:
            self._pauses.remove(pause)

    def _left_s(self, wake_us: int) -> float:
        return (wake_us - self._attempt.clock.wall_us()) / 1_000_000


def _wake_us(record: Record) -> int:
    wake_at = record.extra.get("wake_at")
    return moment_us(wake_at) if isinstance(wake_at, str) else 0


def _new_uuid() -> str:
    """Return a version 4 UUID; the module uuid takes longer to import than all of this."""
    number = int.from_bytes(os.urandom(16))
    number = number & ~(0xF << 76) | 4 << 76
    number = number & ~(0x3 << 62) | 2 << 62
    text = f"{number:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _chance() -> float:
    return (int.from_bytes(os.urandom(7)) >> 3) / (1 << 53)
