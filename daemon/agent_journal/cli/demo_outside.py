"""What the demo's agent does to the world, counted where the journal cannot reach.

Every call of the model and of a tool has an effect: a line appended to a file.
The file stands for whatever an agent's tools change, a bank, a mailbox, a
repository.  It also does what such services do for their callers: an effect
carries the caller's idempotency key, and a key that was seen before has no
second effect but gets the first answer again.

Two lines tell of a call: that it was **asked**, before anything else happens,
and that it was **done**.  So the file knows what the journal claims: which
calls were made in which attempt, and which took effect how often.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from .timeline import StepState, Timeline

ASKED: Final = "asked"
DONE: Final = "done"


class Outside:
    """The world, as one process of the agent reaches it."""

    def __init__(self, path: Path, *, attempt: int) -> None:
        self._path = path
        self._attempt = attempt
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def do(self, step: str, key: str, action: Callable[[], Mapping[str, Any]]) -> tuple[Any, bool]:
        """Do *action* unless the effect *key* was done before; return its outcome, and whether."""
        self._write(ASKED, step, key)
        for line in read_outside(self._path):
            if line["what"] == DONE and line["key"] == key:
                return line["outcome"], False
        outcome = dict(action())
        self._write(DONE, step, key, outcome=outcome)
        return outcome, True

    def _write(self, what: str, step: str, key: str, **more: object) -> None:
        known = {"what": what, "step": step, "key": key, "attempt": self._attempt}
        os.write(self._fd, json.dumps({**known, "pid": os.getpid(), **more}).encode() + b"\n")

    def close(self) -> None:
        """Close; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_outside(path: Path) -> list[dict[str, Any]]:
    """Return what was written to *path*; a line that a kill cut off did not happen."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeVerdict:
    """The agent's timeline held against what really happened."""

    steps: int  # that were executed, by the journal
    executed_before: int  # in the first attempt, to their ends
    replayed: int  # of those, in the second one
    executed_after: int
    in_flight: int  # cut off by the kill, and asked again
    once: int  # effects that were done exactly once
    doubled: int
    missing: int  # recorded as done, and nothing was done
    run_again: int  # although their results were recorded
    unrecorded: int  # done, and the journal does not know of it
    attempts: int
    was_launched: bool  # the second attempt, by the daemon

    @property
    def is_good(self) -> bool:
        """Tell whether nothing was done twice, nothing left out, and something was proved."""
        wrong = self.doubled + self.missing + self.run_again + self.unrecorded
        is_proof = self.replayed > 0 and self.executed_after > 0 and self.in_flight > 0
        is_resumed = self.attempts == 2 and self.was_launched  # noqa: PLR2004 - the demo's play
        return wrong == 0 and 0 < self.steps == self.once and is_proof and is_resumed


def judge(timeline: Timeline, lines: Iterable[Mapping[str, Any]]) -> ResumeVerdict:
    """Compare what the journal tells with what the outside has seen."""
    lines = list(lines)
    asked = Counter(line["step"] for line in lines if line["what"] == ASKED)
    done = Counter(line["step"] for line in lines if line["what"] == DONE)
    runs = list(timeline.runs)
    executed = [run for run in runs if run.was_executed]
    keys = {run.key for run in executed}
    cut_off = {run.key for run in runs if run.state is StepState.INTERRUPTED}
    first = [run for run in executed if run.attempt == 1]
    later = timeline.attempts[1:]
    return ResumeVerdict(
        steps=len(executed),
        executed_before=len(first),
        replayed=sum(bool(run.replayed_in) for run in first),
        executed_after=len(executed) - len(first),
        in_flight=len(cut_off),
        once=sum(done[key] == 1 for key in keys),
        doubled=sum(count > 1 for count in done.values()) + len(executed) - len(keys),
        missing=sum(done[key] == 0 for key in keys),
        run_again=sum(asked[run.key] > 1 for run in executed if run.key not in cut_off),
        unrecorded=len(done.keys() - keys),
        attempts=len(timeline.attempts),
        was_launched=bool(later) and all(attempt.launched for attempt in later),
    )
