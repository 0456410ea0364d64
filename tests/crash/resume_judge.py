"""Tells from outside whether an agent that was killed again and again was as good as never killed.

What its steps did to the world is in files that it appended to, and what the
daemon promises of it is in the journal.  Neither knows of the other, so that
what a step did and what is recorded of it can be held against each other:

* the result is what it is without kills, and so is each step's;
* a step that has an end was not called behind it, and one that must not be
  called twice was called once;
* a step was called only behind the record of its intent;
* each step that was left in doubt was reported as that, and no other;
* no two attempts were underway at once, and epochs only rose;
* nothing is missing: each step has one end, and sequences have no gap.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent_journal.client import Entry

STEPS = 50
KINDS = ["unsafe", "idempotent", "reconcilable", "parked"]


class BrokenResumeError(AssertionError):
    """An agent shows that it was killed."""


def results() -> list[str]:
    """Return what each step returns, the last of which is the agent's result."""
    found = []
    text = "begin"
    for _ in range(STEPS):
        text = hashlib.sha256(text.encode()).hexdigest()
        found.append(text)
    return found


def kind_of(key: str) -> str:
    """Return what is done about a step in doubt."""
    number = int(key.removeprefix("step-"))
    return KINDS[number // 2 % 4] if number % 2 else "read_only"


def check(holds: object, what: str) -> None:
    """Refuse what does not hold."""
    if not holds:
        raise BrokenResumeError(what)


def words_of(path: Path) -> list[list[str]]:
    """Return the lines of a file of the world's, in words; it may not be there yet."""
    if not path.exists():
        return []
    text = path.read_text()
    return [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]


@dataclass(slots=True)
class Verdict:
    """What came to light of one agent that passed."""

    attempts: int = 0
    calls: int = 0
    in_doubt: Counter[str] = field(default_factory=Counter)  # by kind


class Judge:
    """One agent's journal, and what it did to the world."""

    def __init__(self, entries: Sequence[Entry], directory: Path) -> None:
        self.entries = entries
        self.calls = words_of(directory / "calls")
        self.story = words_of(directory / "story")
        self.ends: dict[str, str] = {}  # of each step that has one, what came of it
        self.end_epochs: dict[str, int] = {}
        self.intents: Counter[str] = Counter()
        self.intents_by_epoch: Counter[tuple[str, int]] = Counter()
        self.idempotency_keys: dict[str, set[str]] = {}
        self.doubted: set[str] = set()
        self.parked_for: set[str] = set()
        self.epochs: list[int] = []
        self._is_underway = False  # an attempt that was begun and is not known to be over
        self._read()

    @property
    def open_steps(self) -> list[str]:
        """Return the steps that began and did not end."""
        return [key for key in self.intents if key not in self.ends]

    def _read(self) -> None:
        for number, entry in enumerate(self.entries):
            check(entry.sequence == number, f"entry {number} has sequence {entry.sequence}")
            payload: Any = entry.payload
            match entry.name:
                case "AttemptStarted":
                    check(not self._is_underway, f"two attempts at once: {payload}")
                    self._is_underway = True
                    self.epochs.append(payload["epoch"])
                    self.doubted.update(self.open_steps)
                case "AttemptEnded":
                    self._is_underway = False
                    self.doubted.update(self.open_steps)
                case "Parked":
                    in_question = [
                        key for key in self.open_steps if f"{key!r}" in payload["reason"]
                    ]
                    self._is_underway = False
                    check(in_question, f"parked, but for no step in doubt: {payload}")
                    self.parked_for.update(in_question)
                case "StepStarted":
                    self._started(payload["key"], payload["idempotency_key"])
                case "StepCompleted":
                    self._ended(payload["key"], payload["result"])
                case "Decided" if "result" in payload:
                    self._ended(payload["step"], payload["result"])
                case "StepFailed":
                    raise BrokenResumeError(f"a step failed: {json.dumps(payload)}")
                case _:
                    pass

    def _started(self, key: str, idempotency_key: str) -> None:
        check(key not in self.ends, f"{key} was begun again when it had ended")
        self.intents[key] += 1
        self.intents_by_epoch[key, self.epochs[-1]] += 1
        self.idempotency_keys.setdefault(key, set()).add(idempotency_key)

    def _ended(self, key: str, result: str) -> None:
        check(key not in self.ends, f"{key} has two ends")
        self.ends[key] = result
        self.end_epochs[key] = self.epochs[-1]

    def judge(self) -> Verdict:
        """Hold all of it against each other.

        Raises:
            BrokenResumeError: it was not as it would have been without kills.
        """
        self.check_effects()
        self._check_intents()
        self._check_results()
        self._check_reports()
        return self.verdict()

    def judge_by_effects(self) -> Verdict:
        """Judge only what was done to the world."""
        self.check_effects()
        return self.verdict()

    def verdict(self) -> Verdict:
        """Return what there is to tell of an agent that passed."""
        verdict = Verdict(attempts=len(self.epochs), calls=len(self.calls))
        verdict.in_doubt.update(kind_of(key) for key in self.doubted)
        return verdict

    def check_effects(self) -> None:
        """Count what was done to the world, whatever the journal says."""
        counted = Counter(key for key, _, _ in self.calls)
        effects: dict[str, set[str]] = {}
        for key, idempotency_key, _ in self.calls:
            effects.setdefault(key, set()).add(idempotency_key)
        for number in range(STEPS):
            key = f"step-{number}"
            check(counted[key], f"{key} was never done")
            check(len(effects[key]) == 1, f"{key} was done under the keys {effects[key]}")
            if kind_of(key) in {"unsafe", "reconcilable", "parked"}:
                check(counted[key] == 1, f"{key}, {kind_of(key)}, was done {counted[key]} times")
        check(len(set().union(*effects.values())) == STEPS, "two steps have one idempotency key")

    def _check_intents(self) -> None:
        """Find the record of an intent before each call, and no call behind the end."""
        calls = Counter((key, self._attempt_of(int(epoch))) for key, _, epoch in self.calls)
        for (key, epoch), count in calls.items():
            begun = self.intents_by_epoch[key, epoch]
            check(count <= begun, f"{key}: {count} calls in epoch {epoch}, {begun} intents")
            end = self.end_epochs.get(key, epoch)
            check(epoch <= end, f"{key} was called in epoch {epoch}, and had ended in {end}")
        for key, idempotency_key, _ in self.calls:
            check(self.idempotency_keys[key] == {idempotency_key}, f"{key} got another key")

    def _attempt_of(self, epoch: int) -> int:
        """Return the epoch that is recorded of the attempt that was in *epoch*."""
        return max((one for one in self.epochs if one <= epoch), default=0)

    def _check_results(self) -> None:
        last = self.entries[-1]
        check(last.name == "Terminated", f"the last entry is {last.name}")
        expected = results()
        check(last.payload == {"reason": "Completed", "result": expected[-1]}, str(last.payload))
        found = [self.ends.get(f"step-{number}") for number in range(STEPS)]
        check(found == expected, "a step's result is another than without kills")
        order = [int(key.removeprefix("step-")) for key in self.ends]
        check(order == [*range(STEPS)], f"steps ended in the order {order}")

    def _check_reports(self) -> None:
        told = {"unsafe": "doubted", "reconcilable": "asked"}
        for kind, word in told.items():
            reported = {line[1] for line in self.story if line[0] == word}
            doubted = {key for key in self.doubted if kind_of(key) == kind}
            check(reported == doubted, f"{kind}: {doubted} in doubt, {reported} reported")
        doubted = {key for key in self.doubted if kind_of(key) == "parked"}
        check(self.parked_for == doubted, f"{doubted} in doubt, parked for {self.parked_for}")
        for key in self.doubted:
            if kind_of(key) in {"read_only", "idempotent"}:
                check(self.intents[key] > 1, f"{key} was in doubt and not begun again")
        attached = [int(line[2]) for line in self.story if line[0] == "attached"]
        check(attached == sorted(set(attached)), f"epochs did not only rise: {attached}")
